# SPDX-License-Identifier: Apache-2.0
"""One torch module per darknet layer kind. Every forward takes the list of the layer's inputs, [N, C, H, W] each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from yolo_hw.darknet import layers as L
from yolo_hw.darknet.weights import FloatArray
from yolo_hw.geometry import Window
from yolo_hw.nn.activations import activate
from yolo_hw.nn.windows import pad_windows

BN_MOMENTUM = 0.1
SHORTCUT_NORM_EPS = 1e-4
"""Darknet's epsilon in the normalisation of shortcut weights."""


class Block(nn.Module):
    """A layer as a module; `load` and `arrays` exchange parameters under the roles of `Layer.params`."""

    def __init__(self, layer: L.Layer) -> None:
        """Keep the layer description."""
        super().__init__()
        self.layer = layer

    def parameter_of(self, role: str) -> Tensor:
        """Return the tensor that holds the array `role`."""
        raise NotImplementedError

    def load(self, arrays: Mapping[str, FloatArray]) -> None:
        """Copy arrays in; variances below zero (rounding residues of the training) become zero."""
        for role, array in arrays.items():
            value = torch.as_tensor(array)
            target = self.parameter_of(role)
            with torch.no_grad():
                target.copy_((value.clamp_min(0) if role == "var" else value).reshape(target.shape))

    def arrays(self) -> dict[str, FloatArray]:
        """Return float32 copies of all arrays in the order and shape of a weights file."""
        return {
            param.role: self.parameter_of(param.role).detach().float().cpu().reshape(param.shape).numpy().copy()
            for param in self.layer.params
        }


class _Normalised(Block):
    """A block that may own a batch normalisation `bn`."""

    bn: nn.BatchNorm2d | None

    def _norm_parameter(self, role: str) -> Tensor:
        assert self.bn is not None
        return {
            "bias": self.bn.bias,
            "scale": self.bn.weight,
            "mean": cast(Tensor, self.bn.running_mean),
            "var": cast(Tensor, self.bn.running_var),
        }[role]


class ConvBlock(_Normalised):
    """Convolution, batch normalisation, activation."""

    def __init__(self, layer: L.Convolutional, bn_eps: float) -> None:
        """Build the modules; `bn_eps` is added to the variance."""
        super().__init__(layer)
        self.conv = nn.Conv2d(
            layer.in_shapes[0].c,
            layer.shape.c,
            layer.size,
            (layer.stride_y, layer.stride_x),
            layer.padding,
            layer.dilation,
            layer.groups,
            bias=not layer.batch_normalize,
        )
        self.bn = nn.BatchNorm2d(layer.shape.c, bn_eps, BN_MOMENTUM) if layer.batch_normalize else None
        self.activation = layer.activation

    def parameter_of(self, role: str) -> Tensor:
        """See `Block.parameter_of`."""
        if role == "weight":
            return self.conv.weight
        return self._norm_parameter(role) if self.bn is not None else cast(Tensor, self.conv.bias)

    def forward(self, inputs: list[Tensor]) -> Tensor:
        """[N, C, H, W] to [N, K, Ho, Wo]."""
        y = self.conv(inputs[0])
        return activate(self.activation, y if self.bn is None else self.bn(y))


class ConnectedBlock(_Normalised):
    """Fully connected layer, batch normalisation, activation."""

    def __init__(self, layer: L.Connected, bn_eps: float) -> None:
        """Build the modules; `bn_eps` is added to the variance."""
        super().__init__(layer)
        self.linear = nn.Linear(layer.in_shapes[0].numel, layer.shape.c, bias=not layer.batch_normalize)
        self.bn = nn.BatchNorm2d(layer.shape.c, bn_eps, BN_MOMENTUM) if layer.batch_normalize else None
        self.activation = layer.activation

    def parameter_of(self, role: str) -> Tensor:
        """See `Block.parameter_of`."""
        if role == "weight":
            return self.linear.weight
        return self._norm_parameter(role) if self.bn is not None else self.linear.bias

    def forward(self, inputs: list[Tensor]) -> Tensor:
        """[N, C, H, W] to [N, K, 1, 1]."""
        y = self.linear(inputs[0].flatten(1))[:, :, None, None]
        return activate(self.activation, y if self.bn is None else self.bn(y))


class BatchNormBlock(_Normalised):
    """Stand-alone batch normalisation."""

    def __init__(self, layer: L.BatchNorm, bn_eps: float) -> None:
        """Build the module; `bn_eps` is added to the variance."""
        super().__init__(layer)
        self.bn = nn.BatchNorm2d(layer.shape.c, bn_eps, BN_MOMENTUM)

    def parameter_of(self, role: str) -> Tensor:
        """See `Block.parameter_of`."""
        return self._norm_parameter(role)

    def forward(self, inputs: list[Tensor]) -> Tensor:
        """[N, C, H, W] to the same shape."""
        assert self.bn is not None
        return cast(Tensor, self.bn(inputs[0]))


