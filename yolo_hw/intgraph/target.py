# SPDX-License-Identifier: Apache-2.0
"""What an accelerator can compute, as numbers: `TargetProfile`.

A profile restricts the numeric contract (``docs/numerics.md``); it never widens it. `yolo_hw.intgraph.violations` holds
one rule per field, `yolo_hw.intgraph.target_profiles` the profiles that come with the library.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from yolo_hw.darknet.layers import ACTIVATIONS
from yolo_hw.errors import QuantError
from yolo_hw.fixedpoint import MAX_ABS_FRAC, MAX_BITS, MIN_BITS, Overflow, Rounding
from yolo_hw.intgraph.check import BIAS_BITS, MAX_SHIFT, MIN_SHIFT
from yolo_hw.intgraph.nodes import NODE_TYPES

ARITHMETIC = ("linear", "leaky", "relu", "relu6")
"""Activations the datapath computes; all others are tables."""

MAX_ALIGNMENT = 31
"""Largest left shift of an add's input in any implementation (`check.alignments_are_legal`)."""


class Span(NamedTuple):
    """The integers from `lo` to `hi`, both included."""

    lo: int
    hi: int

    def holds(self, values: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Return for every value whether it lies in the span."""
        v = np.asarray(values)
        return np.asarray((v >= self.lo) & (v <= self.hi))

    def __str__(self) -> str:
        return f"[{self.lo}, {self.hi}]"


class Slope(NamedTuple):
    """Slope ``mul * 2**-shift`` of leaky below zero."""

    mul: int
    shift: int

    def __str__(self) -> str:
        return f"{self.mul}/2**{self.shift}"


ANY_SHIFT = Span(MIN_SHIFT, MAX_SHIFT)
ANY_ALIGNMENT = Span(0, MAX_ALIGNMENT)
NO_SHIFT = Span(0, 0)
ANY_FRAC = Span(-MAX_ABS_FRAC, MAX_ABS_FRAC)
ANY_ACC_FRAC = Span(-2 * MAX_ABS_FRAC, 2 * MAX_ABS_FRAC)


@dataclass(frozen=True, kw_only=True)
class TargetProfile:
    """What a target can compute. The defaults are all that the numeric contract allows.

    Where a field is a tuple, its first entry is what the target does unless told otherwise.
    """

    name: str
    about: str
    """Where the numbers come from, and what the profile does not model."""
    roundings: tuple[Rounding, ...] = tuple(Rounding)
    """Roundings of the output shift."""
    overflows: tuple[Overflow, ...] = tuple(Overflow)
    """What it can do with values outside their format."""
    w_bits: tuple[int, ...] = tuple(range(MIN_BITS, MAX_BITS + 1))
    """Word lengths of weights."""
    a_bits: tuple[int, ...] = tuple(range(MIN_BITS, MAX_BITS + 1))
    """Word lengths of activations."""
    unsigned: bool = True
    """Whether activations may be unsigned (the image aside)."""
    image_bytes: bool = True
    """Whether the first layer reads the image's unsigned bytes. If not, the host hands over signed codes: the graph
    states its conversion as an add with one input, which is exempt from the rules of adds."""
    per_channel: bool = True
    """Whether every output channel may have its own w_frac and its own left shift of the bias."""
    conv_shift: Span = ANY_SHIFT
    """Output shift of a convolution, without the extra shift of leaky."""
    element_shift: Span = ANY_SHIFT
    """Output shift of add, mul and avgpool, without the reciprocal's own shift."""
    align_shift: Span = ANY_ALIGNMENT
    """Left shifts that align the inputs of an add."""
    equal_concat: bool = True
    """Whether all sides of concat and of every other moving node must have one format. The contract asks for it in any
    case, so False allows nothing more."""
    equal_add: bool = False
    """Whether the inputs of an add must have one frac."""
    acc_bits: int = 48
    """Two's-complement bits that every accumulator and every partial sum must provably fit."""
    acc_frac: Span = ANY_ACC_FRAC
    """Fraction bits of a convolution's accumulator, x_frac + w_frac."""
    bias_bits: int = BIAS_BITS
    """Word length of a stored bias."""
    bias_shift: Span = NO_SHIFT
    """Left shift from the stored bias to the accumulator: a bias is ``stored * 2**shift`` with a shift of this span."""
    a_frac: Span = ANY_FRAC
    """Fraction bits of tensors and of the arguments of tables."""
    w_frac: Span = ANY_FRAC
    """Fraction bits of weights."""
    leaky: tuple[Slope, ...] | None = None
    """Slopes of leaky; None: every slope of the contract."""
    activations: tuple[str, ...] | None = None
    """Functions it has, by arithmetic or by table; None: every one."""
    table_bits: int = MAX_BITS
    """Bits of the largest table's argument; 0: no tables."""
    ops: tuple[str, ...] = tuple(NODE_TYPES)
    """Operators it has."""

    def __post_init__(self) -> None:
        for field, values, known in (
            ("roundings", self.roundings, tuple(Rounding)),
            ("overflows", self.overflows, tuple(Overflow)),
            ("w_bits", self.w_bits, range(MIN_BITS, MAX_BITS + 1)),
            ("a_bits", self.a_bits, range(MIN_BITS, MAX_BITS + 1)),
            ("activations", ACTIVATIONS if self.activations is None else self.activations, ACTIVATIONS),
            ("ops", self.ops, tuple(NODE_TYPES)),
        ):
            wrong = [value for value in values if value not in known]
            if wrong or not values:
                self._refuse(field, f"must name at least one of {', '.join(map(str, known))}", wrong)
        for field, span, widest in (
            ("conv_shift", self.conv_shift, ANY_SHIFT),
            ("element_shift", self.element_shift, ANY_SHIFT),
            ("align_shift", self.align_shift, ANY_ALIGNMENT),
            ("acc_frac", self.acc_frac, ANY_ACC_FRAC),
            ("bias_shift", self.bias_shift, Span(0, BIAS_BITS - 1)),
            ("a_frac", self.a_frac, ANY_FRAC),
            ("w_frac", self.w_frac, ANY_FRAC),
        ):
            if not widest.lo <= span.lo <= span.hi <= widest.hi:
                self._refuse(field, f"must be a span within {widest}", span)
        if self.align_shift.lo != 0:
            self._refuse("align_shift", "must begin at 0, as the finest input is never shifted", self.align_shift)
        for field, value, widest in (
            ("acc_bits", self.acc_bits, Span(2, 48)),
            ("bias_bits", self.bias_bits, Span(2, BIAS_BITS)),
            ("table_bits", self.table_bits, Span(0, MAX_BITS)),
        ):
            if not widest.holds(value):
                self._refuse(field, f"must lie in {widest}", value)
        if self.leaky == ():
            self._refuse("leaky", "must name a slope; a target without leaky leaves it out of activations", "none")
        for slope in self.leaky or ():
            if not (0 < slope.mul < 1 << 16 and 0 <= slope.shift < 32):
                self._refuse("leaky", "mul must be in [1, 65535] and shift in [0, 31]", slope)

    def _refuse(self, field: str, rule: str, found: object) -> None:
        raise QuantError(f"target '{self.name}': {field} {rule}, got {found}")
