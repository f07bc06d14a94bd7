# SPDX-License-Identifier: Apache-2.0
"""The generated scenes as a data set: on the fly for training, or written to disk."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from yolo_hw.atomic import atomic_folder
from yolo_hw.data.items import Item
from yolo_hw.data.labelled import LabelledImage
from yolo_hw.data.synthetic.layout import SceneConfig
from yolo_hw.data.synthetic.scene import PART_NAMES, Scene, generate_scene
from yolo_hw.data.writers import append_coco, coco_document, yolo_line
from yolo_hw.errors import DataError

JPEG_QUALITY = 95


@dataclass(frozen=True)
class SyntheticDataset:
    """Scenes ``0 .. count - 1`` of a seed, generated when asked for; a map-style torch data set.

    Every process and every order of access gets the same images.
    """

    seed: int
    count: int
    config: SceneConfig = field(default_factory=SceneConfig)

    def __post_init__(self) -> None:
        """Check the range."""
        if self.count < 1 or self.seed < 0:
            raise DataError(
                f"SyntheticDataset: count must be at least 1 and seed at least 0, got {self.count} and {self.seed}"
            )

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> LabelledImage:
        """Generate scene `index`."""
        if not 0 <= index < self.count:
            raise IndexError(index)
        scene = generate_scene(self.seed, index, self.config)
        return LabelledImage(scene.image, scene.boxes, scene.labels)


def write_dataset(folder: str | Path, count: int, seed: int, config: SceneConfig | None = None) -> None:
    """Write generated scenes so that `yolo_hw.data.open_dataset` reads them.

    The folder gets ``images/*.jpg``, YOLO text labels in ``labels/*.txt``, the same as COCO in ``instances.json`` and
    the class names in ``parts.names``.

    Args:
        folder: Where to; appears complete or not at all, and takes the place of an older one.
        count: Number of images.
        seed: Of `generate_scene`.
        config: Of `generate_scene`.

    Raises:
        DataError: `count` or `seed` out of range.
        OutputError: `folder` holds other things.
    """
    data = SyntheticDataset(seed, count, config or SceneConfig())
    document = coco_document(f"generated machine parts, seed {seed}", PART_NAMES)
    with atomic_folder(folder, marker="instances.json") as target:
        (target / "images").mkdir()
        (target / "labels").mkdir()
        for index in range(data.count):
            scene = generate_scene(seed, index, data.config)
            _write_scene(target, f"{index:06d}", scene)
            name = Path(f"{index:06d}.jpg")
            no_crowd = np.zeros(len(scene.boxes), np.bool_)
            item = Item(name, scene.image.shape[:2], scene.boxes, scene.labels, no_crowd, scene.areas)
            append_coco(document, name.name, item)
        (target / "parts.names").write_text("".join(f"{name}\n" for name in PART_NAMES), "utf-8")
        (target / "instances.json").write_text(json.dumps(document), "utf-8")


def _write_scene(folder: Path, stem: str, scene: Scene) -> None:
    path = folder / "images" / f"{stem}.jpg"
    if not cv2.imwrite(str(path), scene.image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]):
        raise DataError(f"{path}: cannot write the image")
    lines = [
        yolo_line(int(label), box, scene.image.shape[:2])
        for label, box in zip(scene.labels, scene.boxes.tolist(), strict=True)
    ]
    (folder / "labels" / f"{stem}.txt").write_text("".join(lines), "utf-8")
