# SPDX-License-Identifier: Apache-2.0
"""Checking a data set before it is trained on: every image is decoded, every box looked at."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from yolo_hw.data.image import read_image
from yolo_hw.data.items import DetectionDataset, Finding, Flaw, Item
from yolo_hw.errors import DataError

SIZE_EDGES_PX = tuple(2.0**k for k in range(12))
"""Edges of the histogram of box sizes, the square root of the area."""

COCO_EDGES_PX = (32.0, 96.0)
"""COCO's borders between small, medium and large objects."""


@dataclass(frozen=True)
class ClassCount:
    """How often a class occurs: objects, images that have it, ignored regions."""

    name: str
    objects: int
    images: int
    ignored: int


@dataclass(frozen=True)
class CheckReport:
    """What a check found.

    Attributes:
        images: Number of images.
        empty: Images without objects.
        classes: Counts per class.
        sizes: Boxes per bin of `SIZE_EDGES_PX`; the first and last bin take what lies beyond.
        findings: Everything that is wrong or suspect.
    """

    images: int
    empty: int
    classes: tuple[ClassCount, ...]
    sizes: tuple[int, ...]
    findings: tuple[Finding, ...]

    @property
    def flaws(self) -> dict[str, int]:
        """Number of findings by kind."""
        return dict(Counter(finding.flaw.value for finding in self.findings))

    def document(self) -> dict[str, Any]:
        """Return the report as JSON."""
        return {
            "images": self.images,
            "empty": self.empty,
            "classes": [vars(entry) for entry in self.classes],
            "box_sizes": {"edges_px": SIZE_EDGES_PX, "boxes": self.sizes},
            "flaws": self.flaws,
            "findings": [
                {"flaw": finding.flaw.value, "place": finding.place, "message": finding.message}
                for finding in self.findings
            ],
        }


def check_dataset(dataset: DetectionDataset, advance: Callable[[], None] = lambda: None) -> CheckReport:
    """Check a data set.

    Args:
        dataset: Opened with ``strict=False``, so that nothing stops the check.
        advance: Called after every image.

    Returns:
        What was found, the findings of reading first.
    """
    findings = list(dataset.findings)
    named = {finding.place for finding in findings}
    first_of: dict[bytes, Path] = {}
    for item in dataset.items:
        if str(item.path) not in named:
            findings += _image_findings(item, first_of)
        findings += _box_findings(item)
        advance()
    own = [item.labels[~item.crowd] for item in dataset.items]
    classes = tuple(
        ClassCount(
            name,
            sum(int((labels == number).sum()) for labels in own),
            sum(bool((labels == number).any()) for labels in own),
            sum(int((item.labels[item.crowd] == number).sum()) for item in dataset.items),
        )
        for number, name in enumerate(dataset.names)
    )
    empty = sum(not len(labels) for labels in own)
    return CheckReport(len(dataset), empty, classes, _size_counts(dataset), tuple(findings))


def draw_sizes(dataset: DetectionDataset, path: Path) -> None:
    """Draw the histogram of box sizes as PNG."""
    roots = _size_roots(dataset)
    edges = 2.0 ** np.arange(0, 11.01, 0.25)
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.hist(roots.clip(edges[0], edges[-1]), bins=edges.tolist(), color="tab:blue")
    for edge in COCO_EDGES_PX:
        axes.axvline(edge, color="black", linewidth=0.8, linestyle="--")
    axes.set_xscale("log", base=2)
    axes.set_xlabel("square root of the box area in pixels; dashed: COCO's small | medium | large")
    axes.set_ylabel("boxes")
    axes.set_title(f"{len(roots)} boxes in {len(dataset)} images")
    figure.savefig(path, format="png", dpi=120, metadata={"Software": None})


def _image_findings(item: Item, first_of: dict[bytes, Path]) -> list[Finding]:
    try:
        image = read_image(item.path)
    except DataError as error:
        return [Finding(Flaw.BAD_IMAGE, str(item.path), str(error).removeprefix(f"{item.path}: "))]
    found = []
    if image.shape[:2] != item.size:
        (height, width), stated = image.shape[:2], f"{item.size[1]}x{item.size[0]}"
        message = f"the labels are for an image of {stated}, it has {width}x{height}"
        found.append(Finding(Flaw.WRONG_SIZE, str(item.path), message))
    digest = hashlib.sha256(repr(image.shape).encode() + image.tobytes()).digest()
    if digest in first_of:
        found.append(Finding(Flaw.SAME_IMAGE, str(item.path), f"same pixels as {first_of[digest]}"))
    else:
        first_of[digest] = item.path
    return found


def _box_findings(item: Item) -> list[Finding]:
    rows = Counter((int(label), *box) for label, box in zip(item.labels, item.boxes.tolist(), strict=True))
    return [
        Finding(Flaw.SAME_BOX, str(item.path), f"{count} equal boxes of class {row[0]} at {row[1:]}")
        for row, count in rows.items()
        if count > 1
    ]


def _size_roots(dataset: DetectionDataset) -> np.ndarray[Any, np.dtype[np.float64]]:
    sides = [(item.boxes[:, 2:] - item.boxes[:, :2])[~item.crowd] for item in dataset.items]
    return np.asarray(np.sqrt(np.concatenate([*sides, np.zeros((0, 2))]).prod(1)))


def _size_counts(dataset: DetectionDataset) -> tuple[int, ...]:
    bins = np.digitize(_size_roots(dataset), SIZE_EDGES_PX)
    return tuple(int(count) for count in np.bincount(bins, minlength=len(SIZE_EDGES_PX) + 1))
