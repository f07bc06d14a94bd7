# SPDX-License-Identifier: Apache-2.0
"""Where the real weights and images lie, and skipping where they do not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

REAL_NETWORKS = {
    "yolo-fastest-1.1": "yolo-fastest/yolo-fastest-1.1",
    "mobilenetv2-voc": "mobilenet-yolo/MobileNetV2-YOLO-Fastest-voc-v1",
    "yoloface-50k": "yoloface/yoloface-50k",
    "yoloface-500k": "yoloface/yoloface-500k-v1",
    "yolo-lite": "yolo-lite/coco-trial6",
}
"""Short name -> path below ``weights/`` without suffix."""


def data_root() -> Path:
    """Return the folder of real weights and images: YOLO_HW_DATA, by default ../shared/data of the repository."""
    return Path(os.environ.get("YOLO_HW_DATA") or REPOSITORY.parent / "shared" / "data")


def data_path(name: str) -> Path:
    """Return a file or folder below `data_root`; skip the calling test where it is absent."""
    path = data_root() / name
    if not path.exists():
        pytest.skip(f"{name} is not in {data_root()}; set YOLO_HW_DATA to the folder of real weights and images")
    return path


def real_network(name: str) -> tuple[Path, Path]:
    """Return cfg and weights of a network of `REAL_NETWORKS`; skip the calling test where they are absent."""
    stem = f"weights/{REAL_NETWORKS[name]}"
    return data_path(f"{stem}.cfg"), data_path(f"{stem}.weights")
