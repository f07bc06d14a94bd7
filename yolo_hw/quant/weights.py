# SPDX-License-Identifier: Apache-2.0
"""Quantisation of weights and biases, with fraction bits the accelerator can use."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from yolo_hw.errors import QuantError
from yolo_hw.fixedpoint import MAX_ABS_FRAC, FixedPoint, IntArray, Overflow, dequantise, quantise, round_real
from yolo_hw.intgraph.bounds import term_sums, weight_sums
from yolo_hw.intgraph.check import BIAS_BITS
from yolo_hw.intgraph.quantities import ConvNumbers, conv_quantities
from yolo_hw.intgraph.target import TargetProfile
from yolo_hw.intgraph.violations import NUMERIC_RULES, Violation, numeric_violations
from yolo_hw.quant.config import Observer, QuantConfig
from yolo_hw.quant.divergence import row_divergences
from yolo_hw.quant.folded import Float64Array, FoldedConv
from yolo_hw.quant.plan import ConvCodes

NUM_CANDIDATES = 5
MAX_RISE = 3


@dataclass(frozen=True)
class ConvContext:
    """Formats around a convolution.

    Attributes:
        x: Format of the input.
        code: Format of the code after the output shift: the output's, or the table's argument.
        slope_shift: Extra shift of negative accumulators.
        slope_mul: Factor of negative accumulators.
    """

    x: FixedPoint
    code: FixedPoint
    slope_shift: int
    slope_mul: int = 1


@dataclass(frozen=True, eq=False)
class WeightChoice:
    """The fraction bits that a convolution's weights get between two formats.

    Attributes:
        w_frac: [K] fraction bits.
        noise: [K] mean squared error that rounding weights and biases causes in the sum (0 where no power is known).
        broken: A rule of the target that no w_frac can meet; None if `w_frac` is legal.
        repaired: Channels whose w_frac is not the one their weights ask for.
    """

    w_frac: IntArray
    noise: Float64Array
    broken: Violation | None
    repaired: int


class WeightFormats:
    """Chooses w_frac of one convolution, per output channel or per layer, for any formats around it.

    The weights' own choice is kept where it is legal, else the nearest legal one is taken: below it the steps only get
    coarser, above it more is clipped. It rises by at most `MAX_RISE`, where only an eighth of the range is left. Bias
    and sum bound w_frac from above, so the search goes downwards.
    """

    def __init__(self, node: FoldedConv, config: QuantConfig, power: Float64Array | None = None) -> None:
        """Find the weights' own choice.

        Args:
            node: Folded convolution.
            config: Word length, observer, rounding, target.
            power: [C] mean square of every input channel, for `WeightChoice.noise`.
        """
        self.node = node
        self.config = config
        self.power = power
        self.bits = config.weight_bits(node.name)
        matrix = node.weight.reshape(node.weight.shape[0], -1)
        own = choose_fracs(matrix if config.per_channel else matrix.reshape(1, -1), self.bits, config)
        self.own = np.broadcast_to(own, (matrix.shape[0],))
        self.empty = ~matrix.any(axis=1)
        self._rounded: dict[bytes, tuple[IntArray, IntArray, Float64Array]] = {}

    def choose(self, around: ConvContext) -> WeightChoice:
        """Return the legal fraction bits nearest to the weights' own choice."""
        profile, contract = self.config.profile, self.config.contract
        shift = around.x.frac - around.code.frac
        lowest = max(
            max(profile.conv_shift.lo, contract.min_shift) - shift,
            profile.acc_frac.lo - around.x.frac,
            profile.w_frac.lo,
        )
        highest = min(
            min(profile.conv_shift.hi, contract.max_shift - around.slope_shift) - shift,
            profile.acc_frac.hi - around.x.frac,
            profile.w_frac.hi,
        )
        caps = np.minimum(highest, _bias_limit(self.node.bias, around.x.frac, profile))
        raised = np.clip(lowest, self.own, self.own + MAX_RISE)
        w_frac = np.where(self.empty, caps, np.minimum(raised, caps))
        if not self.config.per_channel:
            w_frac = np.full_like(w_frac, np.where(self.empty, np.minimum(raised, highest), w_frac).min())
        while True:
            broken, over = self._verdict(w_frac, around)
            lower = w_frac - (over if self.config.per_channel else over.any())
            if not over.any() or (lower < lowest).any():
                break
            w_frac = lower
        repaired = int((w_frac != self.own)[~self.empty].sum())
        return WeightChoice(w_frac, self._noise(w_frac, around), broken, repaired)

    def _verdict(self, w_frac: IntArray, around: ConvContext) -> tuple[Violation | None, npt.NDArray[np.bool_]]:
        """Return the first rule that `w_frac` breaks, and the channels [K] that break any."""
        positive, negative, _ = self._sums(w_frac)
        acc_frac = w_frac + around.x.frac
        bias = round_bias(self.node.bias, acc_frac, self.config)
        ends = term_sums(positive, negative, min(around.x.lo, 0), around.x.hi, bias)
        numbers = ConvNumbers(acc_frac - around.code.frac, w_frac, acc_frac, bias, *ends)
        quantities = conv_quantities(numbers, (around.slope_mul, around.slope_shift), self.config.contract)
        over = np.zeros(w_frac.shape, bool)
        for rule in NUMERIC_RULES.values():
            legal = rule(quantities, self.config.profile).legal
            if legal.shape == over.shape:
                over |= ~legal
        return next(numeric_violations(self.node.name, quantities, self.config.profile), None), over

    def _sums(self, w_frac: IntArray) -> tuple[IntArray, IntArray, Float64Array]:
        """Return the sums of positive and of negative codes and the weights' share of the noise, [K] each."""
        key = w_frac.tobytes()
        if key not in self._rounded:
            codes = self.weights(w_frac)
            noise = np.zeros(w_frac.shape)
            if self.power is not None:
                error = (dequantise(codes, w_frac.reshape(-1, 1, 1, 1)) - self.node.weight) ** 2
                inputs = self.power.reshape(self.node.groups, -1).repeat(len(w_frac) // self.node.groups, 0)
                noise = (error.sum((2, 3)) * inputs).sum(1)
            self._rounded[key] = (*weight_sums(codes), noise)
        return self._rounded[key]

    def _noise(self, w_frac: IntArray, around: ConvContext) -> Float64Array:
        """Return `WeightChoice.noise`, input channels and positions taken as uncorrelated: [K]."""
        if self.power is None:
            return np.zeros(w_frac.shape)
        acc_frac = w_frac + around.x.frac
        bias_error = dequantise(round_bias(self.node.bias, acc_frac, self.config), acc_frac) - self.node.bias
        return np.asarray(self._sums(w_frac)[2] + bias_error**2, np.float64)

    @property
    def own_noise(self) -> float:
        """Mean noise of the channels under the weights' own choice, with exact biases."""
        return float(self._sums(np.asarray(self.own))[2].mean())

    def weights(self, w_frac: IntArray) -> IntArray:
        """Return the weight codes [K, C / groups, R, S] under `w_frac`."""
        scaled = np.ldexp(self.node.weight, w_frac.reshape(-1, 1, 1, 1))
        return quantise(scaled, FixedPoint(self.bits, 0), self.config.rounding, self.config.overflow)


def quantise_conv(node: FoldedConv, around: ConvContext, config: QuantConfig) -> tuple[ConvCodes, str]:
    """Choose w_frac per output channel (or per layer) and round weights and biases.

    Args:
        node: Folded convolution.
        around: Formats of input and output.
        config: Word length, observer, rounding, target.

    Returns:
        The codes, and a note on what had to be repaired (empty if nothing).

    Raises:
        QuantError: No w_frac is legal; names the layer, the rule and the channel.
    """
    formats = WeightFormats(node, config)
    choice = formats.choose(around)
    if choice.broken is not None:
        channel = choice.broken.channel or 0
        raise QuantError(
            f"{choice.broken}: no fraction bits of its weights are legal on target '{config.profile.name}' between "
            f"formats {around.x} and {around.code} (bias of channel {channel}: {node.bias[channel]:.3g})"
        )
    w_frac = choice.w_frac
    bias = round_bias(node.bias, w_frac + around.x.frac, config)
    codes = ConvCodes(formats.weights(w_frac), w_frac.astype(np.int64), bias, formats.bits)
    note = (
        f"{node.name}: w_frac changed in {choice.repaired} of {len(w_frac)} channels to keep bias, sum and shift legal"
    )
    return codes, note if choice.repaired else ""


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
    if config.overflow is Overflow.WRAP and config.w_observer is not Observer.PERCENTILE:
        # Not even a value next to the end may leave the format: it would change its sign.
        lowest, highest = (round_real(np.ldexp(end, base), config.rounding) for end in (rows.min(1), rows.max(1)))
        base -= (lowest < fmt.lo) | (highest > fmt.hi)
    if config.w_observer in (Observer.MAX, Observer.PERCENTILE):
        return base
    if config.w_observer is Observer.KL:
        scores = row_divergences(rows, base, fmt, NUM_CANDIDATES, config)
        return np.asarray(base + scores.argmin(0), np.int64)
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


def _bias_limit(bias: Float64Array, x_frac: int, profile: TargetProfile) -> IntArray:
    """Return the largest w_frac with which the bias surely fits its word and 32 bits."""
    largest = (1 << (min(profile.bias_bits + profile.bias_shift.hi, BIAS_BITS) - 1)) - 1
    with np.errstate(divide="ignore"):
        room = np.where(bias == 0, MAX_ABS_FRAC, np.floor(np.log2((largest - 1) / np.abs(bias))) - x_frac)
    return np.clip(room, -MAX_ABS_FRAC, MAX_ABS_FRAC).astype(np.int64)


def round_bias(bias: Float64Array, acc_frac: IntArray, config: QuantConfig) -> IntArray:
    """Return bias codes [K] with `acc_frac` fraction bits that the target can store, as precise as its word allows.

    Of the target's left shifts the smallest is taken with which the stored bias fits, per channel or for the layer, see
    `TargetProfile.per_channel`. Codes that fit with none keep the largest, and break a rule.
    """
    profile = config.profile
    limit = 1 << (profile.bias_bits - 1)
    codes = np.zeros(bias.shape, np.int64)
    todo = np.ones(bias.shape, bool)
    for shift in range(profile.bias_shift.lo, profile.bias_shift.hi + 1):
        scaled = np.clip(np.ldexp(bias, acc_frac - shift), -(2.0**62), 2.0**62)
        stored = round_real(scaled, config.rounding).astype(np.int64)
        codes = np.where(todo, np.clip(stored, -(1 << 62 - shift), 1 << 62 - shift) << shift, codes)
        misfits = (stored < -limit) | (stored >= limit)
        todo &= misfits if profile.per_channel else misfits[todo].any()
        if not todo.any():
            break
    return codes


def dequantised(codes: ConvCodes, x_frac: int) -> tuple[Float64Array, Float64Array]:
    """Return weight and bias of `codes` as real numbers."""
    return (
        dequantise(codes.weight, codes.w_frac.reshape(-1, 1, 1, 1)),
        dequantise(codes.bias, codes.w_frac + x_frac),
    )
