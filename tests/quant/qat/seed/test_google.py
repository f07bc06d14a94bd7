# SPDX-License-Identifier: Apache-2.0
"""Steps from ranges: the rule of the nearest power, moving averages, steps that are no powers of two."""

import math

import numpy as np
import pytest
import torch

from yolo_hw.errors import QuantError
from yolo_hw.quant.qat import QatConfig, ScaleMethod
from yolo_hw.quant.qat.quantiser import Grid
from yolo_hw.quant.qat.seed.google import GoogleFloatQuantiser, GoogleQuantiser
from yolo_hw.quant.qat.seed.ranges import frac_of_range, nearest_power, round_to_step


def by_distance(largest):
    """The rule in words: of the powers of two around, the nearer one; the lower one of a tie."""
    floor = 2.0 ** math.floor(math.log2(largest))
    return int(math.log2(2 * floor if abs(2 * floor - largest) < abs(floor - largest) else floor))


def test_the_rule_of_the_nearest_power():
    table = {1.0: 0, 1.49: 0, 1.5: 0, 1.51: 1, 2.0: 1, 3.0: 1, 3.01: 2, 0.75: -1, 0.7500001: 0, 96.0: 6, 97.0: 7}
    assert nearest_power(torch.tensor(list(table), dtype=torch.float64)).tolist() == list(table.values())
    values = np.exp(np.random.default_rng(0).uniform(-30, 30, 2000))
    assert nearest_power(torch.from_numpy(values)).tolist() == [by_distance(value) for value in values]
    above = np.nextafter(1.5, 2)
    assert nearest_power(torch.tensor([1.5, above], dtype=torch.float64)).tolist() == [0, 1]


@pytest.mark.parametrize(("grid", "fracs"), [(Grid(8), [7, 7, 7, 6]), (Grid(4, signed=False), [3, 4, 4, 3])])
def test_fraction_bits_of_a_range(grid, fracs):
    assert frac_of_range(torch.tensor([0.0, 1.0, 1.5, 1.6]), grid).tolist() == fracs


def test_at_most_a_third_is_cut():
    for largest in torch.linspace(0.01, 8, 500):
        quantiser = GoogleQuantiser(Grid(8)).train()
        y = quantiser(torch.stack([largest, -largest]))
        assert y[1] <= -largest * 2 / 3
        assert y[0] >= largest * 2 / 3 * 127 / 128


def test_weights_have_the_range_they_have_now():
    """Not the largest ever: a range that kept the tensor by reference would follow it, a copy would not forget."""
    quantiser = GoogleQuantiser(Grid(8), channels=2).train()
    weight = torch.tensor([[4.0, -1.0], [0.25, 0.5]])
    quantiser(weight)
    assert quantiser.frac().tolist() == [5, 8]
    weight.mul_(8)
    assert quantiser.frac().tolist() == [5, 8]
    quantiser.eval()(weight)
    assert quantiser.frac().tolist() == [5, 8]
    quantiser.train()(weight)
    assert quantiser.frac().tolist() == [2, 5]
    quantiser(weight / 64)
    assert quantiser.frac().tolist() == [8, 11]


@pytest.mark.parametrize("kind", [GoogleQuantiser, GoogleFloatQuantiser])
def test_calibration_assigns_then_averages_as_training_does(kind):
    quantiser = kind(Grid(8), momentum=0.1).eval()
    for first, size in ((True, 4.0), (False, 8.0)):
        quantiser.observe(torch.tensor([0.5, -size]), first)
    assert quantiser.largest.item() == pytest.approx(0.9 * 4 + 0.1 * 8)
    quantiser.train()(torch.tensor([1.0]))
    assert quantiser.largest.item() == pytest.approx(0.9 * 4.4 + 0.1 * 1)
    quantiser.observe(torch.tensor([3.0]), True)
    assert quantiser.largest.item() == 3.0
    assert QatConfig(a_scale=ScaleMethod.GOOGLE).range_momentum == 0.1


def test_values_that_a_relu_removes_do_not_count():
    quantiser = GoogleQuantiser(Grid(8, signed=False)).train()
    quantiser(torch.tensor([-100.0, 1.0]))
    assert quantiser.largest.item() == 1.0


def test_a_float_step_clips_nothing_and_is_numpys():
    x = torch.randn(300, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    quantiser = GoogleFloatQuantiser(Grid(4)).train().double()
    largest = float(x.abs().max())
    expected = np.floor(x.numpy() / (largest / 7) + 0.5) * (largest / 7)
    np.testing.assert_allclose(quantiser(x).numpy(), expected, rtol=1e-12, atol=1e-12)
    assert float(quantiser(x).abs().max()) == pytest.approx(largest)


def test_a_float_step_per_channel():
    x = torch.tensor([[[0.9], [-3.0]], [[0.2], [0.7]]])
    y = round_to_step(x, torch.tensor([1.0, 0.5]), Grid(4))
    assert y.tolist() == [[[1.0], [-3.0]], [[0.0], [0.5]]]


@pytest.mark.parametrize("kind", [GoogleQuantiser, GoogleFloatQuantiser])
def test_the_gradient_passes_where_nothing_is_clipped(kind):
    quantiser = kind(Grid(8)).eval()
    quantiser.set_frac(torch.tensor([7]))
    x = torch.tensor([0.3, -0.9, 2.0, -2.0], requires_grad=True)
    quantiser(x).backward(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert x.grad.tolist() == pytest.approx([1, 2, 0, 0])


@pytest.mark.parametrize("kind", [GoogleQuantiser, GoogleFloatQuantiser])
@pytest.mark.parametrize("channels", [1, 2])
def test_nothing_but_zeros_stays_zero(kind, channels):
    quantiser = kind(Grid(8), channels).train()
    x = torch.zeros(2, 3, requires_grad=True)
    y = quantiser(x)
    y.sum().backward()
    assert torch.equal(y, torch.zeros(2, 3))
    assert torch.equal(x.grad, torch.ones(2, 3))
    if kind.power_of_two:
        assert quantiser.frac().tolist() == [7] * channels


def test_a_float_step_has_no_fraction_bits():
    with pytest.raises(QuantError, match="google-float: the step is no power of two"):
        GoogleFloatQuantiser(Grid(8)).frac()
