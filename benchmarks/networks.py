# SPDX-License-Identifier: Apache-2.0
"""The trained networks and image sets that the benchmarks measure."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.record import require_data
from yolo_hw import assets
from yolo_hw.data import DetectionDataset, load_batches, open_dataset, read_names
from yolo_hw.data.synthetic import write_dataset
from yolo_hw.evaluate import DetectionMetrics, DetectorConfig, HeadRunner, detect_files, evaluate_detections
from yolo_hw.evaluate.metrics import match_classes
from yolo_hw.nn import Darknet, NmsConfig, load_darknet

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from support import networks as cfg_texts

CONFIDENCE = 0.005


@dataclass(frozen=True)
class Case:
    """One network with its calibration and evaluation images."""

    name: str
    model: Darknet
    names: tuple[str, ...]
    calibration: list[npt.NDArray[np.uint8]]
    dataset: DetectionDataset

    def measure(self, runner: HeadRunner) -> DetectionMetrics:
        """Run the evaluation set through `runner`."""
        config = DetectorConfig(nms=NmsConfig(confidence=CONFIDENCE))
        found = [r.detections for r in detect_files(runner, [item.path for item in self.dataset.items], config)]
        return evaluate_detections(self.dataset, found, match_classes(self.names, self.dataset.names))


def real_model(folder: str, stem: str) -> Darknet:
    """A trained network of ``weights/``."""
    base = require_data() / "weights" / folder
    return load_darknet(base / f"{stem}.cfg", base / f"{stem}.weights")


def model_of(text: str, name: str) -> Darknet:
    """The network of a cfg text, with torch's default initialisation."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.cfg"
        path.write_text(text, "utf-8")
        return load_darknet(path)


def yolov3_tiny_model() -> Darknet:
    """YOLOv3-tiny for COCO with random weights of a plausible scale."""
    model = model_of(cfg_texts.yolov3_tiny(), "yolov3-tiny")
    model.load_weights(cfg_texts.random_weights(model.network))
    return model


def real_case(folder: str, stem: str, names: str) -> Case:
    """A network of ``weights/``, calibrated on coco_calib_train48 and measured on coco_val128."""
    data = require_data()
    model = real_model(folder, stem)
    dataset = open_dataset(next((data / "coco_val128").glob("*.json")), None)
    calibration = load_batches(data / "coco_calib_train48", model.network.input)
    return Case(stem, model, read_names(data / "weights" / folder / names), calibration, dataset)


def embedded_case(folder: Path, images: int = 200) -> Case:
    """The embedded network on generated images, written below `folder`."""
    write_dataset(folder / "calibration", 48, assets.CALIBRATION_SEED)
    write_dataset(folder / "held_out", images, assets.HELD_OUT_SEED)
    model = load_darknet(assets.PARTS_CFG, assets.PARTS_WEIGHTS)
    names = read_names(assets.PARTS_NAMES)
    dataset = open_dataset(folder / "held_out", names)
    return Case("parts", model, names, load_batches(folder / "calibration", model.network.input), dataset)
