# SPDX-License-Identifier: Apache-2.0
"""Translation of convolutions, linear layers, batch norms and pools."""

from __future__ import annotations

import itertools
from typing import Any, cast

import torch
from torch import Tensor, nn

from yolo_hw.darknet.layers import Shape
from yolo_hw.geometry import Window
from yolo_hw.quant import folded as F
from yolo_hw.quant.source import ConvSource, Norm
from yolo_hw.quant.traced.gather import map_shape, without_padding
from yolo_hw.quant.traced.tracer import Operator, Tracer, reshaped
from yolo_hw.quant.traced.values import Source, Value, numbers, rearranged

Args = dict[str, Any]
"""Arguments of an operator by name: values, the module's tensors, plain numbers."""


def conv2d(tracer: Tracer, op: Operator, args: Args) -> Value:
    """`aten.conv2d`, with numbers or a name ("same", "valid") for the padding."""
    value, weight = _map(args["input"], op), args["weight"]
    _constant(op, "weight", weight)
    dilation, stride = _pair(args["dilation"]), _pair(args["stride"])
    if isinstance(args["padding"], str):
        reach = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        pad = (reach[0] // 2, reach[1] // 2) if args["padding"] == "same" else (0, 0)
    else:
        pad = _pair(args["padding"])
    return _conv(tracer, op, (value, weight, args["bias"]), Window(tuple(weight.shape[2:]), stride, pad, dilation),
                 args["groups"])  # fmt: skip


def conv1d(tracer: Tracer, op: Operator, args: Args) -> Value:
    """`aten.conv1d` with padding in numbers: a convolution of L x 1 windows."""
    value, weight = args["input"], args["weight"]
    _constant(op, "weight", weight)
    if isinstance(args["padding"], str):
        raise op.refuse(f"padding must be a number, got '{args['padding']}'")
    column = rearranged(lambda x: x[0].unsqueeze(-1), [value], op.name)[0]
    stride, pad, dilation = (
        (int(args[name][0]), neutral) for name, neutral in (("stride", 1), ("padding", 0), ("dilation", 1))
    )
    window = Window((weight.shape[2], 1), stride, pad, dilation)
    made = _conv(tracer, op, (column, weight.unsqueeze(-1), args["bias"]), window, args["groups"])
    return reshaped(made.source, made.shape[:2])


def _conv(
    tracer: Tracer, op: Operator, parts: tuple[Value, Tensor, Tensor | None], window: Window, groups: int
) -> Value:
    value, weight, bias = parts
    stripped, before = without_padding(value)
    padded = (window.pad[0] + before[0], window.pad[1] + before[1])
    if stripped is not value and all(pad < window.extent(axis) for axis, pad in enumerate(padded)):
        value, window = stripped, Window(window.size, window.stride, padded, window.dilation)
    for axis, pad in enumerate(window.pad):
        if pad >= window.extent(axis):
            raise op.refuse(f"padding must be smaller than the window, got {window}")
    x = tracer.gathered(value)
    sizes = (*op.shape[2:], 1)[:2]
    shape = Shape(weight.shape[0], sizes[0], sizes[1])
    source = ConvSource(
        weight, bias=bias, fixed=not tracer.is_live(weight), fixed_bias=bias is not None and not tracer.is_live(bias)
    )
    return Value.of(tracer.builder.conv(op.name, x, source, shape, window, groups=groups))


def linear(tracer: Tracer, op: Operator, args: Args) -> Value:
    """`aten.linear`: a convolution whose window is the whole map, or of every pixel where channels are last."""
    value, weight, bias = args["input"], args["weight"], args["bias"]
    _constant(op, "weight", weight)
    if not isinstance(value, Value):
        raise op.refuse("must read what the image decides")
    if len(value.shape) > 1:
        first = rearranged(lambda x: x[0].movedim(-1, 1), [value], op.name)[0]
        shape = map_shape(first)
        made = _dense(tracer, op, tracer.gathered(first), (weight[:, :, None, None], bias), shape[1:])
        there = reshaped(made, (shape_of(weight), *first.shape[1:]))
        return rearranged(lambda x: x[0].movedim(1, -1), [there], op.name)[0]
    if value.whole:
        source = value.source
        for order in itertools.permutations(range(3)):
            if torch.equal(numbers(source.shape).permute(order).flatten(), value.elements()):
                sizes = [source.shape[axis] for axis in order]
                back = [1 + order.index(axis) for axis in range(3)]
                filters = weight.reshape(weight.shape[0], *sizes).permute(0, *back)
                return reshaped(_dense(tracer, op, source, (filters, bias), (1, 1)), (shape_of(weight),))
    made = _dense(tracer, op, tracer.gathered(value), (weight[:, :, None, None], bias), (1, 1))
    return reshaped(made, (shape_of(weight),))


def shape_of(weight: Tensor) -> int:
    """Return the outputs of a linear layer."""
    return int(weight.shape[0])


def _dense(
    tracer: Tracer, op: Operator, x: Source, parts: tuple[Tensor, Tensor | None], size: tuple[int, ...]
) -> Source:
    weight, bias = parts
    source = ConvSource(
        weight, bias=bias, fixed=not tracer.is_live(weight), fixed_bias=bias is not None and not tracer.is_live(bias)
    )
    window = Window((int(weight.shape[2]), int(weight.shape[3])))
    return tracer.builder.conv(op.name, x, source, Shape(shape_of(weight), size[0], size[1]), window)


def batch_norm(tracer: Tracer, op: Operator, args: Args) -> Value:
    """`aten.batch_norm` with running statistics: part of the convolution before it, else one of its own."""
    value: Value = args["input"]
    mean, var = args["running_mean"], args["running_var"]
    if args.get("training") or mean is None or var is None:
        raise op.refuse("must use running statistics; statistics of the batch have no integer form")
    norm = _norm(tracer, args)
    channels = torch.arange(len(mean)).reshape(-1, *[1] * (len(value.shape) - 1))
    if value.whole and value.sole and value.source.shape.c == len(mean):
        order = tracer.channel_vector(value, channels, op)
        if torch.equal(order, channels.flatten()) and tracer.builder.fuse_norm(value.source.name, norm):
            return value
    x = tracer.gathered(value)
    ones = tracer.builder.constant(torch.ones(x.shape.c, 1, 1, 1))
    made = tracer.builder.depthwise(op.name, x, ConvSource(ones, norm, fixed=True))
    return reshaped(made, value.shape)


def _norm(tracer: Tracer, args: Args) -> Norm:
    """Return the module's own batch norm, or one that shares the tensors."""
    gamma, beta, mean, var = (args[name] for name in ("weight", "bias", "running_mean", "running_var"))
    for part in tracer.module.modules():
        if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d)) and part.eps == args["eps"]:
            own = (part.weight, part.bias, part.running_mean, part.running_var)
            if all(mine is other for mine, other in zip(own, (gamma, beta, mean, var), strict=True)):
                return part
    norm = nn.BatchNorm2d(len(mean), args["eps"], args["momentum"])
    for name, x in (("weight", gamma), ("bias", beta)):
        setattr(norm, name, None if x is None else nn.Parameter(x.detach()))
    norm.running_mean, norm.running_var = mean, var
    return norm


