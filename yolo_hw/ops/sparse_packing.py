# SPDX-License-Identifier: Apache-2.0
"""Packed sparse weights: which weights are kept, and in which order the kernels of csrc/sparse read them.

The unit is the block: one tap (input channel, kernel row and column) of ``block_rows`` neighbouring output channels.
Input channels are cut into chunks whose part of a tile fits the first-level cache. Blocks are ordered by chunk, then by
row of blocks, then by channel and tap, which is the order in which they are multiplied.

Of int8 weights a block is one tap of four neighbouring input channels, a quad, as one instruction multiplies four
weights; channels are counted in quads.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

TILE_ROWS = 13
"""Output rows of a tile of the usual map sizes; only the chunk length is derived from it."""
VECTOR_BYTES = 64
L1_BYTES = 40 << 10
"""Input of one chunk in a tile: most of a first-level cache of 48 KiB, the rest is for weights and sums."""
REGION_ROWS = 16
"""Blocks of a multiple of so many output channels are run by csrc/sparse/regions.h."""
REGION_BYTES = 256 << 10
"""Input of one chunk in a region: a part of a second-level cache."""
REGION_CHANNEL_BYTES = 1280
MAX_CODE = 32767
QUAD = 4
"""Input channels of a block of int8 weights."""
PACKABLE = (torch.float32, torch.float64, torch.int8)


@dataclass(frozen=True)
class Pattern:
    """Where weights may be zero.

    Attributes:
        rows: Output channels of a block.
        columns: Input channels of a block.
        keep: N of N:M; 0 for the other patterns.
        group: M of N:M: in every M neighbouring input channels of an output channel and tap at most N are kept.
    """

    rows: int = 1
    columns: int = 1
    keep: int = 0
    group: int = 1

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Return the pattern named ``"unstructured"``, ``"block(16x4)"`` or ``"2:4"``.

        Raises:
            ValueError: The name is none of these.
        """
        if text == "unstructured":
            return cls()
        if found := re.fullmatch(r"block\(([1-9]\d*)x([1-9]\d*)\)", text):
            return cls(rows=int(found[1]), columns=int(found[2]))
        if (found := re.fullmatch(r"([1-9]\d*):([1-9]\d*)", text)) and int(found[1]) < int(found[2]):
            return cls(keep=int(found[1]), group=int(found[2]))
        raise ValueError(f"pattern must be 'unstructured', 'block(ROWSxCOLUMNS)' or 'N:M' with N < M, got {text!r}")

    def __str__(self) -> str:
        if self.keep:
            return f"{self.keep}:{self.group}"
        return "unstructured" if self.rows == self.columns == 1 else f"block({self.rows}x{self.columns})"


class WeightShape(NamedTuple):
    """Shape of the dense weight."""

    out_channels: int
    channels: int
    """Of one group."""
    kernel_h: int
    kernel_w: int

    @property
    def taps(self) -> int:
        """Kernel rows times columns."""
        return self.kernel_h * self.kernel_w

    @property
    def tap_bits(self) -> int:
        """Bits that hold a tap."""
        return (self.taps - 1).bit_length()

    def numel(self) -> int:
        """Number of weights."""
        return self.out_channels * self.channels * self.taps


