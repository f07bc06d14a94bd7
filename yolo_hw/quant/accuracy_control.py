# SPDX-License-Identifier: Apache-2.0
"""Accuracy control: as few parts of a network as possible in 16 bits, such that a score falls by no more than allowed.

Starts with the word lengths of the options everywhere. If the score falls too far, units (the weights of a layer, a
group of activations) go to 16 bits in the order of their sensitivity; bisection finds how many, then each of them that
is not needed goes back. The result is minimal in this sense: no single unit can go back any more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from yolo_hw.errors import QuantError
from yolo_hw.fixedpoint import MAX_BITS
from yolo_hw.intgraph.graph import IntGraph
from yolo_hw.intgraph.target import TargetProfile
from yolo_hw.quant.bit_choices import ACTIVATIONS, WEIGHTS, Unit
from yolo_hw.quant.calibrate import Calibrated, ImageBatch, calibrate
from yolo_hw.quant.config import QuantConfig
from yolo_hw.quant.folded import FoldedConv, FoldedGraph
from yolo_hw.quant.lower import lower_graph
from yolo_hw.quant.moments import Moments
from yolo_hw.quant.sensitivity import Sensitivity, SensitivityConfig, scan_sensitivity
from yolo_hw.search_log import SearchLog, fingerprint, finite, identity_of

GraphScore = Callable[[IntGraph], float]
"""A figure of an integer graph, larger is better."""


@dataclass(frozen=True, kw_only=True)
class AccuracyTarget:
    """What must be kept.

    Attributes:
        baseline: Score of the float network.
        max_drop: How far the score may fall below it, at least 0.
        kinds: What may go to 16 bits: `WEIGHTS`, `ACTIVATIONS` or both.
    """

    baseline: float
    max_drop: float
    kinds: tuple[str, ...] = (WEIGHTS, ACTIVATIONS)

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            QuantError: A number is out of range, or there is no such kind.
        """
        if not 0 <= self.max_drop < float("inf"):
            raise QuantError(f"accuracy control: max_drop must be at least 0, got {self.max_drop}")
        if not self.kinds or not set(self.kinds) <= {WEIGHTS, ACTIVATIONS}:
            raise QuantError(f"accuracy control: kinds must be of '{WEIGHTS}' and '{ACTIVATIONS}', got {self.kinds}")
        finite(self.baseline, "accuracy control: the score of the float network")

    @property
    def least(self) -> float:
        """The smallest score that is good enough."""
        return self.baseline - self.max_drop


@dataclass(frozen=True)
class Trial:
    """One quantisation that was scored.

    Attributes:
        stage: What it was for.
        raised: Labels of the units in 16 bits.
        score: Its score.
        passed: Whether that is good enough.
    """

    stage: str
    raised: tuple[str, ...]
    score: float
    passed: bool


@dataclass(frozen=True)
class Raised:
    """A unit that stays in 16 bits, and why.

    Attributes:
        unit: The unit.
        rank: Place in the order of sensitivity, from 1.
        damage: Its sensitivity at the word length it would have.
        without: The score without it, when it was tried to send it back; NaN if it was not tried.
    """

    unit: Unit
    rank: int
    damage: float
    without: float


@dataclass(frozen=True, eq=False)
class Controlled:
    """The result.

    Attributes:
        target: What was to be kept.
        reached: Whether it was; if not even 16 bits everywhere are enough, the result is those.
        score: Of the result.
        raised: Units in 16 bits, the most sensitive first.
        trials: Everything that was scored, in order.
        calibrated: The quantised network.
        graph: The same as integers.
    """

    target: AccuracyTarget
    reached: bool
    score: float
    raised: tuple[Raised, ...]
    trials: tuple[Trial, ...]
    calibrated: Calibrated
    graph: IntGraph

    @property
    def verdict(self) -> str:
        """One sentence on what was reached."""
        drop, allowed = self.target.baseline - self.score, self.target.max_drop
        if not self.reached:
            return (
                f"out of reach: with all units that may be raised in {MAX_BITS} bits the score still falls by "
                f"{drop:.6g}, {allowed:.6g} are allowed"
            )
        return (
            f"the score falls by {drop:.6g} of {allowed:.6g} allowed with {len(self.raised)} units in {MAX_BITS} bits"
        )


def check_long_words(kinds: Sequence[str], profile: TargetProfile) -> None:
    """Check that a target has the word lengths that weights or activations may be raised to.

    Raises:
        QuantError: It has none of 16 bits for one of the kinds.
    """
    for kind, what, known in ((WEIGHTS, "weights", profile.w_bits), (ACTIVATIONS, "activations", profile.a_bits)):
        if kind in kinds and MAX_BITS not in known:
            raise QuantError(
                f"accuracy control: target '{profile.name}' must have {what} of {MAX_BITS} bits, it has "
                f"{', '.join(map(str, known))}: choose another target, or raise only what it has"
            )