def max_pool2d(tracer: Tracer, op: Operator, args: Args) -> Value:
    """`aten.max_pool2d`."""
    if _pair(args["dilation"]) != (1, 1):
        raise op.refuse(f"dilation must be 1, got {args['dilation']}")
    size = _pair(args["kernel_size"])
    window = Window(size, _pair(args["stride"] or size), _pair(args["padding"]))
    return _max_pool(tracer, op, _map(args["self"], op), window)


def adaptive_max_pool2d(tracer: Tracer, op: Operator, args: Args) -> tuple[Value, None]:
    """`aten.adaptive_max_pool2d` to sizes that divide the map's."""
    value = _map(args["self"], op)
    size = _divided(value, args["output_size"], op)
    return _max_pool(tracer, op, value, Window(size, size)), None


def _max_pool(tracer: Tracer, op: Operator, value: Value, window: Window) -> Value:
    x = tracer.readable(value)
    shape = Shape(x.shape.c, op.shape[2], op.shape[3])
    name = tracer.builder.unique(op.name)
    return Value.of(tracer.builder.emit(F.FoldedMaxPool(name=name, inputs=(x.name,), shape=shape, window=window)))


def avg_pool2d(tracer: Tracer, op: Operator, args: Args) -> Value:
    """`aten.avg_pool2d`: the mean of a whole map, or a depthwise convolution with equal weights."""
    value = _map(args["self"], op)
    size = _pair(args["kernel_size"])
    window = Window(size, _pair(args["stride"] or size), _pair(args["padding"]))
    divisor = args["divisor_override"]
    _, h, w = value.shape
    beyond = any(window.trailing_pad(axis, (h, w)[axis], op.shape[2 + axis]) > window.pad[axis] for axis in (0, 1))
    if divisor is None and (beyond or (any(window.pad) and not args["count_include_pad"])):
        raise op.refuse(
            "windows that count fewer pixels at the border than inside have no integer form; use "
            "count_include_pad=True and ceil_mode=False"
        )
    return _avg_pool(tracer, op, value, window, divisor or window.taps)


