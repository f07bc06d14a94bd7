# SPDX-License-Identifier: Apache-2.0
"""Rules for operations that compute: layers with parameters, sums and products, functions of one element, pools."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, fx, nn

from yolo_hw.prune.channels import Filters, FloatArray, IntArray, NormPaths, Slot, Value
from yolo_hw.prune.example_trace import EXAMPLE
from yolo_hw.prune.movement import Tracked
from yolo_hw.prune.torch_walk import Call, Known, Stored, map_size, plain


def _path(call: Call, argument: object, key: str) -> str | None:
    """Return the state-dict key of a layer's tensor: its own, or what a functional form is given."""
    if call.module is not None:
        path = f"{call.node.target}.{key}"
        return path if path in call.walk.paths else None
    known = call.known(argument)
    kept = isinstance(known, Stored) and known.path in call.walk.paths and known.shape == _stored_shape(call, known)
    return known.path if isinstance(known, Stored) and kept else None


def _stored_shape(call: Call, stored: Stored) -> tuple[int, ...]:
    return tuple(call.walk.parameter(stored.path).shape)


def _source(call: Call, axis: int) -> Tracked:
    """Return the channels that a layer reads along `axis`; protected ones where they are not known."""
    argument = call.argument(0, "input")
    found = call.tracked(argument, axis)
    if found is None:
        call.unknown("its channels lie along another axis")
        found = call.given(axis, tuple(argument.meta[EXAMPLE].shape), "made without channels")
    return found


def conv(call: Call) -> Known:
    """A convolution along one or two axes."""
    module, weight = call.module, _path(call, call.argument(1, "weight"), "weight")
    bias = _path(call, call.argument(2, "bias"), "bias")
    shape = tuple(call.argument(0, "input").meta[EXAMPLE].shape)
    has_bias = module.bias is not None if module is not None else call.argument(2, "bias") is not None
    if weight is None or len(shape) not in (3, 4) or (has_bias and bias is None):
        return call.unknown("its weight is no tensor of the state dict")
    kernel = call.walk.parameter(weight).shape[2:]
    if module is not None:
        assert isinstance(module, (nn.Conv1d, nn.Conv2d))
        groups, zeros, padding = module.groups, module.padding_mode == "zeros", module.padding
    else:
        groups, zeros = int(call.number(6, "groups", 1)), True
        padding = call.number(4, "padding", 0)
    pads = padding == "same" or (padding != "valid" and any(np.atleast_1d(padding)))
    height, width = map_size(call.shape, 1)
    filters = Filters(
        name=call.layer if module is not None else weight.removesuffix(".weight"),
        weight=weight,
        bias=bias,
        channels=call.shape[1],
        height=height,
        width=width,
        groups=groups,
        kernel=(1, kernel[0]) if len(kernel) == 1 else (kernel[0], kernel[1]),
        padded=bool(pads) and zeros and max(kernel) > 1,
        fixed_bias=module is None and bias is None,
    )
    return Tracked(_filters(call, _source(call, 1), filters), call.shape, 1)


def _filters(call: Call, x: Tracked, filters: Filters) -> Value:
    """Add a layer; one that is called several times once.

    Its bias cannot take up the constants of several maps, so there only zero is a constant.
    """
    builder, walk, size = call.builder, call.walk, (filters.height, filters.width)
    if walk.uses[call.layer] + walk.uses[filters.weight] == 1:
        return builder.filters(x.value, filters)
    value = builder.moved([x.value], call.layer, None, map_size(x.shape, x.axis), needs_zero=True)
    if filters.name not in walk.first:
        walk.first[filters.name] = value, builder.filters(value, filters)
        return walk.first[filters.name][1]
    before, after = walk.first[filters.name]
    builder.join(before, value)
    if filters.bias is not None and (filters.bias, 0) not in {(slot.path, slot.dim) for slot in builder.slots}:
        builder.protect(after, f"{call.place}: one weight with several biases")
    return builder.moved([after], call.layer, None, size)


def linear(call: Call) -> Known:
    """A fully connected layer on the last axis; on the others it works pixel by pixel."""
    weight = _path(call, call.argument(1, "weight"), "weight")
    bias = _path(call, call.argument(2, "bias"), "bias")
    has_bias = call.module.bias is not None if call.module is not None else call.argument(2, "bias") is not None
    if weight is None or (has_bias and bias is None):
        return call.unknown("its weight is no tensor of the state dict")
    axis = len(call.shape) - 1
    filters = Filters(
        name=call.layer if call.module is not None else weight.removesuffix(".weight"),
        weight=weight,
        bias=bias,
        channels=call.shape[-1],
        width=math.prod(call.shape[1:-1]),
        kind="linear",
        fixed_bias=call.module is None and bias is None,
    )
    return Tracked(_filters(call, _source(call, axis), filters), call.shape, axis)


