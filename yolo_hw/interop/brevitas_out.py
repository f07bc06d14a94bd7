# SPDX-License-Identifier: Apache-2.0
"""A quantised model of ours as a Brevitas model with equal codes.

Weights, biases and scales are constants of the Brevitas layers: what was trained is what is handed over. The result is
a `torch.fx.GraphModule` of Brevitas layers, one statement per node, that Brevitas' exporters take.
"""

from __future__ import annotations

import operator
from typing import cast

import brevitas.nn as qnn
import numpy as np
import torch
from brevitas.core.zero_point import ZeroZeroPoint
from brevitas.inject import ExtendedInjector
from brevitas.inject.enum import (
    BitWidthImplType,
    FloatToIntImplType,
    QuantType,
    RestrictValueType,
    ScalingImplType,
    ScalingPerOutputType,
)
from brevitas.quant.solver.act import ActQuantSolver
from brevitas.quant.solver.bias import BiasQuantSolver
from brevitas.quant.solver.weight import WeightQuantSolver
from torch import Tensor, fx, nn
from torch.nn import functional as F

from yolo_hw.errors import QuantError
from yolo_hw.fixedpoint import FixedPoint, IntArray, Overflow, Rounding
from yolo_hw.geometry import Window
from yolo_hw.interop.attribute_names import attribute_name
from yolo_hw.intgraph.graph import INPUT
from yolo_hw.intgraph.nodes import AvgPool
from yolo_hw.nn.activations import activate
from yolo_hw.nn.blocks import reorg
from yolo_hw.quant import folded as G
from yolo_hw.quant.calibrate import Calibrated
from yolo_hw.quant.config import QuantConfig
from yolo_hw.quant.folded import FoldedGraph, FoldedNode
from yolo_hw.quant.folding import PIXEL_GAIN
from yolo_hw.quant.plan import QuantPlan
from yolo_hw.quant.qat import QatModel
from yolo_hw.quant.weights import dequantised

BIAS_BITS = 32

_ROUNDINGS = {Rounding.HALF_EVEN: FloatToIntImplType.ROUND, Rounding.FLOOR: FloatToIntImplType.FLOOR}


def to_brevitas(model: QatModel | Calibrated) -> fx.GraphModule:
    """Write a quantised model in Brevitas layers.

    Args:
        model: A model of `prepare_qat`, or what `calibrate` returns.

    Returns:
        A module in evaluation mode and float64, from images [N, C, H, W] in [0, 1] to the list of the graph's outputs:
        the integer graph's codes times the step, all of them. In float32 (``.float()``, for exporters) sums are exact
        below 2**24 only.

    Raises:
        QuantError: The arithmetic is none of Brevitas': a rounding other than half_even and floor, or overflow that
            wraps; names it.
    """
    graph, plan = (model.graph, model.plan()) if isinstance(model, QatModel) else (model.graph, model.plan)
    _check_arithmetic(graph, plan.config)
    return _Writer(graph, plan).write().eval()


def _check_arithmetic(graph: FoldedGraph, config: QuantConfig) -> None:
    if config.rounding not in _ROUNDINGS:
        allowed = " or ".join(rounding.value for rounding in _ROUNDINGS)
        raise QuantError(
            f"{graph.name}: Brevitas has no rounding {config.rounding.value}; quantise with rounding {allowed}"
        )
    if config.overflow is Overflow.WRAP:
        raise QuantError(f"{graph.name}: Brevitas' activations saturate; quantise with overflow saturate, got wrap")


class _Fixed(ExtendedInjector):  # type: ignore[misc]  # Brevitas is not typed
    """What all quantisers here share: a constant power-of-two scale, the zero point 0."""

    quant_type = QuantType.INT
    bit_width_impl_type = BitWidthImplType.CONST
    scaling_impl_type = ScalingImplType.CONST
    restrict_scaling_type = RestrictValueType.POWER_OF_TWO
    zero_point_impl = ZeroZeroPoint
    signed = True
    narrow_range = False


