# SPDX-License-Identifier: Apache-2.0
"""Batches: what is in them, in which order, and that both depend on seed, epoch and image alone."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
import torch

from yolo_hw.darknet.layers import Shape
from yolo_hw.data import Resize, open_dataset
from yolo_hw.data.augment import NO_AUGMENTATION, AugmentConfig, LabelledImage
from yolo_hw.data.synthetic.dataset import SyntheticDataset, write_dataset
from yolo_hw.data.synthetic.layout import SceneConfig
from yolo_hw.train import (
    DatasetImages,
    Evaluate,
    FittedImages,
    MeasureDetector,
    TrainConfig,
    TrainError,
    YoloLoss,
    fit,
    preload,
)
from yolo_hw.train.batches import steps_per_epoch, train_batches

SMALL = SceneConfig(min_side_px=64, max_side_px=96, max_objects=3, min_part_px=12.0)


def numbered(count, size=4):
    """Images whose every pixel is their number, with one box."""
    return [
        LabelledImage(np.full((size, size, 3), i, np.uint8), np.array([[0.0, 1.0, 2.0, 4.0]]), np.array([i]))
        for i in range(count)
    ]


def order(batches):
    return [(batch.images[:, 0, 0, 0] * 255).round().int().tolist() for batch in batches]


PLAIN = TrainConfig(batch=3, augment=NO_AUGMENTATION)


def test_batch_holds_scaled_images_and_relative_boxes():
    image = np.zeros((4, 8, 3), np.uint8)
    image[..., 0] = 51
    empty = LabelledImage(image, np.zeros((0, 4)), np.zeros(0, np.int64))
    full = LabelledImage(image, np.array([[2.0, 1.0, 6.0, 2.0], [0, 0, 8, 4]]), np.array([3, 1]))
    config = TrainConfig(batch=3, augment=NO_AUGMENTATION, seed=2)
    batch = next(train_batches([full, empty, full], config, 0))
    assert batch.images.shape == (3, 3, 4, 8)
    assert batch.images[0, :, 0, 0].tolist() == pytest.approx([0.2, 0, 0])
    with_objects = sorted({int(i) for i in batch.targets[:, 0]})
    assert len(with_objects) == 2
    rows = batch.targets[batch.targets[:, 0] == with_objects[0], 1:]
    torch.testing.assert_close(rows, torch.tensor([[3, 0.5, 0.375, 0.5, 0.25], [1, 0.5, 0.5, 1, 1]]))


def test_epoch_visits_every_image_once_and_epochs_differ():
    first, second = (order(train_batches(numbered(9), PLAIN, start)) for start in (0, 3))
    assert sorted(chain(*first)) == sorted(chain(*second)) == list(range(9))
    assert first != second


def test_resumed_epoch_is_the_rest_of_the_whole_one():
    data = numbered(9)
    assert order(train_batches(data, PLAIN, 4)) == order(train_batches(data, PLAIN, 3))[1:]


def test_incomplete_last_batch_is_left_out_unless_it_is_the_only_one():
    assert steps_per_epoch(numbered(8), PLAIN) == 2
    assert order(train_batches(numbered(2), PLAIN, 0)) in ([[0, 1]], [[1, 0]])


def test_augmentation_depends_on_the_epoch_but_not_on_the_batch():
    noisy = [
        LabelledImage(np.arange(48, dtype=np.uint8).reshape(4, 4, 3) + i, np.zeros((0, 4)), np.zeros(0))
        for i in range(6)
    ]

    def images(batch, start):
        config = TrainConfig(batch=batch, augment=AugmentConfig(flip_y=0.5, transpose=0.5))
        stacked = torch.cat([b.images for b in train_batches(noisy, config, start)])
        return {image.numpy().tobytes() for image in stacked}

    assert images(2, 0) == images(3, 0)
    assert images(2, 0) != images(2, 3)


def test_loading_takes_nothing_from_torchs_generator():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    list(train_batches(numbered(6), PLAIN, 0))
    assert torch.equal(before, torch.get_rng_state())


def test_images_of_different_size_are_refused():
    with pytest.raises(TrainError, match="must have one size"):
        list(train_batches([*numbered(2, 4), *numbered(1, 5)], PLAIN, 0))


@pytest.mark.parametrize(("resize", "expected"), [(Resize.STRETCH, [8, 0, 24, 16]), (Resize.LETTERBOX, [8, 8, 24, 16])])
def test_fitted_boxes_follow_the_resizing(resize, expected):
    sample = LabelledImage(np.zeros((20, 40, 3), np.uint8), np.array([[10.0, 0.0, 30.0, 10.0]]), np.array([0]))
    fitted = FittedImages([sample], Shape(3, 32, 32), resize)[0]
    assert fitted.image.shape == (32, 32, 3)
    assert fitted.boxes.tolist() == [expected]


def test_preloading_in_processes_gives_the_images_in_order():
    source = FittedImages(SyntheticDataset(3, 4, SMALL), Shape(3, 32, 32))
    loaded = list(preload(source, 2))
    assert len(loaded) == 4
    for index, sample in enumerate(loaded):
        np.testing.assert_array_equal(sample.image, source[index].image)
        np.testing.assert_array_equal(sample.boxes, source[index].boxes)


def test_training_from_files_with_evaluation(tmp_path, make_model):
    """The whole way of a user: images and labels on disk, fit, figures of every epoch."""
    write_dataset(tmp_path / "set", 4, 5, SMALL)
    dataset = open_dataset(tmp_path / "set")
    model = make_model()
    two_classes = [
        LabelledImage(sample.image, sample.boxes, sample.labels % 2)
        for sample in preload(FittedImages(DatasetImages(dataset), model.network.input))
    ]
    lines = []
    evaluate = Evaluate(MeasureDetector(dataset), 2, report=lambda state: lines.append(state.epoch))
    config = TrainConfig(epochs=3, batch=2, warmup_epochs=0.5)
    state = fit(model, two_classes, config, loss=YoloLoss.of_network(model.network), callbacks=[evaluate])
    assert lines == [2, 3]
    assert [measured.epoch for measured in state.history] == [2, 3]
    assert all(0 <= measured.figures["ap50"] <= 1 for measured in state.history)
