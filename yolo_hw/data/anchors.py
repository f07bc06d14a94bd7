# SPDX-License-Identifier: Apache-2.0
"""Anchors for a data set: k-means with IoU distance, then refinement by mutation.

Redmon, Farhadi, "YOLO9000: Better, Faster, Stronger", CVPR 2017, section 2: the distance of a box and an anchor is one
minus the IoU of the two laid on one centre.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from yolo_hw.data.items import DetectionDataset
from yolo_hw.data.preprocess import Resize
from yolo_hw.errors import DataError

Sizes = npt.NDArray[np.float64]
"""[N, 2], width and height in pixels of the network's input."""

ROUNDS = 300
GENERATIONS = 1000
MUTATION = 0.1
"""Standard deviation of the logarithm of a mutated side."""


@dataclass(frozen=True)
class AnchorFit:
    """How well anchors fit a data set.

    Attributes:
        anchors: [K, 2] whole pixels, from small to large.
        mean_iou: Mean over the boxes of the IoU with the best anchor.
        recall: Best possible recall: share of boxes whose best anchor has at least the threshold's IoU.
    """

    anchors: Sizes
    mean_iou: float
    recall: float

    @property
    def cfg_line(self) -> str:
        """The line of a darknet cfg."""
        return "anchors = " + ",  ".join(f"{int(w)},{int(h)}" for w, h in self.anchors)


def box_sizes(dataset: DetectionDataset, net: tuple[int, int], resize: Resize) -> Sizes:
    """Return the sizes of all boxes in a network's input.

    Args:
        dataset: The boxes; ignored regions do not count.
        net: (width, height) of the input.
        resize: How images are brought to it.

    Returns:
        [N, 2] width and height in pixels.
    """
    found = []
    for item in dataset.items:
        height, width = item.size
        if not len(item.boxes):
            continue
        scale = np.array([net[0] / width, net[1] / height])
        if resize is Resize.LETTERBOX:
            scale[:] = scale.min()
        sides = item.boxes[~item.crowd, 2:] - item.boxes[~item.crowd, :2]
        found.append(sides * scale)
    return np.concatenate(found) if found else np.zeros((0, 2))


def size_iou(sizes: Sizes, anchors: Sizes) -> npt.NDArray[np.float64]:
    """Return the IoU [N, K] of boxes and anchors laid on one centre."""
    common: Sizes = np.minimum(sizes[:, None, 0], anchors[None, :, 0])
    common = common * np.minimum(sizes[:, None, 1], anchors[None, :, 1])
    areas = sizes.prod(1)[:, None] + anchors.prod(1)[None, :]
    return np.asarray(common / (areas - common))


def measure_anchors(sizes: Sizes, anchors: Sizes, threshold: float) -> AnchorFit:
    """Return how well anchors fit, as whole pixels of at least 1, sorted by area."""
    whole = np.maximum(np.rint(anchors), 1)
    whole = whole[np.argsort(whole.prod(1), kind="stable")]
    best = size_iou(sizes, whole).max(1)
    return AnchorFit(whole, float(best.mean()), float((best >= threshold).mean()))


def find_anchors(
    sizes: Sizes, count: int, *, seed: int = 0, threshold: float = 0.5, generations: int = GENERATIONS
) -> tuple[AnchorFit, AnchorFit]:
    """Find anchors.

    Args:
        sizes: Of the boxes.
        count: Number of anchors.
        seed: Of everything random.
        threshold: IoU from which on a box counts as recalled.
        generations: Of the refinement.

    Returns:
        The result of k-means and that of the refinement, whose mean IoU and recall are never lower.

    Raises:
        DataError: There are fewer different boxes than anchors.
    """
    different = len(np.unique(sizes, axis=0))
    if count < 1 or different < count:
        raise DataError(f"anchors: {count} anchors need as many boxes of different size, there are {different}")
    rng = np.random.default_rng(seed)
    before = measure_anchors(sizes, _k_means(sizes, count, rng), threshold)
    after = before
    for _ in range(generations):
        changed = rng.random((count, 2)) < max(1 / count, 0.2)
        mutated = after.anchors * np.exp(rng.normal(0, MUTATION, (count, 2)) * changed)
        candidate = measure_anchors(sizes, mutated, threshold)
        if candidate.mean_iou > after.mean_iou and candidate.recall >= after.recall:
            after = candidate
    return before, after


def _k_means(sizes: Sizes, count: int, rng: np.random.Generator) -> Sizes:
    """Cluster by IoU; centres are means, starting points are drawn by distance (k-means++)."""
    centres = sizes[rng.integers(len(sizes))][None]
    while len(centres) < count:
        distance = (1 - size_iou(sizes, centres).max(1)).clip(0) ** 2
        centres = np.concatenate([centres, sizes[rng.choice(len(sizes), p=distance / distance.sum())][None]])
    nearest = np.full(len(sizes), -1)
    for _ in range(ROUNDS):
        chosen = size_iou(sizes, centres).argmax(1)
        if (chosen == nearest).all():
            break
        nearest = chosen
        members = np.bincount(nearest, minlength=count)
        sums = np.stack([np.bincount(nearest, sizes[:, axis], count) for axis in (0, 1)], 1)
        used = members > 0
        centres = centres.copy()
        centres[used] = sums[used] / members[used, None]
    return np.asarray(centres, np.float64)