def norm(call: Call) -> Known:
    """A batch or instance normalisation; channels keep their ids."""
    aten = isinstance(call.node.target, torch._ops.OpOverload)
    order = ("weight", "bias", "running_mean", "running_var")
    order = order if aten else (*order[2:], *order[:2])
    keys = {key: _path(call, call.argument(i + 1, key), key) for i, key in enumerate(order)}
    if call.module is None:
        given = [call.argument(i + 1, key) for i, key in enumerate(order)]
        if any(argument is not None and path is None for argument, path in zip(given, keys.values(), strict=True)):
            return call.unknown("its figures are no tensors of the state dict")
    x = _source(call, 1)
    paths = NormPaths(keys["weight"], keys["bias"], keys["running_mean"], keys["running_var"])
    if paths.weight is not None:
        layer = call.layer if call.module is not None else paths.weight.removesuffix(".weight")
        if layer in call.walk.first:
            before, after = call.walk.first[layer]
            call.builder.join(before, x.value)
            return call.like(call.builder.moved([after], call.layer, None, map_size(x.shape, 1)), x)
        value = call.builder.norm(x.value, layer, paths)
        call.walk.first[layer] = x.value, value
        return call.like(value, x)
    for path, fill in paths.present():  # without a scale nothing zeroes a channel: its constant passes
        call.builder.slots.append(Slot(path, 0, x.value.labels, fill, produces=False))
    function = call.function(x) if paths.mean is not None else np.zeros_like  # of a constant less its own mean
    return call.like(call.builder.elementwise(x.value, call.layer, function), x)


def group_norm(call: Call) -> Known:
    """Mean and variance are of several channels, so that no channel can leave without changing the others."""
    return call.unknown("normalises several channels together")


def prelu(call: Call) -> Known:
    """Leaky slopes of the layer's own, one or one per channel."""
    x = call.tracked(call.argument(0, "input"), 1)
    path = _path(call, call.argument(1, "weight"), "weight")
    if x is None or path is None:
        return call.unknown("channels or slopes are not known")
    if call.walk.parameter(path).numel() > 1:
        call.builder.slots.append(Slot(path, 0, x.value.labels, produces=False))
    slopes = path

    def function(constants: FloatArray) -> FloatArray:
        weight = call.walk.parameter(slopes).detach().cpu().double()
        return np.array(nn.functional.prelu(torch.from_numpy(constants)[None], weight)[0].numpy(), np.float64)

    return call.like(call.builder.elementwise(x.value, call.layer, function), x)


def pointwise(call: Call) -> Known:
    """A function of each element."""
    first = call.argument(0, "input")
    x = call.known(first)
    if not isinstance(x, Tracked) or call.other_tensors([first]):
        return call.unknown("a function of several tensors")
    return call.like(call.builder.elementwise(x.value, call.layer, call.function(x)), x)


def unchanged(call: Call) -> Known:
    """What keeps every element."""
    x = call.known(call.argument(0, "input"))
    if not isinstance(x, Tracked):
        return x
    return call.like(call.builder.moved([x.value], call.layer, None, map_size(x.shape, x.axis)), x)


def pool(call: Call) -> Known:
    """What works on each channel and keeps a constant map."""
    known = call.known(call.argument(0, "input"))
    if not isinstance(known, Tracked):
        return None
    if known.axis != 1:
        return call.unknown("its channels lie along another axis")
    x = plain(call, known)
    padding, counted = call.number(3, "padding", 0), call.number(5, "count_include_pad", True)
    if isinstance(call.module, (nn.AvgPool1d, nn.AvgPool2d)):
        padding, counted = call.module.padding, call.module.count_include_pad
    zero = call.name.startswith("avg_pool") and bool(counted) and any(np.atleast_1d(padding))
    first = call.example if isinstance(call.example, Tensor) else call.example[0]
    shape = tuple(first.shape)
    result = Tracked(call.builder.moved([x.value], call.layer, None, map_size(shape, 1), needs_zero=zero), shape, 1)
    return result if first is call.example else (result, *[None] * (len(call.example) - 1))  # indices of the maxima


def mean(call: Call) -> Known:
    """A mean, largest or smallest element over axes that hold no channels."""
    known = call.known(call.argument(0, "input"))
    if not isinstance(known, Tracked):
        return None
    dims = call.number(1, "dim")
    ndim = len(known.shape)
    axes = {int(dim) % ndim for dim in np.atleast_1d(dims)} if dims is not None else set(range(ndim))
    if known.axis in axes or 0 in axes or not isinstance(call.example, Tensor):
        return call.unknown("reduces over channels or images")
    x = plain(call, known)
    kept = bool(call.number(2, "keepdim", False))
    axis = x.axis if kept else x.axis - sum(dim < x.axis for dim in axes)
    size = map_size(call.shape, axis)
    return Tracked(call.builder.moved([x.value], call.layer, None, size), call.shape, axis)