def adaptive_avg_pool2d(tracer: Tracer, op: Operator, args: Args) -> Value:
    """`aten.adaptive_avg_pool2d` to sizes that divide the map's."""
    value = _map(args["self"], op)
    size = _divided(value, args["output_size"], op)
    return _avg_pool(tracer, op, value, Window(size, size), size[0] * size[1])


def _avg_pool(tracer: Tracer, op: Operator, value: Value, window: Window, divisor: int) -> Value:
    if window.size == value.shape[1:] and op.shape[2:] == (1, 1) and divisor == window.taps and not any(window.pad):
        return mean_of_maps(tracer, op, value)
    x = tracer.gathered(value)
    weight = torch.full((x.shape.c, 1, *window.size), 1 / divisor, dtype=torch.float64)
    shape = Shape(x.shape.c, op.shape[2], op.shape[3])
    return Value.of(tracer.builder.fixed_conv(op.name, x, weight, shape, window))


def mean_of_maps(tracer: Tracer, op: Operator, value: Value) -> Value:
    """Return the mean of every map of [N, C, H, W] as [N, C, 1, 1]."""
    x = tracer.readable(value)
    shape = Shape(x.shape.c, 1, 1)
    if x.shape == shape:
        return reshaped(x, shape, value.sole)
    name = tracer.builder.unique(op.name)
    node = F.FoldedAvgPool(name=name, inputs=(x.name,), shape=shape, count=x.shape.h * x.shape.w)
    return Value.of(tracer.builder.emit(node))


def mean(tracer: Tracer, op: Operator, args: Args) -> Value:
    """`aten.mean` over the pixels of channels, or over rows or columns of [N, C, H, W]."""
    value, rank = args["self"], len(args["self"].shape)
    dims = sorted(d % (rank + 1) - 1 for d in args["dim"] or ())
    kept = [axis for axis in range(rank) if axis not in dims]
    if not dims or -1 in dims or not kept:
        raise op.refuse("must be over pixels, not over images or channels")
    sizes = tuple(1 if axis in dims else value.shape[axis] for axis in range(rank))
    result = sizes if args["keepdim"] else tuple(value.shape[axis] for axis in kept)
    pixels = value.elements().permute(*kept, *dims).flatten(len(kept)).flatten(0, len(kept) - 1).sort(1).values
    if len(value.sources) == 1:
        count = value.source.shape.h * value.source.shape.w
        channel, first = (pixels[:, 0] - 1) // count, (pixels[:, :1] - 1) % count
        every = pixels.shape[1] == count and not first.any() and bool((pixels[:, 0] > 0).all())
        if every and torch.equal(pixels - pixels[:, :1], torch.arange(count).expand_as(pixels)):
            made = mean_of_maps(tracer, op, Value.of(value.source, value.sole))
            return Value(made.sources, result, op.name, (channel + 1).reshape(result), made.sole)
    if rank != 3 or kept[0] != 0:
        raise op.refuse(f"must be over whole channels, rows or columns, got dimensions {args['dim']}")
    size = cast(tuple[int, int], tuple(value.shape[axis] if axis in dims else 1 for axis in (1, 2)))
    whole = Operator(op.name, op.place, (op.shape[0], *sizes))
    made = _avg_pool(tracer, whole, value, Window(size), size[0] * size[1])
    return reshaped(made.source, result, made.sole)


def _map(value: object, op: Operator) -> Value:
    """Return the argument, which must be a map [N, C, H, W]."""
    if not isinstance(value, Value) or len(value.shape) != 3:
        found = ["N", *value.shape] if isinstance(value, Value) else "a constant"
        raise op.refuse(f"must read [N, C, H, W], got {found}")
    return value


def _constant(op: Operator, role: str, x: object) -> None:
    if not isinstance(x, Tensor):
        raise op.refuse(f"the {role} must be a parameter, not something the image decides")


def _pair(numbers: Any) -> tuple[int, int]:  # noqa: ANN401 - torch takes one number, a list of one or of two
    found = [numbers] if isinstance(numbers, int) else list(numbers)
    return (int(found[0]), int(found[-1]))


def _divided(value: Value, output: Any, op: Operator) -> tuple[int, int]:  # noqa: ANN401
    """Return the size of the windows of an adaptive pool, which must all be alike."""
    _, h, w = value.shape
    rows, columns = (wanted or whole for wanted, whole in zip(output, (h, w), strict=True))
    if h % rows or w % columns:
        raise op.refuse(f"the output size must divide the map's, got {rows} x {columns} of {h} x {w}")
    return h // rows, w // columns
