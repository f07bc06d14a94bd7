# SPDX-License-Identifier: Apache-2.0
"""Layers with weights, activations and pools: real modules of `torch.nn`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx, nn

from yolo_hw.interop.from_onnx.builder import Call, Operator, Refused, Result, as_tensor
from yolo_hw.interop.from_onnx.document import Array

NO_MEMORY: dict[str, Any] = {"device": "meta"}
Pads = tuple[int, int, int, int]
"""Top, left, bottom, right."""


def layer(call: Call, make: Callable[[], nn.Module], tensors: dict[str, Array], x: fx.Node) -> fx.Node:
    """Add a module with the arrays of the file; one with the same arrays and options is called again."""
    arrays = {key: as_tensor(f"{call.node.name}.{key}", value) for key, value in tensors.items()}
    fresh = make()
    for name, wanted in fresh.named_parameters():
        if wanted.shape != arrays[name].shape:
            raise Refused(f"its {name} must have shape {list(wanted.shape)}, got {list(arrays[name].shape)}")
    key = (call.node.op, call.node.inputs[1:], repr(call.node.attributes), repr(fresh))
    builder = call.builder
    if key not in builder.shared:
        path = builder.shared[key] = call.path
        builder.state |= {f"{path}.{name}": tensor for name, tensor in arrays.items()}
        for name, tensor in fresh.named_buffers():  # counters of batches, which no file has
            builder.state.setdefault(f"{path}.{name}", tensor.new_zeros(tensor.shape, device="cpu"))
    return builder.module(builder.shared[key], fresh, x)


def conv(call: Call) -> Result:
    """Conv: two-dimensional, with constant weights."""
    weight, bias = call.constant(1), call.optional(2)
    _two_dimensional(call, weight.ndim - 2)
    kernel, stride, dilation, groups = _geometry(call, weight.shape[2:])
    _whole_groups(len(weight), groups)
    x, padding = _padded(call, kernel, stride, dilation, 0.0)

    def make() -> nn.Module:
        channels = (weight.shape[1] * groups, weight.shape[0])
        return nn.Conv2d(*channels, kernel, stride, padding, dilation, groups, bias is not None, **NO_MEMORY)

    return layer(call, make, {"weight": weight} | ({} if bias is None else {"bias": bias}), x)


def conv_transpose(call: Call) -> Result:
    """ConvTranspose with padding that is equal on opposite sides."""
    weight, bias = call.constant(1), call.optional(2)
    _two_dimensional(call, weight.ndim - 2)
    kernel, stride, dilation, groups = _geometry(call, weight.shape[2:])
    _whole_groups(len(weight), groups)
    pads = tuple(call.attribute("pads", (0, 0, 0, 0)))
    if call.attribute("auto_pad", "NOTSET") != "NOTSET" or call.attribute("output_shape") or pads[:2] != pads[2:]:
        raise Refused("auto_pad, output_shape and padding that differs on opposite sides are not supported")
    extra = tuple(call.attribute("output_padding", (0, 0)))

    def make() -> nn.Module:
        channels = (weight.shape[0], weight.shape[1] * groups)
        options = {"bias": bias is not None, "dilation": dilation, **NO_MEMORY}
        return nn.ConvTranspose2d(*channels, kernel, stride, pads[:2], extra, groups, **options)

    return layer(call, make, {"weight": weight} | ({} if bias is None else {"bias": bias}), call.map(0))


def _two_dimensional(call: Call, axes: int) -> None:
    if axes != 2 or len(call.shape(0)) != 4:
        raise Refused(f"must work on images [N, C, H, W], got {axes} spatial axes on {len(call.shape(0))} extents")


def _whole_groups(channels: int, groups: int) -> None:
    if channels % groups:
        raise Refused(f"group must divide the {channels} channels of its weights, got {groups}")


def _geometry(call: Call, kernel: tuple[int, ...]) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int], int]:
    given = call.attribute("kernel_shape")
    if given is not None and tuple(given) != tuple(kernel):
        raise Refused(f"kernel_shape must be that of the weights, {list(kernel)}, got {list(given)}")
    stride, dilation = (tuple(call.attribute(key, (1, 1))) for key in ("strides", "dilations"))
    groups = int(call.attribute("group", 1))
    if min(*kernel, *stride, *dilation, groups) < 1 or len(stride) != 2 or len(dilation) != 2:
        raise Refused(f"kernel {list(kernel)}, strides {list(stride)}, dilations {list(dilation)} and group {groups} "
                      "must be positive, one per spatial axis")  # fmt: skip
    return (kernel[0], kernel[1]), (stride[0], stride[1]), (dilation[0], dilation[1]), groups


def _pads(call: Call, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]) -> Pads:
    """Return the padding that auto_pad or pads stand for."""
    mode = call.attribute("auto_pad", "NOTSET") or "NOTSET"
    if mode == "NOTSET":
        top, left, bottom, right = call.attribute("pads", (0, 0, 0, 0))
        if min(top, left, bottom, right) < 0:
            raise Refused(f"pads must not be negative, got {[top, left, bottom, right]}")
        return top, left, bottom, right
    if mode == "VALID":
        return 0, 0, 0, 0
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        raise Refused(f"auto_pad must be NOTSET, VALID, SAME_UPPER or SAME_LOWER, got {mode}")
    begin, end = [], []
    for size, k, s, d in zip(call.shape(0)[2:], kernel, stride, dilation, strict=True):
        total = max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
        small, large = total // 2, total - total // 2
        begin.append(small if mode == "SAME_UPPER" else large)
        end.append(large if mode == "SAME_UPPER" else small)
    return begin[0], begin[1], end[0], end[1]


def _padded(
    call: Call, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int], filling: float
) -> tuple[fx.Node, tuple[int, int]]:
    """Return the map and the padding torch's layer is to add; what differs on opposite sides is added in front."""
    top, left, bottom, right = _pads(call, kernel, stride, dilation)
    if (top, left) == (bottom, right):
        return call.map(0), (top, left)
    return call.builder.call(F.pad, call.map(0), (left, right, top, bottom), "constant", filling), (0, 0)


