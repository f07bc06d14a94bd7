# SPDX-License-Identifier: Apache-2.0
"""A Brevitas model as a plain torch model whose quantisers are operators that can be seen in a trace."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import brevitas.nn as qnn
import numpy as np
import torch
from brevitas.nn.mixin.base import QuantLayerMixin
from brevitas.nn.quant_layer import QuantNonLinearActLayer, QuantWeightBiasInputOutputLayer
from brevitas.proxy.quant_proxy import QuantProxyFromInjector
from torch import Tensor, nn

from yolo_hw.errors import QuantError
from yolo_hw.interop.brevitas_reading import ActQuantiser, QuantisedParameter, Readings
from yolo_hw.quant.boundary import boundary

Proxy = Any
"""A quantiser of Brevitas, which is not typed."""
Labels = tuple[str | None, str | None]
"""Names of the quantisers in front of an operator and behind it; None where there is none."""


@dataclass(frozen=True, eq=False)
class PlainModel:
    """What `plain_copy` makes of a Brevitas model.

    Attributes:
        module: Takes and returns plain tensors; weights and biases have the values Brevitas rounds them to.
        layers: The layers with weights, by their name in the model.
        quantisers: By the label of their boundary in a trace of `module`.
    """

    module: nn.Module
    layers: dict[str, PlainLayer]
    quantisers: dict[str, ActQuantiser]


def plain_copy(model: nn.Module, readings: Readings) -> PlainModel:
    """Copy a model with every Brevitas layer replaced by what it computes on plain tensors.

    Args:
        model: The model; it is not changed.
        readings: From `read_quantisers` of this model.

    Returns:
        The copy, and what its quantisers and weights are.

    Raises:
        QuantError: A layer of Brevitas has no plain form, or weights that are not quantised; names it.
    """
    replaced: dict[int, Any] = {}
    layers: dict[str, PlainLayer] = {}
    builder = _Builder(readings)
    for name, module in model.named_modules():
        if not isinstance(module, QuantLayerMixin) and not _has_own_quantiser(module):
            continue
        plain = builder.replace(name or type(module).__name__, module)
        replaced[id(module)] = plain
        if isinstance(plain, PlainLayer):
            layers[name] = plain
    return PlainModel(copy.deepcopy(model, replaced), layers, builder.quantisers)


class PlainLayer(nn.Module):
    """A layer with weights, between two quantisers.

    Attributes:
        weight: The values its codes stand for.
        bias: The same, or None.
        codes: The codes of the weight.
    """

    def __init__(self, layer: Any, codes: QuantisedParameter, bias: Tensor | None, labels: Labels) -> None:  # noqa: ANN401
        """Take the operator from `layer`, a layer of Brevitas."""
        super().__init__()
        self.weight = nn.Parameter(values_of(codes, layer.weight), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
        self.codes = codes
        self._compute = layer.inner_forward_impl  # its float operator; a bound method is no submodule
        self._labels = labels

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer."""
        before, after = self._labels
        return _mark(self._compute(_mark(x, before), self.weight, self.bias), after)


class _Elementwise(nn.Module):
    """A quantiser for every input, an operator of all of them, and a quantiser behind it."""

    def __init__(self, compute: Callable[..., Tensor], labels: Labels) -> None:
        super().__init__()
        self.compute = compute
        self._labels = labels

    def forward(self, *inputs: Any, **options: Any) -> Tensor:  # noqa: ANN401 - tensors, or one list of them
        before, after = self._labels
        if inputs and isinstance(inputs[0], (list, tuple)):
            tensors, *rest = inputs
            return _mark(self.compute([_mark(x, before) for x in tensors], *rest, **options), after)
        return _mark(self.compute(*[_mark(x, before) for x in inputs], **options), after)


