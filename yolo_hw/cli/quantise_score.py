# SPDX-License-Identifier: Apache-2.0
"""What a network is worth: AP50 on labelled images, or how near its raw outputs are to those in float."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from yolo_hw.cli.console import note
from yolo_hw.cli.eval import class_map_of
from yolo_hw.cli.options import class_names
from yolo_hw.data.dataset import DetectionDataset, open_dataset
from yolo_hw.data.preprocess import Resize
from yolo_hw.errors import DataError, QuantError
from yolo_hw.evaluate.detector import HeadRunner
from yolo_hw.evaluate.int_runner import IntRunner
from yolo_hw.intgraph.graph import IntGraph
from yolo_hw.nn.darknet import Darknet
from yolo_hw.prune.search_data import DetectorScore
from yolo_hw.quant.output_error import OutputError
from yolo_hw.train.callbacks import MEASURING


class EngineScore:
    """Network -> AP50 in percent; integer graphs run in the engine."""

    def __init__(self, score: DetectorScore) -> None:
        """Remember the images."""
        self._score = score

    def __call__(self, network: IntGraph | HeadRunner) -> float:
        """Return the score."""
        runner = IntRunner(network, threads=torch.get_num_threads()) if isinstance(network, IntGraph) else network
        return 100 * self._score.of_runner(runner)

    @property
    def identity(self) -> str:
        """See `DetectorScore.identity`."""
        return self._score.identity


class OutputScore:
    """Integer graph -> what is left of the energy of the raw outputs without the error's, in percent."""

    identity = "outputs"
    """Network and images, which it depends on, whoever keeps a log knows."""

    def __init__(self, error: OutputError) -> None:
        """Remember what measures the error."""
        self._error = error

    def __call__(self, graph: IntGraph) -> float:
        """Return the score, 100 where all outputs are as in float."""
        return 100 * (1 - self._error(graph, torch.get_num_threads()))


def open_score(options: dict[str, Any], model: Darknet) -> EngineScore:
    """Open what ``--data`` names.

    Raises:
        QuantError: The network has no detection head.
        DataError: There is no image, or none with an object of the network's classes.
    """
    if not model.network.heads:
        raise QuantError(
            f"{model.network.name}: average precision needs a detection head, the network has none: --drop-of "
            "output-error does without"
        )
    classes = model.network.heads[0].spec.classes
    names = class_names(options["names"], classes) if options["names"] is not None else ()
    dataset = open_dataset(options["data"], names or None, split=options["split"], usual_split="val")
    for warning in dataset.warnings:
        note(f"warning: {warning}")
    if options["max_images"]:
        dataset = DetectionDataset(dataset.names, dataset.items[: options["max_images"]])
    if not dataset.items:
        raise DataError(f"{options['data']}: no image to measure on")
    detector = replace(MEASURING, resize=Resize(options["resize"]))
    return EngineScore(DetectorScore(dataset, class_map_of(names, dataset, classes), detector))
