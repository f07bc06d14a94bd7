# SPDX-License-Identifier: Apache-2.0
"""The trained threshold: its powers of two, its gradient, and that training accumulates in it."""

import pytest
import torch

from yolo_hw.quant.qat.quantiser import FracLimits, Grid
from yolo_hw.quant.qat.seed.tpsq import TpsqQuantiser


def quantiser_at(threshold, grid=None):
    quantiser = TpsqQuantiser(grid or Grid(8)).double()
    with torch.no_grad():
        quantiser.threshold.fill_(threshold)
    return quantiser


def samples(count=400, scale=1.0):
    return scale * torch.randn(count, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("threshold", "frac"), [(1.0, 7), (1.5, 7), (1.51, 6), (-1.3, 7), (0.75, 8), (3.0, 6)])
def test_the_step_is_the_power_nearest_to_the_threshold(threshold, frac):
    quantiser = quantiser_at(threshold)
    assert quantiser.frac().tolist() == [frac]
    codes = torch.ldexp(quantiser(samples(scale=2.0)), torch.tensor(frac))
    expected = (torch.ldexp(samples(scale=2.0), torch.tensor(frac)) + 0.5).floor().clamp(-128, 127)
    assert torch.equal(codes, expected)


def straight(x, function):
    """A function with the gradient of the identity."""
    return x + (function(x) - x).detach()


@pytest.mark.parametrize("threshold", [1.3, 0.8, 1.0, -1.3])
@pytest.mark.parametrize("grid", [Grid(8), Grid(4), Grid(8, signed=False)], ids=str)
def test_the_gradient_is_that_of_the_formula(threshold, grid):
    """Clip to S', round straight-through, S' a constant times |S|: by torch's autograd of the elementary functions."""
    x, grad = samples(), torch.randn(400, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    quantiser, mine = quantiser_at(threshold, grid), x.clone().requires_grad_()
    quantiser(mine).backward(grad)

    parameter, theirs = torch.tensor(threshold, dtype=torch.float64, requires_grad=True), x.clone().requires_grad_()
    power = 2.0 ** (grid.magnitude_bits - int(quantiser.frac()))
    fmt, step = grid.format(), parameter.abs() * (power / abs(threshold)) / 2**grid.magnitude_bits
    v = (theirs / step).clamp(fmt.lo, fmt.hi)
    (step * straight(v, lambda v: (v + 0.5).floor().clamp(fmt.lo, fmt.hi))).backward(grad)
    torch.testing.assert_close(quantiser.threshold.grad, parameter.grad.reshape(1))
    inside = (mine.detach() / step.detach() > fmt.lo) & (mine.detach() / step.detach() < fmt.hi)
    torch.testing.assert_close(mine.grad[inside], theirs.grad[inside])
    assert (mine.grad[~inside] == 0).all()


def test_the_parameter_keeps_what_training_adds():
    """A threshold that was overwritten by its power of two would stay at 1 for ever under strides of 0.05."""
    quantiser = quantiser_at(1.0)
    x = samples(scale=2.0)
    optimizer = torch.optim.SGD(quantiser.parameters(), lr=1.0)
    seen = []
    for _ in range(14):
        before = quantiser.threshold.item()
        optimizer.zero_grad()
        ((quantiser(x) - x) ** 2).mean().backward()
        assert quantiser.threshold.item() == before
        quantiser.threshold.grad.clamp_(-0.05, 0.05)
        optimizer.step()
        seen.append(quantiser.threshold.item())
    assert seen[0] == pytest.approx(1.05)
    assert seen == sorted(seen)
    assert quantiser.frac().tolist() == [6]


def test_zero_and_negative_thresholds_give_numbers():
    for threshold in (0.0, -0.7, 1e-30):
        quantiser, x = quantiser_at(threshold), samples().requires_grad_()
        y = quantiser(x)
        y.sum().backward()
        assert y.isfinite().all()
        assert x.grad.isfinite().all()
        assert quantiser.threshold.grad.isfinite().all()


@pytest.mark.parametrize("channels", [1, 3])
def test_calibration_finds_the_most_similar_power(channels):
    """Of weights, too: [channels, values] of very different sizes."""
    x = samples(600).reshape(3, 200) * torch.tensor([[0.01], [1.0], [50.0]], dtype=torch.float64)
    quantiser = TpsqQuantiser(Grid(4), channels).double()
    quantiser.observe(x, first=True)
    for row, frac in zip(x.reshape(channels, -1), quantiser.frac().tolist(), strict=True):
        found = {f: similarity(row, f) for f in range(-12, 16)}
        assert found[frac] == max(found.values())
    chosen = quantiser.threshold.tolist()
    quantiser.observe(100 * x, first=False)
    assert quantiser.threshold.tolist() == chosen


def similarity(x, frac):
    rounded = (torch.ldexp(x, torch.tensor(frac)) + 0.5).floor().clamp(-8, 7)
    return float(torch.nn.functional.cosine_similarity(x, rounded, 0))


def test_zeros_are_calibrated():
    quantiser = TpsqQuantiser(Grid(8))
    quantiser.observe(torch.zeros(5), first=True)
    assert quantiser.frac().tolist() == [7]
    assert torch.equal(quantiser(torch.zeros(5)), torch.zeros(5))


def test_limits_bind_the_step_and_not_the_parameter():
    quantiser = quantiser_at(1.0)
    bound = FracLimits(torch.tensor([2], dtype=torch.int32), torch.tensor([4], dtype=torch.int32))
    assert quantiser.frac(bound).tolist() == [4]
    quantiser(samples(), bound).sum().backward()
    assert quantiser.threshold.item() == 1.0
    assert quantiser.threshold.grad.isfinite().all()