def _activation(proxy: Proxy) -> nn.Module:
    """Return a copy of the function in front of a quantiser, as a Python module that can be traced."""
    fused = proxy.fused_activation_quant_proxy
    if fused is None:
        return nn.Identity()
    function = fused.activation_impl
    if isinstance(function, torch.jit.ScriptModule):  # what BREVITAS_JIT=1 makes of it
        switched_off = function.original_name == nn.Identity.__name__
        function = nn.Identity() if switched_off else proxy.quant_injector.act_impl
    return cast(nn.Module, copy.deepcopy(function))


def _mark(x: Tensor, label: str | None) -> Tensor:
    return x if label is None else boundary(x, label)


class _Builder:
    """Replaces layers, and collects the quantisers that are on."""

    def __init__(self, readings: Readings) -> None:
        self.readings = readings
        self.quantisers: dict[str, ActQuantiser] = {}

    def replace(self, name: str, layer: Any) -> nn.Module:  # noqa: ANN401 - Brevitas is not typed
        """Return what `layer` computes on plain tensors."""
        if isinstance(layer, QuantWeightBiasInputOutputLayer):
            return self._weighted(name, layer)
        if isinstance(layer, QuantNonLinearActLayer):
            return _Elementwise(_activation(layer.act_quant), self._labels(layer.input_quant, layer.act_quant))
        if isinstance(layer, qnn.QuantEltwiseAdd):
            return _Elementwise(torch.add, self._labels(layer.input_quant, layer.output_quant))
        if isinstance(layer, qnn.QuantCat):
            return _Elementwise(_concat, self._labels(layer.input_quant, layer.output_quant))
        if isinstance(layer, qnn.TruncAvgPool2d):
            pool = nn.AvgPool2d(layer.kernel_size, layer.stride, layer.padding, layer.ceil_mode,
                                layer.count_include_pad, layer.divisor_override)  # fmt: skip
            return _Elementwise(pool, self._labels(None, layer.trunc_quant))
        if isinstance(layer, qnn.TruncAdaptiveAvgPool2d):
            return _Elementwise(nn.AdaptiveAvgPool2d(layer.output_size), self._labels(None, layer.trunc_quant))
        if isinstance(layer, nn.Upsample):
            return nn.Upsample(layer.size, layer.scale_factor, layer.mode, layer.align_corners)
        raise QuantError(f"{name}: {type(layer).__name__} of Brevitas has no integer form here")

    def _weighted(self, name: str, layer: Any) -> PlainLayer:  # noqa: ANN401
        codes = self.readings.parameters.get(layer.weight_quant)
        if codes is None:
            reason = "does not run" if layer.weight_quant.is_quant_enabled else "its weights are not quantised"
            raise QuantError(f"{name}: {reason}; use weight_quant=brevitas.quant.Int8WeightPerTensorFixedPoint")
        bias = layer.bias
        if bias is not None and layer.bias_quant in self.readings.parameters:
            bias = values_of(self.readings.parameters[layer.bias_quant], bias)
        return PlainLayer(layer, codes, bias, self._labels(layer.input_quant, layer.output_quant))

    def _labels(self, before: Proxy | None, after: Proxy) -> Labels:
        return self._label(before), self._label(after)

    def _label(self, proxy: Proxy | None) -> str | None:
        quantiser = None if proxy is None else self.readings.activations.get(proxy)
        if quantiser is None:
            return None
        self.quantisers[quantiser.name] = quantiser
        return quantiser.name


def values_of(parameter: QuantisedParameter, like: Tensor) -> Tensor:
    """Return codes as real values of the shape of `like`, in float64: 32-bit biases do not fit float32."""
    frac = parameter.frac.reshape(-1, *[1] * (like.ndim - 1))
    return torch.from_numpy(np.ldexp(parameter.codes.astype(np.float64), -frac)).reshape(like.shape)


def _concat(tensors: list[Tensor], dim: int = 1) -> Tensor:
    return torch.cat(tensors, dim)


def _has_own_quantiser(module: nn.Module) -> bool:
    """Whether a module that is no layer of Brevitas holds a quantiser that is on."""
    return any(isinstance(child, QuantProxyFromInjector) and child.is_quant_enabled for child in module.children())
