# SPDX-License-Identifier: Apache-2.0
"""What the quantisers of a Brevitas model do, read from the tensors they return in one run.

A quantiser's scale can be a constant, a parameter, a statistic of the weights or the product of two others; what it
returns is a tensor with its scale, zero point, word length and sign in every case, so that is what is read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from brevitas.proxy.parameter_quant import BiasQuantProxyFromInjectorBase, WeightQuantProxyFromInjectorBase
from brevitas.proxy.quant_proxy import QuantProxyFromInjector
from brevitas.proxy.runtime_quant import DynamicActQuantProxyFromInjector, TruncQuantProxyFromInjector
from brevitas.quant_tensor import IntQuantTensor, QuantTensor
from torch import Tensor, nn

from yolo_hw.errors import QuantError
from yolo_hw.fixedpoint import MAX_BITS, MIN_BITS, FixedPoint, IntArray, Rounding

_ROUNDINGS = {"ROUND": Rounding.HALF_EVEN, "FLOOR": Rounding.FLOOR}
"""Brevitas' names of `float_to_int_impl_type`; ROUND is torch.round, half to even."""


@dataclass(frozen=True)
class ActQuantiser:
    """How an activation is rounded.

    Attributes:
        name: The quantiser's name in the model.
        fmt: Format of the codes.
        narrow: Whether the lowest signed code is not used.
        rounding: Rounding to codes.
    """

    name: str
    fmt: FixedPoint
    narrow: bool
    rounding: Rounding


@dataclass(frozen=True, eq=False)
class QuantisedParameter:
    """A weight or bias in codes.

    Attributes:
        codes: [K, ...] or [...].
        frac: [K] or [1] fraction bits.
        bits: Word length.
    """

    codes: IntArray
    frac: IntArray
    bits: int


@dataclass(eq=False)
class Readings:
    """By quantiser (a Brevitas proxy module); one that did not run, or is off, is missing."""

    activations: dict[nn.Module, ActQuantiser] = field(default_factory=dict)
    parameters: dict[nn.Module, QuantisedParameter] = field(default_factory=dict)


def read_quantisers(model: nn.Module, example: Tensor) -> Readings:
    """Run a model once and read its quantisers.

    Args:
        model: A Brevitas model in evaluation mode; it is not changed.
        example: [N, C, H, W] an input.

    Returns:
        Formats of activations, codes of weights and biases.

    Raises:
        QuantError: A quantiser is not fixed-point; names it, what was found, and what to use instead.
    """
    readings = Readings()
    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, QuantProxyFromInjector):
            hooks.append(module.register_forward_hook(_Reader(name, readings)))
    try:
        with torch.no_grad():
            model(example)
    finally:
        for hook in hooks:
            hook.remove()
    return readings


class _Reader:
    """The forward hook of one quantiser."""

    def __init__(self, name: str, readings: Readings) -> None:
        self.name, self.readings = name, readings

    def __call__(self, proxy: Any, args: tuple[Any, ...], out: Any) -> None:  # noqa: ANN401 - Brevitas is not typed
        if not proxy.is_quant_enabled:
            return
        if isinstance(proxy, DynamicActQuantProxyFromInjector):
            raise self._error("the scale must not depend on the input: a dynamic quantiser has no fixed format", proxy)
        if not isinstance(out, IntQuantTensor):
            found = type(out).__name__ if isinstance(out, (QuantTensor, Tensor)) else str(type(out))
            raise self._error(f"must return integer codes with one scale, got {found}", proxy)
        bits = _integer(out.bit_width)
        if bits is None or bits < MIN_BITS:
            raise self._error(f"the word length must be an integer of at least {MIN_BITS}, got {out.bit_width}", proxy)
        if bool((out.zero_point != 0).any()):
            raise self._error(f"the zero point must be 0, got {out.zero_point.flatten()[0].item():g}", proxy)
        frac = self._frac(proxy, out.scale)
        if isinstance(proxy, (WeightQuantProxyFromInjectorBase, BiasQuantProxyFromInjectorBase)):
            self._parameter(proxy, out, frac, bits)
        else:
            self._activation(proxy, out, frac, bits)

    def _parameter(self, proxy: nn.Module, out: IntQuantTensor, frac: IntArray, bits: int) -> None:
        values = out.value.detach().double().cpu().numpy()
        per_channel = frac.reshape(-1, *[1] * (values.ndim - 1)) if values.ndim else frac
        codes = np.ldexp(values, per_channel)
        if (codes != np.rint(codes)).any():
            raise self._error("the values must be multiples of the scale", proxy)
        found = QuantisedParameter(codes.astype(np.int64), frac, bits)
        before = self.readings.parameters.setdefault(proxy, found)
        if not (np.array_equal(before.codes, found.codes) and np.array_equal(before.frac, found.frac)):
            raise self._error("is used twice, with inputs of different scales; give each use its own layer", proxy)

    def _activation(self, proxy: Any, out: IntQuantTensor, frac: IntArray, bits: int) -> None:  # noqa: ANN401
        signed = bool(out.signed)
        if bits > MAX_BITS - (not signed):
            raise self._error(f"activations have at most 16 signed or 15 unsigned bits, got {bits}", proxy)
        if (frac != frac[0]).any():
            raise self._error("an activation must have one scale, got one per channel", proxy)
        mode = str(proxy.rounding_mode).upper()  # Brevitas has it in both cases
        if mode not in _ROUNDINGS:
            raise self._error(f"float_to_int_impl_type must be one of {', '.join(_ROUNDINGS)}, got {mode}", proxy)
        if proxy.is_narrow_range and not signed:
            raise self._error("narrow_range of an unsigned activation has no integer form", proxy)
        fmt = FixedPoint(bits, int(frac[0]), signed)
        found = ActQuantiser(self.name, fmt, bool(proxy.is_narrow_range), _ROUNDINGS[mode])
        if self.readings.activations.setdefault(proxy, found) != found:
            raise self._error("is used twice, with different formats; give each use its own quantiser", proxy)

    def _frac(self, proxy: nn.Module, scale: Tensor) -> IntArray:
        """Return the fraction bits [1] or [K] of power-of-two scales."""
        fracs = []
        for value in scale.detach().double().flatten().tolist():
            mantissa, exponent = math.frexp(value)
            if mantissa != 0.5:  # value = 0.5 * 2**exponent
                raise self._error(f"the scale must be a power of two, got {value:.9g}", proxy)
            fracs.append(1 - exponent)
        return np.array(fracs, np.int64)

    def _error(self, message: str, proxy: nn.Module) -> QuantError:
        return QuantError(f"{self.name}: {message}; use {_instead(proxy)}")


def _integer(x: Tensor) -> int | None:
    value = float(x)
    return int(value) if value == int(value) else None


def _instead(proxy: Any) -> str:  # noqa: ANN401 - Brevitas is not typed
    """Name a quantiser of Brevitas with which it works."""
    if isinstance(proxy, WeightQuantProxyFromInjectorBase):
        return "brevitas.quant.Int8WeightPerTensorFixedPoint (any bit_width from 2 to 16)"
    if isinstance(proxy, BiasQuantProxyFromInjectorBase):
        return "brevitas.quant.Int32Bias, or Int8BiasPerTensorFixedPointInternalScaling"
    if isinstance(proxy, TruncQuantProxyFromInjector):
        return "a window of a power of two elements, or nn.AdaptiveAvgPool2d(1) and a QuantIdentity"
    unsigned = "" if getattr(proxy, "is_signed", True) else "Uint8ActPerTensorFixedPoint or "
    return f"brevitas.quant.{unsigned}Int8ActPerTensorFixedPoint"
