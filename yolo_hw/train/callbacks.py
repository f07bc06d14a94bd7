# SPDX-License-Identifier: Apache-2.0
"""What to do during a run besides training: show progress, measure the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import nn

from yolo_hw.data.dataset import DetectionDataset
from yolo_hw.evaluate import (
    DetectionMetrics,
    DetectorConfig,
    FloatRunner,
    HeadRunner,
    detect_files,
    evaluate_detections,
)
from yolo_hw.nn.darknet import Darknet
from yolo_hw.nn.nms import NmsConfig
from yolo_hw.train.loop import Callback, TrainState
from yolo_hw.train.schedule import learning_rate

MEASURING = DetectorConfig(nms=NmsConfig(confidence=0.005, iou=0.5))
"""Detection with almost no threshold, as average precision wants it."""


class ShowProgress(Callback):
    """A progress bar with the remaining time and the smoothed loss; one line per epoch where there is no terminal."""

    def __init__(self, console: Console | None = None, smoothing: float = 0.98) -> None:
        """Remember where to write; `smoothing` is the weight of the past in the shown loss."""
        self.console = console or Console()
        self.smoothing = smoothing
        self.shown: dict[str, float] = {}
        self.bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} steps"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[loss]}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task: TaskID | None = None

    def on_start(self, state: TrainState) -> None:
        """Open the bar."""
        self.task = self.bar.add_task(
            "train", total=state.total_steps, completed=state.step, epoch=state.epoch, loss=""
        )
        self.bar.start()

    def on_step(self, state: TrainState, terms: dict[str, float]) -> None:
        """Move the bar."""
        for name, value in terms.items():
            past = self.shown.get(name, value)
            self.shown[name] = self.smoothing * past + (1 - self.smoothing) * value
        assert self.task is not None
        self.bar.update(self.task, completed=state.step, epoch=state.epoch, loss=self._text())

    def on_epoch(self, state: TrainState) -> None:
        """Write a line if there is no bar."""
        if not self.console.is_terminal:
            rate = learning_rate(max(state.step - 1, 0), state.steps_per_epoch, state.config)
            self.console.print(f"epoch {state.epoch}/{state.config.epochs}  {self._text()}  lr {rate:.2e}")

    def on_end(self, state: TrainState) -> None:
        """Close the bar."""
        self.bar.stop()

    def _text(self) -> str:
        return "  ".join(f"{name} {value:.3f}" for name, value in self.shown.items())


@dataclass
class Evaluate(Callback):
    """Measures the model to keep on a data set every so many epochs and at the end.

    Attributes:
        dataset: Held-out images; class i of the model is class i of the data set.
        every_epochs: Passes between measurements.
        detector: How detections are made.
        make_runner: From the model to what computes its head maps.
        report: Called with the state and the figures.
        history: (epoch, figures) so far.
    """

    dataset: DetectionDataset
    every_epochs: int
    report: Callable[[TrainState, DetectionMetrics], None]
    detector: DetectorConfig = MEASURING
    make_runner: Callable[[nn.Module], HeadRunner] = lambda model: FloatRunner(cast(Darknet, model))
    history: list[tuple[int, DetectionMetrics]] = field(default_factory=list)

    def on_epoch(self, state: TrainState) -> None:
        """Measure if it is time."""
        if state.epoch % self.every_epochs == 0 or state.step == state.total_steps:
            metrics = measure(self.make_runner(state.best_model), self.dataset, self.detector)
            self.history.append((state.epoch, metrics))
            self.report(state, metrics)


def measure(runner: HeadRunner, dataset: DetectionDataset, detector: DetectorConfig = MEASURING) -> DetectionMetrics:
    """Detect in every image of a data set whose classes are the model's, and compare with the truth."""
    results = detect_files(runner, [item.path for item in dataset.items], detector)
    return evaluate_detections(dataset, [result.detections for result in results], range(len(dataset.names)))
