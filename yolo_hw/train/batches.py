# SPDX-License-Identifier: Apache-2.0
"""From labelled images to batches, the same ones whatever the number of workers or the point of resuming."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from yolo_hw.darknet.layers import Shape
from yolo_hw.data.augment import LabelledImage, augment
from yolo_hw.data.dataset import DetectionDataset
from yolo_hw.data.image import read_image
from yolo_hw.data.preprocess import Resize, fit_image
from yolo_hw.train.config import TrainConfig
from yolo_hw.train.errors import TrainError


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


class ImageSource(Protocol):
    """Labelled images by number."""

    def __len__(self) -> int:
        """Number of images."""

    def __getitem__(self, index: int, /) -> LabelledImage:
        """Image `index`, always the same."""


class DatasetImages:
    """The images of a `DetectionDataset`, read when asked for; crowd regions are left out."""

    def __init__(self, dataset: DetectionDataset) -> None:
        """Remember the data set."""
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> LabelledImage:
        """Read image `index`."""
        item = self.dataset.items[index]
        kept = ~item.crowd
        return LabelledImage(read_image(item.path), item.boxes[kept], item.labels[kept])


class FittedImages:
    """Images and boxes of another source, brought to a network's input size."""

    def __init__(self, source: ImageSource, net: Shape, resize: Resize = Resize.STRETCH) -> None:
        """Remember the source and the target size."""
        self.source = source
        self.net = net
        self.resize = resize

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> LabelledImage:
        """Image `index` as [net.h, net.w, net.c]; boxes in its pixels."""
        sample = self.source[index]
        image, place = fit_image(sample.image, self.net, self.resize)
        sides = torch.tensor([self.net.w, self.net.h] * 2, dtype=torch.float64)
        corners = place.to_input(torch.from_numpy(sample.boxes)) * sides
        return LabelledImage(image, corners.numpy(), sample.labels)


def preload(source: ImageSource, workers: int = 0) -> Iterator[LabelledImage]:
    """Yield all images of a source in order, made by `workers` processes; ``list(...)`` of it is a source in memory."""
    yield from DataLoader(cast(Dataset[LabelledImage], source), batch_size=None, num_workers=workers)


def train_batches(source: ImageSource, config: TrainConfig, start_step: int) -> Iterator[Batch]:
    """Yield the rest of the epoch that step `start_step` is in.

    The order depends on seed and epoch, an image's augmentation on seed, epoch and image, nothing on anything else.

    Args:
        source: The images, all of one size (see `FittedImages`).
        config: Batch size, seed, augmentation, workers.
        start_step: Steps made so far in the whole run.

    Yields:
        Batches on the CPU.
    """
    epoch, done = divmod(start_step, steps_per_epoch(source, config))
    order = np.random.default_rng([config.seed, epoch]).permutation(len(source))
    plan = [
        [(epoch, int(index)) for index in order[step * config.batch : (step + 1) * config.batch]]
        for step in range(done, steps_per_epoch(source, config))
    ]
    loader: DataLoader[tuple[Tensor, Tensor]] = DataLoader(
        _Augmented(source, config),
        batch_sampler=plan,
        num_workers=config.workers,
        collate_fn=_collate,
        generator=torch.Generator(),  # so that the loader takes no number from torch's own
    )
    for images, targets in loader:
        yield Batch(images.permute(0, 3, 1, 2).float().div_(255), targets)


def steps_per_epoch(source: ImageSource, config: TrainConfig) -> int:
    """Return the number of full batches of a pass, or 1 if the set is smaller than a batch."""
    if len(source) == 0:
        raise TrainError("fit: the training set must not be empty")
    return max(len(source) // config.batch, 1)


class _Augmented(Dataset[tuple[Tensor, Tensor]]):
    """Augmented images by (epoch, index): [H, W, C] uint8 and targets [B, 5]."""

    def __init__(self, source: ImageSource, config: TrainConfig) -> None:
        self.source = source
        self.config = config

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        epoch, index = key
        rng = np.random.default_rng([self.config.seed, epoch, index])
        sample = augment(self.source[index], rng, self.config.augment)
        height, width = sample.image.shape[:2]
        low, high = sample.boxes[:, :2], sample.boxes[:, 2:]
        sides = [[width, height]]
        rows = np.concatenate([sample.labels[:, None], (low + high) / 2 / sides, (high - low) / sides], 1)
        return torch.from_numpy(sample.image), torch.from_numpy(rows.astype(np.float32))


def _collate(samples: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    sizes = sorted({tuple(image.shape) for image, _ in samples})
    if len(sizes) > 1:
        raise TrainError(f"fit: all training images must have one size, got {sizes[:3]}; wrap them in FittedImages")
    targets = [torch.cat([rows.new_full((len(rows), 1), i), rows], 1) for i, (_, rows) in enumerate(samples)]
    return torch.stack([image for image, _ in samples]), torch.cat(targets)
