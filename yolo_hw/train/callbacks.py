# SPDX-License-Identifier: Apache-2.0
"""What to do during a run besides training: show progress, measure the model, stop early."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
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
    detect_dataset,
    evaluate_dataset,
    evaluate_detections,
)
from yolo_hw.nn.darknet import Darknet
from yolo_hw.nn.nms import NmsConfig
from yolo_hw.train.errors import TrainError
from yolo_hw.train.schedule import learning_rate
from yolo_hw.train.state import Callback, Measured, TrainState

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
        if state.world.leads:
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
        if not self.console.is_terminal and state.world.leads:
            rate = learning_rate(max(state.step - 1, 0), state.steps_per_epoch, state.config)
            self.console.print(f"epoch {state.epoch}/{state.config.epochs}  {self._text()}  lr {rate:.2e}")

    def on_end(self, state: TrainState) -> None:
        """Close the bar."""
        self.bar.stop()

    def _text(self) -> str:
        return "  ".join(f"{name} {value:.3f}" for name, value in self.shown.items())


Measure = Callable[[nn.Module], tuple[float, dict[str, float]]]
"""The model to its fitness and named figures."""


@dataclass
class Evaluate(Callback):
    """Measures the model to keep every so many epochs and after the last, and may end a run that no longer gains.

    Attributes:
        measure: What is measured; every process calls it.
        every_epochs: Passes between measurements.
        patience: Epochs without a fitter model after which the run ends; 0 lets it run to its end.
        report: Called with the state after each measurement, by process 0.
    """

    measure: Measure
    every_epochs: int = 1
    patience: int = 0
    report: Callable[[TrainState], None] = lambda state: None

    def on_epoch(self, state: TrainState) -> None:
        """Measure if it is time."""
        if state.epoch % self.every_epochs and not state.ends:
            return
        state.world.share_state(state.best_model)  # batch-norm statistics are each process's own
        fitness, figures = state.world.from_leader(self.measure(state.best_model))
        if not math.isfinite(fitness):
            raise TrainError(f"epoch {state.epoch}: the fitness is {fitness}; is there an object to find?")
        plain = {name: float(value) for name, value in figures.items()}
        state.history.append(Measured(state.epoch, float(fitness), plain))
        best = state.best
        assert best is not None
        if self.patience and state.epoch - best.epoch >= self.patience and not state.ends:
            state.stop = f"no fitter model since epoch {best.epoch}"
        if state.world.leads:
            self.report(state)


class MeasureDetector:
    """Measures a detector on a data set whose classes are the model's."""

    def __init__(
        self,
        dataset: DetectionDataset,
        detector: DetectorConfig = MEASURING,
        make_runner: Callable[[nn.Module], HeadRunner] | None = None,
        warn: Callable[[str], None] = lambda message: None,
    ) -> None:
        """Remember what is measured.

        Args:
            dataset: Held-out images; class i of the model is class i of the data set.
            detector: How detections are made.
            make_runner: From the model to what computes its head maps; None runs the float model where it is.
            warn: Told once of every image that cannot be read, which counts as one without detections.
        """
        self.dataset = dataset
        self.detector = detector
        self.make_runner = make_runner or _float_runner
        self.warn = warn
        self._told: set[str] = set()

    def __call__(self, model: nn.Module) -> tuple[float, dict[str, float]]:
        """Return the fitness and the figures, each class's among them."""
        was_training = model.training
        detected = detect_dataset(self.make_runner(model), self.dataset, self.detector)
        model.train(was_training)
        for message in detected.errors:
            if message not in self._told:
                self._told.add(message)
                self.warn(message)
        found = evaluate_detections(self.dataset, detected.detections, range(len(self.dataset.names)))
        return found.fitness, figures_of(found)


def measure(runner: HeadRunner, dataset: DetectionDataset, detector: DetectorConfig = MEASURING) -> DetectionMetrics:
    """Detect in every image of a data set whose classes are the model's, and compare with the truth.

    The processes of torch's default group, if there is one, share the images; all get the same figures.
    """
    return evaluate_dataset(runner, dataset, range(len(dataset.names)), detector)


def figures_of(metrics: DetectionMetrics) -> dict[str, float]:
    """Return the numbers of a measurement by name; those of a class as ``ap50/<class>``."""
    figures = {name: value for name, value in asdict(metrics).items() if isinstance(value, float)}
    for entry in metrics.classes:
        figures[f"ap50/{entry.name}"] = entry.ap50
        figures[f"ap/{entry.name}"] = entry.ap
    return {"fitness": metrics.fitness, **figures}


def _float_runner(model: nn.Module) -> HeadRunner:
    return FloatRunner(cast(Darknet, model), str(next(model.parameters()).device))
