# SPDX-License-Identifier: Apache-2.0
"""Fixed-point formats and the numpy reference of the arithmetic in ``csrc/core/``.

A tensor is integer codes ``q`` with ``frac`` fraction bits: ``real = q * 2**-frac``.
``docs/numerics.md`` is the specification; the C++ headers and this module are tested against each
other for equality.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt

from yolo_hw.errors import QuantError

IntArray = npt.NDArray[np.int64]

MIN_BITS = 2
MAX_BITS = 16
MAX_ABS_FRAC = 64
"""Fraction bits beyond this are never meaningful for values that fit a float32."""


class Rounding(str, Enum):
    """What a right shift does with the bits it removes (docs/numerics.md, section 2)."""

    HALF_UP = "half_up"
    """Ties toward plus infinity: ``(v + 2**(s-1)) >> s``; AP_RND."""
    HALF_EVEN = "half_even"
    """Ties to even; AP_RND_CONV, torch, Brevitas, QONNX ``ROUND``."""
    HALF_AWAY = "half_away"
    """Ties away from zero; AP_RND_INF, QONNX ``HALF_UP``."""
    FLOOR = "floor"
    """Toward minus infinity: ``v >> s``; AP_TRN."""

    number: int
    """The mode's value in ``csrc/core/rounding.h`` and in every file."""

    def __init__(self, _name: str) -> None:
        self.number = len(type(self).__members__)  # of those before it


class Overflow(str, Enum):
    """What happens to a value outside the format."""

    SATURATE = "saturate"
    """Clamp to ``[lo, hi]``."""
    SATURATE_SYMMETRIC = "saturate_symmetric"
    """Clamp to ``[-hi, hi]`` for signed formats."""
    WRAP = "wrap"
    """Keep the low bits, two's complement."""

    number: int
    """The mode's value in ``csrc/core/rounding.h`` and in every file."""

    def __init__(self, _name: str) -> None:
        self.number = len(type(self).__members__)  # of those before it