def batch_norm(call: Call) -> Result:
    """BatchNormalization as it is in inference."""
    if call.attribute("training_mode", 0):
        raise Refused("training_mode must be 0: call model.eval() before exporting")
    names = ("weight", "bias", "running_mean", "running_var")
    tensors = {name: call.constant(i + 1) for i, name in enumerate(names)}
    rank = len(call.shape(0))
    if rank not in (2, 3, 4):
        raise Refused(f"must read 2 to 4 extents, got {rank}")
    kind = nn.BatchNorm2d if rank == 4 else nn.BatchNorm1d
    # torch's momentum is the weight of the new batch, ONNX's that of the past
    momentum = 1 - call.attribute("momentum", 0.9)
    make = partial(kind, len(tensors["weight"]), call.attribute("epsilon", 1e-5), momentum, **NO_MEMORY)
    return layer(call, make, tensors, call.map(0))


def gemm(call: Call) -> Result:
    """Gemm of a map and constants: a linear layer; alpha and beta go into its numbers."""
    weight, bias = call.constant(1), call.optional(2)
    if call.attribute("transA", 0) or weight.ndim != 2:
        raise Refused("must be a map times a constant matrix, without transA")
    weight = weight if call.attribute("transB", 0) else weight.T
    outputs = weight.shape[0]
    if bias is not None:
        if bias.size not in (1, outputs) or bias.shape[-1:] not in ((), (1,), (outputs,)):
            raise Refused(f"its bias must be one number for each of {outputs} outputs, got shape {list(bias.shape)}")
        bias = np.broadcast_to(bias.reshape(-1), (outputs,)) * np.float32(call.attribute("beta", 1.0))
    return _linear(call, weight * np.float32(call.attribute("alpha", 1.0)), bias)


def linear(call: Call) -> Result:
    """MatMul of a map with a constant matrix and a bias added."""
    return _linear(call, call.constant(1).T, call.constant(2))


def matmul(call: Call) -> Result:
    """MatMul: a linear layer where the second factor is a constant matrix."""
    if call.is_constant(1) and call.constant(1).ndim == 2:
        return _linear(call, call.constant(1).T, None)
    return call.builder.call(torch.matmul, call.operand(0), call.operand(1))


def _linear(call: Call, weight: Array, bias: Array | None) -> fx.Node:
    def make() -> nn.Module:
        return nn.Linear(weight.shape[1], weight.shape[0], bias is not None, **NO_MEMORY)

    return layer(call, make, {"weight": weight} | ({} if bias is None else {"bias": bias}), call.map(0))


def prelu(call: Call) -> Result:
    """PRelu with one slope, or one per channel."""
    slope = call.constant(1)
    channels = call.shape(0)[1]
    along = slope.ndim - len(call.shape(0)) + 1
    per_channel = slope.size == channels and 0 <= along < slope.ndim and slope.shape[along] == channels
    if slope.size != 1 and not per_channel:
        raise Refused(f"must have one slope, or one per channel along axis 1, got shape {list(slope.shape)}")
    make = partial(nn.PReLU, slope.size, **NO_MEMORY)
    return layer(call, make, {"weight": slope.reshape(-1)}, call.map(0))


def activation(make: Callable[[Call], nn.Module]) -> Operator:
    """Return what translates an operator into a module without weights."""

    def translate(call: Call) -> Result:
        return call.builder.module(call.path, make(call), call.map(0))

    return translate


