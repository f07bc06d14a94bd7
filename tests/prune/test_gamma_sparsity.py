# SPDX-License-Identifier: Apache-2.0
"""The penalty on batch-norm scales: its gradient whatever the step is made of, its schedule, its resumption."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.interrupted import InterruptedRunError, StopAt
from support.prune_ranks import KeepGradients, no_loss
from support.tiny_training import detector
from torch import nn

from yolo_hw.errors import PruneError
from yolo_hw.prune.gamma_sparsity import Decay, GammaSparsity, Penalty, StrengthSchedule, batch_norms
from yolo_hw.train import Callback, Precision, SaveCheckpoint, TrainConfig, YoloLoss, fit

STRENGTH = 0.01
TESTS = Path(__file__).parents[1]
NORMS = ["blocks.conv_0.bn", "blocks.conv_1.bn", "blocks.conv_2.bn"]


class ScaleLoss(Callback):
    """Scales the loss as a float16 run does, on the CPU."""

    def on_start(self, state):
        state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)


def gradients(data, sparsity, *, scaled=False, loss=no_loss, model=None, **options):
    """Steps of (scales, their gradients) by batch norm."""
    kept = KeepGradients()
    callbacks = [*([ScaleLoss()] if scaled else []), sparsity, kept]
    config = TrainConfig(**{"epochs": 2, "warmup_epochs": 0, "ema_decay": 0, "clip_norm": 0, **options})
    fit(model or detector(), data, config, loss=loss, regularisers=[sparsity], callbacks=callbacks)
    return kept.steps


def with_zeros():
    """A model with scales of both signs, some of them zero."""
    model = detector()
    with torch.no_grad():
        for norm in batch_norms(model, ["*"]).values():
            norm.weight.copy_(torch.linspace(0.5, 1.5, len(norm.weight)))
            norm.weight[::2] *= -1
            norm.weight[::5] = 0
    return model


def strength32(value=STRENGTH):
    return torch.tensor(value, dtype=torch.float32)


@pytest.mark.parametrize("batch", [4, 8])
@pytest.mark.parametrize("accumulate", [1, 2, 4])
@pytest.mark.parametrize(("precision", "scaled"), [("fp32", False), ("fp32", True), ("bf16", False), ("bf16", True)])
def test_gradient_is_strength_times_sign(squares, batch, accumulate, precision, scaled):
    options = {"batch": batch, "accumulate": accumulate, "precision": Precision(precision), "scaled": scaled}
    steps = gradients(squares, GammaSparsity(["*"], STRENGTH), model=with_zeros(), **options)
    assert len(steps) == 16 // batch
    for step in steps:
        assert list(step) == NORMS
        for scales, gradient in step.values():
            assert torch.equal(gradient, strength32() * scales.sign())


@pytest.mark.parametrize("processes", [1, 2])
def test_processes_share_gradient_and_masks(tmp_path, processes):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [*launcher, "-m", "support.prune_ranks", str(tmp_path / "result.pt"), str(STRENGTH)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    result = torch.load(tmp_path / "result.pt", weights_only=True)
    assert len(result["everywhere"]) == processes
    assert len(result["steps"]) == 4
    for step in result["steps"]:
        for scales, gradient in step.values():
            assert torch.equal(gradient, strength32() * scales.sign())
    first, masks = result["everywhere"][0]
    total = sum(mask.numel() for mask in masks.values())
    assert sum(int((~mask).sum()) for mask in masks.values()) == round(0.5 * total)
    for weights, others in result["everywhere"]:
        for name, mask in masks.items():
            assert torch.equal(mask, others[name])
            assert torch.equal(weights[name], first[name])
            assert torch.equal(weights[name] != 0, mask)


def test_penalty_adds_to_the_gradient_of_the_loss(squares):
    model = detector()
    loss = YoloLoss.of_network(model.network)
    plain = gradients(squares, GammaSparsity(["*"], 0.0), loss=loss, batch=4)[0]
    penalised = gradients(squares, GammaSparsity(["*"], STRENGTH), loss=loss, batch=4)[0]
    for name, (scales, gradient) in penalised.items():
        added = gradient - plain[name][1]
        torch.testing.assert_close(added, STRENGTH * scales.sign(), rtol=0, atol=1e-6 * float(gradient.abs().max()))


def test_only_the_named_scales_are_penalised_with_their_weights(squares):
    weights = {"blocks.conv_2.bn": torch.linspace(0, 2, 24)}
    sparsity = GammaSparsity(["blocks.conv_0", "blocks.conv_2.b?"], STRENGTH, weights=weights)
    for step in gradients(squares, sparsity, batch=8):
        for name, (scales, gradient) in step.items():
            factor = {"blocks.conv_0.bn": torch.ones(12), "blocks.conv_1.bn": torch.zeros(24), **weights}[name]
            assert torch.equal(gradient, strength32() * factor * scales.sign())


@pytest.mark.parametrize("accumulate", [1, 2])
def test_fixed_norm_takes_the_part_along_the_scales_out(squares, accumulate):
    weights = {NORMS[2]: torch.linspace(0, 2, 24)}
    sparsity = GammaSparsity(["*"], STRENGTH, weights=weights, penalty=Penalty.L1_OF_FIXED_NORM)
    for step in gradients(squares, sparsity, model=with_zeros(), batch=8, accumulate=accumulate):
        for name, (scales, gradient) in step.items():
            pull = weights.get(name, torch.ones(1)) * scales.sign()
            along = (pull * scales).sum() / scales.square().sum()
            torch.testing.assert_close(gradient, STRENGTH * (pull - along * scales), rtol=1e-5, atol=1e-8)
            assert abs(float(gradient @ scales)) < 1e-6 * float(gradient.norm() * scales.norm()) + 1e-9
            assert gradient.any()


def test_fixed_norm_is_quiet_at_zero(squares):
    model = detector()
    for norm in batch_norms(model, ["*"]).values():
        norm.weight.data.zero_()
    steps = gradients(squares, GammaSparsity(["*"], 1.0, penalty=Penalty.L1_OF_FIXED_NORM), model=model, batch=8)
    assert not any(gradient.any() for step in steps for _, gradient in step.values())


def test_fixed_norm_separates_small_scales_from_large_ones(squares):
    model = detector()
    torch.manual_seed(0)
    before = {}
    for name, norm in batch_norms(model, ["*"]).items():
        norm.weight.data.uniform_(0.8, 1.2)
        before[name] = norm.weight.detach().clone()
    sparsity = GammaSparsity(["*"], 0.5, penalty=Penalty.L1_OF_FIXED_NORM)
    config = TrainConfig(epochs=120, batch=8, momentum=0, ema_decay=0, clip_norm=0, learning_rate=0.1)
    fit(model, squares, config, loss=no_loss, regularisers=[sparsity], callbacks=[sparsity])
    for name, norm in batch_norms(model, ["*"]).items():
        after = norm.weight.detach()
        small = after.abs() < 0.1
        assert 0 < small.sum() < len(after)
        assert before[name][small].max() < before[name][~small].min()
        assert 0.95 < float(after.norm() / before[name].norm()) < 1.1


def test_scales_shrink_to_zero_where_the_loss_is_indifferent(squares):
    model = detector()
    sparsity = GammaSparsity(["*"], 0.5, StrengthSchedule(decay=Decay.COSINE))
    config = TrainConfig(epochs=60, batch=8, momentum=0, ema_decay=0, clip_norm=0, learning_rate=0.2)
    fit(model, squares, config, loss=no_loss, regularisers=[sparsity], callbacks=[sparsity])
    assert max(float(norm.weight.detach().abs().max()) for norm in batch_norms(model, ["*"]).values()) < 1e-2


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (StrengthSchedule(), [1.0] * 11),
        (StrengthSchedule(decay=Decay.LINEAR), [1 - t / 10 for t in range(11)]),
        (StrengthSchedule(decay=Decay.LINEAR, final_ratio=0.5), [1 - t / 20 for t in range(11)]),
        (StrengthSchedule(decay=Decay.COSINE), [(1 + math.cos(math.pi * t / 10)) / 2 for t in range(11)]),
        (StrengthSchedule(decay=Decay.LINEAR, warmup=4 / 11), [0.25, 0.5, 0.75, 1.0] + [1 - t / 6 for t in range(7)]),
    ],
)
def test_schedules(schedule, expected):
    assert [schedule.factor(step, 11) for step in range(11)] == pytest.approx(expected)
    assert schedule.factor(0, 1) > 0


def test_the_schedule_follows_the_steps(squares):
    sparsity = GammaSparsity(["*"], STRENGTH, StrengthSchedule(decay=Decay.LINEAR, final_ratio=0.25))
    steps = gradients(squares, sparsity, batch=8, epochs=4)
    seen = [float(step["blocks.conv_0.bn"][1].abs().max()) for step in steps]
    assert seen == pytest.approx([STRENGTH * factor for factor in (1, 0.75, 0.5, 0.25)])


def train(data, path=None, stop=None, strength=STRENGTH, weight=1.0):
    model = detector()
    weights = {"blocks.conv_1.bn": torch.full((24,), weight)}
    sparsity = GammaSparsity(["*"], strength, StrengthSchedule(decay=Decay.COSINE, warmup=0.2), weights)
    callbacks = [sparsity, *([SaveCheckpoint(path, 1)] if path else []), *([StopAt(stop)] if stop else [])]
    config = TrainConfig(epochs=3, batch=2, warmup_epochs=0.5)
    loss = YoloLoss.of_network(model.network)
    return fit(model, data, config, loss=loss, regularisers=[sparsity], callbacks=callbacks).model.state_dict()


@pytest.mark.parametrize("stop", [1, 4, 6])
def test_a_resumed_run_equals_the_uninterrupted_one(squares, tmp_path, stop):
    whole, path = train(squares), tmp_path / "last.pt"
    with pytest.raises(InterruptedRunError):
        train(squares, path, stop)
    resumed = train(squares, path)
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name


@pytest.mark.parametrize("change", [{"strength": 0.02}, {"weight": 0.5}])
def test_another_penalty_cannot_go_on(squares, tmp_path, change):
    train(squares, tmp_path / "last.pt")
    with pytest.raises(PruneError, match=r"must keep its (strength, got 0\.02, not 0\.01|weights, got others)"):
        train(squares, tmp_path / "last.pt", **change)


def test_names_are_batch_norms_their_parents_or_globs():
    model = detector()
    assert list(batch_norms(model, ["*"])) == NORMS
    assert list(batch_norms(model, ["blocks.conv_2", "blocks.conv_0.bn"])) == [NORMS[0], NORMS[2]]
    assert list(batch_norms(model, ["blocks.conv_[12]"])) == NORMS[1:]
    assert list(batch_norms(nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm2d(2, affine=False)), ["*"])) == ["0"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["blocks.conv_5"], "did you mean 'blocks.conv_"),
        (["blocks.conv_3"], "must name a batch norm"),
        ([], "got none"),
    ],
)
def test_names_of_nothing_are_refused(names, message):
    with pytest.raises(PruneError, match=message):
        batch_norms(detector(), names)


def test_bad_options_are_refused(squares):
    with pytest.raises(PruneError, match="among the callbacks"):
        GammaSparsity(["*"], STRENGTH)(detector())
    for strength in (-1.0, math.nan, math.inf):
        with pytest.raises(PruneError, match="strength must be finite"):
            GammaSparsity(["*"], strength)
    with pytest.raises(PruneError, match=r"final_ratio must be in \[0, 1\]"):
        StrengthSchedule(final_ratio=2)
    with pytest.raises(PruneError, match="warmup must be"):
        StrengthSchedule(warmup=1)
    with pytest.raises(PruneError, match="at least 0"):
        GammaSparsity(["*"], STRENGTH, weights={NORMS[0]: -torch.ones(12)})
    with pytest.raises(PruneError, match="needs 12 weights, one per channel, got 13"):
        gradients(squares, GammaSparsity(["*"], STRENGTH, weights={NORMS[0]: torch.ones(13)}))
    with pytest.raises(PruneError, match=r"'blocks\.conv_0\.bn', which is not selected"):
        gradients(squares, GammaSparsity(NORMS[1:], STRENGTH, weights={NORMS[0]: torch.ones(12)}))
    with pytest.raises(PruneError, match=r"scales of blocks\.conv_0\.bn must train, they are frozen"):
        gradients(squares, GammaSparsity(["*"], STRENGTH), freeze=("blocks.conv_0",))
