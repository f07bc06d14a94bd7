# SPDX-License-Identifier: Apache-2.0
"""Sums, products, functions of one element and reductions."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from yolo_hw.interop.from_onnx.builder import Call, Operator, Refused, Result
from yolo_hw.interop.from_onnx.patterns import clip_bounds


def binary(function: Callable[[Any, Any], Any]) -> Operator:
    """Return what translates a function of two operands, one of which may be constant."""

    def translate(call: Call) -> Result:
        return call.builder.call(function, call.operand(0), call.operand(1))

    return translate


def elementwise(function: Callable[[Any], Any]) -> Operator:
    """Return what translates a function of one element."""

    def translate(call: Call) -> Result:
        return call.builder.call(function, call.map(0))

    return translate


def several(function: Callable[[Any, Any], Any]) -> Operator:
    """Return what translates a function of any number of maps."""

    def translate(call: Call) -> Result:
        result: Any = call.operand(0)
        for index in range(1, len(call.node.inputs)):
            result = call.builder.call(function, result, call.operand(index))
        assert isinstance(result, fx.Node)
        return result

    return translate


def clip(call: Call) -> Result:
    """Clip between constants; `patterns` has named [0, 6] and [0, inf)."""
    bounds = clip_bounds(call.node, call.builder.constants)
    if bounds is None:
        raise Refused("its bounds must be constants")
    return call.builder.call(torch.clamp, call.map(0), *bounds)


def softmax(call: Call) -> Result:
    """Softmax; up to opset 12 over all axes from `axis` on."""
    old = call.builder.document.opset < 13
    rank = len(call.shape(0))
    axis = call.attribute("axis", 1 if old else -1) % rank
    if old and axis != rank - 1 and max(call.shape(0)[axis + 1 :]) > 1:
        raise Refused(f"before opset 13 the axis must be the last one, {rank - 1}, got {axis}")
    return call.builder.call(torch.softmax, call.map(0), axis)


def reduction(function: Callable[..., Any]) -> Operator:
    """Return what translates a reduction over given axes."""

    def translate(call: Call) -> Result:
        axes = call.integers(1, "axes")
        if axes is None and call.attribute("noop_with_empty_axes", 0):
            raise Refused("noop_with_empty_axes without axes does nothing: remove the node")
        rank = len(call.shape(0))
        dims = tuple(sorted(axis % rank for axis in (axes if axes is not None else range(rank))))
        return call.builder.call(function, call.map(0), dims, bool(call.attribute("keepdims", 1)))

    return translate


ARITHMETIC: dict[str, Operator] = {
    "Add": binary(operator.add),
    "Sub": binary(operator.sub),
    "Mul": binary(operator.mul),
    "Div": binary(operator.truediv),
    "Pow": binary(torch.pow),
    "Sum": several(operator.add),
    "Clip": clip,
    "Softmax": softmax,
    "Abs": elementwise(torch.abs),
    "Neg": elementwise(operator.neg),
    "Exp": elementwise(torch.exp),
    "Log": elementwise(torch.log),
    "Sqrt": elementwise(torch.sqrt),
    "Erf": elementwise(torch.erf),
    "ReduceMean": reduction(torch.mean),
    "ReduceSum": reduction(torch.sum),
    "ReduceMax": reduction(torch.amax),
}
"""Operator -> what translates it."""
