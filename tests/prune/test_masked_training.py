# SPDX-License-Identifier: Apache-2.0
"""Masked weights stay zero: through steps, momentum, averages, checkpoints; masks that grow."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from support.interrupted import InterruptedRunError, StopAt
from support.tiny_training import detector

from yolo_hw.data.augment import NO_AUGMENTATION
from yolo_hw.errors import PruneError
from yolo_hw.prune.magnitude import darknet_filters, filter_masks, weight_masks
from yolo_hw.prune.masked_training import GradualMasks, MaskedTraining, MaskKeeper
from yolo_hw.prune.masks import join_masks, mask_report
from yolo_hw.prune.ranking import Scope
from yolo_hw.train import Callback, Optimizer, Precision, SaveCheckpoint, TrainConfig, YoloLoss, fit, load_checkpoint


def both_masks(model):
    return join_masks(weight_masks(model, 0.6, scope=Scope.LOCAL), filter_masks(model, 0.3, darknet_filters(model)))


class WatchZeros(Callback):
    """Checks after every step that nothing masked is alive, in weights, average, gradients and momentum."""

    def __init__(self, masked):
        self.masked = masked
        self.steps = 0

    def on_step(self, state, terms):
        self.steps += 1
        masks = self.masked.masks
        assert mask_report(state.model, masks).is_consistent
        if state.averaged is not None:
            assert mask_report(state.averaged.model, masks).is_consistent
        for name, mask in masks.items():
            parameter = state.model.get_parameter(name)
            assert not parameter.grad[~mask].any() or self.masked.plan is not None
            buffers = [v for v in state.optimizer.state[parameter].values() if v.shape == parameter.shape]
            assert buffers
            assert not any(buffer[~mask].any() for buffer in buffers)


def train(model, data, masked, *callbacks, **options):
    config = TrainConfig(**{"epochs": 3, "batch": 4, "warmup_epochs": 0.5, "learning_rate": 1e-2, **options})
    return fit(model, data, config, loss=YoloLoss.of_network(model.network), callbacks=[masked, *callbacks])


@pytest.mark.parametrize("optimizer", list(Optimizer))
@pytest.mark.parametrize("options", [{}, {"accumulate": 2}, {"ema_decay": 0}, {"precision": Precision.BFLOAT16}])
def test_masked_weights_are_zero_after_every_step(squares, optimizer, options):
    model = detector()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    masked = MaskedTraining(both_masks(model))
    watch = WatchZeros(masked)
    train(model, squares, masked, watch, optimizer=optimizer, **options)
    assert watch.steps == 6
    for name, mask in masked.masks.items():
        assert (model.get_parameter(name) != before[name])[mask].float().mean() > 0.95


def test_a_masked_model_learns(squares):
    model, losses = detector(), []

    class Watch(Callback):
        def on_step(self, state, terms):
            losses.append(sum(terms.values()))

    options = {"epochs": 60, "batch": 8, "learning_rate": 2e-2, "augment": NO_AUGMENTATION}
    train(model, squares, MaskedTraining(weight_masks(model, 0.6, scope=Scope.LOCAL)), Watch(), **options)
    assert losses[-1] < 0.3 * losses[0]


def test_gradual_masks_grow_to_the_last_share(squares):
    model, seen = detector(), []
    masked = MaskedTraining(GradualMasks(find=weight_masks, final=0.8, initial=0.2, begin=0.1, end=0.6, every_steps=3))

    class Watch(Callback):
        def on_step(self, state, terms):
            seen.append({name: mask.clone() for name, mask in masked.masks.items()})

    watch = WatchZeros(masked)
    train(model, squares, masked, watch, Watch(), epochs=10)
    total = sum(mask.numel() for mask in seen[0].values())
    gone = [sum(int((~mask).sum()) for mask in masks.values()) for masks in seen]
    assert gone[0] == gone[1] == round(0.2 * total)
    assert gone[11:] == [round(0.8 * total)] * 9
    assert len(set(gone)) == 5  # 0.2 from the start and after step 2; then steps 5, 8, 11 and 12
    for masks, later in pairwise(seen):
        assert not any((later[name] & ~mask).any() for name, mask in masks.items())


def test_the_share_is_that_of_the_formula():
    plan = GradualMasks(find=weight_masks, final=0.9, initial=0.3, begin=0.1, end=0.5, every_steps=20)
    expected = {0: 0.3, 10: 0.3, 20: 0.9 - 0.6 * 0.75**3, 30: 0.9 - 0.6 * 0.5**3, 50: 0.9, 100: 0.9}
    assert {step: plan.ratio(step, 100) for step in expected} == pytest.approx(expected)
    assert [step for step in range(101) if plan.is_due(step, 100)] == [10, 30, 50]


def plans(model):
    return {
        "fixed": MaskedTraining(both_masks(model)),
        "gradual": MaskedTraining(GradualMasks(find=weight_masks, final=0.8, every_steps=2)),
    }


@pytest.mark.parametrize("kind", ["fixed", "gradual"])
@pytest.mark.parametrize("optimizer", list(Optimizer))
@pytest.mark.parametrize("stop", [1, 2, 5, 7])
def test_a_resumed_run_equals_the_uninterrupted_one(squares, tmp_path, kind, optimizer, stop):
    def run(*callbacks):
        model = detector()
        masked = plans(model)[kind]
        return masked, train(model, squares, masked, *callbacks, batch=2, optimizer=optimizer)

    masks, whole = run()
    with pytest.raises(InterruptedRunError):
        run(SaveCheckpoint(tmp_path / "last.pt", 1), StopAt(stop))
    resumed_masks, resumed = run(SaveCheckpoint(tmp_path / "last.pt", 1))
    for name, mask in masks.masks.items():
        assert torch.equal(mask, resumed_masks.masks[name]), name
    for a, b in ((whole.model, resumed.model), (whole.best_model, resumed.best_model)):
        for name, value in a.state_dict().items():
            assert torch.equal(value, b.state_dict()[name]), name
    saved = load_checkpoint(tmp_path / "last.pt")
    assert all(torch.equal(mask, masks.masks[n]) for n, mask in saved.callbacks["MaskedTraining"]["masks"].items())
    plain = detector()
    plain.load_state_dict(saved.best_weights)
    assert mask_report(plain, masks.masks).is_consistent


def test_other_fixed_masks_cannot_go_on(squares, tmp_path):
    model = detector()
    train(model, squares, MaskedTraining(both_masks(model)), SaveCheckpoint(tmp_path / "last.pt", 1))
    other = detector()
    with pytest.raises(PruneError, match=r"must keep its masks; \d+ differ, first 'blocks"):
        train(other, squares, MaskedTraining(weight_masks(other, 0.5)), SaveCheckpoint(tmp_path / "last.pt", 1))


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
        lambda p: torch.optim.Adam(p, 0.01),
        lambda p: torch.optim.Adam(p, 0.01, amsgrad=True),
        lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.9),
    ],
)
def test_any_loop_and_optimiser_can_keep_masks(tmp_path, make):
    model = detector()
    optimizer = make(model.parameters())

    def step():
        optimizer.zero_grad()
        sum(y.square().mean() for y in model(torch.rand(2, 3, 32, 32))).backward()
        optimizer.step()

    step()  # momentum of weights that go later
    masks = both_masks(model)
    keeper = MaskKeeper(model, masks, optimizer)
    for name, mask in masks.items():
        buffers = [v for v in optimizer.state[model.get_parameter(name)].values() if v.shape == mask.shape]
        assert buffers
        assert not any(buffer[~mask].any() for buffer in buffers)
    for _ in range(3):
        assert mask_report(model, masks).is_consistent
        step()
    assert mask_report(model, masks).is_consistent
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    plain = detector(1)
    plain.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert mask_report(plain, masks).is_consistent
    keeper.remove()
    step()
    assert not mask_report(model, masks).is_consistent


def test_frozen_weights_can_be_masked(squares):
    model = detector()
    masked = MaskedTraining(weight_masks(model, 0.5))
    train(model, squares, masked, freeze=("blocks.conv_0",))
    assert mask_report(model, masked.masks).is_consistent


def test_masks_of_another_model_leave_no_hooks(squares):
    model = detector()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(PruneError, match="must be bool"):
        MaskKeeper(model, {"blocks.conv_0.conv.weight": torch.ones(3) > 0}, optimizer)
    assert not optimizer._optimizer_step_post_hooks
    with pytest.raises(PruneError, match="must name a parameter"):
        train(model, squares, MaskedTraining({"conv": torch.ones(3) > 0}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"final": 1.0}, "final < 1"),
        ({"final": 0.3, "initial": 0.4}, "initial <= final"),
        ({"final": 0.5, "begin": 0.7}, "begin < end"),
        ({"final": 0.5, "end": 1.1}, "end <= 1"),
        ({"final": 0.5, "every_steps": 0}, "every_steps must be at least 1"),
    ],
)
def test_bad_plans_are_refused(options, message):
    with pytest.raises(PruneError, match=message):
        GradualMasks(find=weight_masks, **options)