class PoolBlock(Block):
    """Max or average pooling whose padding never takes part."""

    layer: L.Pool

    def forward(self, inputs: list[Tensor]) -> Tensor:
        """[N, C, H, W] to [N, C, Ho, Wo]."""
        layer, x = self.layer, inputs[0]
        stride = (layer.stride_y, layer.stride_x)
        window = Window((layer.size, layer.size), stride, (layer.padding // 2, layer.padding // 2))
        out = (
            (x.shape[2] + layer.padding - layer.size) // layer.stride_y + 1,
            (x.shape[3] + layer.padding - layer.size) // layer.stride_x + 1,
        )
        if layer.mode == "max":
            return F.max_pool2d(pad_windows(x, window, out, -torch.inf), layer.size, stride)
        total = F.avg_pool2d(pad_windows(x, window, out, 0.0), layer.size, stride)
        return total / F.avg_pool2d(
            pad_windows(torch.ones_like(x[:1, :1]), window, out, 0.0), layer.size, window.stride
        )


class AvgPoolBlock(Block):
    """Average over the whole map."""

    def forward(self, inputs: list[Tensor]) -> Tensor:
        """[N, C, H, W] to [N, C, 1, 1]."""
        return inputs[0].mean((2, 3), keepdim=True)


class RouteBlock(Block):
    """Concatenation of one channel group of every input."""

    layer: L.Route

    def forward(self, inputs: list[Tensor]) -> Tensor:
        """Several [N, Ci, H, W] to [N, sum(Ci) / groups, H, W]."""
        groups, part = self.layer.groups, self.layer.group_id
        pieces = [x.chunk(groups, 1)[part] if groups > 1 else x for x in inputs]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, 1)


class ShortcutBlock(Block):
    """Sum of maps, optionally weighted per input or per input and channel."""

    layer: L.Shortcut

    def __init__(self, layer: L.Shortcut) -> None:
        """Weights start at 1."""
        super().__init__(layer)
        self.weight = nn.Parameter(torch.ones(layer.params[0].shape)) if layer.params else None

    def parameter_of(self, role: str) -> Tensor:
        """See `Block.parameter_of`."""
        assert self.weight is not None
        return self.weight

    def factors(self) -> Tensor | None:
        """Return the normalised weights [n inputs, 1 or C], or None if the sum is not weighted."""
        if self.weight is None:
            return None
        w = self.weight.reshape(len(self.layer.inputs), -1)
        if self.layer.weights_normalization == "relu":
            w = F.relu(w)
        elif self.layer.weights_normalization == "softmax":
            w = torch.exp(w - w.max(0, keepdim=True).values)
        else:
            return w
        return w / (w.sum(0, keepdim=True) + SHORTCUT_NORM_EPS)

    def forward(self, inputs: list[Tensor]) -> Tensor:
        """Several [N, Ci, H, W] to [N, C0, H, W]."""
        channels = inputs[0].shape[1]
        factors = self.factors()
        total: Tensor | None = None
        for i, x in enumerate(inputs):
            term = x[:, :channels]
            if factors is not None:
                term = term * factors[i, : term.shape[1]].reshape(1, -1, 1, 1)
            if term.shape[1] < channels:
                term = F.pad(term, (0, 0, 0, 0, 0, channels - term.shape[1]))
            total = term if total is None else total + term
        assert total is not None
        return activate(self.layer.activation, total)


class UpsampleBlock(Block):
    """Nearest-neighbour enlargement."""

    layer: L.Upsample

    def forward(self, inputs: list[Tensor]) -> Tensor:
        """[N, C, H, W] to [N, C, H * stride, W * stride]."""
        y = inputs[0].repeat_interleave(self.layer.stride, 2).repeat_interleave(self.layer.stride, 3)
        return y if self.layer.scale == 1 else y * self.layer.scale


class ReorgBlock(Block):
    """Space to depth and back, with darknet's index map or the plain one."""

    layer: L.Reorg

    def forward(self, inputs: list[Tensor]) -> Tensor:
        """[N, C, H, W] to [N, C * s**2, H / s, W / s], or the other way round."""
        return reorg(inputs[0], self.layer.stride, self.layer.reverse, self.layer.mode)


def reorg(x: Tensor, stride: int, reverse: bool, mode: str) -> Tensor:
    """Move pixels to channels; see `yolo_hw.darknet.layers.Reorg`.

    Plain map: ``y[o * C + c, i, j] = x[c, i * s + o // s, j * s + o % s]`` for o in [0, s**2). Darknet's map applies it
    to the input seen as [C / s**2, H * s, W * s] and reads the result, of shape [C, H, W], as [C * s**2, H / s, W / s].

    Args:
        x: [N, C, H, W].
        stride: s.
        reverse: Inverse map.
        mode: ``darknet`` or ``space_to_depth``.

    Returns:
        [N, C * s**2, H / s, W / s], or [N, C / s**2, H * s, W * s] if `reverse`.
    """
    n, c, h, w = x.shape
    s = stride
    out = (n, c // (s * s), h * s, w * s) if reverse else (n, c * s * s, h // s, w // s)
    if mode == "darknet":
        x = x.reshape(n, c, h, w) if reverse else x.reshape(n, c // (s * s), h * s, w * s)
    return (_depth_to_space(x, s) if reverse else _space_to_depth(x, s)).reshape(out)


def _space_to_depth(x: Tensor, s: int) -> Tensor:
    n, c, h, w = x.shape
    return x.reshape(n, c, h // s, s, w // s, s).permute(0, 3, 5, 1, 2, 4).reshape(n, c * s * s, h // s, w // s)


def _depth_to_space(x: Tensor, s: int) -> Tensor:
    n, c, h, w = x.shape
    x = x.reshape(n, s, s, c // (s * s), h, w).permute(0, 3, 4, 1, 5, 2)
    return x.reshape(n, c // (s * s), h * s, w * s)


class ProductBlock(Block):
    """scale_channels and sam: the `from` map times factors of a broadcastable shape."""

    layer: L.ScaleChannels | L.Sam

    def forward(self, inputs: list[Tensor]) -> Tensor:
        """Factors and map to [N, C, H, W]."""
        return activate(self.layer.activation, inputs[1] * inputs[0])


class SqueezeExciteBlock(Block):
    """Channel attention; Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018."""

    layer: L.SqueezeExcite

    def __init__(self, layer: L.SqueezeExcite) -> None:
        """Two bias-free linear maps."""
        super().__init__(layer)
        self.squeeze = nn.Linear(layer.shape.c, layer.squeezed, bias=False)
        self.excite = nn.Linear(layer.squeezed, layer.shape.c, bias=False)

    def parameter_of(self, role: str) -> Tensor:
        """See `Block.parameter_of`."""
        return self.squeeze.weight if role == "weight1" else self.excite.weight

    def forward(self, inputs: list[Tensor]) -> Tensor:
        """[N, C, H, W] to the same shape."""
        x = inputs[0]
        factors = F.hardsigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3))))))
        return x * factors[:, :, None, None]


