# SPDX-License-Identifier: Apache-2.0
"""Quantisation of weights and biases, with fraction bits the accelerator can use."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from yolo_hw.errors import QuantError
from yolo_hw.fixedpoint import MAX_ABS_FRAC, FixedPoint, IntArray, dequantise, quantise, round_real, signed_bits
from yolo_hw.intgraph.bounds import conv_sums
from yolo_hw.quant.config import Observer, QuantConfig
from yolo_hw.quant.folded import Float64Array, FoldedConv
from yolo_hw.quant.plan import ConvCodes

NUM_CANDIDATES = 5
BIAS_MAX = (1 << 31) - 1


@dataclass(frozen=True)
class ConvContext:
    """Formats around a convolution.

    Attributes:
        x: Format of the input.
        code: Format of the code after the output shift: the output's, or the table's argument.
        slope_shift: Extra shift of negative accumulators.
    """

    x: FixedPoint
    code: FixedPoint
    slope_shift: int


def quantise_conv(node: FoldedConv, around: ConvContext, config: QuantConfig) -> tuple[ConvCodes, str]:
    """Choose w_frac per output channel (or per layer) and round weights and biases.

    The weights' own choice is lowered where the bias would not fit 32 bits, the accumulator its contract, or the output
    shift its range: a smaller w_frac costs weight precision only in channels whose weights hardly matter.

    Args:
        node: Folded convolution.
        around: Formats of input and output.
        config: Word length, observer, rounding.

    Returns:
        The codes, and a note on what had to be repaired (empty if nothing).

    Raises:
        QuantError: No w_frac is legal; names the layer.
    """
    bits = config.weight_bits(node.name)
    matrix = node.weight.reshape(node.weight.shape[0], -1)
    wanted = choose_fracs(matrix if config.per_channel else matrix.reshape(1, -1), bits, config)
    wanted = np.broadcast_to(wanted, (matrix.shape[0],))
    contract = config.contract
    shift_max = contract.max_shift - around.slope_shift
    highest = np.minimum(shift_max + around.code.frac - around.x.frac, _bias_limit(node.bias, around.x.frac))
    lowest = contract.min_shift + around.code.frac - around.x.frac
    empty = ~matrix.any(axis=1)
    w_frac = np.where(empty, highest, np.minimum(wanted, highest))
    if not config.per_channel:
        w_frac = np.full_like(w_frac, np.where(empty, wanted, w_frac).min())
    while True:
        codes = _round(node, w_frac, around.x.frac, bits, config)
        over = _accumulator_bits(codes, around.x) > contract.acc_bits
        if not over.any():
            break
        w_frac = w_frac - (over if config.per_channel else 1)
    if (w_frac < lowest).any():
        channel = int((w_frac < lowest).argmax())
        shift = w_frac[channel] - lowest + contract.min_shift
        raise QuantError(
            f"{node.name}: the output shift must be at least {contract.min_shift}, channel {channel} needs {shift}: "
            f"its weights or its bias ({node.bias[channel]:.3g}) are too large"
        )
    repaired = int((w_frac[~empty] < wanted[~empty]).sum())
    note = f"{node.name}: w_frac lowered in {repaired} of {len(w_frac)} channels to keep bias, sum and shift legal"
    return codes, note if repaired else ""


def choose_fracs(rows: Float64Array, bits: int, config: QuantConfig) -> IntArray:
    """Return the fraction bits of every row: the observer's best of the candidates from no clipping upwards.

    Args:
        rows: [rows, values].
        bits: Word length.
        config: Observer and rounding.

    Returns:
        [rows]; bits - 1 where there are only zeros.
    """
    fmt = FixedPoint(bits, 0)
    limits = np.maximum(rows.max(1) / (fmt.hi + 0.49), -rows.min(1) / -(fmt.lo - 0.5))
    if config.w_observer is Observer.PERCENTILE:
        limits = np.quantile(np.abs(rows), config.percentile / 100, axis=1) / (fmt.hi + 0.49)
    with np.errstate(divide="ignore"):
        base = np.where(limits > 0, np.floor(-np.log2(limits)), bits - 1)
    base = np.clip(base, -MAX_ABS_FRAC + NUM_CANDIDATES, MAX_ABS_FRAC - NUM_CANDIDATES).astype(np.int64)
    if config.w_observer in (Observer.MAX, Observer.PERCENTILE):
        return base
    scores = np.stack([_score(rows, base + i, fmt, config) for i in range(NUM_CANDIDATES)])
    return np.asarray(base + scores.argmin(0), np.int64)


def _score(rows: Float64Array, frac: IntArray, fmt: FixedPoint, config: QuantConfig) -> Float64Array:
    """Return the loss of every row under `frac`: squared error, or minus the cosine similarity."""
    scale = frac[:, None]
    rounded = np.ldexp(
        quantise(np.ldexp(rows, scale), fmt, config.rounding, config.overflow).astype(np.float64), -scale
    )
    if config.w_observer is Observer.MSE:
        return np.asarray(((rounded - rows) ** 2).sum(1), np.float64)
    norm = np.sqrt((rows**2).sum(1) * (rounded**2).sum(1))
    return np.asarray(-(rounded * rows).sum(1) / np.where(norm > 0, norm, 1), np.float64)


def _bias_limit(bias: Float64Array, x_frac: int) -> IntArray:
    """Return the largest w_frac with which the bias fits 32 bits."""
    with np.errstate(divide="ignore"):
        room = np.where(bias == 0, MAX_ABS_FRAC, np.floor(np.log2((BIAS_MAX - 1) / np.abs(bias))) - x_frac)
    return np.clip(room, -MAX_ABS_FRAC, MAX_ABS_FRAC).astype(np.int64)


def _round(node: FoldedConv, w_frac: IntArray, x_frac: int, bits: int, config: QuantConfig) -> ConvCodes:
    scaled = np.ldexp(node.weight, w_frac.reshape(-1, 1, 1, 1))
    weight = quantise(scaled, FixedPoint(bits, 0), config.rounding, config.overflow)
    rounded = np.ldexp(node.bias, w_frac + x_frac)
    bias = round_real(np.clip(rounded, -BIAS_MAX, BIAS_MAX), config.rounding).astype(np.int64)
    return ConvCodes(weight, w_frac.astype(np.int64), bias, bits)


def _accumulator_bits(codes: ConvCodes, x: FixedPoint) -> IntArray:
    """Return the bits the accumulator of every channel needs (see `yolo_hw.intgraph.bounds`)."""
    bottom, top = conv_sums(codes.weight, codes.bias, min(x.lo, 0), x.hi)
    return np.array([signed_bits(int(lo), int(hi)) for lo, hi in zip(bottom, top, strict=True)], np.int64)


def dequantised(codes: ConvCodes, x_frac: int) -> tuple[Float64Array, Float64Array]:
    """Return weight and bias of `codes` as real numbers."""
    return (
        dequantise(codes.weight, codes.w_frac.reshape(-1, 1, 1, 1)),
        dequantise(codes.bias, codes.w_frac + x_frac),
    )