@dataclass(frozen=True)
class PackedSparse:
    """Kept weights and their places, as `yolo_hw.ops.sparse_conv2d` takes them.

    Attributes:
        values: [blocks, block_rows], float32 or float64; or [blocks, block_rows, 4], int8. Rows past the last output
            channel and columns past the last input channel are zero.
        taps: [blocks], int16: ``(channel within its chunk << tap_bits) + kernel row * kernel_w + kernel column``; of
            int8, quad for channel.
        starts: [chunks * rows of blocks + 1], int32: the first block of each row of blocks in each chunk.
        shape: Of the dense weight.
        chunk: Input channels of a chunk; of int8, quads.
        pattern: The pattern it was packed with.
    """

    values: Tensor
    taps: Tensor
    starts: Tensor
    shape: WeightShape
    chunk: int
    pattern: Pattern

    @property
    def nnz(self) -> int:
        """Stored weights: the zeros that fill a block or a quad count, places outside of the weight do not."""
        return int((self.positions() < self.shape.numel()).sum())

    @property
    def density(self) -> float:
        """Stored weights over all weights."""
        return self.nnz / self.shape.numel()

    @property
    def bytes(self) -> int:
        """Memory of the three arrays."""
        return sum(t.numel() * t.element_size() for t in (self.values, self.taps, self.starts))

    def positions(self) -> Tensor:
        """Return the place of every value in the flat dense weight: see `flat_positions`."""
        return flat_positions(self.taps, self.starts, self.shape, self.chunk, self.values.shape[1:])

    def to_dense(self) -> Tensor:
        """Return the weight, [K, C, R, S]; differentiable with respect to `values`."""
        return scatter_dense(self.values, self.positions(), self.shape)

    def to(self, device: torch.device | str) -> PackedSparse:
        """Return the packed weight on a device."""
        return replace(self, values=self.values.to(device), taps=self.taps.to(device), starts=self.starts.to(device))

    def state_dict(self) -> dict[str, Tensor]:
        """Return plain tensors that `from_state_dict` takes; ``torch.load(weights_only=True)`` reads them."""
        p = self.pattern
        layout = torch.tensor([*self.shape, self.chunk, p.rows, p.columns, p.keep, p.group])
        return {"values": self.values, "taps": self.taps, "starts": self.starts, "layout": layout}

    @classmethod
    def from_state_dict(cls, state: dict[str, Tensor]) -> PackedSparse:
        """Return what `state_dict` was called on.

        Raises:
            ValueError: A tensor is missing or the layout is not one of this version.
        """
        missing = {"values", "taps", "starts", "layout"} - state.keys()
        if missing:
            raise ValueError(f"packed sparse weights lack {', '.join(sorted(missing))}")
        layout = [int(v) for v in state["layout"].tolist()]
        if len(layout) != 9:
            raise ValueError(f"the layout of packed sparse weights must have 9 numbers, got {len(layout)}")
        shape, pattern = WeightShape(*layout[:4]), Pattern(*layout[5:])
        return cls(state["values"], state["taps"], state["starts"], shape, layout[4], pattern)


