# SPDX-License-Identifier: Apache-2.0
"""Layers of every kind with a batch norm, for the tests of folding."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from yolo_hw.fixedpoint import Overflow, Rounding
from yolo_hw.ops.fold_bn import BatchNorm, FoldLayer

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=needs_cuda)]
DTYPES = [torch.float32, torch.float64]
MODES = list(itertools.product(Rounding, Overflow))
# Weight shape, groups of a transposed convolution; rows shorter, as long as and longer than a vector and the 64 lanes.
KINDS = {
    "conv": ((4, 3, 3, 3), 0),
    "long": ((3, 70, 3, 3), 0),
    "depthwise": ((6, 1, 3, 3), 0),
    "pointwise": ((5, 64, 1, 1), 0),
    "linear": ((130, 17), 0),
    "conv1d": ((3, 5, 7), 0),
    "transposed": ((6, 4, 2, 2), 1),
    "transposed groups": ((6, 4, 3, 3), 3),
    "transposed depthwise": ((4, 1, 4, 4), 4),
}


def make_layer(kind: str, dtype: torch.dtype, *, bias: bool = True, device: str = "cpu", seed: int = 0) -> FoldLayer:
    """A layer with factors of both signs, and fraction bits such that some of its weights saturate 5 bits."""
    shape, groups = KINDS[kind]
    generator = torch.Generator().manual_seed(seed)

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64).to(device, dtype)

    channels = shape[1] * groups if groups else shape[0]
    norm = BatchNorm(draw(channels), draw(channels), draw(channels), draw(channels).square() + 0.1)
    frac = torch.randint(1, 5, (channels,), generator=generator, dtype=torch.int32).to(device)
    return FoldLayer(draw(*shape), norm, draw(channels) if bias else None, frac, groups)


def on_cpu(layer: FoldLayer) -> FoldLayer:
    assert layer.norm is not None
    assert layer.frac is not None
    norm = BatchNorm(*(x.detach().cpu() for x in layer.norm))
    bias = None if layer.bias is None else layer.bias.detach().cpu()
    return FoldLayer(layer.weight.detach().cpu(), norm, bias, layer.frac.cpu(), layer.transposed_groups)


def bits_of(x: Tensor) -> Tensor:
    """The bit pattern, so that -0 and +0 differ."""
    return x.detach().cpu().contiguous().view(torch.int32 if x.dtype == torch.float32 else torch.int64)


def assert_same_bits(found: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> None:
    for a, b in zip(found, wanted, strict=True):
        assert a.shape == b.shape
        assert torch.equal(bits_of(a), bits_of(b)), (a.detach().cpu() - b).abs().max()