@dataclass(frozen=True)
class FixedPoint:
    """Format of the codes of one tensor.

    Attributes:
        bits: Word length in [2, 16], sign included; unsigned formats have at most 15, so every code fits an int16.
        frac: Fraction bits; the step is ``2**-frac``. May be negative or exceed `bits`.
        signed: Two's complement if true, else codes start at 0.
    """

    bits: int
    frac: int
    signed: bool = True

    def __post_init__(self) -> None:
        if not MIN_BITS <= self.bits <= MAX_BITS:
            raise QuantError(f"bits must be in [{MIN_BITS}, {MAX_BITS}], got {self.bits}")
        if not self.signed and self.bits == MAX_BITS:
            raise QuantError(f"unsigned formats have at most {MAX_BITS - 1} bits, got {self.bits}")
        if abs(self.frac) > MAX_ABS_FRAC:
            raise QuantError(f"frac must be in [-{MAX_ABS_FRAC}, {MAX_ABS_FRAC}], got {self.frac}")

    @property
    def lo(self) -> int:
        """Smallest code."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def hi(self) -> int:
        """Largest code."""
        return (1 << (self.bits - 1)) - 1 if self.signed else (1 << self.bits) - 1

    @property
    def step(self) -> float:
        """Value of one code step, ``2**-frac``."""
        return float(2.0**-self.frac)

    @property
    def storage_bytes(self) -> int:
        """Bytes of one element in memory: 1 up to 8 bits, else 2."""
        return 1 if self.bits <= 8 else 2

    @property
    def storage_dtype(self) -> np.dtype[np.generic]:
        """Little-endian numpy type of one stored element."""
        return np.dtype(f"<{'i' if self.signed else 'u'}{self.storage_bytes}")

    def __str__(self) -> str:
        return f"{'s' if self.signed else 'u'}{self.bits}f{self.frac}"


def round_shift(v: npt.ArrayLike, s: npt.ArrayLike, mode: Rounding = Rounding.HALF_UP) -> IntArray:
    """Divide integers by ``2**s`` and round; for ``s <= 0`` shift left exactly.

    Args:
        v: [...], integers that fit int64 (after the left shift, too).
        s: Shift, broadcast against `v`.
        mode: Rounding of the removed bits.

    Returns:
        [...], int64. The numpy reference of ``yhw::round_shift`` in ``csrc/core/rounding.h``.
    """
    v, s = np.broadcast_arrays(np.asarray(v, np.int64), np.asarray(s, np.int64))
    right = np.clip(s, 0, 62)
    left = np.clip(-s, 0, 62)
    quotient = v >> right
    if mode is not Rounding.FLOOR:
        rest = v - (quotient << right)
        half = np.where(right > 0, np.int64(1) << np.maximum(right - 1, 0), 0)
        up = rest > half
        tie = (right > 0) & (rest == half)
        if mode is Rounding.HALF_UP:
            up |= tie
        elif mode is Rounding.HALF_EVEN:
            up |= tie & ((quotient & 1) == 1)
        else:
            up |= tie & (v >= 0)
        quotient = quotient + up
    return np.asarray(np.where(s > 0, quotient, v << left), np.int64)


def overflow(v: npt.ArrayLike, fmt: FixedPoint, mode: Overflow = Overflow.SATURATE) -> IntArray:
    """Bring integers into the range of `fmt`: [...] int64 to [...] int64."""
    v = np.asarray(v, np.int64)
    if mode is Overflow.WRAP:
        return np.asarray(((v - fmt.lo) & ((1 << fmt.bits) - 1)) + fmt.lo, np.int64)
    lo = -fmt.hi if mode is Overflow.SATURATE_SYMMETRIC and fmt.signed else fmt.lo
    return np.asarray(np.clip(v, lo, fmt.hi), np.int64)


def round_real(x: npt.ArrayLike, mode: Rounding = Rounding.HALF_UP) -> npt.NDArray[np.float64]:
    """Round float64 values to integers (as float64) with the rule of `round_shift`, exactly."""
    x = np.asarray(x, np.float64)
    base = np.floor(x)
    if mode is Rounding.FLOOR:
        return np.asarray(base, np.float64)
    part = x - np.trunc(x)  # exact, the sign of x; x - base is not: -0.49999999999999994 would give 0.5
    up = (part > 0.5) | ((part < 0) & (part > -0.5))
    tie = np.abs(part) == 0.5
    if mode is Rounding.HALF_UP:
        up |= tie
    elif mode is Rounding.HALF_EVEN:
        up |= tie & (np.fmod(base, 2.0) != 0)
    else:
        up |= tie & (x >= 0)
    return np.asarray(base + up, np.float64)


def quantise(
    x: npt.ArrayLike,
    fmt: FixedPoint,
    rounding: Rounding = Rounding.HALF_UP,
    mode: Overflow = Overflow.SATURATE,
) -> IntArray:
    """Return the codes ``overflow(round(x * 2**frac))`` of real numbers, [...] to [...] int64."""
    x = np.asarray(x, np.float64)
    if not np.all(np.isfinite(x)):
        raise QuantError("cannot quantise: the values contain NaN or infinity")
    with np.errstate(over="ignore"):
        scaled = np.clip(np.ldexp(x, fmt.frac), -(2.0**62), 2.0**62)
    return overflow(round_real(scaled, rounding).astype(np.int64), fmt, mode)


def dequantise(codes: npt.ArrayLike, frac: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return ``codes * 2**-frac`` in float64, exact for codes below 2**53."""
    return np.asarray(np.ldexp(np.asarray(codes, np.float64), -np.asarray(frac, np.int64)), np.float64)


def signed_bits(lo: int, hi: int) -> int:
    """Return the smallest two's-complement word length that holds every integer in [lo, hi]."""
    return max(max(-lo - 1, 0).bit_length(), max(hi, 0).bit_length()) + 1
