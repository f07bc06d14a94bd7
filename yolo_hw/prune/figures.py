# SPDX-License-Identifier: Apache-2.0
"""What pruning changed, in figures before and after: size, work, accuracy, time, cycles."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from yolo_hw.darknet.network import Network
from yolo_hw.data.dataset import DetectionDataset
from yolo_hw.errors import YoloHwError
from yolo_hw.evaluate import DetectorConfig, FloatRunner, HeadRunner, evaluate_dataset
from yolo_hw.nn.accounting import account
from yolo_hw.nn.darknet import Darknet
from yolo_hw.prune.cost import CycleEstimate
from yolo_hw.prune.layer_shapes import layer_macs, layer_shapes

Models = tuple[Darknet, Darknet]
"""The model before and after."""

INT_BITS = 8


@dataclass(frozen=True)
class Figure:
    """One row of the table.

    Attributes:
        key: Its name in ``prune.json``.
        title: Its name for people.
        before: Of the unpruned model; None where it could not be had.
        after: Of the pruned one.
        unit: ``""`` of a count, ``%`` of a share in [0, 1], ``ms`` of seconds.
        absent: Why there are no figures.
        repeatable: Whether a second measurement gives the same.
    """

    key: str
    title: str
    before: float | None = None
    after: float | None = None
    unit: str = ""
    absent: str = ""
    repeatable: bool = True

    @property
    def left(self) -> float | None:
        """Share of `before` that is left."""
        return self.after / self.before if self.before and self.after is not None else None

    def shown(self) -> tuple[str, str, str]:
        """Return before, after and what is left in words; of an accuracy the difference in points."""
        if self.before is None or self.after is None:
            return "-", "-", self.absent
        if self.unit == "%":
            points = 100 * (self.after - self.before)
            return f"{100 * self.before:.2f} %", f"{100 * self.after:.2f} %", f"{points:+.2f} points"
        left = "-" if self.left is None else f"{100 * self.left:.1f} %"
        if self.unit == "ms":
            return f"{1e3 * self.before:.2f} ms", f"{1e3 * self.after:.2f} ms", left
        return f"{self.before:,.0f}", f"{self.after:,.0f}", left


@dataclass(frozen=True)
class Accelerator:
    """What cycles are estimated for.

    Attributes:
        tile: (TM, TN).
        estimate: Network -> the function from its layers' shapes to cycles.
    """

    tile: tuple[int, int]
    estimate: Callable[[Network], CycleEstimate]

    @property
    def name(self) -> str:
        """For example ``16x8``."""
        return f"{self.tile[0]}x{self.tile[1]}"


def count_figures(models: Models, profile: str = "macs") -> list[Figure]:
    """Return parameters, multiply-accumulates, FLOPs by a named profile, bytes as float32 and with 8-bit weights.

    Raises:
        YoloHwError: There is no such profile.
    """
    before, after = (account(model, model.network.input, profile) for model in models)
    rows = [
        ("params", "parameters", before.params, after.params),
        ("macs", "multiply-accumulates", before.macs, after.macs),
        ("flops", f"FLOPs by profile {profile}", before.flops, after.flops),
        ("bytes_float32", "bytes as float32, statistics included", before.param_bytes, after.param_bytes),
        (
            f"bytes_int{INT_BITS}",
            f"bytes with {INT_BITS}-bit weights",
            before.packed_bytes(INT_BITS),
            after.packed_bytes(INT_BITS),
        ),
    ]
    return [Figure(key, title, float(old), float(new)) for key, title, old, new in rows]


def cycle_figures(models: Models, accelerator: Accelerator | None) -> list[Figure]:
    """Return cycles of convolutions and the share of the tile's multipliers they use."""
    titles = {"cycles": "accelerator cycles", "utilisation": "tile utilisation"}
    if accelerator is None:
        return [Figure(key, title, absent="no tile is given") for key, title in titles.items()]
    cycles, used = [], []
    for model in models:
        shapes = layer_shapes(model)
        cycles.append(accelerator.estimate(model.network)(shapes))
        multipliers = accelerator.tile[0] * accelerator.tile[1]
        used.append(sum(map(layer_macs, shapes)) / (cycles[-1] * multipliers))
    return [
        Figure("cycles", f"accelerator cycles, tile {accelerator.name}", cycles[0], cycles[1]),
        Figure("utilisation", f"utilisation of tile {accelerator.name}", used[0], used[1], "%"),
    ]


