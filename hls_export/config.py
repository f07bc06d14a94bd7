# SPDX-License-Identifier: Apache-2.0
"""The accelerator's parameters, fixed at synthesis, and options of the export."""

from __future__ import annotations

import re
from dataclasses import dataclass

from yolo_hw.errors import ExportError

MAX_TILE = 128
ROW_BANKS = 8
"""Banks of the input buffer: row r is in bank r % 8, so the depthwise mode reads a whole window column at once."""
MAX_DEPTHWISE_SIZE = 7
"""Largest kernel of the depthwise mode; larger ones run as grouped convolutions."""


@dataclass(frozen=True, kw_only=True)
class AcceleratorConfig:
    """What the hardware is built for; any network that fits these limits runs without a new bitstream."""

    tm: int = 16
    """TM: output channels of the multiply-accumulate tile."""
    tn: int = 16
    """TN: input channels of the tile."""
    ifm_words: int = 4096
    """Input buffer in words of TN codes, a multiple of 8."""
    acc_words: int = 1024
    """Accumulator buffer in words of TM accumulators."""
    max_taps: int = 49
    """Kernel positions the weight buffer holds; fully connected layers need H * W of their input."""
    align: int = 64
    """Every buffer and parameter block starts at a multiple of this many bytes (an AXI burst boundary)."""

    def __post_init__(self) -> None:
        for name, value in (("TM", self.tm), ("TN", self.tn)):
            if not 4 <= value <= MAX_TILE or value % 4:
                raise ExportError(f"tile: {name} must be a multiple of 4 in [4, {MAX_TILE}], got {value}")
        for name, value, low in (
            ("ifm_words", self.ifm_words, 64),
            ("acc_words", self.acc_words, 16),
            ("max_taps", self.max_taps, 1),
        ):
            if not low <= value <= 1 << 20:
                raise ExportError(f"{name} must be in [{low}, {1 << 20}], got {value}")
        if self.ifm_words % ROW_BANKS:
            raise ExportError(f"ifm_words must be a multiple of {ROW_BANKS}, got {self.ifm_words}")
        if self.align & (self.align - 1) or self.align % self.lanes or not 16 <= self.align <= 4096:
            raise ExportError(f"align must be a power of two in [16, 4096] and at least {self.lanes}, got {self.align}")

    @property
    def lanes(self) -> int:
        """L: channels of one memory word, the largest power of two that divides TM and TN."""
        common = self.tm | self.tn
        return common & -common

    @property
    def channels(self) -> int:
        """Channels the depthwise mode and pools work on at a time, min(TM, TN)."""
        return min(self.tm, self.tn)

    @classmethod
    def of_tile(cls, text: str, **buffers: int) -> AcceleratorConfig:
        """Return the accelerator of a tile such as ``16x16``, its blocks aligned to whole memory words.

        Args:
            text: TMxTN.
            buffers: Fields of the buffers.
        """
        tm, tn = cls.parse_tile(text)
        return cls(tm=tm, tn=tn, align=max(64, (tm | tn) & -(tm | tn)), **buffers)

    @classmethod
    def parse_tile(cls, text: str) -> tuple[int, int]:
        """Parse ``16x16`` into (TM, TN)."""
        match = re.fullmatch("([0-9]{1,4})[xX]([0-9]{1,4})", text)
        if match is None:
            raise ExportError(f"tile must be TMxTN, for example 16x16, got '{text}'")
        return int(match[1]), int(match[2])
