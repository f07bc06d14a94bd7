# SPDX-License-Identifier: Apache-2.0
"""A step: the same whatever the micro-batches; regularisers, frozen parts, mixed precision."""

from __future__ import annotations

import pytest
import torch
from support.tiny_training import PerObject
from torch import nn

from yolo_hw.data.augment import NO_AUGMENTATION
from yolo_hw.train import Callback, Precision, Schedule, TrainConfig, TrainError, YoloLoss, fit
from yolo_hw.train.batches import Batch
from yolo_hw.train.schedule import learning_rate
from yolo_hw.train.step import shared_momentum, split

EXACT = {"epochs": 2, "batch": 8, "warmup_epochs": 0.5, "augment": NO_AUGMENTATION, "learning_rate": 1e-2}


class Plain(nn.Module):
    """No batch norm, float64: parts of a batch give exactly the gradient of the whole."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.first = nn.Conv2d(3, 8, 3, 2, 1)
        self.last = nn.Conv2d(8, 7, 3, 2, 1)
        self.double()

    def forward(self, x):
        return [self.last(torch.tanh(self.first(x.double())))]


class MeanSquare:
    """A loss that knows nothing of counts: a mean over images."""

    def __call__(self, maps, batch):
        return {"square": maps[0].square().mean()}


class Named(MeanSquare):
    """The same by another name."""

    def __call__(self, maps, batch):
        return {"other": super().__call__(maps, batch)["square"]}


def weights(data, loss=None, callbacks=(), regularisers=(), **options):
    model = Plain()
    config = TrainConfig(**{**EXACT, **options})
    state = fit(model, data, config, loss=loss or MeanSquare(), callbacks=callbacks, regularisers=regularisers)
    return state.model.state_dict()


def assert_close(a, b, tolerance=1e-12):
    for name, value in a.items():
        torch.testing.assert_close(value, b[name], rtol=0, atol=tolerance)


@pytest.fixture
def uneven(squares):
    """Images with different numbers of objects."""
    import numpy as np

    from yolo_hw.data.augment import LabelledImage

    return [
        LabelledImage(s.image, np.repeat(s.boxes, i % 3, 0), np.repeat(s.labels, i % 3)) for i, s in enumerate(squares)
    ]


@pytest.mark.parametrize("accumulate", [2, 4, 8])
@pytest.mark.parametrize(
    "loss", [MeanSquare(), PerObject(), [Named(), PerObject()]], ids=["per image", "per object", "both"]
)
def test_micro_batches_do_not_change_the_step(uneven, loss, accumulate):
    def half_sum(model):
        return {"decay": 1e-2 * sum(p.square().sum() for p in model.parameters())}

    options = {"loss": loss, "regularisers": [half_sum], "clip_norm": 0.05}
    assert_close(weights(uneven, **options), weights(uneven, accumulate=accumulate, **options))


def test_regulariser_counts_once_per_step_and_is_reported(squares):
    seen = []

    class Watch(Callback):
        def on_step(self, state, terms):
            seen.append(terms)

    def constant(model):
        return {"sparsity": 0.25 * model.first.weight.sum()}

    before = Plain().first.weight.sum().item()
    after = weights(squares, regularisers=[constant], callbacks=[Watch()], accumulate=4, clip_norm=0)
    assert seen[0]["sparsity"] == pytest.approx(0.25 * before)
    assert not torch.equal(after["first.weight"], weights(squares, clip_norm=0)["first.weight"])


def test_terms_of_one_name_are_refused(squares):
    with pytest.raises(TrainError, match="call a term 'square'"):
        weights(squares, loss=[MeanSquare(), PerObject()])


def test_a_run_may_be_one_epoch_long(squares):
    weights(squares, epochs=1, warmup_epochs=1.0)


@pytest.mark.parametrize("device", ["banana", "cuda"])
def test_device_that_is_not_there_is_refused(squares, device):
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(TrainError, match="device"):
        weights(squares, device=device)


def test_split_keeps_images_and_targets_together():
    targets = torch.tensor([[0, 5], [2, 6], [2, 7], [4, 8]]).float()
    parts = list(split(Batch(torch.arange(5.0).reshape(5, 1, 1, 1), targets), 2))
    assert [part.images.flatten().tolist() for part in parts] == [[0, 1, 2], [3, 4]]
    assert [part.targets.tolist() for part in parts] == [[[0, 5], [2, 6], [2, 7]], [[1, 8]]]
    assert targets[3, 0] == 4  # the batch is not changed


def test_statistics_move_as_far_in_parts_as_at_once():
    norm = nn.BatchNorm2d(2, momentum=0.1)
    x = torch.randn(4, 2, 3, 3) + 5
    with shared_momentum(nn.Sequential(norm), 4):
        for _ in range(4):
            norm(x)
    once = nn.BatchNorm2d(2, momentum=0.1)
    once(x)
    torch.testing.assert_close(norm.running_mean, once.running_mean)
    assert norm.momentum == 0.1


def test_frozen_modules_keep_weights_and_statistics(make_model, squares):
    model = make_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    config = TrainConfig(epochs=1, batch=4, warmup_epochs=0.5, freeze=("blocks.conv_0", "blocks.conv_[1]"))
    fit(model, squares, config, loss=YoloLoss.of_network(model.network))
    for name, value in model.state_dict().items():
        frozen = name.startswith(("blocks.conv_0.", "blocks.conv_1."))
        assert torch.equal(value, before[name]) == frozen, name


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("blocks.conv_00", "nearest name is 'blocks.conv_0'"), ("blocks*", "leaves nothing to train")],
)
def test_bad_freezing_is_refused(make_model, squares, pattern, message):
    model = make_model()
    config = TrainConfig(epochs=1, batch=4, warmup_epochs=0.5, freeze=(pattern,))
    with pytest.raises(TrainError, match=message):
        fit(model, squares, config, loss=YoloLoss.of_network(model.network))


def test_bfloat16_learns_and_keeps_weights_in_float32(make_model, squares):
    model = make_model()
    losses = []

    class Watch(Callback):
        def on_step(self, state, terms):
            losses.append(sum(terms.values()))

    config = TrainConfig(
        epochs=60, batch=8, warmup_epochs=5, learning_rate=2e-2, precision=Precision.BFLOAT16, augment=NO_AUGMENTATION
    )
    fit(model, squares, config, loss=YoloLoss.of_network(model.network), callbacks=[Watch()])
    assert losses[-1] < 0.3 * losses[0]
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_float16_needs_a_gpu():
    with pytest.raises(TrainError, match="precision must be fp32 or bf16 on the CPU"):
        TrainConfig(precision=Precision.FLOAT16)


@pytest.mark.parametrize("precision", list(Precision))
def test_precisions_learn_on_cuda(make_model, squares, precision):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    model, losses = make_model(), []

    class Watch(Callback):
        def on_step(self, state, terms):
            losses.append(sum(terms.values()))

    config = TrainConfig(epochs=60, batch=8, warmup_epochs=5, learning_rate=2e-2, precision=precision, device="cuda")
    fit(model, squares, config, loss=YoloLoss.of_network(model.network), callbacks=[Watch()])
    assert losses[-1] < 0.3 * losses[0]


def test_batch_must_divide_into_micro_batches(make_model, squares):
    model = make_model()
    with pytest.raises(TrainError, match="multiple of processes x accumulate = 1 x 3, got 8"):
        fit(model, squares, TrainConfig(batch=8, accumulate=3), loss=YoloLoss.of_network(model.network))


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Schedule.CONSTANT, [1.0, 1.0, 1.0, 1.0]),
        (Schedule.LINEAR, [1.0, 1 - 0.9 * 39 / 79, 1 - 0.9 * 59 / 79, 0.1]),
        (Schedule.MULTI_STEP, [1.0, 1.0, 0.5, 0.25]),
    ],
)
def test_schedules(schedule, expected):
    config = TrainConfig(
        epochs=10, warmup_epochs=2, learning_rate=1.0, schedule=schedule, final_lr_ratio=0.1, milestones=(0.7, 0.9),
        step_ratio=0.5,
    )  # fmt: skip
    assert [learning_rate(step, 10, config) for step in (20, 59, 79, 99)] == pytest.approx(expected)
    assert learning_rate(0, 10, config) == pytest.approx(1 / 20)


@pytest.mark.parametrize("milestones", [(0.0, 0.5), (0.9, 0.8), (0.5, 1.0)])
def test_bad_milestones_are_refused(milestones):
    with pytest.raises(TrainError, match="milestones must be rising"):
        TrainConfig(milestones=milestones)
