# SPDX-License-Identifier: Apache-2.0
"""Training classifiers by the same loop as detectors."""

import numpy as np
import pytest
import torch
from torch import nn

from yolo_hw.darknet.layers import Shape
from yolo_hw.data import ClassificationDataset, generate_shapes
from yolo_hw.data.augment import NO_AUGMENTATION
from yolo_hw.errors import DataError
from yolo_hw.nn.resnet import BasicBlock, PadShortcut, ResNet, ResNetConfig
from yolo_hw.train import (
    Batch,
    ClassifiedImages,
    CrossEntropy,
    Evaluate,
    MeasureAccuracy,
    TrainConfig,
    TrainError,
    fit,
    measure_accuracy,
)


def tiny_resnet():
    torch.manual_seed(0)
    config = ResNetConfig(block=BasicBlock, depths=(1, 1, 1), widths=(8, 16, 32), pool_stem=False, shortcut=PadShortcut)
    return ResNet(config, 4)


def batch_of(labels, images=None):
    rows = [[i, label, 0.5, 0.5, 1, 1] for i, label in enumerate(labels)]
    return Batch(torch.zeros(images or len(labels), 3, 4, 4), torch.tensor(rows, dtype=torch.float32).reshape(-1, 6))


def test_learns_shapes():
    held_out = generate_shapes(100, 1)
    evaluate = Evaluate(MeasureAccuracy(held_out), every_epochs=2)
    config = TrainConfig(epochs=7, batch=32, learning_rate=0.1, ema_decay=0.9, augment=NO_AUGMENTATION)
    state = fit(
        tiny_resnet(), ClassifiedImages(generate_shapes(448, 0)), config, loss=CrossEntropy(0.1), callbacks=[evaluate]
    )
    assert [measured.epoch for measured in state.history] == [2, 4, 6, 7]
    first, last = state.history[0], state.history[-1]
    assert last.fitness > max(0.85, first.fitness)  # guessing gives 0.25
    assert last.fitness == measure_accuracy(state.best_model, held_out).top1


def test_images_are_objects_that_fill_them():
    dataset = ClassificationDataset(("a", "b"), np.array([1, 0]), pixels=np.zeros((2, 4, 6, 3), np.uint8))
    source = ClassifiedImages(dataset)
    assert len(source) == 2
    assert source[0].boxes.tolist() == [[0, 0, 6, 4]]
    assert (source[0].labels.tolist(), source[1].labels.tolist()) == ([1], [0])


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_cross_entropy_is_its_formula(smoothing):
    logits = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = [2, 0, 1, 1, 2]
    (loss,) = CrossEntropy(smoothing)(logits, batch_of(labels)).values()
    expected = 0.0
    for row, label in zip(logits, labels, strict=True):
        logs = row - torch.log(torch.exp(row).sum())
        target = torch.full((3,), smoothing / 3, dtype=torch.float64)
        target[label] += 1 - smoothing
        expected -= float((target * logs).sum()) / 5
    assert float(loss) == pytest.approx(expected)


def test_cross_entropy_gradient():
    logits = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: CrossEntropy(0.2)(x, batch_of([0, 1, 2, 1]))["class"], logits)


def test_targets_may_come_in_any_order():
    batch = batch_of([2, 0, 1])
    shuffled = Batch(batch.images, batch.targets[[2, 0, 1]])
    logits = torch.randn(3, 3)
    assert torch.equal(CrossEntropy()(logits, batch)["class"], CrossEntropy()(logits, shuffled)["class"])


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (batch_of([0, 1], images=3), "image 2 of the batch has 0"),
        (Batch(torch.zeros(2, 3, 4, 4), torch.tensor([[0.0, 0, 0, 0, 1, 1]] * 2)), "image 0 of the batch has 2"),
        (batch_of([0, 3]), "the network has 3 outputs, a label is 3"),
    ],
)
def test_batches_that_are_no_classification_are_refused(batch, message):
    with pytest.raises(TrainError, match=message):
        CrossEntropy()(torch.zeros(len(batch.images), 3), batch)


def test_label_smoothing_has_a_range():
    with pytest.raises(TrainError, match=r"label_smoothing must be in \[0, 1\], got 1\.5"):
        CrossEntropy(1.5)


class Fixed(nn.Module):
    """Logits by the brightness of the first pixel, which is the image's number."""

    def __init__(self, table):
        super().__init__()
        self.table = nn.Parameter(torch.tensor(table, dtype=torch.float32))

    def forward(self, x):
        assert not self.training
        return self.table[(x[:, 0, 0, 0] * 255).round().long()]


def numbered(labels):
    pixels = np.zeros((len(labels), 4, 4, 3), np.uint8)
    pixels[:, :, :] = np.arange(len(labels))[:, None, None, None]
    return ClassificationDataset(tuple(map(str, range(8))), np.array(labels, np.int64), pixels=pixels)


@pytest.mark.parametrize("batch", [1, 2, 3, 100])
@pytest.mark.parametrize("net", [None, Shape(3, 9, 7)])
def test_accuracy_counts_first_and_first_five(batch, net):
    ranks = list(range(8, 0, -1))  # class 0 first, class 7 last
    model = Fixed([ranks] * 4).train()
    found = measure_accuracy(model, numbered([0, 4, 5, 0]), batch=batch, net=net)
    assert (found.top1, found.top5, found.images) == (0.5, 0.75, 4)
    assert model.training


def test_an_empty_set_has_no_accuracy():
    with pytest.raises(DataError, match="must not be empty"):
        measure_accuracy(tiny_resnet(), ClassificationDataset(("a",), np.zeros(0, np.int64)))
