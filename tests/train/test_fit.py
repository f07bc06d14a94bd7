# SPDX-License-Identifier: Apache-2.0
"""The loop: it learns, it is deterministic, it says where numbers break."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from rich.console import Console

from yolo_hw.data.augment import NO_AUGMENTATION
from yolo_hw.evaluate import DetectorConfig, FloatRunner, detect_images
from yolo_hw.nn.nms import NmsConfig
from yolo_hw.train import Callback, Optimizer, ShowProgress, TrainConfig, TrainError, YoloLoss, fit

QUICK = TrainConfig(epochs=2, batch=4, warmup_epochs=0.5, augment=NO_AUGMENTATION)


class Record(Callback):
    """Keeps what the loop tells."""

    def __init__(self):
        self.losses = []
        self.events = []

    def on_start(self, state):
        self.events.append(("start", state.step))

    def on_step(self, state, terms):
        self.losses.append(sum(terms.values()))

    def on_epoch(self, state):
        self.events.append(("epoch", state.step))

    def on_end(self, state):
        self.events.append(("end", state.step))


def run(model, data, config, loss=None):
    record = Record()
    state = fit(model, data, config, loss=loss or YoloLoss.of_network(model.network), callbacks=[record])
    return state, record


@pytest.mark.parametrize(
    "options",
    [{"optimizer": Optimizer.ADAMW, "learning_rate": 1e-2}, {"optimizer": Optimizer.SGD, "learning_rate": 2e-2}],
    ids=["adamw", "sgd"],
)
def test_overfits_a_tiny_set(make_model, squares, options):
    config = TrainConfig(epochs=120, batch=8, warmup_epochs=5, augment=NO_AUGMENTATION, ema_decay=0.9, **options)
    state, record = run(make_model(), squares, config)
    assert record.losses[-1] < 0.1 * record.losses[0]
    detector = DetectorConfig(nms=NmsConfig(confidence=0.3))
    found = detect_images(FloatRunner(state.best_model), [sample.image for sample in squares], detector)
    for detections, sample in zip(found, squares, strict=True):
        assert detections.classes.tolist() == sample.labels.tolist()
        np.testing.assert_allclose(detections.boxes.numpy(), sample.boxes, atol=1.0)


def test_same_seed_gives_the_same_weights_and_another_seed_others(make_model, squares):
    def weights(seed):
        config = TrainConfig(epochs=2, batch=4, warmup_epochs=0.5, seed=seed)
        return run(make_model(), squares, config)[0].model.state_dict()

    first, again, other = weights(0), weights(0), weights(1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_worker_processes_do_not_change_the_result(make_model, squares):
    def weights(workers):
        config = TrainConfig(epochs=1, batch=4, warmup_epochs=0.5, workers=workers)
        return run(make_model(), squares, config)[0].model.state_dict()

    alone, shared = weights(0), weights(2)
    assert all(torch.equal(alone[name], shared[name]) for name in alone)


def test_model_is_trained_in_training_mode_whatever_it_came_in(make_model, squares):
    class BackToEvaluation(Callback):
        def on_step(self, state, terms):
            state.model.eval()

    model = make_model().eval()
    loss = YoloLoss.of_network(model.network)
    fit(model, squares, QUICK, loss=loss, callbacks=[BackToEvaluation()])
    assert model.block("conv_0").bn.num_batches_tracked == 4


def test_callbacks_see_every_step_and_epoch(make_model, squares):
    state, record = run(make_model(), squares, QUICK)
    assert record.events == [("start", 0), ("epoch", 2), ("epoch", 4), ("end", 4)]
    assert len(record.losses) == state.total_steps == 4


def test_loss_is_any_function_of_outputs_and_batch(make_model, squares):
    """A second term is added as distillation would be; the loop reduces the sum and reports both."""
    model = make_model()
    teacher = make_model(1).eval()
    plain = YoloLoss.of_network(model.network)

    def distilled(maps, batch):
        with torch.no_grad():
            goals = teacher(batch.images)
        return {"teacher": torch.stack([(a - b).square().mean() for a, b in zip(maps, goals, strict=True)]).sum()}

    seen = []

    class Terms(Callback):
        def on_step(self, state, terms):
            seen.append(set(terms))

    fit(model, squares, QUICK, loss=[plain, distilled], callbacks=[Terms()])
    assert seen[0] == {"box", "objectness", "class", "teacher"}


def test_infinite_activation_names_the_first_bad_layer(make_model, squares):
    model = make_model()
    with torch.no_grad():
        model.block("conv_1").conv.weight.fill_(3e38)
    with pytest.raises(TrainError, match=r"step 0: blocks\.conv_1\.conv \(Conv2d\) is the first layer whose output"):
        run(model, squares, QUICK)


def test_nan_parameter_is_named(make_model, squares):
    model = make_model()
    with torch.no_grad():
        model.block("conv_2").conv.weight[0] = torch.nan
    with pytest.raises(
        TrainError, match=r"blocks\.conv_2\.conv \(Conv2d\) is the first .* not finite, as is its weight;"
    ):
        run(model, squares, QUICK)


def test_loss_term_that_is_not_finite_is_named(make_model, squares):
    def broken(maps, batch):
        return {"good": maps[0].square().mean(), "bad": maps[0].mean() * torch.inf}

    with pytest.raises(TrainError, match="all layers are finite, the loss term bad is not"):
        run(make_model(), squares, QUICK, broken)


def test_gradient_that_is_not_finite_is_named(make_model, squares):
    def steep(maps, batch):  # sqrt has an infinite slope at zero
        return {"steep": (maps[0] - maps[0].detach()).abs().sum().sqrt()}

    with pytest.raises(TrainError, match=r"step 0: the gradient of blocks\.\S+ and \d+ more is not finite"):
        run(make_model(), squares, QUICK, steep)


def test_callbacks_end_even_if_the_run_breaks(make_model, squares):
    record = Record()

    def broken(maps, batch):
        return {"bad": maps[0].mean() * torch.nan}

    with pytest.raises(TrainError):
        fit(make_model(), squares, QUICK, loss=broken, callbacks=[record])
    assert record.events[-1] == ("end", 0)


def test_gradients_are_clipped_to_the_norm(make_model, squares):
    norms = []

    class Norm(Callback):
        def on_step(self, state, terms):
            norms.append(torch.stack([p.grad.norm() for p in state.model.parameters()]).norm().item())

    for clip in (0.01, 0.0):
        config = TrainConfig(epochs=1, batch=8, warmup_epochs=0, clip_norm=clip)
        model = make_model()
        fit(model, squares, config, loss=YoloLoss.of_network(model.network), callbacks=[Norm()])
    assert norms[0] == pytest.approx(0.01, rel=1e-3)
    assert norms[1] > 0.1


def test_weight_decay_spares_biases_and_batch_norms(make_model, squares):
    from yolo_hw.train.loop import make_optimizer

    model = make_model()
    decayed, plain = make_optimizer(model, QUICK).param_groups
    assert decayed["weight_decay"] == QUICK.weight_decay
    assert plain["weight_decay"] == 0
    assert {id(p) for p in decayed["params"]} == {
        id(b.conv.weight) for b in model.blocks.values() if hasattr(b, "conv")
    }
    assert len(decayed["params"]) + len(plain["params"]) == len(list(model.parameters()))


def test_progress_writes_a_line_per_epoch_without_a_terminal(make_model, squares):
    text = io.StringIO()
    model = make_model()
    shown = ShowProgress(Console(file=text, force_terminal=False, width=120))
    fit(model, squares, QUICK, loss=YoloLoss.of_network(model.network), callbacks=[shown])
    lines = text.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == ["1/2", "2/2"]
    assert "objectness" in lines[0]


def test_empty_set_is_refused(make_model):
    with pytest.raises(TrainError, match="training set must not be empty"):
        run(make_model(), [], QUICK)
