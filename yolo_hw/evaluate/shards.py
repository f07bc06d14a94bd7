# SPDX-License-Identifier: Apache-2.0
"""Detecting in a whole data set, by one process or by several that share the images, with equal results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch.distributed

from yolo_hw.data.dataset import DetectionDataset
from yolo_hw.errors import DataError, YoloHwError
from yolo_hw.evaluate.detector import DetectorConfig, HeadRunner, StageTimes, detect_files
from yolo_hw.evaluate.metrics import DetectionMetrics, evaluate_detections
from yolo_hw.nn.nms import Detections


@dataclass(frozen=True)
class Shard:
    """One of `world_size` processes."""

    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        """Check the range."""
        if not 0 <= self.rank < self.world_size:
            raise YoloHwError(f"Shard: rank must be in 0..world_size - 1, got {self.rank} of {self.world_size}")

    @classmethod
    def of_process_group(cls) -> Shard:
        """Return this process's place in torch's default process group; the only one where there is no group."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return cls()
        return cls(torch.distributed.get_rank(), torch.distributed.get_world_size())

    def indices(self, count: int, batch: int) -> list[int]:
        """Return the shard's images of `count`: every `world_size`-th batch.

        Whole batches are dealt out, so that an image stands among the same neighbours whatever the number of
        processes: a float network's last bits may depend on the size of its batch.
        """
        starts = range(self.rank * batch, count, self.world_size * batch)
        return [index for start in starts for index in range(start, min(start + batch, count))]


@dataclass(frozen=True)
class Detected:
    """Detections of some or all images of a data set.

    Attributes:
        indices: The images, ascending.
        detections: Per image, boxes in image pixels; None where the image cannot be read.
        errors: Why images could not be read, in order.
        times: Of all processes together.
    """

    indices: tuple[int, ...]
    detections: tuple[Detections | None, ...]
    errors: tuple[str, ...]
    times: StageTimes


def detect_shard(
    runner: HeadRunner,
    dataset: DetectionDataset,
    config: DetectorConfig,
    shard: Shard,
    advance: Callable[[], None] = lambda: None,
) -> Detected:
    """Detect in a shard's images; `advance` is called after each."""
    indices = shard.indices(len(dataset), config.batch)
    times = StageTimes()
    detections, errors = [], []
    for result in detect_files(runner, [dataset.items[i].path for i in indices], config, times):
        advance()
        detections.append(result.detections)
        if result.error:
            errors.append(result.error)
    return Detected(tuple(indices), tuple(detections), tuple(errors), times)


def merge_shards(parts: Sequence[Detected], count: int) -> Detected:
    """Join the shards of a data set of `count` images, sorted by image.

    Raises:
        YoloHwError: An image is missing or there twice.
    """
    found = sorted(
        ((index, of_image) for part in parts for index, of_image in zip(part.indices, part.detections, strict=True)),
        key=lambda pair: pair[0],
    )
    if [index for index, _ in found] != list(range(count)):
        raise YoloHwError(f"merge_shards: the shards must hold each of the {count} images once, got {len(found)}")
    times = StageTimes()
    for part in parts:
        times.add(part.times)
    errors = tuple(error for part in parts for error in part.errors)
    return Detected(tuple(range(count)), tuple(of_image for _, of_image in found), errors, times)


def detect_dataset(
    runner: HeadRunner,
    dataset: DetectionDataset,
    config: DetectorConfig,
    advance: Callable[[], None] = lambda: None,
) -> Detected:
    """Detect in every image of a data set; the processes of torch's default group, if there is one, share the images.

    Args:
        runner: The network, the same in every process.
        dataset: The images, likewise.
        config: Preparation and selection, likewise.
        advance: Called after every image of this process.

    Returns:
        The same detections in every process.

    Raises:
        DataError: No image can be read.
    """
    shard = Shard.of_process_group()
    parts = [detect_shard(runner, dataset, config, shard, advance)]
    if shard.world_size > 1:
        gathered: list[Detected | None] = [None] * shard.world_size
        torch.distributed.all_gather_object(gathered, parts[0])
        parts = [part for part in gathered if part is not None]
    detected = merge_shards(parts, len(dataset))
    if len(detected.errors) == len(dataset):
        raise DataError(f"none of the {len(dataset)} images can be read: {'; '.join(detected.errors[:1])}")
    return detected


def evaluate_dataset(
    runner: HeadRunner, dataset: DetectionDataset, class_map: Sequence[int], config: DetectorConfig
) -> DetectionMetrics:
    """Detect in a data set as `detect_dataset` does and compare as `evaluate_detections` does."""
    return evaluate_detections(dataset, detect_dataset(runner, dataset, config).detections, class_map)
