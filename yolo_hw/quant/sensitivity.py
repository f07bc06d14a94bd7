# SPDX-License-Identifier: Apache-2.0
"""Sensitivity: what it costs to give one layer's weights, or one group of activations, a word length.

All else stays in float, so the figures of the units can be added up: the damage is the noise a unit sends to the
outputs, and noises of different units are nearly uncorrelated. `yolo_hw.quant.mixed` chooses by such sums.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from yolo_hw.errors import QuantError
from yolo_hw.quant.bit_choices import Roundings, Unit
from yolo_hw.quant.calibrate import Calibrated, ImageBatch, Progress
from yolo_hw.quant.config import BITS
from yolo_hw.quant.curvature import curvature_damages
from yolo_hw.quant.enum_fields import convert_enum_fields
from yolo_hw.quant.execute import image_tensor
from yolo_hw.quant.partial_run import FoldedRunner, bounded_batches, float_maps, outputs_with
from yolo_hw.search_log import Report, Row, SearchLog, fingerprint, finite, identity_of, no_report

FLOAT = "float"
"""Stands for the bits of the network as it is."""
SEED_STRIDE = 1_000_003
"""Keeps the random directions of different seeds and batches apart."""

Score = Callable[[FoldedRunner], float]
"""A figure of a network that runs images, larger is better: AP50 on a data set, for example."""


class Metric(str, Enum):
    """What damage is."""

    OUTPUT_ERROR = "output-error"
    """Relative squared error of the raw outputs, ``sum (y' - y)**2 / sum y**2``, the mean over the outputs."""
    CURVATURE = "curvature"
    """An estimate of the same from gradients; see `yolo_hw.quant.curvature`."""
    SCORE = "score"
    """How far a score of the task falls."""


@dataclass(frozen=True, kw_only=True)
class SensitivityConfig:
    """Options.

    Attributes:
        w_bits: Word lengths of weights to try.
        a_bits: Word lengths of activations to try.
        metric: What is measured.
        images: The first so many images the damage is measured on; all by default. Formats are chosen on all.
        probes: Random directions of `Metric.CURVATURE`.
        seed: Of these.
    """

    w_bits: tuple[int, ...] = (2, 3, 4, 5, 6, 7, 8)
    a_bits: tuple[int, ...] = (4, 8, 16)
    metric: Metric = Metric.OUTPUT_ERROR
    images: int | None = None
    probes: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            QuantError: A word length does not exist or comes twice, there is no such metric, or one of the numbers is
                out of range.
        """
        convert_enum_fields(self)
        for name, given in (("w_bits", self.w_bits), ("a_bits", self.a_bits)):
            if not given or not set(given) <= set(BITS) or len(set(given)) < len(given):
                raise QuantError(f"sensitivity: {name} must be different ones of {BITS}, got {given}")
        for name, number in (("images", self.images), ("probes", self.probes)):
            if number is not None and number < 1:
                raise QuantError(f"sensitivity: {name} must be at least 1, got {number}")


@dataclass(frozen=True)
class Sensitivity:
    """Damages of all units.

    Attributes:
        metric: What was measured.
        baseline: The score of the float network; 0 for other metrics.
        units: Layers' weights and groups of activations.
        damage: Label of a unit -> bits -> damage, at least 0.
    """

    metric: Metric
    baseline: float
    units: tuple[Unit, ...]
    damage: Mapping[str, Mapping[int, float]]

    def ranked(self, bits: int) -> list[Unit]:
        """Return the units that have been tried at `bits`, the most sensitive first; equal ones in execution order."""
        tried = [unit for unit in self.units if bits in self.damage[unit.label]]
        return sorted(tried, key=lambda unit: -self.damage[unit.label][bits])


def scan_sensitivity(
    calibrated: Calibrated,
    batches: Sequence[ImageBatch],
    config: SensitivityConfig | None = None,
    *,
    score: Score | None = None,
    log: str | Path | None = None,
    report: Report = no_report,
    progress: Progress | None = None,
) -> Sensitivity:
    """Measure the network with one unit at a time quantised.

    Args:
        calibrated: The network; its options say how formats are chosen, their word lengths are replaced.
        batches: Images [N, H, W, C] uint8, for the formats and, except for a score, for the damage.
        config: Options.
        score: For `Metric.SCORE`; its attribute `identity` must say what it depends on if there is a log.
        log: JSON file of the rows, written after each; a scan of the same network, images and options goes on behind
            them.
        report: Called after every row: for a score after every point, else after every unit of every batch.
        progress: Called while formats are chosen.

    Raises:
        QuantError: There is no image, a score is missing or not wanted, or the outputs are all zero.
        SearchError: The log is of another scan, or a figure is no finite number.
    """
    config = config or SensitivityConfig()
    if (score is None) == (config.metric is Metric.SCORE):
        raise QuantError(f"sensitivity: a score belongs to metric '{Metric.SCORE.value}', got '{config.metric.value}'")
    if not batches:
        raise QuantError("sensitivity: needs at least one image")
    roundings = Roundings(calibrated, batches, config.w_bits, config.a_bits, progress)
    rows = SearchLog(log, _fingerprint(calibrated, batches, config, score), "bits")
    if score is not None:
        return _scan_score(roundings, score, rows, report)
    outputs = len(calibrated.reference.outputs)
    copies = 3 + 2 * outputs if config.metric is Metric.CURVATURE else 1  # sums, outputs and two gradients of each
    measured = np.concatenate(batches)[: config.images]
    scan = _ErrorScan(roundings, bounded_batches(calibrated.reference, [measured], copies), config)
    return scan.summary(rows.fill(scan.total, scan.measure, report))


def _fingerprint(
    calibrated: Calibrated, batches: Sequence[ImageBatch], config: SensitivityConfig, score: Score | None
) -> str:
    tensors: dict[str, Tensor] = {f"batch {i}": torch.from_numpy(batch) for i, batch in enumerate(batches)}
    for name, codes in calibrated.plan.convs.items():
        tensors |= {f"{name}.weight": torch.from_numpy(codes.weight), f"{name}.bias": torch.from_numpy(codes.bias)}
    for node in calibrated.reference.nodes:
        if (weight := getattr(node, "weight", None)) is not None:
            tensors[f"{node.name}.float"] = torch.from_numpy(np.ascontiguousarray(weight))
    return fingerprint(tensors, config, replace(calibrated.plan.config, overrides=()), identity_of(score))


class _ErrorScan:
    """Rows: for every batch the energies of its float outputs, then what every unit adds to them."""

    def __init__(self, roundings: Roundings, batches: Sequence[ImageBatch], config: SensitivityConfig) -> None:
        self.roundings = roundings
        self.batches = batches
        self.config = config
        self.units = roundings.units
        self._maps: tuple[int, dict[str, Tensor]] | None = None
        self._estimates: tuple[int, dict[str, dict[str, list[float]]]] | None = None

    @property
    def total(self) -> int:
        return len(self.batches) * (1 + len(self.units))

    def measure(self, index: int) -> Row:
        batch, place = divmod(index, 1 + len(self.units))
        unit = self.units[place - 1] if place else None
        if unit is not None and self.config.metric is Metric.CURVATURE:
            errors = self._estimated(batch)[unit.label]
        else:
            with torch.inference_mode():
                errors = self._energies(batch) if unit is None else self._measured(batch, unit)
        for bits, energies in errors.items():
            where = f"with {unit.label} at {bits} bits" if unit else "in float"
            [finite(value, f"sensitivity: output energy {where}") for value in energies]
        return {"batch": batch, "unit": unit.label if unit else None, "error": errors}

    def _float(self, batch: int) -> dict[str, Tensor]:
        """Return all float maps of a batch; the last batch's are kept."""
        if self._maps is None or self._maps[0] != batch:
            self._maps = None  # so that never two batches are held
            x = image_tensor(self.batches[batch])
            self._maps = (batch, float_maps(self.roundings.reference, x, self.roundings.exact))
        return self._maps[1]

    def _energies(self, batch: int) -> dict[str, list[float]]:
        known = self._float(batch)
        return {FLOAT: [_energy(known[name]) for name, _ in self.roundings.reference.outputs]}

    def _measured(self, batch: int, unit: Unit) -> dict[str, list[float]]:
        graph, known = self.roundings.reference, self._float(batch)
        errors = {}
        for bits in self.roundings.bits(unit):
            found = outputs_with(graph, known, self.roundings.changes(unit, bits), self.roundings.exact)
            errors[str(bits)] = [_energy(y - known[name]) for y, (name, _) in zip(found, graph.outputs, strict=True)]
        return errors

    def _estimated(self, batch: int) -> dict[str, dict[str, list[float]]]:
        if self._estimates is None or self._estimates[0] != batch:
            self._maps = None
            generator = torch.Generator().manual_seed(self.config.seed * SEED_STRIDE + batch)
            x = image_tensor(self.batches[batch])
            self._estimates = (batch, curvature_damages(self.roundings, x, self.config.probes, generator))
        return self._estimates[1]

    def summary(self, rows: Sequence[Row]) -> Sensitivity:
        energy = np.sum([row["error"][FLOAT] for row in rows if row["unit"] is None], axis=0)
        if not energy.any():
            raise QuantError("sensitivity: the outputs must not all be zero on all images")
        damage = {}
        for unit in self.units:
            own = [row["error"] for row in rows if row["unit"] == unit.label]
            damage[unit.label] = {
                bits: float((np.sum([row[str(bits)] for row in own], axis=0)[energy > 0] / energy[energy > 0]).mean())
                for bits in self.roundings.bits(unit)
            }
        return Sensitivity(self.config.metric, 0.0, self.units, damage)


def _scan_score(roundings: Roundings, score: Score, log: SearchLog, report: Report) -> Sensitivity:
    points = [(unit, bits) for unit in roundings.units for bits in roundings.bits(unit)]

    def measure(index: int) -> Row:
        unit, bits = points[index - 1] if index else (None, 0)
        runner = FoldedRunner(roundings.reference, roundings.changes(unit, bits) if unit else {})
        what = f"sensitivity: score with {unit.label} at {bits} bits" if unit else "sensitivity: score in float"
        value = finite(score(runner), what)
        return {"unit": unit.label if unit else None, "bits": bits, "score": value}

    rows = log.fill(1 + len(points), measure, report)
    baseline = float(rows[0]["score"])
    damage: dict[str, dict[int, float]] = {unit.label: {} for unit in roundings.units}
    for row in rows[1:]:
        damage[row["unit"]][row["bits"]] = max(baseline - row["score"], 0.0)
    return Sensitivity(Metric.SCORE, baseline, roundings.units, damage)


def _energy(x: Tensor) -> float:
    return float(x.double().square().sum())
