# SPDX-License-Identifier: Apache-2.0
"""The same batches whatever the number of workers and ranks, with or without a cache, whole or resumed."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain, islice

import cv2
import numpy as np
import pytest
import torch

from yolo_hw.data.augment import AugmentConfig, LabelledImage
from yolo_hw.train import CachedImages, TrainConfig, TrainError, World
from yolo_hw.train.batches import batch_scale, run_batches, steps_per_epoch, train_batches

FULL = AugmentConfig(
    **{"mosaic": 0.7, "mixup": 0.3, "scale": 0.5, "translate": 0.1, "rotate": 5.0, "shear": 2.0, "multi_scale": 0.5},
    **{"multi_scale_every": 2, "multi_scale_stride": 16, "close_mosaic": 1},
)
CONFIG = TrainConfig(epochs=3, batch=4, seed=7, augment=FULL)


def noise(count=13, size=48, objects=2):
    rng = np.random.default_rng(0)
    return [
        LabelledImage(
            rng.integers(0, 256, (size, size, 3)).astype(np.uint8),
            np.sort(rng.uniform(0, size, (objects, 2, 2)), 1).reshape(-1, 4),
            rng.integers(0, 3, objects),
        )
        for _ in range(count)
    ]


class Counted:
    """A source that counts in shared memory how often images are made, in whatever process."""

    def __init__(self, images):
        self.images = images
        self.made = torch.zeros(len(images), dtype=torch.int64).share_memory_()

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        self.made[index] += 1
        return self.images[index]


def assert_equal(first, second):
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.targets, b.targets)


@pytest.fixture(scope="module")
def whole():
    """All batches of a run, made in this process."""
    return list(run_batches(noise(), CONFIG, 0))


def test_a_run_is_its_epochs_one_after_the_other(whole):
    assert steps_per_epoch(noise(), CONFIG) == 3
    assert len(whole) == 9
    assert_equal(whole, chain(*(train_batches(noise(), CONFIG, start) for start in (0, 3, 6))))


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_do_not_change_batches(whole, workers):
    cv2.resize(np.zeros((2000, 2000, 3), np.uint8), (1000, 1000))  # OpenCV has threads that a worker would wait for
    assert_equal(whole, run_batches(noise(), replace(CONFIG, workers=workers), 0))


@pytest.mark.parametrize("step", range(9))
def test_resuming_at_any_step(whole, step):
    assert_equal(whole[step:], run_batches(noise(), CONFIG, step))
    assert_equal(whole[step : step // 3 * 3 + 3], train_batches(noise(), CONFIG, step))


def test_resuming_with_workers(whole):
    assert_equal(whole[4:], run_batches(noise(), replace(CONFIG, workers=2), 4))


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_share_every_batch(whole, world_size):
    parts = [list(run_batches(noise(), CONFIG, 0, World(rank, world_size))) for rank in range(world_size)]
    own = CONFIG.batch // world_size
    for step, batch in enumerate(whole):
        assert torch.equal(batch.images, torch.cat([part[step].images for part in parts]))
        targets = [part[step].targets + torch.tensor([own * rank] + [0] * 5) for rank, part in enumerate(parts)]
        assert torch.equal(batch.targets, torch.cat(targets))


def test_what_cannot_be_shared_is_refused():
    with pytest.raises(TrainError, match="a batch of 4 images cannot be shared equally by 3 processes"):
        next(run_batches(noise(), CONFIG, 0, World(0, 3)))
    for rank, size in ((2, 2), (-1, 1), (0, 0)):
        with pytest.raises(TrainError, match="rank must be in"):
            World(rank, size)


def test_sizes_change_every_so_many_steps_and_stay_in_range(whole):
    sizes = [batch.images.shape[-1] for batch in whole]
    assert sizes[0:8:2] == sizes[1:8:2]
    assert len(set(sizes)) > 1
    config = replace(CONFIG, augment=AugmentConfig(multi_scale=0.5, multi_scale_every=1))
    factors = [batch_scale(config, step) for step in range(200)]
    assert 0.5 <= min(factors) < 0.55
    assert 1.45 < max(factors) <= 1.5
    assert batch_scale(TrainConfig(), 5) == 1


def test_the_last_epochs_are_without_mosaic():
    """Images of one grey value each: a mosaic has several."""
    flat = [
        LabelledImage(np.full((16, 16, 3), 10 * i, np.uint8), np.zeros((0, 4)), np.zeros(0, np.int64)) for i in range(8)
    ]
    options = AugmentConfig(mosaic=1.0, hue=0.0, saturation=0.0, value=0.0, close_mosaic=2)
    batches = list(run_batches(flat, TrainConfig(epochs=3, batch=8, augment=options), 0))
    values = [max(len(torch.unique(image)) for image in batch.images) for batch in batches]
    assert values[0] > 1
    assert values[1:] == [1, 1]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_cache_changes_no_batch_and_makes_each_image_once(whole, workers):
    source = Counted(noise())
    cached = CachedImages(source, 1 << 20)
    assert_equal(whole, run_batches(cached, replace(CONFIG, workers=workers), 0))
    assert cached.kept == 13
    made = source.made.clone()
    assert int(made.max()) <= 1 + max(workers, 1)  # image 0 once more for its size; two workers may meet at one image
    assert_equal(whole, run_batches(cached, replace(CONFIG, workers=workers), 0))
    assert torch.equal(made, source.made)  # what workers have made is there for those after them


def test_a_cache_keeps_within_its_bound():
    source = Counted(noise(objects=1))
    one = CachedImages(source, 1 << 20).bytes // 13
    assert 48 * 48 * 3 < one < 48 * 48 * 3 + 6000
    cached = CachedImages(source, 5 * one + one // 2)
    assert cached.bytes == 5 * one
    for _ in range(2):
        for index, expected in enumerate(source.images):
            sample = cached[index]
            np.testing.assert_array_equal(sample.image, expected.image)
            np.testing.assert_array_equal(sample.boxes, expected.boxes)
            np.testing.assert_array_equal(sample.labels, expected.labels)
    assert cached.kept == 5
    assert source.made.tolist() == [3] + [1] * 4 + [2] * 8
    assert CachedImages(source, 0)[3].image is source.images[3].image


def test_images_with_many_objects_are_not_kept():
    source = Counted([*noise(1, objects=1), *noise(1, objects=5)])
    cached = CachedImages(source, 1 << 20, max_objects=4)
    for _ in range(3):
        assert [len(cached[i].boxes) for i in range(2)] == [1, 5]
    assert cached.kept == 1
    assert source.made.tolist() == [2, 3]


def test_a_kept_image_cannot_be_spoilt():
    cached = CachedImages(noise(2), 1 << 20)
    sample = cached[0]
    with pytest.raises(ValueError, match="read-only"):
        sample.image[0] = 0
    sample.boxes[:] = 0
    assert cached[0].boxes.any()


def test_a_cache_of_nothing_sensible_is_refused():
    for source, size, objects in (([], 1, 1), (noise(1), -1, 1), (noise(1), 1, 0)):
        with pytest.raises(TrainError, match="CachedImages: max_bytes must be"):
            CachedImages(source, size, objects)
    with pytest.raises(TrainError, match="all images must have one size"):
        CachedImages([*noise(1), *noise(1, size=32)], 1 << 20)[1]


def test_a_loader_that_is_left_early_ends_its_workers(whole):
    batches = run_batches(noise(), replace(CONFIG, workers=2), 0)
    assert_equal(whole[:2], islice(batches, 2))
    batches.close()
    assert cv2.getNumThreads() >= 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_batches_on_cuda_are_those_of_the_cpu(whole):
    for batch, expected in zip(run_batches(noise(), replace(CONFIG, device="cuda", workers=2), 0), whole, strict=True):
        assert batch.images.device.type == batch.targets.device.type == "cuda"
        torch.testing.assert_close(batch.images.cpu(), expected.images, rtol=1e-6, atol=1e-7)
        assert torch.equal(batch.targets.cpu(), expected.targets)
