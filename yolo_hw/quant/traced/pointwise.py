# SPDX-License-Identifier: Apache-2.0
"""Translation of activations, sums, products and arithmetic with constants."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from yolo_hw.nn.activations import LEAKY_SLOPE, parametric_name
from yolo_hw.quant import folded as F
from yolo_hw.quant.source import ConvSource
from yolo_hw.quant.traced.gather import gathered, map_shape
from yolo_hw.quant.traced.tracer import Operator, Tracer
from yolo_hw.quant.traced.values import Source, Value, broadcast, numbers, rearranged

aten = torch.ops.aten
Args = dict[str, Any]

FUNCTIONS: dict[Any, str] = {
    aten.relu: "relu", aten.relu6: "relu6", aten.silu: "swish", aten.mish: "mish", aten.sigmoid: "logistic",
    aten.hardswish: "h_swish", aten.hardsigmoid: "h_sigmoid", aten.tanh: "tanh", aten.selu: "selu",
}  # fmt: skip
"""Activations without parameters, by the names the graph has for them."""


def activation(tracer: Tracer, op: Operator, args: Args, name: str) -> Value:
    """Any function of one number."""
    return tracer.activated(args["self"], name, op)


def leaky_relu(tracer: Tracer, op: Operator, args: Args) -> Value:
    """`aten.leaky_relu`: darknet's where the slope is its 0.1, else a table."""
    return tracer.activated(args["self"], _leaky(float(args["negative_slope"])), op)


def elu(tracer: Tracer, op: Operator, args: Args) -> Value:
    """`aten.elu`."""
    if (args["scale"], args["input_scale"]) != (1, 1):
        raise op.refuse("must have no scales but alpha")
    alpha = float(args["alpha"])
    return tracer.activated(args["self"], "elu" if alpha == 1 else parametric_name("elu", alpha), op)


def gelu(tracer: Tracer, op: Operator, args: Args) -> Value:
    """`aten.gelu`: darknet's is the approximation by tanh."""
    return tracer.activated(args["self"], "gelu" if args["approximate"] == "tanh" else "gelu_erf", op)


def softplus(tracer: Tracer, op: Operator, args: Args) -> Value:
    """`aten.softplus` with its default parameters."""
    if (args["beta"], args["threshold"]) != (1, 20):
        raise op.refuse(f"beta must be 1 and the threshold 20, got {args['beta']} and {args['threshold']}")
    return tracer.activated(args["self"], "softplus", op)


def clamp(tracer: Tracer, op: Operator, args: Args) -> Value:
    """`aten.clamp`, `clamp_min`, `clamp_max` and `hardtanh`: relu and relu6 where they are those."""
    low = args.get("min_val", args.get("min"))
    high = args.get("max_val", args.get("max"))
    if any(isinstance(limit, (Tensor, Value)) for limit in (low, high)):
        raise op.refuse("limits must be numbers")
    known: dict[tuple[Any, Any], str] = {(0, None): "relu", (0, 6): "relu6", (-1, 1): "hardtan"}
    name = known.get((low, high))
    ends = (float("-inf") if low is None else float(low), float("inf") if high is None else float(high))
    return tracer.activated(args["self"], name or parametric_name("clamp", *ends), op)


def prelu(tracer: Tracer, op: Operator, args: Args) -> Value:
    r"""`aten.prelu`: one slope is leaky's; one per channel is :math:`\max(x, 0) - s \max(-x, 0)` in four nodes.

    Slopes stay what they are in training.
    """
    slope = args["weight"].detach()
    if slope.numel() == 1:
        return tracer.activated(args["self"], _leaky(float(slope)), op)
    value, builder = tracer.settled(args["self"]), tracer.builder
    x = value.source
    slopes = tracer.channel_vector(value, slope.reshape(-1, *[1] * (len(value.shape) - 1)), op)
    positive = _relu(tracer, x, f"{op.name}.positive")
    minus = ConvSource(builder.constant(-torch.ones(x.shape.c, 1, 1, 1)), fixed=True)
    negative = builder.depthwise(f"{op.name}.negative", x, minus)
    builder.fuse_activation(negative.name, "relu")
    scaled = ConvSource(builder.constant(-slopes.reshape(-1, 1, 1, 1)), fixed=True)
    parts = (positive, builder.depthwise(f"{op.name}.scaled", negative, scaled))
    return Value((_sum(tracer, parts, op.name),), value.shape, op.name, value.index, True)


def _relu(tracer: Tracer, x: Source, name: str) -> Source:
    node = F.FoldedAdd(name=tracer.builder.unique(name), inputs=(x.name,), shape=x.shape, activation="relu")
    return tracer.builder.emit(node)


def _leaky(slope: float) -> str:
    return "leaky" if slope == LEAKY_SLOPE else parametric_name("leaky", slope)


