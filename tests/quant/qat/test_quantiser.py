# SPDX-License-Identifier: Apache-2.0
"""Quantisers: their fraction bits, what limits them, what moves them, what freezes them."""

import pytest
import torch

from yolo_hw.errors import QuantError
from yolo_hw.fixedpoint import FixedPoint, Overflow, Rounding, quantise
from yolo_hw.quant.qat.config import QatConfig, ScaleMethod
from yolo_hw.quant.qat.methods import make_quantiser
from yolo_hw.quant.qat.quantiser import FracLimits, Grid, RangeQuantiser

LEARNING = [method for method in ScaleMethod if method.learns]
FOLLOWING = [ScaleMethod.RANGE, ScaleMethod.GOOGLE, ScaleMethod.GOOGLE_FLOAT]
POWERS = [method for method in ScaleMethod if method.power_of_two]
FRACS = torch.tensor([-7, 0, 3, 15])


def limits(lowest, highest):
    return FracLimits(torch.tensor([lowest], dtype=torch.int32), torch.tensor([highest], dtype=torch.int32))


@pytest.mark.parametrize("method", POWERS)
@pytest.mark.parametrize("grid", [Grid(8), Grid(4, signed=False), Grid(16), Grid(2)], ids=str)
def test_fraction_bits_that_are_set_are_those_in_use(method, grid):
    quantiser = make_quantiser(method, grid, len(FRACS)).eval()
    quantiser.set_frac(FRACS)
    assert quantiser.frac().tolist() == FRACS.tolist()
    x = torch.randn(len(FRACS), 500, dtype=torch.float64) * 40 * 2.0 ** -FRACS[:, None]
    y = quantiser(x)
    for row, codes, frac in zip(x, torch.ldexp(y, FRACS[:, None]), FRACS.tolist(), strict=True):
        assert codes.tolist() == quantise(row.numpy(), FixedPoint(grid.bits, frac, grid.signed)).tolist()


@pytest.mark.parametrize("method", POWERS)
def test_limits_hold(method):
    quantiser = make_quantiser(method, Grid(8), len(FRACS)).eval()
    quantiser.set_frac(FRACS)
    assert quantiser.frac(limits(-2, 5)).tolist() == [-2, 0, 3, 5]
    x = torch.linspace(-3, 3, 101).expand(4, -1)
    codes = torch.ldexp(quantiser(x, limits(-2, 5)), torch.tensor([-2, 0, 3, 5])[:, None])
    assert torch.equal(codes, codes.round())


@pytest.mark.parametrize("method", [ScaleMethod.TQT, ScaleMethod.LSQ])
@pytest.mark.parametrize("start", [2, 8])
def test_a_learned_step_comes_back_from_its_bounds(method, start):
    """It begins at one or a little outside; where the best step is outside, too, it goes no further."""
    x = torch.randn(4096, generator=torch.Generator().manual_seed(0))  # 5 fraction bits are best
    for allowed, end in ((limits(2, 8), 5), (limits(8, 12), 8), (limits(-2, 2), 2)):
        quantiser = make_quantiser(method, Grid(8))
        begin = start if end == 5 else end
        quantiser.set_frac(torch.tensor([begin]))
        (parameter,) = quantiser.parameters()
        parameter.data += 0.3 if begin == 2 else -0.3
        optimizer = torch.optim.Adam(quantiser.parameters(), lr=0.1)
        for _ in range(200):
            optimizer.zero_grad()
            ((quantiser(x, allowed) - x) ** 2).mean().backward()
            optimizer.step()
        found = int(quantiser.frac(allowed))
        assert abs(found - end) <= (end == 5), (allowed, found)
        assert abs(int(quantiser.frac()) - found) <= 1


@pytest.mark.parametrize(("method", "starts"), [(ScaleMethod.TQT, (0, 10)), (ScaleMethod.LSQ, (0, 10)),
                                                (ScaleMethod.TPSQ, (3, 10))])  # fmt: skip
def test_a_learned_step_finds_the_range(method, starts):
    """Starting too coarse or too fine it ends at the best step, or beside it: it swings around a threshold."""
    x = torch.randn(4096, generator=torch.Generator().manual_seed(0))
    errors = {frac: float(((make_fixed(frac)(x) - x) ** 2).mean()) for frac in range(-4, 12)}
    best = min(errors, key=errors.get)
    for start in starts:
        quantiser = make_quantiser(method, Grid(8))
        quantiser.set_frac(torch.tensor([start]))
        optimizer = torch.optim.Adam(quantiser.parameters(), lr=0.1)
        for _ in range(200):
            optimizer.zero_grad()
            ((quantiser(x) - x) ** 2).mean().backward()
            optimizer.step()
        assert abs(int(quantiser.frac()) - best) <= 1, (start, best, quantiser.frac())


