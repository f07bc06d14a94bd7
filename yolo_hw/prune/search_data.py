# SPDX-License-Identifier: Apache-2.0
"""What a search needs of a data set: training images that adapt batch norms, and a score on others.

Both are parts of the training set that share no image. The validation set stays unseen, so that it can judge the result
of a search honestly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast, overload

import numpy as np
import torch
from torch import Tensor, nn

from yolo_hw.darknet.layers import Shape
from yolo_hw.data import DetectionDataset, Resize, fit_image, open_dataset, read_image
from yolo_hw.data.image import ImageArray
from yolo_hw.errors import DataError, PruneError
from yolo_hw.evaluate import DetectorConfig, FloatRunner, HeadRunner, evaluate_dataset, match_classes
from yolo_hw.nn.darknet import Darknet
from yolo_hw.search_log import fingerprint
from yolo_hw.train.callbacks import MEASURING

SCORES = ("ap50", "ap", "fitness", "f1")
"""Figures of `DetectionMetrics` a search can go by."""


class ImageBatches(Sequence[Tensor]):
    """Images in memory as bytes, handed out as float batches [N, C, H, W] of ``pixels / 255``."""

    def __init__(self, images: Sequence[ImageArray], batch: int) -> None:
        """Remember images [H, W, C] of one size."""
        if batch < 1 or not len(images):
            raise PruneError(f"ImageBatches: at least 1 image and 1 per batch, got {len(images)} and {batch}")
        self.images, self.batch = list(images), batch

    def __len__(self) -> int:
        return (len(self.images) + self.batch - 1) // self.batch

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> list[Tensor]: ...
    def __getitem__(self, index: int | slice) -> Tensor | list[Tensor]:
        """Batch `index`; the last one may be smaller."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        start = range(len(self))[index] * self.batch
        stacked = np.stack(self.images[start : start + self.batch])
        return torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 255

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))


@dataclass(frozen=True, kw_only=True)
class SearchDataConfig:
    """How a training set is split.

    Attributes:
        adapt: Images that adapt batch norms; a tenth of a set, as in the paper, is plenty.
        held_out: Images that score.
        score: One of `SCORES`.
        detector: How images are prepared, and detections selected.
        seed: Of the choice of images.
    """

    adapt: int = 64
    held_out: int = 128
    score: str = "ap50"
    detector: DetectorConfig = MEASURING
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            PruneError: One is out of range.
        """
        if self.adapt < 1 or self.held_out < 1:
            raise PruneError(f"search data: adapt and held_out must be at least 1, got {self.adapt}, {self.held_out}")
        if self.score not in SCORES:
            raise PruneError(f"search data: score must be one of {', '.join(SCORES)}, got '{self.score}'")


@dataclass(frozen=True)
class SearchData:
    """What a search needs of a data set.

    Attributes:
        batches: Images that adapt batch norms.
        score: Figure of a model on the held-out images, in [0, 1].
        adapted_on: Their files.
        scored_on: Files of the held-out images.
    """

    batches: ImageBatches
    score: Callable[[nn.Module], float]
    adapted_on: tuple[Path, ...]
    scored_on: tuple[Path, ...]


def open_search_data(
    source: str | Path,
    network: Shape,
    names: Sequence[str],
    config: SearchDataConfig | None = None,
    *,
    split: str | None = None,
) -> SearchData:
    """Open the training part of a data set for a search.

    Args:
        source: See `yolo_hw.data.open_dataset`.
        network: Shape of the network's input.
        names: Names of the network's classes.
        config: Options.
        split: The part to take; by default ``train`` where there is one.

    Raises:
        DataError: See `open_dataset`.
        PruneError: The part has too few images.
    """
    dataset = open_dataset(source, names, split=split, usual_split="train")
    return split_dataset(dataset, network, names, config)


def split_dataset(
    dataset: DetectionDataset, network: Shape, names: Sequence[str], config: SearchDataConfig | None = None
) -> SearchData:
    """Split a training set into images that adapt batch norms and images that score; see `open_search_data`."""
    config = config or SearchDataConfig()
    wanted = config.adapt + config.held_out
    if len(dataset) < wanted:
        raise PruneError(
            f"search data: {config.adapt} images to adapt and {config.held_out} held-out ones are wanted, "
            f"the set has {len(dataset)}"
        )
    order = np.random.default_rng(config.seed).permutation(len(dataset))[:wanted].tolist()
    adapt, held_out = (_part(dataset, sorted(o)) for o in (order[: config.adapt], order[config.adapt :]))
    images = [_read(item.path, network, config.detector.resize) for item in adapt.items]
    return SearchData(
        ImageBatches(images, config.detector.batch),
        DetectorScore(held_out, match_classes(names, dataset.names), config.detector, config.score),
        tuple(item.path for item in adapt.items),
        tuple(item.path for item in held_out.items),
    )


@dataclass(frozen=True, eq=False)
class DetectorScore:
    """Model -> a figure of `DetectionMetrics` on a data set; 0 where it is undefined.

    Attributes:
        dataset: Images with objects.
        class_map: See `match_classes`.
        config: How images are prepared, and detections selected.
        figure: One of `SCORES`.
    """

    dataset: DetectionDataset
    class_map: Sequence[int]
    config: DetectorConfig
    figure: str = "ap50"

    def __post_init__(self) -> None:
        """Check that the score can tell models apart.

        Raises:
            DataError: The set has no object of a class of the network: every model would score the same.
        """
        known = {label for label in self.class_map if label >= 0}
        if not any(known & set(item.labels[~item.crowd].tolist()) for item in self.dataset.items):
            raise DataError(
                f"search data: the {len(self.dataset)} held-out images have no object of the network's classes"
            )

    def __call__(self, model: nn.Module) -> float:
        """Return the figure of a model."""
        return self.of_runner(FloatRunner(cast(Darknet, model)))

    def of_runner(self, runner: HeadRunner) -> float:
        """Return the figure of whatever computes head maps."""
        metrics = evaluate_dataset(runner, self.dataset, self.class_map, self.config)
        return float(np.nan_to_num(getattr(metrics, self.figure)))

    @property
    def identity(self) -> str:
        """A hash of the images' files and labels and of how they are judged, for `SearchLog`."""
        images = [
            (str(i.path.absolute()), i.labels.tolist(), i.boxes.tolist(), i.crowd.tolist()) for i in self.dataset.items
        ]
        return fingerprint({}, images, list(self.class_map), self.config, self.figure)


def _part(dataset: DetectionDataset, indices: Sequence[int]) -> DetectionDataset:
    return DetectionDataset(dataset.names, tuple(dataset.items[i] for i in indices))


def _read(path: Path, network: Shape, resize: Resize) -> ImageArray:
    return fit_image(read_image(path), network, resize)[0]