def control_accuracy(
    graph: FoldedGraph,
    batches: Sequence[ImageBatch],
    score: GraphScore,
    target: AccuracyTarget,
    *,
    sensitivity: Sensitivity | None = None,
    config: QuantConfig | None = None,
    moments: dict[str, Moments] | None = None,
    log: str | Path | None = None,
    report: Callable[[Trial], None] = lambda trial: None,
) -> Controlled:
    """Quantise with as few units in 16 bits as a bound on the loss of a score allows.

    Args:
        graph: The float network.
        batches: Calibration images [N, H, W, C] uint8.
        score: Scores a quantised network; its attribute `identity` must say what it depends on if there is a log.
        target: What must be kept.
        sensitivity: Of this network at the word lengths of `config`: decides the order; by default the error of the raw
            outputs is measured.
        config: Options of quantisation.
        moments: What the model's batch norms know; only `CorrectBy.BATCH_NORM` needs it, see `calibrate`.
        log: JSON file of the trials, written after each; the same control goes on behind them.
        report: Called after every trial.

    Raises:
        QuantError: The sensitivity lacks the word lengths of the options; see `calibrate`.
        SearchError: The log is of another control, or a score is no finite number.
    """
    config = config or QuantConfig()
    check_long_words(target.kinds, config.profile)
    search = _Search(graph, batches, score, target, config, moments=moments)
    order = search.order(sensitivity or search.output_errors())
    search.open_log(log, order, report)
    if search.passes("options", []):
        return search.result([], {}, order)
    if not search.passes(f"all in {MAX_BITS} bits", order):
        return search.result(order, {}, order, reached=False)
    low, high = 0, len(order)  # `low` units are too few, `high` are enough
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if search.passes(f"the first {middle}", order[:middle]) else (middle, high)
    kept, without = list(order[:high]), {}
    for unit in reversed(order[:high]):
        rest = [other for other in kept if other != unit]
        if search.passes(f"without {unit.label}", rest):
            kept = rest
        else:
            without[unit.label] = search.trials[-1].score
    return search.result(kept, without, order)


class _Search:
    """Quantises, scores and remembers."""

    def __init__(
        self,
        graph: FoldedGraph,
        batches: Sequence[ImageBatch],
        score: GraphScore,
        target: AccuracyTarget,
        config: QuantConfig,
        *,
        moments: dict[str, Moments] | None,
    ) -> None:
        self.graph = graph
        self.moments = moments
        self.batches = list(batches)
        self.score = score
        self.target = target
        self.config = config
        self.trials: list[Trial] = []
        self._damage: dict[str, float] = {}
        self._known: dict[tuple[str, ...], float] = {}
        self._last: tuple[tuple[str, ...], Calibrated, IntGraph] | None = None

    def output_errors(self) -> Sensitivity:
        """Measure what every unit does to the raw outputs."""
        scan = SensitivityConfig(w_bits=(self.config.w_bits,), a_bits=(self.config.a_bits,))
        return scan_sensitivity(self._calibrate(self.config), self.batches, scan)

    def order(self, sensitivity: Sensitivity) -> list[Unit]:
        """Return what may be raised, the most sensitive first."""
        bits = {WEIGHTS: self.config.w_bits, ACTIVATIONS: self.config.a_bits}
        units = [unit for unit in sensitivity.units if unit.kind in self.target.kinds and bits[unit.kind] < MAX_BITS]
        for unit in units:
            if bits[unit.kind] not in sensitivity.damage[unit.label]:
                raise QuantError(f"accuracy control: the sensitivity of {unit.label} lacks {bits[unit.kind]} bits")
            self._damage[unit.label] = sensitivity.damage[unit.label][bits[unit.kind]]
        return sorted(units, key=lambda unit: -self._damage[unit.label])

    def open_log(self, path: str | Path | None, order: list[Unit], report: Callable[[Trial], None]) -> None:
        tensors = {f"batch {i}": torch.from_numpy(batch) for i, batch in enumerate(self.batches)}
        for node in self.graph.nodes:
            if isinstance(node, FoldedConv):
                tensors |= {f"{node.name}.{key}": torch.tensor(getattr(node, key)) for key in ("weight", "bias")}
        identity = fingerprint(tensors, self.config, [unit.label for unit in order], identity_of(self.score))
        self._log = SearchLog(path, identity, "accuracy control")
        self._known = {tuple(row["raised"]): float(row["score"]) for row in self._log.rows}
        self._report = report

    def passes(self, stage: str, raised: Sequence[Unit]) -> bool:
        """Score a quantisation, unless it is known, and say whether it is good enough."""
        labels = tuple(unit.label for unit in raised)
        if labels not in self._known:
            _, graph = self._quantise(raised)
            self._known[labels] = finite(self.score(graph), f"accuracy control: score of '{stage}'")
            self._log.append({"raised": list(labels), "score": self._known[labels]})
        value = self._known[labels]
        self.trials.append(Trial(stage, labels, value, value >= self.target.least))
        self._report(self.trials[-1])
        return self.trials[-1].passed

    def _quantise(self, raised: Sequence[Unit]) -> tuple[Calibrated, IntGraph]:
        labels = tuple(unit.label for unit in raised)
        if self._last is None or self._last[0] != labels:
            overrides = tuple(override for unit in raised for override in unit.overrides(MAX_BITS))
            config = replace(self.config, overrides=(*self.config.overrides, *overrides))
            calibrated = self._calibrate(config)
            self._last = (labels, calibrated, lower_graph(calibrated.graph, calibrated.plan))
        return self._last[1], self._last[2]

    def _calibrate(self, config: QuantConfig) -> Calibrated:
        return calibrate(self.graph, self.batches, config, moments=self.moments)

    def result(
        self, raised: Sequence[Unit], without: dict[str, float], order: list[Unit], *, reached: bool = True
    ) -> Controlled:
        calibrated, graph = self._quantise(raised)
        reasons = [
            Raised(unit, order.index(unit) + 1, self._damage[unit.label], without.get(unit.label, float("nan")))
            for unit in raised
        ]
        score = self._known[tuple(unit.label for unit in raised)]
        return Controlled(self.target, reached, score, tuple(reasons), tuple(self.trials), calibrated, graph)