def make_fixed(frac, bits=8):
    quantiser = make_quantiser(ScaleMethod.FIXED, Grid(bits))
    quantiser.set_frac(torch.tensor([frac]))
    return quantiser


@pytest.mark.parametrize("method", [*LEARNING, *FOLLOWING])
def test_frozen_fraction_bits_rest(method):
    quantiser = make_quantiser(method, Grid(8), momentum=0.5).train()
    quantiser.set_frac(torch.tensor([2]))
    quantiser.frozen.fill_(True)
    before = {name: value.clone() for name, value in quantiser.state_dict().items()}
    x = (100 * torch.randn(50)).requires_grad_()
    quantiser(x).square().sum().backward()
    assert all(p.grad is None for p in quantiser.parameters())
    assert x.grad.abs().sum() > 0
    assert all(torch.equal(value, before[name]) for name, value in quantiser.state_dict().items())


@pytest.mark.parametrize("bits", [2, 8, 16])
@pytest.mark.parametrize("signed", [True, False])
def test_a_range_is_the_finest_that_clips_nothing(bits, signed):
    quantiser = RangeQuantiser(Grid(min(bits, 15 + signed), signed)).train()
    for seed in range(20):
        x = torch.rand(100, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 3.0 ** (seed - 10)
        top = float(x.max())
        quantiser(x)
        fmt = quantiser.format()
        assert top < (fmt.hi + 0.5) * fmt.step
        assert top * 2 > (fmt.hi + 0.49) * fmt.step


def test_a_moving_range_follows_slowly():
    quantiser = RangeQuantiser(Grid(8), momentum=0.25).train()
    quantiser.largest.fill_(8.0)
    quantiser(torch.tensor([-16.0, 3.0]))
    assert quantiser.largest.item() == 10.0
    quantiser.eval()(torch.tensor([100.0]))
    assert quantiser.largest.item() == 10.0


def test_nothing_but_zeros_has_a_format():
    quantiser = RangeQuantiser(Grid(8), channels=2).train()
    x = torch.tensor([[0.0, 0.0], [0.5, -1.0]])
    assert torch.equal(quantiser(x), x)
    assert quantiser.frac()[0] == 7


@pytest.mark.parametrize("method", LEARNING)
def test_thresholds_do_not_wrap(method):
    with pytest.raises(QuantError, match=f"{method.value}: overflow must saturate"):
        make_quantiser(method, Grid(8, overflow=Overflow.WRAP))


@pytest.mark.parametrize("rounding", list(Rounding))
@pytest.mark.parametrize("method", POWERS)
def test_every_rounding(method, rounding):
    quantiser = make_quantiser(method, Grid(8, rounding=rounding)).eval()
    quantiser.set_frac(torch.tensor([1]))
    x = torch.arange(-20, 20, dtype=torch.float64) / 8
    expected = quantise(x.numpy(), FixedPoint(8, 1), rounding)
    assert (2 * quantiser(x)).tolist() == expected.tolist()


def test_momentum_out_of_range_is_refused():
    with pytest.raises(QuantError, match=r"range_momentum must be in \(0, 1\], got 0"):
        QatConfig(range_momentum=0)


@pytest.mark.parametrize("method", FOLLOWING)
def test_the_tensors_of_a_batch_are_one_step_of_the_average(method):
    """Whatever their order; and outside of a batch every tensor is one."""
    small, large = torch.tensor([[-1.0, 0.5]]), torch.tensor([[0.5, 3.0]])
    found = []
    for tensors in ([small, large], [large, small], [torch.cat([small, large])]):
        quantiser = make_quantiser(method, Grid(8), momentum=0.25).train()
        quantiser.largest.fill_(2.0)
        with quantiser.one_batch():
            for x in tensors:
                quantiser(x)
        found.append(quantiser.largest.item())
    assert found == [0.75 * 2 + 0.25 * 3] * 3
    quantiser(small)
    quantiser(small)
    assert quantiser.largest.item() == 0.75 * (0.75 * 2.25 + 0.25) + 0.25
