# SPDX-License-Identifier: Apache-2.0
"""From labelled images to batches, the same ones whatever the number of workers, of ranks, or the point of resuming."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from yolo_hw.data.augment import augmented, without_mixing
from yolo_hw.data.labelled import ImageSource
from yolo_hw.train.config import TrainConfig
from yolo_hw.train.distributed import ALONE, World
from yolo_hw.train.errors import TrainError
from yolo_hw.train.sources import WORKER_START, start_workers

__all__ = ["Batch", "ImageSource", "run_batches", "steps_per_epoch", "train_batches"]

_Key = tuple[int, int, float]
"""Epoch, image, size relative to the source's."""


@dataclass(frozen=True)
class Batch:
    """What one step sees.

    Attributes:
        images: [N, C, H, W] float32 in [0, 1].
        targets: [T, 6] float32: image in the batch, class, centre x, centre y, width, height; the last four relative to
            the input.
    """

    images: Tensor
    targets: Tensor


def train_batches(source: ImageSource, config: TrainConfig, start_step: int, world: World = ALONE) -> Iterator[Batch]:
    """Yield the rest of the epoch that step `start_step` is in.

    The order depends on seed and epoch, an image's augmentation on seed, epoch and image, the size of a batch on seed
    and step, nothing on anything else.

    Args:
        source: The images, all of one size (see `FittedImages`).
        config: Batch size, seed, augmentation, workers, device.
        start_step: Steps made so far in the whole run.
        world: The processes that share every batch; this one makes its part.

    Yields:
        Batches on the device of `config`.
    """
    steps = steps_per_epoch(source, config)
    yield from _load(source, config, range(start_step, (start_step // steps + 1) * steps), world)


def run_batches(
    source: ImageSource, config: TrainConfig, start_step: int, world: World = ALONE
) -> Generator[Batch, None, None]:
    """Yield the rest of the run: the same batches as `train_batches`, epoch after epoch, by the same workers.

    They go on with the next epoch while the last batches of one are being used, and end when the generator is closed.
    """
    yield from _load(source, config, range(start_step, config.epochs * steps_per_epoch(source, config)), world)


def steps_per_epoch(source: ImageSource, config: TrainConfig) -> int:
    """Return the number of full batches of a pass, or 1 if the set is smaller than a batch."""
    if len(source) == 0:
        raise TrainError("fit: the training set must not be empty")
    return max(len(source) // config.batch, 1)


def batch_scale(config: TrainConfig, step: int) -> float:
    """Return the size of the images of a step relative to the source's: uniform in 1 -+ multi_scale."""
    if not config.augment.multi_scale:
        return 1.0
    block = step // config.augment.multi_scale_every
    rng = np.random.default_rng(np.random.SeedSequence([config.seed, block], spawn_key=(1,)))
    return float(1 + config.augment.multi_scale * rng.uniform(-1, 1))


def _load(source: ImageSource, config: TrainConfig, steps: range, world: World) -> Iterator[Batch]:
    device = world.device(config.device)
    loader: DataLoader[tuple[Tensor, Tensor]] = DataLoader(
        _Augmented(source, config),
        batch_sampler=_Plan(source, config, steps, world),
        num_workers=config.workers,
        collate_fn=_collate,
        pin_memory=device.type == "cuda",
        multiprocessing_context=WORKER_START if config.workers else None,
        generator=torch.Generator(),  # so that the loader takes no number from torch's own
    )
    for pixels, targets in start_workers(loader) if config.workers else loader:
        images = pixels.to(device, non_blocking=True)  # bytes, a quarter of what floats would take
        yield Batch(images.permute(0, 3, 1, 2).float().div_(255), targets.to(device, non_blocking=True))


class _Plan(Sampler[list[_Key]]):
    """The images of every step."""

    def __init__(self, source: ImageSource, config: TrainConfig, steps: range, world: World) -> None:
        self.source = source
        self.config = config
        self.steps = steps
        self.world = world

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[_Key]]:
        per_epoch, batch = steps_per_epoch(self.source, self.config), self.config.batch
        shuffled, order = -1, np.zeros(0, np.int64)
        for step in self.steps:
            epoch, place = divmod(step, per_epoch)
            if epoch != shuffled:
                shuffled, order = epoch, np.random.default_rng([self.config.seed, epoch]).permutation(len(self.source))
            chosen = order[place * batch : (place + 1) * batch]
            scale = batch_scale(self.config, step)
            yield [(epoch, int(index), scale) for index in chosen[self.world.slice(len(chosen))]]


class _Augmented(Dataset[tuple[Tensor, Tensor]]):
    """Augmented images by key: [H, W, C] uint8 and targets [B, 5]."""

    def __init__(self, source: ImageSource, config: TrainConfig) -> None:
        self.source = source
        self.config = config

    def __getitem__(self, key: _Key) -> tuple[Tensor, Tensor]:
        epoch, index, scale = key
        rng = np.random.default_rng([self.config.seed, epoch, index])
        options = self.config.augment
        if epoch >= self.config.epochs - options.close_mosaic:
            options = without_mixing(options)
        sample = augmented(self.source, index, rng, options, scale)
        height, width = sample.size
        low, high = sample.boxes[:, :2], sample.boxes[:, 2:]
        sides = [[width, height]]
        rows = np.concatenate([sample.labels[:, None], (low + high) / 2 / sides, (high - low) / sides], 1)
        image = np.require(sample.image, requirements="W")  # torch takes no array that is read-only
        return torch.from_numpy(image), torch.from_numpy(rows.astype(np.float32))


def _collate(samples: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    sizes = sorted({tuple(image.shape) for image, _ in samples})
    if len(sizes) > 1:
        raise TrainError(f"fit: all training images must have one size, got {sizes[:3]}; wrap them in FittedImages")
    targets = [torch.cat([rows.new_full((len(rows), 1), i), rows], 1) for i, (_, rows) in enumerate(samples)]
    return torch.stack([image for image, _ in samples]), torch.cat(targets)
