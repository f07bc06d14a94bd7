# SPDX-License-Identifier: Apache-2.0
"""Weights and biases that are on fixed-point grids already, as the codes of an integer convolution."""

from __future__ import annotations

import numpy as np

from yolo_hw.errors import QuantError
from yolo_hw.fixedpoint import MAX_BITS, MIN_BITS, FixedPoint, IntArray, signed_bits
from yolo_hw.quant.folded import Float64Array
from yolo_hw.quant.plan import ConvCodes

BIAS_BITS = 32
_FRACS = range(-MAX_BITS, 2 * MAX_BITS)
"""Fraction bits tried for weights that come without."""


def exact_codes(name: str, weight: ConvCodes, bias: Float64Array, x: FixedPoint) -> ConvCodes:
    """Put a bias on the accumulators' grid.

    A bias has the accumulators' fraction bits. Where its own steps are finer, the weights are shifted left until the
    accumulators' are as fine: other codes, the same numbers.

    Args:
        name: The layer, for errors.
        weight: Codes [K, ...], fraction bits [K] and word length; its bias is not read.
        bias: [K] real values.
        x: Format of the input.

    Returns:
        The codes, with longer words where weights had to be shifted.

    Raises:
        QuantError: The bias is too fine for weights of 16 bits, or does not fit 32.
    """
    lefts = [_missing_bits(value, int(frac)) for value, frac in zip(bias, weight.w_frac + x.frac, strict=True)]
    left = np.array(lefts, np.int64)
    widest = np.abs(weight.weight).reshape(len(bias), -1).max(1)
    if any(int(value) << min(shift, 64) >= 1 << (MAX_BITS - 1) for value, shift in zip(widest, lefts, strict=True)):
        channel = int(left.argmax())
        step = f"2**{-int(weight.w_frac[channel]) - x.frac}"
        raise QuantError(
            f"{name}: the bias must be a multiple of the step of the accumulators, {step} "
            f"in channel {channel}, got {bias[channel]:.9g}; use bias_quant=brevitas.quant.Int32Bias, or "
            "Int8BiasPerTensorFixedPointInternalScaling"
        )
    left = np.where(widest == 0, np.minimum(left, MAX_BITS), left)
    codes = weight.weight << left.reshape(-1, *[1] * (weight.weight.ndim - 1))
    frac = weight.w_frac + left
    exact = np.ldexp(bias, frac + x.frac)
    if (np.abs(exact) >= 2.0 ** (BIAS_BITS - 1)).any() or (exact != np.rint(exact)).any():
        channel = int(np.abs(exact).argmax())
        raise QuantError(f"{name}: the bias must fit {BIAS_BITS} bits, channel {channel} is {bias[channel]:.9g}")
    bits = max(weight.w_bits, signed_bits(int(codes.min()), int(codes.max()))) if left.any() else weight.w_bits
    return ConvCodes(codes, frac, exact.astype(np.int64), bits)


def codes_of_constants(name: str, weight: Float64Array) -> ConvCodes:
    """Return the codes of weights without a quantiser: zeros, ones and powers of two that an operator stands for.

    Args:
        name: The node, for the error.
        weight: [K, ...].

    Returns:
        Codes, as short as they can be, and no bias.

    Raises:
        QuantError: They are no codes of 16 bits.
    """
    rows = weight.reshape(len(weight), -1)
    frac = np.full(len(rows), _FRACS.stop, np.int64)
    for candidate in reversed(_FRACS):
        scaled = np.ldexp(rows, candidate)
        frac = np.where((scaled == np.rint(scaled)).all(1), candidate, frac)
    frac = np.where(rows.any(1), frac, 0)
    codes = np.ldexp(rows, frac[:, None])
    if (codes != np.rint(codes)).any() or (np.abs(codes) >= 2.0 ** (MAX_BITS - 1)).any():
        raise QuantError(
            f"{name}: has float weights, and no quantiser gives them codes; use QuantConv2d or QuantLinear, and merge "
            "batch norms into the layer before them (brevitas.nn.utils.merge_bn)"
        )
    integers: IntArray = codes.astype(np.int64).reshape(weight.shape)
    bits = max(signed_bits(int(integers.min()), int(integers.max())), MIN_BITS)
    return ConvCodes(integers, frac, np.zeros(len(rows), np.int64), bits)


def _missing_bits(value: float, frac: int) -> int:
    """Return how many fraction bits more than `frac` a value needs."""
    numerator, denominator = float(value).as_integer_ratio()
    return max(denominator.bit_length() - 1 - frac, 0) if numerator else 0
