# SPDX-License-Identifier: Apache-2.0
"""One name for an operation however it is written: ``nn.ReLU``, ``F.relu``, ``x.relu_()``, ``torch.ops.aten.relu``."""

from __future__ import annotations

import torch
from torch import fx, nn

MOVES = frozenset(
    "cat stack chunk split narrow slice select getitem view reshape flatten unflatten permute transpose swapaxes "
    "movedim squeeze unsqueeze expand repeat repeat_interleave flip roll unbind tensor_split pixel_shuffle "
    "pixel_unshuffle channel_shuffle t".split()
)
"""What moves elements and computes nothing."""

POINTWISE = frozenset(
    "relu relu6 silu mish hardswish hardsigmoid hardtanh leaky_relu elu gelu sigmoid tanh softplus selu celu softsign "
    "log_sigmoid tanhshrink softshrink hardshrink threshold exp sqrt abs neg pow clamp square".split()
)
"""Functions of one element that take any numbers besides."""

UNCHANGED = frozenset(
    "identity dropout dropout1d dropout2d dropout3d alpha_dropout feature_dropout feature_alpha_dropout contiguous "
    "clone to float double half type_as detach".split()
)
"""What keeps every element, in evaluation at least."""

POOLS = frozenset(
    "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d "
    "adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d interpolate".split()
)
"""What works on each channel and turns a constant map into the same constant."""

MEANS = frozenset("mean amax amin".split())
"""Reductions that keep a constant."""

JOINS = frozenset("add sub mul".split())

SIZES = frozenset("size shape dim ndim dtype device numel sym_size stride is_contiguous".split())
"""What reads no element."""

_SAME = {
    "concat": "cat",
    "concatenate": "cat",
    "split_with_sizes": "split",
    "swapdims": "transpose",
    "swapaxes": "transpose",
    "multiply": "mul",
    "subtract": "sub",
    "truediv": "div",
    "true_divide": "div",
    "clamp_min": "clamp",
    "clamp_max": "clamp",
    "clip": "clamp",
    "negative": "neg",
    "upsample": "interpolate",
    "upsample_nearest1d": "interpolate",
    "upsample_nearest2d": "interpolate",
    "upsample_bilinear2d": "interpolate",
    "iadd": "add",
    "imul": "mul",
    "isub": "sub",
    "absolute": "abs",
    "conv1d": "conv",
    "conv2d": "conv",
    "logsigmoid": "log_sigmoid",
    "_to_copy": "to",
    "type": "to",
}

MODULES: dict[type[nn.Module], str] = {
    nn.Conv1d: "conv",
    nn.Conv2d: "conv",
    nn.Linear: "linear",
    nn.BatchNorm1d: "batch_norm",
    nn.BatchNorm2d: "batch_norm",
    nn.SyncBatchNorm: "batch_norm",
    nn.InstanceNorm1d: "instance_norm",
    nn.InstanceNorm2d: "instance_norm",
    nn.PReLU: "prelu",
    nn.Identity: "identity",
    nn.Flatten: "flatten",
    nn.Unflatten: "unflatten",
    nn.PixelShuffle: "pixel_shuffle",
    nn.PixelUnshuffle: "pixel_unshuffle",
    nn.ChannelShuffle: "channel_shuffle",
    nn.Upsample: "interpolate",
    nn.UpsamplingNearest2d: "interpolate",
    nn.UpsamplingBilinear2d: "interpolate",
    nn.ZeroPad2d: "pad",
    nn.ConstantPad2d: "pad",
    nn.ReflectionPad2d: "pad",
    nn.ReplicationPad2d: "pad",
    nn.Dropout: "dropout",
    nn.Dropout2d: "dropout",
    nn.Dropout3d: "dropout",
    nn.AlphaDropout: "dropout",
    nn.FeatureAlphaDropout: "dropout",
    nn.LogSigmoid: "log_sigmoid",
    nn.LeakyReLU: "leaky_relu",
}
"""Modules whose name is not that of their function with other capitals; exact types: a subclass has its own code."""

_PLAIN = (
    nn.ReLU, nn.ReLU6, nn.SiLU, nn.Mish, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.ELU, nn.GELU, nn.Sigmoid,
    nn.Tanh, nn.Softplus, nn.SELU, nn.CELU, nn.Softsign, nn.Tanhshrink, nn.Softshrink, nn.Hardshrink, nn.Threshold,
)  # fmt: skip
MODULES |= {kind: kind.__name__.lower() for kind in _PLAIN}
_SPATIAL = (
    nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d,
)  # fmt: skip
MODULES |= {
    kind: kind.__name__.replace("Adaptive", "adaptive_").replace("MaxPool", "max_pool").replace("AvgPool", "avg_pool")
    for kind in _SPATIAL
}

_TORCH = ("torch", "_operator", "builtins", "math")


def operation_name(node: fx.Node, module: nn.Module | None) -> str:
    """Return the name of what a node does.

    Args:
        node: A node that calls something.
        module: What it calls, where that is a module.

    Returns:
        A name of this file's tables, or whatever the code calls it; never a known name for code that is not torch's.
    """
    if module is not None:
        return MODULES.get(type(module), type(module).__name__)
    if isinstance(node.target, str):
        name = node.target
    elif isinstance(node.target, torch._ops.OpOverload):
        name = node.target._schema.name.rpartition("::")[2]
        if node.target.namespace not in ("aten", "prim"):
            return node.target._schema.name
    else:
        assert callable(node.target)
        name = getattr(node.target, "__name__", str(node.target))
        home = getattr(node.target, "__module__", None) or "builtins"
        if home.split(".")[0] not in _TORCH:
            return f"{home}.{name}"
    name = name.rstrip("_") if not name.startswith("__") else name
    if node.target is getattr and isinstance(node.args[1], str):
        name = node.args[1]
    return _SAME.get(name, name)
