# SPDX-License-Identifier: Apache-2.0
"""Batch norm with batch statistics against torch's in float64, its gradient, its registration and its checks."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from support.cpu_paths import results_on_every_path
from support.fold_layers import DEVICES, DTYPES, assert_same_bits
from torch import Tensor
from torch.nn import functional

from yolo_hw.ops.batch_norm import batch_norm

ops = torch.ops.yolo_hw
SHAPES = [(8, 5, 13, 13), (2, 3, 52, 52), (4, 6), (3, 4, 700), (2, 130, 3, 5), (1, 16, 40, 40), (2, 3, 2, 3, 4)]
EPS = 1e-5


def make_input(shape: tuple[int, ...], dtype: torch.dtype, *, channels_last: bool = False) -> list[Tensor]:
    """x with a mean far from zero, weight, bias."""
    generator = torch.Generator().manual_seed(sum(shape))
    x = torch.randn(shape, generator=generator, dtype=torch.float64) * 3 + 50
    weight, bias = torch.randn(2, shape[1], generator=generator, dtype=torch.float64)
    x = x.to(memory_format=torch.channels_last) if channels_last else x
    return [t.to(dtype) for t in (x, weight, bias)]


def orders(shape: tuple[int, ...]) -> tuple[bool, ...]:
    return (False, True) if len(shape) == 4 else (False,)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_torch_in_float64(device: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """Float32: x - mean cancels (mean 50, deviation 3), so 2e-5 = 50 / 3 * a few units of 2^-24."""
    tolerance = {"rtol": 0, "atol": 2e-5 if dtype == torch.float32 else 1e-12}
    for channels_last in orders(shape):
        inputs = make_input(shape, dtype, channels_last=channels_last)
        found = [x.to(device, copy=True).requires_grad_() for x in inputs]
        wanted = [x.to(torch.float64, copy=True).requires_grad_() for x in inputs]
        grad = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).to(dtype)
        y, mean, var = batch_norm(*found, torch.full((1,), EPS, dtype=dtype, device=device))
        want = functional.batch_norm(wanted[0], None, None, wanted[1], wanted[2], training=True, eps=EPS)
        y.backward(grad.to(device))
        want.backward(grad.double())
        assert y.stride() == inputs[0].stride()
        assert not mean.requires_grad
        torch.testing.assert_close(y.double().cpu(), want, **tolerance)
        dims = [d for d in range(len(shape)) if d != 1]
        torch.testing.assert_close(mean.double().cpu(), wanted[0].mean(dims), rtol=1e-6, atol=0)
        torch.testing.assert_close(var.double().cpu(), wanted[0].var(dims, correction=0), rtol=1e-6, atol=0)
        for a, b in zip(found, wanted, strict=True):
            assert a.grad is not None
            assert b.grad is not None
            scale = float(b.grad.abs().max())
            torch.testing.assert_close(a.grad.double().cpu() / scale, b.grad / scale, **tolerance)


@pytest.mark.parametrize("device", DEVICES)
def test_epsilon_per_channel(device: str) -> None:
    x, weight, bias = (t.to(device) for t in make_input((3, 4, 5, 6), torch.float64))
    eps = torch.tensor([0.0, 1e-5, 1.0, 100.0], dtype=torch.float64, device=device)
    y, _, _ = batch_norm(x, weight, bias, eps)
    for c in range(4):
        one = slice(c, c + 1)
        alone = batch_norm(x[:, one], weight[one], bias[one], eps[one])
        assert torch.equal(alone[0], y[:, one])
        want = (x[:, c] - x[:, c].mean()) / torch.sqrt(x[:, c].var(correction=0) + eps[c]) * weight[c] + bias[c]
        torch.testing.assert_close(y[:, c], want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_constant_channels_and_far_means_have_defined_results(device: str, dtype: torch.dtype) -> None:
    x = torch.full((2, 2, 3, 3), 7.0, dtype=dtype, device=device)
    one, zero = torch.ones(2, dtype=dtype, device=device), torch.zeros(1, dtype=dtype, device=device)
    leaf = x.clone().requires_grad_()
    y, mean, var = batch_norm(leaf, one, 3 * one, zero)
    assert (y == 3).all()
    assert (mean == 7).all()
    assert not var.any()
    y.sum().backward()
    assert leaf.grad is not None
    assert not leaf.grad.any()
    # Values 2^20 and 2^20 + 1: a sum of squares in float32 would lose the variance of 1/4.
    far = 2.0**20 + torch.arange(18, dtype=dtype, device=device).reshape(1, 2, 9).transpose(0, 1).contiguous() % 2
    y, mean, var = batch_norm(far.reshape(2, 1, 9), one[:1], zero, zero)
    assert mean.item() == 2.0**20 + 0.5
    assert var.item() == 0.25
    assert y.abs().max().item() == 1


def test_gradient() -> None:
    eps = torch.tensor([1e-5, 0.3, 2.0], dtype=torch.float64)
    for channels_last in (False, True):
        leaves = [x.requires_grad_() for x in make_input((2, 3, 2, 2), torch.float64, channels_last=channels_last)]
        assert torch.autograd.gradcheck(lambda *a: batch_norm(*a, eps)[0], leaves)
    y, _, _ = batch_norm(*leaves, eps)
    (grad,) = torch.autograd.grad(y.square().sum(), leaves[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        grad.sum().backward()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_threads_and_instruction_sets_do_not_change_a_bit(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    for channels_last in orders(shape):
        x, weight, bias = make_input(shape, dtype, channels_last=channels_last)
        eps = torch.full((1,), EPS, dtype=dtype)

        def run(x: Tensor = x, weight: Tensor = weight, bias: Tensor = bias, eps: Tensor = eps) -> list[Tensor]:
            y, mean, var = ops.batch_norm(x, weight, bias, eps)
            return [y, mean, var, *ops.batch_norm_backward(y.sin(), x, weight, mean, var, eps)]

        first, *others = results_on_every_path(run)
        for other in others:
            assert_same_bits(tuple(other), tuple(first))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(device: str, dtype: torch.dtype) -> None:
    eps = torch.full((1,), EPS, dtype=dtype, device=device)
    for channels_last in (False, True):
        x, weight, bias = (t.to(device) for t in make_input((2, 3, 4, 5), dtype, channels_last=channels_last))
        for sample in (x, x.clone().requires_grad_(), x.transpose(2, 3)):
            torch.library.opcheck(ops.batch_norm, (sample, weight, bias, eps))
        _, mean, var = ops.batch_norm(x, weight, bias, eps)
        torch.library.opcheck(ops.batch_norm_backward, (torch.randn_like(x), x, weight, mean, var, eps))


GOOD: dict[str, Any] = {"x": torch.ones(2, 3, 4), "weight": torch.ones(3), "bias": torch.ones(3), "eps": torch.ones(1)}
BAD = [
    ({"x": torch.ones(2, 3, dtype=torch.float16)}, "x must be float32 or float64"),
    ({"x": torch.ones(3)}, "x must have at least 2 dimensions, got 1"),
    ({"x": torch.ones(0, 3, 4)}, "x must have at least one value per channel"),
    ({"x": torch.ones(2, 3, 0)}, "x must have at least one value per channel"),
    ({"weight": torch.ones(2)}, r"weight must have shape \[3\], got 1 dimensions and 2 values"),
    ({"weight": torch.ones(3, dtype=torch.float64)}, "weight must have the dtype of x"),
    ({"eps": torch.ones(2)}, r"eps must have shape \[3\]"),
    ({"eps": torch.ones(1, 1)}, r"eps must have shape \[1\], got 2 dimensions"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_bad_argument_is_named(change: dict[str, Any], message: str) -> None:
    bad = GOOD | change
    with pytest.raises(RuntimeError, match=f"batch_norm: {message}"):
        ops.batch_norm(*bad.values())
    vectors = (torch.ones(3), torch.ones(3))
    with pytest.raises(RuntimeError, match=f"batch_norm_backward: {message}"):
        ops.batch_norm_backward(torch.ones_like(bad["x"]), bad["x"], bad["weight"], *vectors, bad["eps"])


def test_bad_vectors_of_one_direction_are_named() -> None:
    x, weight, bias, eps = GOOD.values()
    with pytest.raises(RuntimeError, match=r"batch_norm: bias must have shape \[3\]"):
        ops.batch_norm(x, weight, torch.ones(4), eps)
    with pytest.raises(RuntimeError, match="grad must have the shape of x"):
        ops.batch_norm_backward(torch.ones(2, 3), x, weight, bias, bias, eps)
    with pytest.raises(RuntimeError, match=r"mean must have shape \[3\]"):
        ops.batch_norm_backward(x, x, weight, torch.ones(1), bias, eps)
    with pytest.raises(RuntimeError, match="var must have the dtype of x"):
        ops.batch_norm_backward(x, x, weight, bias, bias.double(), eps)


def test_nan_stays_nan() -> None:
    x = torch.ones(2, 2, 3)
    x[0, 0, 0] = math.nan
    y, _, _ = batch_norm(x, torch.ones(2), torch.zeros(2), torch.ones(1))
    assert y[:, 0].isnan().all()
    assert not y[:, 1].isnan().any()
