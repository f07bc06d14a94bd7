# SPDX-License-Identifier: Apache-2.0
"""Detectors in quantisation-aware training runs: what `train_detector` trains, keeps and measures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from torch import nn

from yolo_hw.data.labelled import ImageSource
from yolo_hw.evaluate import HeadRunner, IntRunner
from yolo_hw.intgraph.io import load_graph, save_graph
from yolo_hw.nn.darknet import Darknet
from yolo_hw.quant.calibrate import ImageBatch
from yolo_hw.quant.config import QuantConfig
from yolo_hw.quant.qat.config import QatConfig
from yolo_hw.quant.qat.model import QatModel
from yolo_hw.quant.qat.prepare import float_model, lower_model, prepare_qat
from yolo_hw.train.form import DetectorForm, write_detector

CALIBRATION_BATCH = 8


class QatForm(DetectorForm):
    """A detector that trains in its quantised form.

    What is kept is the integer graph, ``best.graph/``, and the float network with the trained weights, ``best.cfg`` and
    ``.weights``; what is measured in the end is the integer graph in the engine.
    """

    def __init__(self, quant: QuantConfig, qat: QatConfig, calibration_images: int = 64) -> None:
        """Choose the options.

        Args:
            quant: Word lengths, rounding, observers.
            qat: How scales and batch norms are trained.
            calibration_images: Training images, evenly spread, that choose the first fraction bits.
        """
        self.quant, self.qat, self.calibration_images = quant, qat, calibration_images
        self._float: Darknet | None = None

    def prepare(self, model: Darknet, images: ImageSource) -> nn.Module:
        """See `DetectorForm.prepare`."""
        self._float = model
        return prepare_qat(model, self.quant, qat=self.qat, batches=self._batches(images))

    def write(self, stem: Path, model: nn.Module, names: Sequence[str], seen: int) -> None:
        """See `DetectorForm.write`."""
        assert isinstance(model, QatModel)
        assert self._float is not None
        save_graph(lower_model(model), _graph(stem))
        write_detector(stem, float_model(model, self._float), names, seen)

    def open(self, stem: Path, device: str) -> HeadRunner:
        """See `DetectorForm.open`; the engine runs on the processor, whatever `device` is."""
        return IntRunner(load_graph(_graph(stem)))

    def _batches(self, images: ImageSource) -> Iterator[ImageBatch]:
        chosen = np.linspace(0, len(images) - 1, min(self.calibration_images, len(images))).round().astype(int)
        for part in np.array_split(chosen, -(-len(chosen) // CALIBRATION_BATCH)):
            yield np.stack([images[int(index)].image for index in part])


def _graph(stem: Path) -> Path:
    return stem.with_name(f"{stem.name}.graph")
