# SPDX-License-Identifier: Apache-2.0
"""Trained thresholds (TQT) and steps (LSQ): tables by hand, the papers' form under autograd, the order of sums."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from yolo_hw.fixedpoint import FixedPoint, Overflow, Rounding
from yolo_hw.ops import fake_quant_lsq, fake_quant_pow2, fake_quant_tqt, reference

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=needs_cuda)]
LEARNED_BACKWARD = torch.ops.yolo_hw.fake_quant_learned_backward


def gradients(y: Tensor, leaves: list[Tensor], grad: Tensor) -> list[Tensor]:
    return [g.cpu() for g in torch.autograd.grad(y, leaves, grad)]


@pytest.mark.parametrize("device", DEVICES)
def test_threshold_to_fraction_bits(device: str) -> None:
    """4 bits signed: frac = 3 - ceil(log2 t); unsigned: 4 - ceil(log2 t)."""
    x = torch.tensor([100.0, -100.0], device=device)
    for log2_t, limit in ((0.0, 1.0), (0.001, 2.0), (-0.5, 1.0), (-1.0, 0.5), (3.2, 16.0)):
        t = torch.tensor([log2_t], device=device)
        assert fake_quant_tqt(x, t, bits=4).tolist() == [limit * 7 / 8, -limit]
        assert fake_quant_tqt(x, t, bits=4, signed=False).tolist() == [limit * 15 / 16, 0.0]
        narrow = fake_quant_tqt(x, t, bits=4, overflow=Overflow.SATURATE_SYMMETRIC)
        assert narrow.tolist() == [limit * 7 / 8, -limit * 7 / 8]
    wide = fake_quant_tqt(x * 1000, torch.tensor([16.0], device=device), bits=16, signed=False)
    assert wide.tolist() == [65535.0, 0.0]


@pytest.mark.parametrize("device", DEVICES)
def test_scale_to_the_nearest_power_of_two(device: str) -> None:
    """sqrt(2)/2 parts 1/2 from 1 in the logarithm; 8 bits: the largest value is 127 steps."""
    x = torch.tensor([1e6], device=device)
    for scale, step in ((1.0, 1.0), (0.7072, 1.0), (0.7071, 0.5), (1.4142, 1.0), (1.4143, 2.0), (3e-3, 2.0**-8)):
        assert fake_quant_lsq(x, torch.tensor([scale], device=device)).item() == 127 * step


@pytest.mark.parametrize("device", DEVICES)
def test_gradient_tables(device: str) -> None:
    """4 bits signed, step 1/4 (t = 2): scaled values, what passes, and the slope to the step, by hand."""
    scaled = torch.tensor([-9.0, -8.5, -8.0, -0.3, 0.5, 7.0, 7.25, 7.5, 100.0], device=device)
    tqt = ([0, 1, 1, 1, 1, 1, 1, 0, 0], [-8, 0.5, 0, 0.3, 0.5, 0, -0.25, 7, 7])
    lsq = ([0, 0, 0, 1, 1, 0, 0, 0, 0], [-8, -8, -8, 0.3, 0.5, 7, 7, 7, 7])
    for i in range(len(scaled)):
        for table, function, number, factor in (
            (tqt, fake_quant_tqt, 1.0, 0.25 * math.log(2)),
            (lsq, lambda x, p, bits: fake_quant_lsq(x, p, bits, grad_scale=0.5), 0.25, 0.5),
        ):
            x = (scaled[i : i + 1] / 4).requires_grad_()
            parameter = torch.tensor([number], device=device, requires_grad=True)
            dx, dp = gradients(function(x, parameter, 4), [x, parameter], torch.tensor([3.0], device=device))
            assert dx.item() == 3 * table[0][i], (i, factor)
            assert dp.item() == pytest.approx(3 * table[1][i] * factor, rel=1e-6), i


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("shape", "axis", "channels"), [((7, 9, 5, 6), 1, 9), ((70, 101), 0, 70), ((9001,), 0, 1)])
def test_gradients_equal_the_papers_form(device: str, shape: tuple[int, ...], axis: int, channels: int) -> None:
    generator = torch.Generator().manual_seed(11)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    grad = torch.randn(shape, generator=generator, dtype=torch.float64)
    log2_t = torch.randn(channels, generator=generator, dtype=torch.float64)
    for fmt, rounding in itertools.product((FixedPoint(4, 0), FixedPoint(5, 0, signed=False)), Rounding):
        here = [t.to(device).requires_grad_() for t in (x.clone(), log2_t.clone())]
        plain = [t.clone().requires_grad_() for t in (x, log2_t)]
        y = fake_quant_tqt(here[0], here[1], fmt.bits, fmt.signed, rounding, axis=axis)
        want = reference.fake_quant_tqt(plain[0], plain[1], fmt, rounding, axis=axis)
        assert torch.equal(y.cpu(), want)
        got, expected = gradients(y, here, grad.to(device)), gradients(want, plain, grad)
        assert torch.equal(got[0], expected[0])
        assert 0 < int((got[0] == 0).sum()) < x.numel()
        torch.testing.assert_close(got[1], expected[1], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("device", DEVICES)
def test_lsq_gradients_equal_the_papers_pseudocode(device: str) -> None:
    generator = torch.Generator().manual_seed(12)
    x = torch.randn(6, 5, 40, generator=generator, dtype=torch.float64)
    grad = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    scale = torch.rand(5, generator=generator, dtype=torch.float64) + 0.05
    fmt = FixedPoint(3, 0)
    grad_scale = 1 / math.sqrt(6 * 40 * fmt.hi)
    here = [t.to(device).requires_grad_() for t in (x.clone(), scale.clone())]
    plain = [t.clone().requires_grad_() for t in (x, scale)]
    y = fake_quant_lsq(here[0], here[1], fmt.bits, axis=1)
    want = reference.fake_quant_lsq(plain[0], plain[1], fmt, grad_scale, axis=1)
    assert torch.equal(y.cpu(), want)
    got, expected = gradients(y, here, grad.to(device)), gradients(want, plain, grad)
    torch.testing.assert_close(got[0], expected[0], rtol=1e-12, atol=0)
    torch.testing.assert_close(got[1], expected[1], rtol=1e-10, atol=1e-12)


def sum_in_order(products: Tensor) -> float:
    """The sum of csrc/core/learned_step.h: lanes of chunks in float32, halves and groups in float64."""
    partials = []
    for chunk in products.split(2048):
        lanes = torch.zeros(32)
        for row in chunk.split(32):
            lanes[: len(row)] += row
        wide = lanes.double()
        while len(wide) > 1:
            wide = wide[: len(wide) // 2] + wide[len(wide) // 2 :]
        partials.append(float(wide[0]))
    while len(partials) > 1:
        partials = [sum(partials[i + 1 : i + 32], start=partials[i]) for i in range(0, len(partials), 32)]
    return partials[0]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("memory", ["contiguous", "channels_last"])
def test_threshold_gradient_has_a_fixed_order(device: str, memory: str) -> None:
    generator = torch.Generator().manual_seed(13)
    x, grad = (torch.randn(5, 3, 37, 53, generator=generator) for _ in range(2))
    log2_t = torch.tensor([-1.0, 0.5, 1.0])
    scaled = torch.ldexp(x, (7 - torch.ceil(log2_t)).int().reshape(1, 3, 1, 1))
    codes = reference.round_real(scaled)
    slope = torch.where(codes > 127, 127.0, torch.where(codes < -128, -128.0, codes - scaled))
    sums = torch.tensor([sum_in_order((grad * slope)[:, c].flatten()) for c in range(3)], dtype=torch.float64)
    step = torch.exp2(torch.ceil(log2_t).double() - 7)
    want = (sums * (step * math.log(2))).float()
    if memory == "channels_last":
        x, grad = (t.to(memory_format=torch.channels_last) for t in (x, grad))
    args = (1, 8, True, 0, 0, 0, 1.0)
    grad_x, got = LEARNED_BACKWARD(grad.to(device), x.to(device), log2_t.to(device), *args)
    assert torch.equal(got.cpu(), want)
    assert torch.equal(grad_x.cpu(), torch.where((codes >= -128) & (codes <= 127), grad, 0.0))
    assert grad_x.stride() == x.stride()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(4500, 150), (5, 3, 600), (9, 4, 511), (3, 2, 2049), (2, 70, 2048), (600, 5, 9)])
def test_a_channel_sums_as_if_alone(device: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """Neighbouring channels, short runs, long ones that end inside of a chunk: the order of a channel is its own."""
    generator = torch.Generator().manual_seed(15)
    x, grad = (torch.randn(shape, generator=generator).to(device, dtype) for _ in range(2))
    log2_t = torch.randn(shape[1], generator=generator).to(device)
    args = (8, True, 0, 0, 0, 1.0)
    grad_x, grad_t = LEARNED_BACKWARD(grad, x, log2_t, 1, *args)
    strided = LEARNED_BACKWARD(grad.repeat_interleave(2, 0)[::2], x, log2_t, 1, *args)
    assert torch.equal(strided[0], grad_x)
    assert torch.equal(strided[1], grad_t)
    for c in range(0, shape[1], 37 if shape[1] > 37 else 1):
        alone = LEARNED_BACKWARD(grad[:, c].contiguous(), x[:, c].contiguous(), log2_t[c : c + 1], 0, *args)
        assert torch.equal(grad_x[:, c], alone[0])
        assert torch.equal(grad_t[c : c + 1], alone[1])


def test_nan_reaches_the_threshold_and_no_elements_give_zero() -> None:
    log2_t = torch.zeros(3, requires_grad=True)
    fake_quant_tqt(torch.zeros(2, 3, 0), log2_t, axis=1).sum().backward()
    assert log2_t.grad is not None
    assert log2_t.grad.tolist() == [0.0] * 3
    one = torch.zeros(1, requires_grad=True)
    x = torch.tensor([math.nan, 0.1], requires_grad=True)
    fake_quant_tqt(x, one).sum().backward()
    assert one.grad is not None
    assert one.grad.isnan().all()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 1.0]


def test_forward_is_the_plain_operator() -> None:
    x = torch.randn(3, 50, generator=torch.Generator().manual_seed(14)) * 3
    assert torch.equal(fake_quant_tqt(x, torch.tensor([1.5])), fake_quant_pow2(x, FixedPoint(8, 5)))
    out = torch.empty_like(x)
    for bits, signed, rounding in itertools.product((5, 8), (False, True), Rounding):
        assert fake_quant_lsq(x, torch.tensor([0.3]), bits, signed, rounding, out=out) is out
        assert torch.equal(out, fake_quant_pow2(x, FixedPoint(bits, 2, signed), rounding))
    with pytest.raises(RuntimeError, match="fake_quant_tqt: out= does not support"):
        fake_quant_tqt(x, torch.tensor([1.5], requires_grad=True), out=out)
