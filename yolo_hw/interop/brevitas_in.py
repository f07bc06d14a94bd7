# SPDX-License-Identifier: Apache-2.0
"""A Brevitas model with fixed-point quantisers as an integer graph with equal codes.

Brevitas trains with integers in float clothes: a quantiser returns ``clamp(round(x / scale)) * scale``, a layer adds up
products of such values. With scales that are powers of two and zero points of 0 all of this is fixed-point arithmetic,
and the integer graph computes the same numbers, code for code. What is not of that kind is refused by name.

Float32 adds exactly below 2**24, so a Brevitas model in float32 can round a sum that the integer graph has exactly;
``model.double()`` is the one to compare with.

Reference:
    Franco, Pappalardo and Fraser, "Xilinx/brevitas", https://github.com/Xilinx/brevitas, version 0.13.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from yolo_hw.errors import QuantError
from yolo_hw.fixedpoint import FixedPoint, Overflow, signed_bits
from yolo_hw.interop.brevitas_plain import PlainLayer, PlainModel, plain_copy
from yolo_hw.interop.brevitas_reading import ActQuantiser, read_quantisers
from yolo_hw.interop.commute import raise_activations
from yolo_hw.interop.exact_weights import codes_of_constants, exact_codes
from yolo_hw.interop.placement import Placed, place_quantisers
from yolo_hw.intgraph.bounds import conv_sums
from yolo_hw.intgraph.graph import IntGraph
from yolo_hw.nn.activations import activate
from yolo_hw.quant.calibrate import Calibrated
from yolo_hw.quant.config import LeakySlope, QuantConfig
from yolo_hw.quant.folded import Float64Array, FoldedConv, FoldedGraph
from yolo_hw.quant.lower import lower_graph
from yolo_hw.quant.plan import ConvCodes, QuantPlan
from yolo_hw.quant.source import ConvSource, TracedModel
from yolo_hw.quant.tables import build_table
from yolo_hw.quant.trace_module import trace_module

_T = TypeVar("_T")
_LEAKY = re.compile("leaky(_.*)?")
"""The names that a trace gives to leaky activations: darknet's slope, or another one."""


def from_brevitas(model: nn.Module, example: Tensor, *, leaky: LeakySlope | None = None) -> IntGraph:
    """Bring a Brevitas model into integers.

    Args:
        model: In evaluation mode; it is not changed. Its first operation is a quantiser (QuantIdentity, or the
            input_quant of the first layer), whose format is that of the graph's input.
        example: [N, C, H, W] an input of the size that is wanted.
        leaky: Stands for the slope of leaky activations that is no ``mul * 2**-shift``, such as 0.1; the codes then
            differ where the two slopes round differently. None refuses such a slope.

    Returns:
        The checked integer graph. Its outputs are the model's, in order; the codes are those of the model in float64.

    Raises:
        QuantError: A part of the model has no equal integer form; names it and what to use instead.
        GraphError: A number could leave its word; names the node.
    """
    calibrated = read_brevitas(model, example, leaky=leaky)
    return lower_graph(calibrated.graph, calibrated.plan)


def read_brevitas(model: nn.Module, example: Tensor, *, leaky: LeakySlope | None = None) -> Calibrated:
    """Return what `from_brevitas` lowers: the folded graph and its plan, whose notes say what was added."""
    if model.training:
        raise QuantError(
            f"{type(model).__name__}: must be in evaluation mode, or reading it changes it; call model.eval()"
        )
    plain = plain_copy(model, read_quantisers(model, example))
    if not plain.quantisers:
        raise QuantError(f"{type(model).__name__}: no quantiser of Brevitas that rounds activations runs in it")
    traced = trace_module(plain.module.double().eval(), example.double())
    graph, slope = _with_one_slope(traced.graph, leaky)
    config = replace(_arithmetic(list(plain.quantisers.values())), leaky=slope)
    formats = {label: quantiser.fmt for label, quantiser in plain.quantisers.items()}
    encoder = _Encoder(plain, traced)
    placed = place_quantisers(raise_activations(graph), formats, config.contract, encoder)
    config = replace(config, a_bits=_needed_bits(placed))
    tables = {
        node.name: build_table(node.activation, placed.arguments[node.name], placed.formats[node.name], config)
        for node in placed.graph.nodes
        if node.name in placed.arguments
    }
    plan = QuantPlan(config, placed.formats, placed.convs, tables, encoder.notes + placed.notes)
    return Calibrated(placed.graph, plan, placed.graph)


