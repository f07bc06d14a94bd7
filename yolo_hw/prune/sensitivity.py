# SPDX-License-Identifier: Apache-2.0
"""Sensitivity: how much a model suffers if one group alone loses some of its units.

The model keeps its size: the units are dead in its own state, which is faster than building a smaller model for every
point and computes the same but for the border of zero-padded maps that read constants of pruned channels, where the
masked model is the one that is meant.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from yolo_hw.errors import PruneError
from yolo_hw.nn.darknet import Darknet
from yolo_hw.prune.config import PruneConfig
from yolo_hw.prune.scoring import Statistics
from yolo_hw.prune.search_space import SearchSpace, refuse_options
from yolo_hw.prune.surgery import State, operate
from yolo_hw.search_log import Report, Row, SearchLog, fingerprint, finite, identity_of, no_report

Metric = Callable[[nn.Module], float]
"""Model -> a figure, by which curves are drawn."""


@dataclass(frozen=True, kw_only=True)
class SensitivityConfig:
    """Options.

    Attributes:
        ratios: Shares of a group's units that go, rising, in (0, 1); of n units ``floor(n * ratio)``.
        metric: Name of what is measured, for figure and file.
        channels: Which groups are looked at, by what criterion units go (the L1 norm unless given; of groups of several
            layers the mean), the fewest units. Ratio, budget, policy, scope, multiples and blocks have no meaning here.
    """

    ratios: tuple[float, ...] = (0.1, 0.25, 0.5, 0.75, 0.9)
    metric: str = "metric"
    channels: PruneConfig = field(default_factory=lambda: PruneConfig(method="sensitivity"))

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            PruneError: One is out of range or has no meaning here.
        """
        rising = all(a < b for a, b in zip((0.0, *self.ratios), (*self.ratios, 1.0), strict=True))
        if not self.ratios or not rising:
            raise PruneError(f"sensitivity: ratios must rise and lie in (0, 1), got {self.ratios}")
        names = ("ratio", "budget", "policy", "scope", "multiple_of", "blocks")
        refuse_options(self.channels, names, "sensitivity", "every group loses each of the ratios alone")


@dataclass(frozen=True)
class Sensitivity:
    """Curves of all groups.

    Attributes:
        metric: What was measured.
        ratios: Shares that went.
        baseline: The figure of the model as it is.
        curves: Group -> the figure at each ratio.
        rows: The measurements: ``group`` (None: the model as it is), ``ratio``, ``units``, ``kept``, ``value``.
    """

    metric: str
    ratios: tuple[float, ...]
    baseline: float
    curves: dict[str, tuple[float, ...]]
    rows: tuple[Row, ...]

    def safe_ratio(self, group: str, tolerance: float) -> float:
        """Return the largest ratio up to which a group's figure stays within `tolerance` of the baseline, or 0."""
        safe = 0.0
        for ratio, value in zip(self.ratios, self.curves[group], strict=True):
            if abs(value - self.baseline) > tolerance:
                break
            safe = ratio
        return safe


class SensitivityScan:
    """The points of a model's curves, one by one: row 0 is the model as it is, then group by group, ratio by ratio."""

    def __init__(self, model: Darknet, config: SensitivityConfig, statistics: Statistics | None = None) -> None:
        """Score the units.

        Args:
            model: The trained model; it is not changed.
            config: Options.
            statistics: What the criterion needs beyond the weights.

        Raises:
            PruneError: See `eligible_groups`.
        """
        self.config = config
        self.space = SearchSpace(model, config.channels, statistics)
        self.probe = copy.deepcopy(model).eval()
        self.state: State = {key: value.detach().clone() for key, value in model.state_dict().items()}

    @property
    def total(self) -> int:
        """Number of rows."""
        return 1 + len(self.space.ranked) * len(self.config.ratios)

    def measure(self, index: int, metric: Metric) -> Row:
        """Return row `index`."""
        if index == 0:
            value = finite(metric(self.probe), f"sensitivity: {self.config.metric} of the model as it is")
            return {"group": None, "ratio": 0.0, "units": 0, "kept": 0, "value": value}
        number, step = divmod(index - 1, len(self.config.ratios))
        candidate, ratio = self.space.ranked[number], self.config.ratios[step]
        left = max(candidate.units - math.floor(candidate.units * ratio), candidate.minimum)
        masked = operate(self.space.plan({candidate.name: left}), self.state, self.space.dead_bias).masked
        changed = [key for key, tensor in masked.items() if tensor is not self.state[key]]
        what = f"sensitivity: {self.config.metric} without {ratio:.0%} of {candidate.name}"
        try:
            self._load(masked, changed)
            value = finite(metric(self.probe), what)
        finally:
            self._load(self.state, changed)
        return {"group": candidate.name, "ratio": ratio, "units": candidate.units, "kept": left, "value": value}

    def _load(self, state: State, keys: Iterable[str]) -> None:
        """Copy some tensors into the probe."""
        own = self.probe.state_dict()
        with torch.no_grad():
            for key in keys:
                own[key].copy_(state[key])

    def fingerprint(self, metric: Metric) -> str:
        """Return a hash of all the rows depend on."""
        options = (self.space.identity(), self.config.ratios, self.config.metric, identity_of(metric))
        return fingerprint(self.state, *options)