def add(tracer: Tracer, op: Operator, args: Args, sign: int = 1) -> Value:
    """`aten.add` and `aten.sub`, of maps and of constants."""
    factor = sign * args.get("alpha", 1)
    left, right = args["self"], args["other"]
    if not isinstance(right, Value):
        constant = _tensor(tracer, right)
        return tracer.affine(left, None, constant if factor == 1 else constant * factor, op)
    if factor != 1:
        right = tracer.affine(right, _tensor(tracer, factor), None, _part(op, "scaled"))
    if not isinstance(left, Value):
        return tracer.affine(right, None, _tensor(tracer, left), op)
    layout, values = _together([left, right], op)
    inputs = tuple(tracer.builder.readable(gathered(tracer.builder, value)) for value in values)
    return Value((_sum(tracer, inputs, op.name),), layout.shape, op.name, layout.index, True)


def _sum(tracer: Tracer, inputs: tuple[Source, ...], name: str) -> Source:
    names = tuple(source.name for source in inputs)
    return tracer.builder.emit(F.FoldedAdd(name=tracer.builder.unique(name), inputs=names, shape=inputs[0].shape))


def rsub(tracer: Tracer, op: Operator, args: Args) -> Value:
    """`aten.rsub`: the other way round."""
    return add(tracer, op, {**args, "self": args["other"], "other": args["self"]}, -1)


def neg(tracer: Tracer, op: Operator, args: Args) -> Value:
    """`aten.neg`."""
    return tracer.affine(args["self"], _tensor(tracer, -1), None, op)


def mul(tracer: Tracer, op: Operator, args: Args) -> Value:
    """`aten.mul`: of maps, of a map and factors per channel or per pixel, or by constants."""
    left, right = args["self"], args["other"]
    if not isinstance(right, Value) or not isinstance(left, Value):
        value, constant = (left, right) if isinstance(left, Value) else (right, left)
        return tracer.affine(value, _tensor(tracer, constant), None, op)
    layout, values = _together([left, right], op)
    factors = [_as_factors(value) for value in values]
    if factors[0] is not None and (factors[1] is None):
        values, factors = values[::-1], factors[::-1]
    values[1] = factors[1] or values[1]
    x, factor = (tracer.builder.readable(gathered(tracer.builder, value)) for value in values)
    name = tracer.builder.unique(op.name)
    node = F.FoldedMul(name=name, inputs=(x.name, factor.name), shape=x.shape)
    return Value((tracer.builder.emit(node),), layout.shape, op.name, layout.index, True)


def div(tracer: Tracer, op: Operator, args: Args) -> Value:
    """`aten.div` by constants."""
    if isinstance(args["other"], Value) or args.get("rounding_mode") is not None:
        raise op.refuse("a quotient of maps has no integer form; only constants can divide")
    return tracer.affine(args["self"], 1 / _tensor(tracer, args["other"]).detach().double(), None, op)


def square(tracer: Tracer, op: Operator, args: Args) -> Value:
    """`aten.pow` with exponent 2, a product."""
    if args["exponent"] != 2:
        raise op.refuse(f"the exponent must be 2, got {args['exponent']}")
    return mul(tracer, op, {"self": args["self"], "other": args["self"]})


def _together(values: list[Value], op: Operator) -> tuple[Value, list[Value]]:
    """Bring values that are combined element by element into one arrangement, that of the first whole one.

    Returns:
        A value with the arrangement of the result, and the values as maps in its source's arrangement.
    """
    shape = broadcast(*(value.shape for value in values))
    full = [_expanded(value, shape, op) for value in values]
    reference = next((value for value in full if value.whole), None)
    if reference is None or reference.index is None:
        sizes = map_shape(full[0])
        maps = [Value(v.sources, sizes, v.name, None if v.index is None else v.index.reshape(sizes)) for v in full]
        index = None if tuple(sizes) == shape else numbers(shape)
        return Value((), shape, op.name, index), maps
    places = reference.elements().flatten() - 1
    maps = []
    for value in full:
        index = torch.empty_like(places)
        index[places] = value.elements().flatten()
        maps.append(_tidy(Value(value.sources, tuple(reference.source.shape), value.name,
                                index.reshape(reference.source.shape))))  # fmt: skip
    return reference, maps


def _tidy(value: Value) -> Value:
    """Return a value that knows when it is its source as it is."""
    return rearranged(lambda x: x[0], [value], value.name)[0]


def _expanded(value: Value, shape: tuple[int, ...], op: Operator) -> Value:
    if shape == value.shape:
        return value
    ones = [1] * (len(shape) - len(value.shape))

    def expand(x: list[Tensor]) -> Tensor:
        return x[0].reshape(-1, *ones, *value.shape).expand(-1, *shape)

    return rearranged(expand, [value], op.name)[0]


def _as_factors(value: Value) -> Value | None:
    """Return a map as factors [C, 1, 1] or [1, H, W], if it is those repeated."""
    if value.index is None:
        return None
    index = value.index
    for part in (index[:, :1, :1], index[:1]):
        if part.shape != index.shape and torch.equal(part.expand_as(index), index):
            return _tidy(Value(value.sources, tuple(part.shape), value.name, part.contiguous()))
    return None


def _part(op: Operator, name: str) -> Operator:
    return Operator(f"{op.name}.{name}", op.place, op.shape)


def _tensor(tracer: Tracer, x: Tensor | float) -> Tensor:
    """Return a constant as a tensor; a number in float64, so that it loses nothing."""
    return (
        x if isinstance(x, Tensor) else torch.tensor(float(x), dtype=torch.float64, device=tracer.builder.like.device)
    )