class FixedPointWeight(_Fixed, WeightQuantSolver):  # type: ignore[misc]  # Brevitas is not typed
    """Weights of given `bit_width` and, per output channel, `scaling_const`, the scale times ``2**(bit_width - 1)``."""

    float_to_int_impl_type = FloatToIntImplType.ROUND  # the weights are on the grid: no rounding takes place
    scaling_per_output_type = ScalingPerOutputType.CHANNEL


class FixedPointBias(_Fixed, BiasQuantSolver):  # type: ignore[misc]  # Brevitas is not typed
    """Biases on the accumulators' grid, with a scale of their own so that no layer needs that of its input."""

    bit_width = BIAS_BITS
    float_to_int_impl_type = FloatToIntImplType.ROUND
    scaling_per_output_type = ScalingPerOutputType.CHANNEL
    requires_input_scale = False


class FixedPointAct(_Fixed, ActQuantSolver):  # type: ignore[misc]  # Brevitas is not typed
    """Activations; `max_val` is the scale times ``2**(bit_width - signed)``."""

    scaling_per_output_type = ScalingPerOutputType.TENSOR
    min_val = 0.0


class _Writer:
    """Writes one statement, and the modules it calls, per node."""

    def __init__(self, graph: FoldedGraph, plan: QuantPlan) -> None:
        self.graph, self.plan = graph, plan
        self.modules: dict[str, nn.Module] = {}
        self.code = fx.Graph()
        self.shapes = {INPUT: graph.input_shape} | {node.name: node.shape for node in graph.nodes}

    def write(self) -> fx.GraphModule:
        """Return the module."""
        image = self.code.placeholder("images")
        pixels = self.code.call_function(operator.truediv, (image, PIXEL_GAIN))
        values = {INPUT: self._call("input_quant", self._quantiser(self.plan.formats[INPUT]), pixels)}
        for node in self.graph.nodes:
            inputs = [values[name] for name in node.inputs]
            if node.moves:
                values[node.name] = self._moved(node, inputs)
            else:
                values[node.name] = self._rounded(node, self._accumulated(node, inputs))
        self.code.output([values[tensor] for tensor, _ in self.graph.outputs])
        return fx.GraphModule(self.modules, self.code, class_name="BrevitasModel")

    def _call(self, name: str, module: nn.Module, *inputs: fx.Node) -> fx.Node:
        key = attribute_name(name)
        while key in self.modules:
            key += "_"
        self.modules[key] = module
        return self.code.call_module(key, inputs)

    def _moved(self, node: FoldedNode, inputs: list[fx.Node]) -> fx.Node:
        if isinstance(node, G.FoldedConcat):
            return self.code.call_function(torch.cat, (inputs, 1))
        if isinstance(node, G.FoldedSlice):
            return self.code.call_function(torch.narrow, (inputs[0], 1, node.start, node.stop - node.start))
        if isinstance(node, G.FoldedUpsample):
            return self._call(node.name, nn.Upsample(scale_factor=node.stride, mode="nearest"), inputs[0])
        if isinstance(node, G.FoldedReorg):
            return self.code.call_function(reorg, (inputs[0], node.stride, node.reverse, node.mode))
        assert isinstance(node, G.FoldedMaxPool)
        x, padding = self._padded(node, node.window, inputs[0], float("-inf"))
        return self._call(node.name, nn.MaxPool2d(node.window.size, node.window.stride, padding), x)

    def _accumulated(self, node: FoldedNode, inputs: list[fx.Node]) -> fx.Node:
        if isinstance(node, G.FoldedConv):
            return self._conv(node, inputs[0])
        if isinstance(node, G.FoldedAvgPool):
            mul, mul_shift = AvgPool.reciprocal(node.count)
            total = self.code.call_function(torch.sum, (inputs[0], (2, 3), True))
            return self.code.call_function(operator.mul, (total, mul * 2.0**-mul_shift))
        total = inputs[0]
        for other in inputs[1:]:
            combine = operator.mul if isinstance(node, G.FoldedMul) else operator.add
            total = self.code.call_function(combine, (total, other))
        return total

    def _conv(self, node: G.FoldedConv, x: fx.Node) -> fx.Node:
        codes, window = self.plan.convs[node.name], node.window
        acc_frac = codes.w_frac + self.plan.formats[node.inputs[0]].frac
        x, padding = self._padded(node, window, x, 0.0)
        k, c = codes.weight.shape[:2]
        layer = qnn.QuantConv2d(
            c * node.groups, k, window.size, window.stride, padding, window.dilation, node.groups, bias=True,
            weight_quant=FixedPointWeight.let(
                bit_width=codes.w_bits, scaling_const=_power(codes.w_bits - 1 - codes.w_frac).reshape(-1, 1, 1, 1)
            ),
            bias_quant=FixedPointBias.let(scaling_const=_power(BIAS_BITS - 1 - acc_frac)),
        ).double()  # fmt: skip
        weight, bias = dequantised(codes, self.plan.formats[node.inputs[0]].frac)
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(weight))
            layer.bias.copy_(torch.from_numpy(bias))
        return self._call(node.name, layer, x)

    def _padded(self, node: FoldedNode, window: Window, x: fx.Node, value: float) -> tuple[fx.Node, tuple[int, int]]:
        """Return the input and the padding that is left to the operator: all of it where it is the same on both sides.

        Pools of torch pad at most half of a window.
        """
        before = self.shapes[node.inputs[0]]
        bottom, right = (window.trailing_pad(axis, before[1 + axis], node.shape[1 + axis]) for axis in (0, 1))
        if (bottom, right) == window.pad and all(2 * p <= n for p, n in zip(window.pad, window.size, strict=True)):
            return x, window.pad
        # A negative number crops rows that no window reaches.
        widths = (window.pad[1], right, window.pad[0], bottom)
        return self.code.call_function(F.pad, (x, widths, "constant", value)), (0, 0)

    def _rounded(self, node: FoldedNode, pre: fx.Node) -> fx.Node:
        """Write activation and quantiser."""
        fmt = self.plan.formats[node.name]
        table = self.plan.tables.get(node.name)
        if table is not None:
            argument = self._call(f"{node.name}.argument", self._quantiser(table.fmt), pre)
            value = self._call(f"{node.name}.{node.activation}", _Function(node.activation), argument)
            return self._call(f"{node.name}.quant", self._quantiser(fmt), value)
        if node.activation == "leaky":
            leaky = self.plan.config.leaky
            pre = self._call(f"{node.name}.leaky", nn.LeakyReLU(leaky.mul * 2.0**-leaky.shift), pre)
        elif node.activation == "relu6":
            pre = self._call(f"{node.name}.relu6", nn.ReLU6(), pre)
        return self._call(f"{node.name}.quant", self._quantiser(fmt, relu=node.activation == "relu"), pre)

    def _quantiser(self, fmt: FixedPoint, *, relu: bool = False) -> nn.Module:
        config = self.plan.config
        layer = qnn.QuantReLU if relu else qnn.QuantIdentity
        quantiser = FixedPointAct.let(
            bit_width=fmt.bits,
            signed=fmt.signed,
            narrow_range=fmt.signed and config.overflow is Overflow.SATURATE_SYMMETRIC,
            float_to_int_impl_type=_ROUNDINGS[config.rounding],
            max_val=2.0 ** (fmt.bits - fmt.signed - fmt.frac),
        )
        return cast(nn.Module, layer(act_quant=quantiser).double())


class _Function(nn.Module):
    """An activation that hardware looks up; its argument and its value are rounded."""

    def __init__(self, function: str) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return activate(self.function, x)

    def extra_repr(self) -> str:
        return self.function


def _power(exponent: IntArray) -> Tensor:
    """Return ``2**exponent``, [K] float64."""
    return torch.from_numpy(np.ldexp(1.0, exponent))
