# SPDX-License-Identifier: Apache-2.0
"""Cross entropies: values by hand, one formula at its limits, gradients by differences."""

from __future__ import annotations

import math

import pytest
import torch

from yolo_hw.train import Focal, TrainError
from yolo_hw.train.loss_entropy import as_logits, at_least_float32, binary_entropy, one_hot


def logit(p):
    return math.log(p / (1 - p))


def value(p, goal, focal=None):
    x = torch.tensor([logit(p)], dtype=torch.float64)
    return binary_entropy(x, torch.tensor([goal], dtype=torch.float64), focal).item()


def test_plain_entropy_of_known_probabilities():
    assert value(0.25, 1.0) == pytest.approx(math.log(4))
    assert value(0.25, 0.0) == pytest.approx(-math.log(0.75))
    assert value(0.5, 0.3) == pytest.approx(math.log(2))


def test_focal_loss_of_known_probabilities():
    """Eq. (5) of Lin et al.: ``-alpha_t (1 - p_t)**gamma log(p_t)``."""
    focal = Focal(gamma=2.0, alpha=0.25)
    assert value(0.9, 1.0, focal) == pytest.approx(0.25 * 0.1**2 * -math.log(0.9))
    assert value(0.9, 0.0, focal) == pytest.approx(0.75 * 0.9**2 * -math.log(0.1))


def test_focal_loss_between_the_labels_is_linear_in_the_goal():
    focal = Focal(gamma=1.5, alpha=0.3)
    between = 0.8 * value(0.6, 1.0, focal) + 0.2 * value(0.6, 0.0, focal)
    assert value(0.6, 0.8, focal) == pytest.approx(between)


def test_focal_loss_with_gamma_zero_and_no_alpha_is_the_plain_entropy():
    x = torch.linspace(-8, 8, 33, dtype=torch.float64)
    goals = torch.linspace(0, 1, 33, dtype=torch.float64)
    torch.testing.assert_close(binary_entropy(x, goals, Focal(gamma=0.0, alpha=None)), binary_entropy(x, goals))


@pytest.mark.parametrize("focal", [None, Focal(), Focal(gamma=0.5, alpha=None)], ids=["plain", "focal", "root"])
def test_gradient(focal):
    x = torch.linspace(-6, 6, 13, dtype=torch.float64).requires_grad_()
    goals = torch.linspace(0, 1, 13, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda t: binary_entropy(t, goals, focal), x)


@pytest.mark.parametrize("focal", [None, Focal(), Focal(gamma=0.5)], ids=["plain", "focal", "root"])
def test_extreme_logits_stay_finite(focal):
    x = torch.tensor([-1e4, -200.0, 200.0, 1e4], requires_grad=True)
    for goal in (0.0, 1.0):
        loss = binary_entropy(x, torch.full_like(x, goal), focal).sum()
        (gradient,) = torch.autograd.grad(loss, x)
        assert torch.isfinite(loss)
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("outcomes", "wanted"),
    [(2, [[0.05, 0.95, 0.05, 0.05]]), (4, [[0.025, 0.925, 0.025, 0.025]])],
    ids=["sigmoids", "softmax"],
)
def test_smoothed_labels(outcomes, wanted):
    goals = one_hot(torch.tensor([1]), 4, 0.1, outcomes, torch.zeros(0, dtype=torch.float64))
    torch.testing.assert_close(goals, torch.tensor(wanted, dtype=torch.float64))


def test_unsmoothed_labels_are_exact():
    assert one_hot(torch.tensor([2, 0]), 3, 0.0, 2, torch.zeros(0)).tolist() == [[0, 0, 1], [1, 0, 0]]


def test_logits_of_probabilities_and_their_ends():
    p = torch.tensor([0.0, 0.2, 1.0], dtype=torch.float64, requires_grad=True)
    x = as_logits(p)
    assert x[1].item() == pytest.approx(logit(0.2))
    x.sum().backward()
    assert torch.isfinite(x).all()
    assert p.grad.tolist() == pytest.approx([0.0, 1 / (0.2 * 0.8), 0.0])


@pytest.mark.parametrize(
    ("given", "wanted"),
    [(torch.float16, torch.float32), (torch.bfloat16, torch.float32), (torch.float64, torch.float64)],
)
def test_narrow_types_become_float32(given, wanted):
    assert at_least_float32(torch.zeros(1, dtype=given)).dtype == wanted


@pytest.mark.parametrize("options", [{"gamma": -1.0}, {"alpha": 1.5}])
def test_focal_refuses_what_cannot_be(options):
    with pytest.raises(TrainError, match=f"Focal: {next(iter(options))} must be"):
        Focal(**options)