def hard_sigmoid(call: Call) -> Result:
    """Refuse the forms that are not x / 6 + 1 / 2; `patterns` has joined the others."""
    numbers = (call.attribute("alpha", 0.2), call.attribute("beta", 0.5))
    raise Refused(f"alpha and beta must be 1/6 and 1/2, got {numbers[0]:g} and {numbers[1]:g}")


def _gelu(call: Call) -> nn.Module:
    return nn.GELU(approximate=call.attribute("approximate", "none"))


ACTIVATIONS: dict[str, Operator] = {
    "Relu": activation(lambda call: nn.ReLU()),
    "Relu6": activation(lambda call: nn.ReLU6()),
    "LeakyRelu": activation(lambda call: nn.LeakyReLU(_rounded(call.attribute("alpha", 0.01)))),
    "Sigmoid": activation(lambda call: nn.Sigmoid()),
    "Hardsigmoid": activation(lambda call: nn.Hardsigmoid()),
    "HardSwish": activation(lambda call: nn.Hardswish()),
    "Silu": activation(lambda call: nn.SiLU()),
    "Mish": activation(lambda call: nn.Mish()),
    "Tanh": activation(lambda call: nn.Tanh()),
    "Elu": activation(lambda call: nn.ELU(_rounded(call.attribute("alpha", 1.0)))),
    "Celu": activation(lambda call: nn.CELU(_rounded(call.attribute("alpha", 1.0)))),
    "Softplus": activation(lambda call: nn.Softplus()),
    "Gelu": activation(_gelu),
}


def _rounded(value: float) -> float:
    """Return the shortest decimal that is the same float32, so that a slope of 0.1 is 0.1."""
    return float(str(np.float32(value)))


def max_pool(call: Call) -> Result:
    """MaxPool without indices."""
    if len([name for name in call.node.outputs if name]) > 1:
        raise Refused("the indices of the maxima are not supported")
    kernel, stride, dilation = _window(call)
    x, padding = _pool_input(call, kernel, stride, dilation, -np.inf)
    module = nn.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=bool(call.attribute("ceil_mode", 0)))
    return call.builder.module(call.path, module, x)


def average_pool(call: Call) -> Result:
    """AveragePool."""
    kernel, stride, dilation = _window(call)
    if dilation != (1, 1):
        raise Refused(f"dilations must be 1, got {list(dilation)}")
    counted = bool(call.attribute("count_include_pad", 0))
    top, left, bottom, right = _pads(call, kernel, stride, dilation)
    if not counted and (top, left) != (bottom, right):
        raise Refused("padding that differs on opposite sides and is not counted is not supported")
    ceil = bool(call.attribute("ceil_mode", 0))
    if ceil and (top, left) != (bottom, right):
        raise Refused("ceil_mode with padding that differs on opposite sides is not supported")
    x, padding = _pool_input(call, kernel, stride, dilation, 0.0)
    module = nn.AvgPool2d(kernel, stride, padding, ceil_mode=ceil, count_include_pad=counted)
    return call.builder.module(call.path, module, x)


def _window(call: Call) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    kernel = tuple(call.attribute("kernel_shape", ()))
    _two_dimensional(call, len(kernel))
    return _geometry(call, kernel)[:3]


def _pool_input(
    call: Call, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int], filling: float
) -> tuple[fx.Node, tuple[int, int]]:
    """Return the map and the padding torch's pool is to add, which may be half of the window at most."""
    x, padding = _padded(call, kernel, stride, dilation, filling)
    if all(2 * pad <= size for pad, size in zip(padding, kernel, strict=True)):
        return x, padding
    top, left = padding
    return call.builder.call(F.pad, x, (left, left, top, top), "constant", filling), (0, 0)


def global_average(call: Call) -> Result:
    """GlobalAveragePool."""
    _two_dimensional(call, len(call.shape(0)) - 2)
    return call.builder.module(call.path, nn.AdaptiveAvgPool2d(1), call.map(0))


def global_max(call: Call) -> Result:
    """GlobalMaxPool."""
    _two_dimensional(call, len(call.shape(0)) - 2)
    return call.builder.module(call.path, nn.AdaptiveMaxPool2d(1), call.map(0))


LAYERS: dict[str, Operator] = {
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "BatchNormalization": batch_norm,
    "Gemm": gemm,
    "Linear": linear,
    "MatMul": matmul,
    "PRelu": prelu,
    "HardSigmoid": hard_sigmoid,
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "GlobalAveragePool": global_average,
    "GlobalMaxPool": global_max,
    **ACTIVATIONS,
}
"""Operator -> what translates it."""