class ActivationBlock(Block):
    """Stand-alone activation."""

    layer: L.Activation

    def forward(self, inputs: list[Tensor]) -> Tensor:
        """[N, C, H, W] to the same shape."""
        return activate(self.layer.activation, inputs[0])


class SoftmaxBlock(Block):
    """Softmax over channel groups of the flattened input, or over the channels of every pixel if spatial."""

    layer: L.Softmax

    def forward(self, inputs: list[Tensor]) -> Tensor:
        """[N, C, H, W] to the same shape."""
        x = inputs[0] / self.layer.temperature
        if self.layer.spatial:
            return x.softmax(1)
        return x.reshape(x.shape[0], self.layer.groups, -1).softmax(2).reshape(x.shape)


class IdentityBlock(Block):
    """A layer without effect on inference; heads pass their raw map on to the decoder."""

    def forward(self, inputs: list[Tensor]) -> Tensor:
        """Return the input."""
        return inputs[0]


_PLAIN: dict[type[L.Layer], Callable[..., Block]] = {
    L.Pool: PoolBlock,
    L.AvgPool: AvgPoolBlock,
    L.Route: RouteBlock,
    L.Shortcut: ShortcutBlock,
    L.Upsample: UpsampleBlock,
    L.Reorg: ReorgBlock,
    L.ScaleChannels: ProductBlock,
    L.Sam: ProductBlock,
    L.SqueezeExcite: SqueezeExciteBlock,
    L.Activation: ActivationBlock,
    L.Softmax: SoftmaxBlock,
    L.Identity: IdentityBlock,
    L.DetectionHead: IdentityBlock,
}

_NORMALISED: dict[type[L.Layer], Callable[..., Block]] = {
    L.Convolutional: ConvBlock,
    L.Connected: ConnectedBlock,
    L.BatchNorm: BatchNormBlock,
}


def make_block(layer: L.Layer, bn_eps: float) -> Block:
    """Return the module of `layer`."""
    if type(layer) in _NORMALISED:
        return _NORMALISED[type(layer)](layer, bn_eps)
    return _PLAIN[type(layer)](layer)
