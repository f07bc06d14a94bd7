# SPDX-License-Identifier: Apache-2.0
"""Dividing a data set so that every part has its share of every class.

Sechidis, Tsoumakas, Vlahavas, "On the Stratification of Multi-Label Data", ECML PKDD 2011: the rarest class that is
left is dealt out first, each image to the part that lacks most of it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from yolo_hw.atomic import atomic_folder
from yolo_hw.data.items import DetectionDataset, Item
from yolo_hw.errors import DataError

MARKER = "split.txt"


def stratified_parts(dataset: DetectionDataset, shares: Sequence[float], seed: int) -> list[list[int]]:
    """Divide the images.

    Args:
        dataset: The images.
        shares: Of the parts, positive; their sum is taken as the whole.
        seed: Of the order among equals.

    Returns:
        The numbers of each part's images, ascending; every image is in exactly one part.

    Raises:
        DataError: There are fewer images than parts, or a share is not positive.
    """
    if len(shares) < 1 or min(shares) <= 0 or len(dataset) < len(shares):
        raise DataError(
            f"{len(dataset)} images cannot be divided into parts of {list(shares)}: shares must be positive"
        )
    rng = np.random.default_rng(seed)
    has = _presence(dataset)
    weights = np.array(shares) / sum(shares)
    lacking = weights[:, None] * has.sum(0)  # [part, class]
    room = weights * len(dataset)
    parts: list[list[int]] = [[] for _ in shares]
    left = np.ones(len(dataset), bool)
    while left.any():
        counts = (has & left[:, None]).sum(0)
        label = int(np.argmin(np.where(counts > 0, counts, np.iinfo(np.int64).max)))
        for index in rng.permutation(np.flatnonzero(has[:, label] & left)):
            wanted = [(lacking[part, label], room[part], rng.random()) for part in range(len(shares))]
            part = max(range(len(shares)), key=lambda p: wanted[p])
            parts[part].append(int(index))
            lacking[part] -= has[index]
            room[part] -= 1
            left[index] = False
    return _without_empty(parts, rng)


def write_splits(
    dataset: DetectionDataset, lists: Mapping[str, Sequence[int]], folder: str | Path, remark: str
) -> None:
    """Write one list of image paths per split, relative to the folder.

    Args:
        dataset: The images.
        lists: Name of the split -> numbers of its images.
        folder: Where to; appears complete or not at all, and takes the place of an older one.
        remark: How the lists came about, for the file ``split.txt``.
    """
    with atomic_folder(folder, marker=MARKER) as target:
        (target / MARKER).write_text(f"# {remark}\n", "utf-8")
        for name, indices in lists.items():
            paths = [os.path.relpath(dataset.items[i].path.absolute(), Path(folder).absolute()) for i in indices]
            (target / f"{name}.txt").write_text("".join(f"{path}\n" for path in paths), "utf-8")


def _presence(dataset: DetectionDataset) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    """Return [image, class or "nothing"]: what is in which image."""
    has = np.zeros((len(dataset), len(dataset.names) + 1), bool)
    for number, item in enumerate(dataset.items):
        labels = _labels(item)
        has[number, labels if len(labels) else -1] = True
    return has


def _labels(item: Item) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.unique(item.labels[~item.crowd])


def _without_empty(parts: list[list[int]], rng: np.random.Generator) -> list[list[int]]:
    """Give a part that got nothing an image of the largest one."""
    for part in parts:
        if not part:
            largest = max(parts, key=len)
            part.append(largest.pop(int(rng.integers(len(largest)))))
    return [sorted(part) for part in parts]
