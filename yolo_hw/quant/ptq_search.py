# SPDX-License-Identifier: Apache-2.0
"""Which options of post-training quantisation suit a network: a search within a time budget.

Coordinate descent over `AXES`, the cheap options first: every value of an option is tried with the best values of the
others so far, in sweeps until nothing improves; at last AdaRound on the best. The first trial is the configuration as
given, and nothing worse than it is ever returned.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from yolo_hw.errors import QuantError
from yolo_hw.intgraph.engine import Engine
from yolo_hw.intgraph.graph import IntGraph
from yolo_hw.quant.calibrate import Calibrated, ImageBatch, calibrate, shape_of
from yolo_hw.quant.config import AdaRoundConfig, CorrectBy, EqualiseBy, Observer, QuantConfig
from yolo_hw.quant.execute import float_parameters, image_tensor, run_folded
from yolo_hw.quant.fold import trace_model
from yolo_hw.quant.folded import FoldedGraph
from yolo_hw.quant.layer_statistics import Likeness, finite_decibels
from yolo_hw.quant.lower import lower_graph
from yolo_hw.quant.moments import batch_norm_moments
from yolo_hw.quant.source import TracedModel
from yolo_hw.search_log import SearchLog, fingerprint, finite, identity_of

HELD_OUT = 4
"""One in `HELD_OUT` images is kept for the default score."""
MAX_SWEEPS = 3

Setting = dict[str, Any]
"""Fields of `QuantConfig` that differ from the configuration as given."""

AXES: tuple[tuple[Setting, ...], ...] = (
    tuple({"a_observer": observer} for observer in Observer if observer is not Observer.PERCENTILE)
    + tuple({"a_observer": Observer.PERCENTILE, "percentile": share} for share in (99.9, 99.99, 99.999)),
    (
        {"equalise": 0.5, "equalise_by": EqualiseBy.ACTIVATIONS},
        {"equalise": 1.0, "equalise_by": EqualiseBy.ACTIVATIONS},
        {"equalise": 0.0, "equalise_by": EqualiseBy.ACTIVATIONS},
        {"equalise": 1.0, "equalise_by": EqualiseBy.WEIGHTS},
        {"equalise": None, "equalise_by": EqualiseBy.ACTIVATIONS},
    ),
    tuple({"w_observer": observer} for observer in (Observer.MSE, Observer.MAX, Observer.COSINE)),
    (
        {"bias_correction": True, "bias_correction_by": CorrectBy.IMAGES},
        {"bias_correction": True, "bias_correction_by": CorrectBy.BATCH_NORM},
        {"bias_correction": False, "bias_correction_by": CorrectBy.IMAGES},
    ),
    ({"absorb_biases": False}, {"absorb_biases": True}),
)
"""Options and their values, those with the largest effect first."""


class Score(Protocol):
    """How good an integer network is, the higher the better; its attribute `identity`, if any, marks the log."""

    def __call__(self, graph: IntGraph) -> float:
        """Return a finite number."""


@dataclass(frozen=True)
class Trial:
    """One configuration and its result.

    Attributes:
        config: All options.
        setting: What differs from the configuration as given, as text.
        score: The higher the better; None if the network has no integer form with these options.
        seconds: What calibration and score took.
    """

    config: QuantConfig
    setting: str
    score: float | None
    seconds: float


@dataclass(frozen=True)
class SearchProgress:
    """How far a search is.

    Attributes:
        trials: Finished, those of earlier runs included.
        seconds_left: Of the budget; a search that runs out of ideas ends before.
        trial: The last one.
        best: The best so far.
    """

    trials: int
    seconds_left: float
    trial: Trial
    best: Trial


@dataclass(frozen=True, eq=False)
class SearchResult:
    """What a search found.

    Attributes:
        calibrated: The best network: exactly what was scored.
        best: Its trial.
        trials: All trials in order; the first is the configuration as given.
    """

    calibrated: Calibrated
    best: Trial
    trials: tuple[Trial, ...]


class _OutOfTimeError(Exception):
    """Raised inside a calibration when the budget is spent."""


def search_ptq(
    model: nn.Module,
    images: Sequence[ImageBatch],
    budget_seconds: float,
    score: Score | None = None,
    *,
    config: QuantConfig | None = None,
    log: str | Path | None = None,
    report: Callable[[SearchProgress], None] | None = None,
) -> SearchResult:
    """Search observers, equalisation, corrections and AdaRound.

    Args:
        model: The trained model; it is not changed.
        images: Calibration batches [N, H, W, C] uint8.
        budget_seconds: Of calibrations and scores, those in the log included. The configuration as given is always
            tried; what the budget interrupts is left out.
        score: Judges an integer network. None: the heads' signal-to-noise ratio on a quarter of the images, which take
            no part in calibration then.
        config: Word lengths and the rest; its own values of what is searched come first.
        log: File of finished trials; a search with the same arguments goes on behind them.
        report: Called after every trial.

    Returns:
        The best network, its options and all trials.

    Raises:
        QuantError: Not enough images, or the network has no integer form.
        SearchError: The log is that of another search, or a score is no finite number.
    """
    base = config or QuantConfig()
    needed, found = 1 if score else 2, sum(map(len, images))
    if found < needed:
        raise QuantError(f"the search needs at least {needed} calibration images, got {found}")
    stacked: ImageBatch = np.concatenate(list(images))
    traced = trace_model(model, shape_of([stacked]))
    if score is None:
        held = max(len(stacked) // HELD_OUT, 1)
        score = HeadNoise(traced.graph, stacked[-held:])
        stacked = stacked[:-held]
    batches = [stacked[i : i + 8] for i in range(0, len(stacked), 8)]
    key = fingerprint(model.state_dict(), base, stacked.tobytes(), identity_of(score))
    search = _Search(traced, batches, score, base, SearchLog(log, key, "ptq"))
    return search.run(budget_seconds, report)


class HeadNoise:
    """Mean signal-to-noise ratio of the raw head maps in dB, against the float network; see `Score`."""

    def __init__(self, graph: FoldedGraph, images: ImageBatch) -> None:
        """Run the float network; `images` is [N, H, W, C] uint8."""
        self.codes = images.transpose(0, 3, 1, 2)
        self.identity = hashlib.sha256(images.tobytes()).hexdigest()
        heads = [tensor for tensor, _ in graph.outputs]
        wanted: dict[str, list[Tensor]] = {name: [] for name in heads}
        parameters = float_parameters(graph)
        with torch.inference_mode():
            for image in images:
                for node, _, out in run_folded(graph, image_tensor(image[None]), parameters):
                    if node.name in wanted:
                        wanted[node.name].append(out[0].double())
        self.wanted = [torch.stack(wanted[name]) for name in heads]

    def __call__(self, graph: IntGraph) -> float:
        """See `Score`."""
        found = Engine(graph, threads=torch.get_num_threads()).run_batch(self.codes)
        ratios = []
        for output, wanted, codes in zip(graph.outputs, self.wanted, found, strict=True):
            likeness = Likeness()
            likeness.update(wanted, torch.from_numpy(codes * graph.tensors[output.tensor].fmt.step))
            ratios.append(finite_decibels(likeness.signal, likeness.noise))
        return float(np.mean(ratios))


class _Search:
    """The state of a search; trials of the log are replayed, as the same scores lead to the same next trial."""

    def __init__(
        self, traced: TracedModel, batches: list[ImageBatch], score: Score, base: QuantConfig, log: SearchLog
    ) -> None:
        self.graph, self.moments = traced.graph, batch_norm_moments(traced)
        self.batches = batches
        self.score = score
        self.base = base
        self.log = log
        self.trials: list[Trial] = []
        self.best: Trial | None = None
        self.calibrated: Calibrated | None = None
        self.deadline = float("inf")

    def run(self, budget: float, report: Callable[[SearchProgress], None] | None) -> SearchResult:
        """Run trials until nothing improves or the budget is spent."""
        left = budget - sum(row["seconds"] for row in self.log.rows)
        end = time.perf_counter() + left
        try:
            for config in self._configs():
                trial = self._try(config)
                self.deadline = end
                assert self.best is not None
                if report:
                    report(SearchProgress(len(self.trials), max(end - time.perf_counter(), 0.0), trial, self.best))
        except _OutOfTimeError:
            pass
        assert self.best is not None
        calibrated = self.calibrated or self._calibrate(self.best.config, float("inf"))
        return SearchResult(calibrated, self.best, tuple(self.trials))

    def _configs(self) -> Iterator[QuantConfig]:
        """Yield what to try next; the best so far is read anew every time."""
        yield self.base
        seen = {self.base}
        for _ in range(MAX_SWEEPS):
            start = self.best
            for axis in AXES:
                assert self.best is not None
                around = self.best.config
                for setting in axis:
                    config = replace(around, **setting)
                    if config not in seen:
                        seen.add(config)
                        yield config
            if self.best is start:
                break
        assert self.best is not None
        if self.best.config.adaround is None:
            yield replace(self.best.config, adaround=AdaRoundConfig())

    def _try(self, config: QuantConfig) -> Trial:
        number, calibrated = len(self.trials), None
        if number < len(self.log.rows):
            row = self.log.rows[number]
        else:
            start = time.perf_counter()
            calibrated, value = self._measure(config)
            row = {"setting": self._text(config), "score": value, "seconds": time.perf_counter() - start}
            self.log.append(row)
        trial = Trial(config, row["setting"], row["score"], row["seconds"])
        self.trials.append(trial)
        if trial.score is not None and (self.best is None or trial.score > _score_of(self.best)):
            self.best, self.calibrated = trial, calibrated
        return trial

    def _measure(self, config: QuantConfig) -> tuple[Calibrated | None, float | None]:
        try:
            calibrated = self._calibrate(config, self.deadline)
        except QuantError:
            if config == self.base:
                raise
            return None, None  # an option that this network cannot take; its row says so
        value = self.score(lower_graph(calibrated.graph, calibrated.plan))
        return calibrated, finite(value, f"ptq: the score of '{self._text(config)}'")

    def _calibrate(self, config: QuantConfig, deadline: float) -> Calibrated:
        def watch(stage: str, done: int, total: int) -> None:
            if time.perf_counter() > deadline:
                raise _OutOfTimeError

        watch("start", 0, 1)
        return calibrate(self.graph, self.batches, config, watch, self.moments)

    def _text(self, config: QuantConfig) -> str:
        """Return what differs from the configuration as given."""
        names = [
            field.name for field in fields(config) if getattr(config, field.name) != getattr(self.base, field.name)
        ]
        return ", ".join(f"{name}={_plain(getattr(config, name))}" for name in names) or "as given"


def _score_of(trial: Trial) -> float:
    return -math.inf if trial.score is None else trial.score


def _plain(value: object) -> str:
    if isinstance(value, AdaRoundConfig):
        return f"{value.iterations} iterations"
    return str(getattr(value, "value", value))
