# SPDX-License-Identifier: Apache-2.0
"""The operators of `torch.export` that have an integer form, each with its translation."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload
from torch.utils._pytree import tree_leaves

from yolo_hw.quant.traced import pointwise, windows
from yolo_hw.quant.traced.moves import DROPOUTS, IDENTITIES, MOVES, OF_SIZES, SETTLED, constant_of_sizes, move
from yolo_hw.quant.traced.tracer import Operator, Tracer
from yolo_hw.quant.traced.values import Value

aten = torch.ops.aten

Translation = Callable[[Tracer, Operator, dict[str, Any]], Any]


def _norm_and_statistics(tracer: Tracer, op: Operator, args: dict[str, Any]) -> tuple[Value, None, None]:
    return windows.batch_norm(tracer, op, args), None, None


TRANSLATIONS: dict[Any, Translation] = {
    aten.conv2d: windows.conv2d,
    aten.conv1d: windows.conv1d,
    aten.linear: windows.linear,
    aten.batch_norm: windows.batch_norm,
    aten._native_batch_norm_legit_no_training: _norm_and_statistics,
    aten.max_pool2d: windows.max_pool2d,
    aten.adaptive_max_pool2d: windows.adaptive_max_pool2d,
    aten.avg_pool2d: windows.avg_pool2d,
    aten.adaptive_avg_pool2d: windows.adaptive_avg_pool2d,
    aten.mean: windows.mean,
    aten.add: pointwise.add,
    aten.sub: partial(pointwise.add, sign=-1),
    aten.rsub: pointwise.rsub,
    aten.neg: pointwise.neg,
    aten.mul: pointwise.mul,
    aten.div: pointwise.div,
    aten.pow: pointwise.square,
    aten.leaky_relu: pointwise.leaky_relu,
    aten.elu: pointwise.elu,
    aten.gelu: pointwise.gelu,
    aten.softplus: pointwise.softplus,
    aten.prelu: pointwise.prelu,
    **dict.fromkeys((aten.clamp, aten.clamp_min, aten.clamp_max, aten.hardtanh), pointwise.clamp),
    **{target: partial(pointwise.activation, name=name) for target, name in pointwise.FUNCTIONS.items()},
}
"""Operator -> translation of it from (tracer, place, arguments by name) to values. Moves are not among them."""


def translate(tracer: Tracer, node: fx.Node, op: Operator, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
    """Translate one operator.

    Args:
        tracer: The graph under construction.
        node: The operator.
        op: Where it stands.
        args: Its arguments: values, or tensors of the module, or plain numbers.
        kwargs: The same, by name.

    Returns:
        A value, several, or where nothing depends on the image, what the operator computes.

    Raises:
        QuantError: It has no integer form.
    """
    if not any(isinstance(x, Value) for x in tree_leaves((args, kwargs), is_leaf=lambda x: isinstance(x, Value))):
        with torch.no_grad():
            return node.target(*args, **kwargs)  # type: ignore[operator]
    if node.target is operator.getitem:
        return args[0][args[1]]
    if not isinstance(node.target, OpOverload):
        raise op.refuse(_supported())
    named = arguments(node.target, args, kwargs)
    packet = _in_place_free(node.target)
    if packet in IDENTITIES:
        return named["self"]
    if packet in DROPOUTS:
        if named["train"]:
            raise op.refuse("must not drop anything: put the module into evaluation mode")
        return named["input"]
    if packet in OF_SIZES:
        return constant_of_sizes(node.target, named)
    if packet in MOVES:
        moved = move(op, node.target, named)
        return tracer.settled(moved) if packet in SETTLED and isinstance(moved, Value) else moved
    if packet not in TRANSLATIONS:
        raise op.refuse(_supported())
    return TRANSLATIONS[packet](tracer, op, named)


def arguments(target: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of an operator by name, defaults included."""
    schema = target._schema.arguments
    found = {argument.name: argument.default_value for argument in schema if argument.has_default_value()}
    found |= {argument.name: value for argument, value in zip(schema, args, strict=False)}
    return found | kwargs


def _in_place_free(target: OpOverload) -> Any:  # noqa: ANN401 - a packet of overloads
    """Return the operator without its overload; that in place is the one that is not."""
    name = target._schema.name.removeprefix("aten::")
    return getattr(aten, name.removesuffix("_")) if target._schema.is_mutable else target.overloadpacket


def _supported() -> str:
    names = sorted(str(target).removeprefix("aten.") for target in (*TRANSLATIONS, *MOVES, *IDENTITIES))
    return f"has no integer form; supported: {', '.join(name for name in names if not name.startswith('_'))}"