class _Encoder:
    """Codes of the convolutions of a trace, from what was read."""

    def __init__(self, plain: PlainModel, traced: TracedModel) -> None:
        self.sources = traced.sources
        self.layers: dict[int, tuple[str, PlainLayer]] = {
            layer.weight.data_ptr(): (name, layer) for name, layer in plain.layers.items()
        }
        self.notes: list[str] = []

    def __call__(self, node: FoldedConv, x: FixedPoint) -> ConvCodes:
        source = self.sources[node.name]
        if source.norm is not None:
            raise QuantError(
                f"{node.name}: a batch norm behind it multiplies by numbers that are no powers of two; merge it into "
                "the layer (brevitas.nn.utils.merge_bn) and set the scales again"
            )
        name, layer = self.layers.get(source.weight.data_ptr(), (node.name, None))
        weight = codes_of_constants(name, _values(source)) if layer is None else _codes(layer, node)
        codes = exact_codes(name, weight, node.bias, x)
        if codes.w_bits > weight.w_bits:
            self.notes.append(f"{name}: weights have {codes.w_bits} bits instead of {weight.w_bits}, for its fine bias")
        return codes


def _values(source: ConvSource) -> Float64Array:
    return np.asarray(source.weight.detach().double().cpu().numpy(), np.float64)


def _codes(layer: PlainLayer, node: FoldedConv) -> ConvCodes:
    channels = len(node.weight)
    frac = np.broadcast_to(layer.codes.frac, channels).copy()
    return ConvCodes(layer.codes.codes.reshape(node.weight.shape), frac, np.zeros(channels, np.int64), layer.codes.bits)


def _arithmetic(quantisers: list[ActQuantiser]) -> QuantConfig:
    """Return the rounding and the overflow that all quantisers must share."""
    signed = [quantiser for quantiser in quantisers if quantiser.fmt.signed]
    narrow = bool(signed) and _shared("narrow_range", signed, lambda quantiser: quantiser.narrow)
    return QuantConfig(
        rounding=_shared("float_to_int_impl_type", quantisers, lambda quantiser: quantiser.rounding),
        overflow=Overflow.SATURATE_SYMMETRIC if narrow else Overflow.SATURATE,
    )


def _shared(option: str, quantisers: list[ActQuantiser], value: Callable[[ActQuantiser], _T]) -> _T:
    first = quantisers[0]
    for other in quantisers[1:]:
        if value(other) != value(first):
            raise QuantError(
                f"all activations must have one {option}, as hardware has one; {first.name} and {other.name} differ"
            )
    return value(first)


def _with_one_slope(graph: FoldedGraph, leaky: LeakySlope | None) -> tuple[FoldedGraph, LeakySlope]:
    """Return the graph with all leaky activations under one name, and their slope in integers."""
    names = sorted({node.activation for node in graph.nodes if _LEAKY.fullmatch(node.activation)})
    minus = torch.tensor(-1.0, dtype=torch.float64)
    slopes = {name: -float(activate(name, minus)) for name in names}
    if len(slopes) > 1:
        raise QuantError(f"{graph.name}: all leaky activations must have one slope, got {sorted(slopes.values())}")
    nodes = tuple(replace(node, activation="leaky") if node.activation in slopes else node for node in graph.nodes)
    found = leaky or next((_integer_slope(graph.name, slope) for slope in slopes.values()), LeakySlope())
    return replace(graph, nodes=nodes), found


def _integer_slope(name: str, slope: float) -> LeakySlope:
    numerator, denominator = slope.as_integer_ratio()
    shift = denominator.bit_length() - 1
    if not (0 < numerator < 1 << 16 and shift < 32):
        nearest = round(slope * 512)
        raise QuantError(
            f"{name}: the slope of leaky must be mul / 2**shift, got {slope!r}; train with such a slope, as "
            f"{nearest} / 2**9 = {nearest / 512!r}, or say leaky=LeakySlope({nearest}, 9) and accept other codes where "
            "the two round differently"
        )
    return LeakySlope(numerator, shift)


def _needed_bits(placed: Placed) -> int:
    """Return the word length that stands for the accumulators' width: 48 bits for words of 16, or sums beyond 32."""
    words = [fmt.bits for fmt in placed.formats.values()] + [codes.w_bits for codes in placed.convs.values()]
    for node in placed.graph.nodes:
        if isinstance(node, FoldedConv):
            x, codes = placed.formats[node.inputs[0]], placed.convs[node.name]
            bottom, top = conv_sums(codes.weight, codes.bias, min(x.lo, 0), x.hi)
            words.append(16 if signed_bits(int(bottom.min()), int(top.max())) > 32 else 8)
    return 8 if max(words) <= 8 else 16