def flat_positions(taps: Tensor, starts: Tensor, shape: WeightShape, chunk: int, block: Sequence[int]) -> Tensor:
    """Return where packed values lie in the dense weight.

    Args:
        taps: [blocks], int16.
        starts: [chunks * rows of blocks + 1], int32.
        shape: Of the dense weight.
        chunk: Input channels, or quads, of a chunk.
        block: Output channels of a block, and its input channels where it has a dimension of them.

    Returns:
        [blocks, *block], int64, into the flat [K, C, R, S]; its size for places outside of the weight.
    """
    block_rows, *columns = block
    rows = -(-shape.out_channels // block_rows)
    cells = torch.arange(starts.numel() - 1, device=taps.device)
    cell = torch.repeat_interleave(cells, starts.diff().long(), output_size=taps.numel())
    code = taps.long()
    channel = cell // rows * chunk + (code >> shape.tap_bits)
    tap = code & ((1 << shape.tap_bits) - 1)
    out = (cell % rows * block_rows)[:, None] + torch.arange(block_rows, device=taps.device)
    channel, tap = channel[:, None], tap[:, None]
    if columns:
        out, tap = out[..., None], tap[..., None]
        channel = channel[..., None] * columns[0] + torch.arange(columns[0], device=taps.device)
    flat = (out * shape.channels + channel) * shape.taps + tap
    return torch.where((out < shape.out_channels) & (channel < shape.channels), flat, shape.numel())


def scatter_dense(values: Tensor, positions: Tensor, shape: WeightShape) -> Tensor:
    """Return the dense weight [K, C, R, S] of values [blocks, block_rows(, 4)] at flat positions of the same shape."""
    flat = torch.zeros(shape.numel() + 1, dtype=values.dtype, device=values.device)
    return flat.scatter(0, positions.reshape(-1), values.reshape(-1))[:-1].reshape(shape)


def pack_sparse(weight: Tensor, pattern: str = "unstructured", *, partial: bool = False) -> PackedSparse:
    """Pack a weight; its zeros say which weights are left out.

    Args:
        weight: [K, C, R, S], float32, float64 or int8; C counts the channels of one group.
        pattern: ``"unstructured"``; ``"block(RxC)"``, such as ``"block(16x1)"``: R output channels times C input
            channels of a tap are kept or left out together, counted from channel 0; or ``"N:M"``.
        partial: Allow blocks that are partly zero. Their zeros are stored, multiplied and trained.

    Returns:
        The packed weight, on the device of `weight`; its values do not share memory with it.

    Raises:
        ValueError: The weight does not have the pattern; the message names the first place.
    """
    if weight.dim() != 4 or weight.dtype not in PACKABLE:
        names = "float32, float64 or int8"
        raise ValueError(f"weight must be [K, C, R, S] {names}, got {list(weight.shape)} {weight.dtype}")
    if weight.numel() == 0:
        raise ValueError(f"weight must not be empty, got {list(weight.shape)}")
    form, shape = Pattern.parse(pattern), WeightShape(*weight.shape)
    kept = weight.detach() != 0
    if form.keep:
        _check_groups(kept, form)
    blocks = _kept_blocks(kept, form, partial)  # [rows of blocks, C, taps]
    block: tuple[int, ...] = (form.rows,)
    if weight.dtype == torch.int8:
        block = (form.rows, QUAD)
        padded = functional.pad(blocks, (0, 0, 0, -shape.channels % QUAD))
        blocks = padded.reshape(len(blocks), -1, QUAD, shape.taps).any(2)
    rows, channels = blocks.shape[:2]  # or quads
    chunk = _chunk_of(shape._replace(channels=channels), float(blocks.float().mean()), form)
    chunks = -(-channels // chunk)
    by_chunk = functional.pad(blocks, (0, 0, 0, chunks * chunk - channels))
    by_chunk = by_chunk.reshape(rows, chunks, chunk, shape.taps).transpose(0, 1)
    taps = by_chunk.nonzero()[:, 2:]
    counts = by_chunk.sum(dim=(2, 3)).reshape(-1)
    starts = functional.pad(counts.cumsum(0), (1, 0)).to(torch.int32)
    codes = ((taps[:, 0] << shape.tap_bits) + taps[:, 1]).to(torch.int16)
    places = flat_positions(codes, starts, shape, chunk, block)
    values = functional.pad(weight.detach().reshape(-1), (0, 1))[places]
    return PackedSparse(values, codes, starts, shape, chunk, form)


def _check_groups(kept: Tensor, form: Pattern) -> None:
    """Raise where an M-group of input channels keeps more than N: kept is [K, C, R, S]."""
    padded = functional.pad(kept, (0, 0, 0, 0, 0, -kept.shape[1] % form.group))
    out_channels, _, *kernel = padded.shape
    counts = padded.reshape(out_channels, -1, form.group, *kernel).sum(2)  # [K, groups, R, S]
    wrong = (counts > form.keep).nonzero()
    if len(wrong):
        k, group, r, s = wrong[0].tolist()
        first = group * form.group
        raise ValueError(
            f"weight does not have the pattern {form}: output channel {k}, input channels {first} to "
            f"{min(first + form.group, kept.shape[1]) - 1}, tap ({r}, {s}) keep {int(counts[k, group, r, s])} weights"
        )


def _kept_blocks(kept: Tensor, form: Pattern, partial: bool) -> Tensor:
    """Return which blocks of one tap are kept, [rows of blocks, C, R * S], from kept weights [K, C, R, S]."""
    out_channels, channels = kept.shape[:2]
    pads = (0, -channels % form.columns, 0, -out_channels % form.rows)
    flat = kept.flatten(2).permute(2, 0, 1)  # [taps, K, C]

    def cells(t: Tensor, fill: bool) -> Tensor:
        padded = functional.pad(t, pads, value=fill)
        taps, height, width = padded.shape
        return padded.reshape(taps, height // form.rows, form.rows, width // form.columns, form.columns)

    some = cells(flat, False).any(4).any(2)  # [taps, rows of blocks, columns of blocks]
    if not partial:
        wrong = (some & ~cells(flat, True).all(4).all(2)).permute(1, 2, 0).nonzero()
        if len(wrong):
            row, column, tap = wrong[0].tolist()
            k, c = row * form.rows, column * form.columns
            r, s = divmod(tap, kept.shape[3])
            raise ValueError(
                f"weight does not have the pattern {form}: the block at output channel {k}, input channel {c}, tap "
                f"({r}, {s}) is partly zero; make it zero, or keep its zeros with partial=True"
            )
    return some.repeat_interleave(form.columns, dim=2)[:, :, :channels].permute(1, 2, 0)


def _chunk_of(shape: WeightShape, density: float, form: Pattern) -> int:
    """Return how many channels of a tile's input are held at once: equal chunks.

    A longer chunk loads and stores the sums less often but leaves the first-level cache. That pays where a loaded input
    serves four or more output channels, and where a chunk would hold too few blocks. The factors are measured.
    """
    per_channel = shape.kernel_w * (TILE_ROWS + shape.kernel_h - 1) * VECTOR_BYTES
    if form.rows % REGION_ROWS == 0:
        limit, per_channel = REGION_BYTES * (2 if shape.taps == 1 else 1), REGION_CHANNEL_BYTES
    elif form.rows >= 4:
        limit = L1_BYTES * (2 if density > 0.15 else 4)
    else:
        limit = int(L1_BYTES * max(1, (0.7 if shape.taps == 1 else 0.5) * max(density, 0.01) ** -0.5))
    most = max(1, min(limit // per_channel, MAX_CODE >> shape.tap_bits))
    chunks = -(-shape.channels // most)
    chunk = -(-shape.channels // chunks)
    return max(1, min(chunk, MAX_CODE >> shape.tap_bits))