def accuracy_figures(
    models: Models, dataset: DetectionDataset | None, class_map: Sequence[int], config: DetectorConfig
) -> list[Figure]:
    """Return AP50 and AP50:95 of the float models.

    Args:
        models: Before and after.
        dataset: Labelled images; None leaves the figures out.
        class_map: Model class -> data set class or -1.
        config: How images are prepared and detections selected.
    """
    titles = {"ap50": "AP50", "ap": "AP50:95"}
    if dataset is None:
        return [Figure(key, title, absent="no data set is given") for key, title in titles.items()]
    before, after = (evaluate_dataset(FloatRunner(model), dataset, class_map, config) for model in models)
    return [Figure(key, title, getattr(before, key), getattr(after, key), "%") for key, title in titles.items()]


def speed_figures(
    models: Models, runs: int, make_engine: Callable[[Darknet], HeadRunner] | None, no_engine: str
) -> list[Figure]:
    """Return seconds of one image of the float model and of the integer engine.

    Medians of runs in turn, before and after, so that both see the same machine.

    Args:
        models: Before and after.
        runs: Of each; 0 leaves the times out.
        make_engine: Quantises a model; None leaves the engine out.
        no_engine: Why there is none.
    """
    threads = torch.get_num_threads()
    where = f"{threads} thread{'s' * (threads > 1)}"
    float_title, int_title = (
        f"time of an image, {how}, {where}" for how in ("torch float32", f"integer engine, {INT_BITS} bits")
    )
    if runs == 0:
        why = "no runs are wanted"
        return [Figure("seconds_float", float_title, absent=why), Figure("seconds_engine", int_title, absent=why)]
    figures = [_timed(Figure("seconds_float", float_title), models, FloatRunner, runs)]
    if make_engine is None:
        return [*figures, Figure("seconds_engine", int_title, absent=no_engine)]
    return [*figures, _timed(Figure("seconds_engine", int_title), models, make_engine, runs)]


def _timed(figure: Figure, models: Models, make: Callable[[Darknet], HeadRunner], runs: int) -> Figure:
    """Return a figure with times, or with the reason why a model cannot run this way."""
    shape = models[0].network.input
    image = np.full((1, shape.h, shape.w, shape.c), 114, np.uint8)
    try:
        runners = [make(model) for model in models]
    except YoloHwError as error:  # a layer without an integer form, or a network without heads
        return replace(figure, absent=str(error))
    before, after = medians_in_turn([partial(runner.run, image) for runner in runners], runs)
    return replace(figure, before=before, after=after, unit="ms", repeatable=False)


def medians_in_turn(calls: Sequence[Callable[[], object]], runs: int) -> list[float]:
    """Return the median seconds of each call, run in turn after one run that does not count."""
    seconds: list[list[float]] = [[] for _ in calls]
    for turn in range(runs + 1):
        for call, own in zip(calls, seconds, strict=True):
            began = time.perf_counter()
            call()
            if turn:
                own.append(time.perf_counter() - began)
    return [statistics.median(own) for own in seconds]


def recorded(figures: Sequence[Figure]) -> dict[str, dict[str, float]]:
    """Return the figures that ``prune.json`` holds: those that a second run gives again."""
    return {
        figure.key: {"before": _plain(figure.before), "after": _plain(figure.after)}
        for figure in figures
        if figure.repeatable and figure.before is not None and figure.after is not None
    }


def _plain(value: float) -> float:
    """Return a whole number as an int, for JSON."""
    return int(value) if float(value).is_integer() else value