def scan_sensitivity(
    model: Darknet,
    metric: Metric,
    config: SensitivityConfig | None = None,
    *,
    log: str | Path | None = None,
    report: Report = no_report,
    statistics: Statistics | None = None,
) -> Sensitivity:
    """Measure a model with one group pruned at a time.

    Args:
        model: The trained model; it is not changed.
        metric: What is measured: `yolo_hw.prune.search_data.DetectorScore` on a data set, or `OutputError` without
            one. What it depends on beside the model, its attribute `identity` must say if there is a log.
        config: Options.
        log: JSON file of the rows, written after each; a scan of the same model, options and metric goes on
            behind them.
        report: Called after every point.
        statistics: What the criterion needs beyond the weights.

    Raises:
        PruneError: The metric is no finite number; the log is of another scan; see `eligible_groups`.
    """
    scan = SensitivityScan(model, config or SensitivityConfig(), statistics)
    rows = SearchLog(log, scan.fingerprint(metric), "sensitivity").fill(
        scan.total, lambda index: scan.measure(index, metric), report
    )
    ratios = scan.config.ratios
    values = [row["value"] for row in rows[1:]]
    curves = {c.name: tuple(values[i * len(ratios) : (i + 1) * len(ratios)]) for i, c in enumerate(scan.space.ranked)}
    return Sensitivity(scan.config.metric, ratios, rows[0]["value"], curves, tuple(rows))


class OutputError:
    """Another model -> the relative error of its outputs: ``sqrt(sum |y' - y|^2 / sum |y|^2)``, all outputs."""

    def __init__(self, model: nn.Module, batches: Iterable[Tensor]) -> None:
        """Run the reference.

        Args:
            model: The reference, in evaluation mode; its outputs are kept.
            batches: Images [N, C, H, W], of `random_images` where there are no others.

        Raises:
            PruneError: There is no batch, or all outputs are zero.
        """
        reference = next(model.parameters(), torch.empty(0))
        self.images = [batch.to(reference) for batch in batches]
        evaluated = copy.deepcopy(model).eval()
        self._expected = [_outputs(evaluated, batch) for batch in self.images]
        self._size = sum(float(y.double().square().sum()) for maps in self._expected for y in maps)
        if not self._size:
            raise PruneError("output error: there must be images, and the outputs on them must not all be zero")

    def __call__(self, other: nn.Module) -> float:
        """Return the error of another model."""
        error = 0.0
        for batch, maps in zip(self.images, self._expected, strict=True):
            found = _outputs(other, batch)
            error += sum(float((a - b).double().square().sum()) for a, b in zip(found, maps, strict=True))
        return math.sqrt(error / self._size)

    @property
    def identity(self) -> str:
        """A hash of the images, for `SearchLog`."""
        return fingerprint({f"batch {i}": batch for i, batch in enumerate(self.images)})


def _outputs(model: nn.Module, batch: Tensor) -> Sequence[Tensor]:
    with torch.no_grad():
        found = model(batch)
    return [found] if isinstance(found, Tensor) else list(found)


def random_images(model: Darknet, count: int = 4, seed: int = 0) -> Tensor:
    """Return random images [count, C, H, W] in [0, 1] of the network's input size, of patches of 8 x 8 pixels."""
    shape = model.network.input
    rng = np.random.default_rng(seed)
    coarse = rng.random((count, shape.c, -(-shape.h // 8), -(-shape.w // 8)), np.float32)
    return torch.from_numpy(coarse.repeat(8, 2).repeat(8, 3)[:, :, : shape.h, : shape.w].copy())
