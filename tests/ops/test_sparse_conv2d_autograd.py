# SPDX-License-Identifier: Apache-2.0
"""Gradients and registration of sparse_conv2d."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from yolo_hw.ops import Activation, PackedSparse, pack_sparse, sparse_conv2d


def weight(out: int, channels: int, block_rows: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(out)
    kept = torch.rand(-(-out // block_rows), channels, 3, 3, generator=generator) < 0.3
    return torch.randn(out, channels, 3, 3, generator=generator) * kept.repeat_interleave(block_rows, 0)[:out]


def call(
    packed: PackedSparse, activation: Activation, x: torch.Tensor, v: torch.Tensor, b: torch.Tensor
) -> torch.Tensor:
    return sparse_conv2d(x, replace(packed, values=v), b, stride=2, padding=1, activation=activation)


@pytest.mark.parametrize("activation", Activation)
@pytest.mark.parametrize("pattern", ["unstructured", "block(4x1)"])
def test_gradients_are_those_of_differences(activation: Activation, pattern: str) -> None:
    packed = pack_sparse(weight(6, 4, 4).double(), pattern, partial=True)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 4, 5, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(6, generator=generator, dtype=torch.float64, requires_grad=True)
    values = packed.values.clone()
    padding_rows = packed.positions() == packed.shape.numel()
    arguments = (x, values.requires_grad_(), bias)

    def function(x: torch.Tensor, v: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return call(packed, activation, x, v.masked_fill(padding_rows, 0.0), b)

    assert torch.autograd.gradcheck(function, arguments)
    assert torch.autograd.gradgradcheck(function, arguments)


def test_gradients_are_those_of_the_dense_convolution() -> None:
    dense = weight(12, 8).requires_grad_()
    packed = pack_sparse(dense)
    values = packed.values.clone().requires_grad_()
    x, bias = torch.randn(2, 4 * 8, 9, 7, requires_grad=True), torch.randn(12, requires_grad=True)
    y = sparse_conv2d(x, replace(packed, values=values), bias, padding=1, groups=4, activation=Activation.LEAKY)
    grad = torch.randn_like(y)
    got = torch.autograd.grad(y, (x, values, bias), grad)
    expected = functional.leaky_relu(functional.conv2d(x, dense, bias, padding=1, groups=4), 0.1)
    want = torch.autograd.grad(expected, (x, dense, bias), grad)
    torch.testing.assert_close(got[0], want[0])
    torch.testing.assert_close(got[1].reshape(-1), want[1].reshape(-1)[packed.positions().reshape(-1)])
    torch.testing.assert_close(got[2], want[2])


@pytest.mark.parametrize("with_bias", [True, False])
def test_opcheck(with_bias: bool) -> None:
    packed = pack_sparse(weight(6, 4))
    bias = torch.randn(6, requires_grad=True) if with_bias else None
    x, values = torch.randn(2, 4, 8, 6, requires_grad=True), packed.values.clone().requires_grad_()
    numbers = (6, [3, 3], packed.chunk, [2, 1], [1, 0], [1, 2], 1, Activation.LEAKY.value, 0.1)
    operator = torch.ops.yolo_hw.sparse_conv2d.default
    torch.library.opcheck(operator, (x, values, packed.taps, packed.starts, bias, *numbers))
