# SPDX-License-Identifier: Apache-2.0
"""Learning rate, averaging, options, first weights: the small pieces of a run."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from yolo_hw.train import Optimizer, TrainConfig, TrainError
from yolo_hw.train.ema import RAMP_STEPS, AveragedModel
from yolo_hw.train.schedule import learning_rate

CONFIG = TrainConfig(epochs=11, warmup_epochs=1.0, learning_rate=0.1, final_lr_ratio=0.01)


def test_rate_rises_linearly_then_falls_along_a_cosine():
    rates = [learning_rate(step, 10, CONFIG) for step in range(110)]
    assert rates[:10] == pytest.approx([0.01 * (i + 1) for i in range(10)])
    assert rates[10] == pytest.approx(0.1)
    assert rates[109] == pytest.approx(0.001)
    assert rates[10:] == sorted(set(rates[10:]), reverse=True)
    third = 10 + 99 / 3  # cos(pi / 3) = 1 / 2
    assert rates[round(third)] == pytest.approx(0.001 + 0.099 * 0.75)


def test_rate_without_warmup_starts_at_its_highest():
    config = TrainConfig(epochs=2, warmup_epochs=0, learning_rate=0.1)
    assert learning_rate(0, 5, config) == pytest.approx(0.1)


def test_average_follows_the_recurrence():
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    averaged = AveragedModel(model, 0.9)
    expected = 1.0
    for update, value in enumerate((2.0, -1.0, 5.0), start=1):
        with torch.no_grad():
            model.weight.fill_(value)
        averaged.update(model)
        decay = 0.9 * (1 - math.exp(-update / RAMP_STEPS))
        expected = decay * expected + (1 - decay) * value
        assert averaged.model.weight.item() == pytest.approx(expected)


def test_a_tensor_of_several_names_moves_once():
    model = nn.ModuleDict({"one": nn.Linear(2, 2), "other": nn.Linear(2, 2)})
    model["other"].weight = model["one"].weight
    averaged = AveragedModel(model, 0.9)
    before = averaged.model["one"].weight.clone()
    with torch.no_grad():
        model["one"].weight += 1
        model["other"].bias += 1
    averaged.update(model)
    share = 1 - 0.9 * (1 - math.exp(-1 / RAMP_STEPS))
    assert averaged.model["other"].weight is averaged.model["one"].weight
    torch.testing.assert_close(averaged.model["one"].weight, before + share)
    torch.testing.assert_close(averaged.model["other"].bias, model["other"].bias - (1 - share))


def test_average_includes_batch_norm_statistics_and_leaves_the_model_alone():
    model = nn.BatchNorm2d(2)
    averaged = AveragedModel(model, 0.9)
    model.running_mean.fill_(4.0)
    model.num_batches_tracked.fill_(7)
    averaged.update(model)
    assert (averaged.model.running_mean > 3.9).all()  # the decay has only begun to rise
    assert averaged.model.num_batches_tracked == 7
    assert (model.running_mean == 4).all()
    assert not any(p.requires_grad for p in averaged.model.parameters())
    assert not averaged.model.training


@pytest.mark.parametrize(
    "options",
    [
        {"epochs": 0},
        {"batch": 0},
        {"learning_rate": 0.0},
        {"final_lr_ratio": 2.0},
        {"momentum": 1.0},
        {"ema_decay": 1.0},
        {"warmup_epochs": 60.0},
        {"clip_norm": -1.0},
        {"workers": -1},
    ],
)
def test_options_refuse_what_cannot_be(options):
    with pytest.raises(TrainError, match=f"TrainConfig: {next(iter(options))} must be"):
        TrainConfig(**options)


def test_options_cannot_be_changed():
    with pytest.raises(AttributeError):
        CONFIG.epochs = 3  # type: ignore[misc]
    assert TrainConfig(optimizer=Optimizer("adamw")).optimizer is Optimizer.ADAMW


def test_first_weights_depend_on_the_seed_alone(make_model):
    a, b, c = make_model(0), make_model(0), make_model(1)
    assert torch.equal(a.block("conv_1").conv.weight, b.block("conv_1").conv.weight)
    assert not torch.equal(a.block("conv_1").conv.weight, c.block("conv_1").conv.weight)


def test_network_starts_by_seeing_almost_nothing(make_model):
    raw = make_model().eval()(torch.rand(1, 3, 32, 32))[0]
    assert raw[:, 4].sigmoid().mean().item() == pytest.approx(0.01, rel=0.3)
