# SPDX-License-Identifier: Apache-2.0
"""Where the loop's images come from: a data set's files, brought to the network's size, kept in memory."""

from __future__ import annotations

import mmap
import multiprocessing
from collections.abc import Iterator
from typing import TypeVar, cast

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from yolo_hw.darknet.layers import Shape
from yolo_hw.data.dataset import DetectionDataset
from yolo_hw.data.image import read_image
from yolo_hw.data.labelled import ImageSource, LabelledImage
from yolo_hw.data.preprocess import Resize, fit_image
from yolo_hw.train.errors import TrainError

T = TypeVar("T")

WORKER_START = "fork"
"""How worker processes start: sources and their shared memory are inherited, not copied."""


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


class CachedImages:
    """The first images of another source, kept once they have been made, up to a bound in bytes.

    The memory is shared: what one worker process makes, all have, and it is there once whatever their number. Pages are
    taken when an image is first kept. Images that lie beyond the bound or have more than `max_objects` objects are made
    anew each time.
    """

    def __init__(self, source: ImageSource, max_bytes: int, max_objects: int = 128) -> None:
        """Reserve address space.

        Args:
            source: Images of one size; image 0 is made to learn it.
            max_bytes: Of the memory that images and objects take.
            max_objects: Of an image that is kept.

        Raises:
            TrainError: The source is empty or a bound is out of range.
        """
        if max_bytes < 0 or max_objects < 1 or len(source) == 0:
            raise TrainError(
                f"CachedImages: max_bytes must be at least 0, max_objects and the number of images at least 1, "
                f"got {max_bytes}, {max_objects} and {len(source)}"
            )
        self.source = source
        self.max_objects = max_objects
        shape = source[0].image.shape
        sizes = [1, int(np.prod(shape)), 8, 8 * max_objects, 32 * max_objects]
        slots = min(max_bytes // sum(sizes), len(source))
        arrays = [np.frombuffer(mmap.mmap(-1, max(slots * size, 1)), np.uint8) for size in sizes]
        self._is_kept, pixels, counts, labels, boxes = (a[: slots * s] for a, s in zip(arrays, sizes, strict=True))
        self._images = pixels.reshape(slots, *shape)
        self._counts = counts.view(np.int64)
        self._labels = labels.view(np.int64).reshape(slots, max_objects)
        self._boxes = boxes.view(np.float64).reshape(slots, max_objects, 4)
        self._lock = multiprocessing.get_context(WORKER_START).Lock()  # orders the flag after what it stands for
        self.bytes = slots * sum(sizes)

    def __len__(self) -> int:
        return len(self.source)

    @property
    def kept(self) -> int:
        """Number of images kept so far."""
        with self._lock:
            return int(self._is_kept.sum())

    def __getitem__(self, index: int) -> LabelledImage:
        """Image `index`; one that is kept must not be written to."""
        if index >= len(self._is_kept):
            return self.source[index]
        with self._lock:
            is_kept = bool(self._is_kept[index])
        if not is_kept:
            sample = self.source[index]
            if not self._keep(index, sample):
                return sample
        count = int(self._counts[index])
        image = self._images[index]
        image.flags.writeable = False
        return LabelledImage(image, self._boxes[index, :count].copy(), self._labels[index, :count].copy())

    def _keep(self, index: int, sample: LabelledImage) -> bool:
        """Store an image; two processes that do so at once write the same bytes."""
        count = len(sample.boxes)
        if count > self.max_objects:
            return False
        if sample.image.shape != self._images.shape[1:]:
            raise TrainError(
                f"CachedImages: all images must have one size, got {self._images.shape[1:]} and {sample.image.shape}; "
                "wrap them in FittedImages"
            )
        self._images[index] = sample.image
        self._boxes[index, :count], self._labels[index, :count] = sample.boxes, sample.labels
        self._counts[index] = count
        with self._lock:
            self._is_kept[index] = 1
        return True


def preload(source: ImageSource, workers: int = 0) -> Iterator[LabelledImage]:
    """Yield all images of a source in order, made by `workers` processes; ``list(...)`` of it is a source in memory."""
    loader: DataLoader[LabelledImage] = DataLoader(
        cast(Dataset[LabelledImage], source),
        batch_size=None,
        num_workers=workers,
        multiprocessing_context=WORKER_START if workers else None,
    )
    yield from start_workers(loader)


def start_workers(loader: DataLoader[T]) -> Iterator[T]:
    """Return the iterator of a loader, whose worker processes run OpenCV on one thread each.

    A forked process has none of the threads of OpenCV's pool and would wait for them for ever, also in
    ``cv2.setNumThreads``. So the pool is dissolved while the workers start.
    """
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        return iter(loader)
    finally:
        cv2.setNumThreads(threads)