def pad(call: Call) -> Known:
    """Numbers around a map; zeros before and after the channels are channels, too."""
    known = call.known(call.argument(0, "input"))
    if not isinstance(known, Tracked):
        return None
    x = plain(call, known)
    grown = [after - before for before, after in zip(x.shape, call.shape, strict=True)]
    if call.module is not None:
        constant, filling = hasattr(call.module, "value"), getattr(call.module, "value", 0)
    else:
        constant = call.number(2, "mode", "constant") == "constant"
        filling = call.number(3, "value", 0) or 0
    if grown[0] or (filling and constant):
        return call.unknown("pads images, or with another number than zero")
    builder, size = call.builder, map_size(call.shape, x.axis)
    inside = builder.moved([x.value], call.layer, None, size, needs_zero=constant and any(grown))
    if grown[x.axis]:
        pads = call.number(1, "pad")
        where = 2 * (len(x.shape) - 1 - x.axis)
        if min(pads[where : where + 2]) < 0 or not constant:
            return call.unknown("cuts channels off, or repeats them")
        ends = [builder.zeros(int(count), call.layer, size) for count in pads[where : where + 2]]
        inside = builder.moved([ends[0], inside, ends[1]], call.layer, None, size)
    return Tracked(inside, call.shape, x.axis)


def join(call: Call) -> Known:
    """A sum, difference or product."""
    left, right = call.argument(0, "input"), call.argument(1, "other")
    a, b = call.known(left), call.known(right)
    if isinstance(a, Tracked) and isinstance(b, Tracked):
        return _join_maps(call, a, b)
    x, other, argument = (a, b, right) if isinstance(a, Tracked) else (b, a, left)
    if not isinstance(x, Tracked):
        return call.unknown()
    value = argument.meta[EXAMPLE] if isinstance(argument, fx.Node) else argument
    if not isinstance(value, Tensor) or value.numel() == 1:
        return call.like(call.builder.elementwise(x.value, call.layer, call.function(x)), x)
    if isinstance(other, Stored) and (ids := _along_channels(x, other)) is not None and other.path in call.walk.paths:
        dim = other.dim
        assert dim is not None
        call.builder.slots.append(Slot(other.path, dim, ids, produces=False))
        call.walk.stored_ids[other.path] = ids
        return call.like(call.builder.elementwise(x.value, call.layer, call.function(x)), x)
    at_channels = x.axis - len(x.shape) + value.dim()
    one_for_all = at_channels < 0 or value.shape[at_channels] == 1
    if call.name == "mul" and one_for_all and value.dim() <= len(x.shape):
        x = plain(call, x)
        return call.like(call.builder.scaled(x.value, call.layer), x)
    return call.unknown("joins channels with a tensor of none")


def _along_channels(x: Tracked, stored: Stored) -> IntArray | None:
    """Return the channel id of each index of a stored tensor that has one number per channel of `x`, else None."""
    if stored.numbers is None or x.mixed is not None:
        return None
    at = x.axis - len(x.shape) + len(stored.shape)
    if at < 0 or stored.numbers.numel() != stored.numbers.shape[at] or stored.numbers.numel() != x.value.channels:
        return None
    index = stored.numbers.reshape(-1).numpy()
    if len(np.unique(index)) != len(index):
        return None
    return np.array(x.value.labels[np.argsort(index)])


def _join_maps(call: Call, a: Tracked, b: Tracked) -> Known:
    a, b = plain(call, a), plain(call, b)
    builder = call.builder
    if a.axis - len(a.shape) != b.axis - len(b.shape):
        return call.unknown("its channels lie along different axes")
    if a.value.channels != b.value.channels:
        if call.name != "mul":
            return call.unknown("one channel joined with many")
        many, one = (a, b) if a.value.channels > b.value.channels else (b, a)
        builder.protect(one.value, f"{call.place}: one factor for all channels")
        return call.like(builder.scaled(many.value, call.layer), many)
    if call.name == "mul":
        return call.like(builder.product([a.value, b.value], call.layer), a)
    factor = (-1.0 if call.name == "sub" else 1.0) * float(call.number(2, "alpha", 1))
    if factor != 1:
        scaled = builder.elementwise(b.value, call.layer, lambda constants: factor * constants)
        b = replace(b, value=scaled)
    taller = a if a.value.height * a.value.width >= b.value.height * b.value.width else b
    total = builder.sum([taller.value, (b if taller is a else a).value], call.layer)
    return call.like(total, taller)


def divide(call: Call) -> Known:
    """A map divided by a number."""
    left, right = call.argument(0, "input"), call.argument(1, "other")
    value = right.meta[EXAMPLE] if isinstance(right, fx.Node) else right
    if isinstance(call.known(left), Tracked) and (not isinstance(value, Tensor) or value.numel() == 1):
        return join(call)
    return call.unknown("divides by a map")


def unknown(call: Call) -> Known:
    """An operation without a rule."""
    return call.unknown()


def size(call: Call) -> Known:
    """Numbers about a tensor."""
    return None
