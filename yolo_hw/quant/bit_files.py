# SPDX-License-Identifier: Apache-2.0
"""Sensitivity, chosen word lengths and accuracy control as JSON documents and as rows of tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from yolo_hw.atomic import atomic_file
from yolo_hw.intgraph.io import json_bytes
from yolo_hw.quant.accuracy_control import Controlled
from yolo_hw.quant.bit_choices import ACTIVATIONS, WEIGHTS, Unit
from yolo_hw.quant.config import Override
from yolo_hw.quant.mixed import BitChoice
from yolo_hw.quant.sensitivity import Sensitivity

SENSITIVITY_FILE = "sensitivity.json"
WORD_LENGTHS_FILE = "word_lengths.json"
CONTROL_FILE = "accuracy_control.json"

Json = dict[str, Any]
Rows = list[tuple[str, ...]]


def write_document(document: Json, path: str | Path) -> None:
    """Write JSON; the file appears complete or not at all."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(json_bytes(document))


def override_texts(overrides: Sequence[Override]) -> list[str]:
    """Return overrides as ``--override`` takes them, those of one layer together."""
    bits: dict[str, dict[str, int]] = {}
    for override in overrides:
        own = bits.setdefault(override.pattern, {})
        own |= {key: value for key, value in (("w", override.w_bits), ("a", override.a_bits)) if value is not None}
    return [f"{pattern}:{','.join(f'{k}={v}' for k, v in own.items())}" for pattern, own in bits.items()]


def encode_sensitivity(found: Sensitivity) -> Json:
    """Return the damage of every unit at every word length."""
    return {
        "metric": found.metric.value,
        "baseline": found.baseline,
        "units": [
            {
                "kind": unit.kind,
                "name": unit.name,
                "members": list(unit.members),
                "damage": {str(bits): value for bits, value in found.damage[unit.label].items()},
            }
            for unit in found.units
        ],
    }


def sensitivity_table(found: Sensitivity, kind: str) -> tuple[tuple[str, ...], Rows]:
    """Return columns and rows of the units of a kind; damage in scientific notation."""
    units = [unit for unit in found.units if unit.kind == kind]
    bits = sorted({b for unit in units for b in found.damage[unit.label]})
    rows = [(_shown(unit), *(f"{found.damage[unit.label][b]:.2e}" for b in bits)) for unit in units]
    return ("layer" if kind == WEIGHTS else "activations", *(f"{b} bits" for b in bits)), rows


def encode_choice(choice: BitChoice, uniform: float, measured: float) -> Json:
    """Return chosen word lengths.

    Args:
        choice: The choice.
        uniform: Cost of the network at the word lengths of the options.
        measured: Error of the outputs of the network quantised so.
    """
    return {
        "budget": {"limit": choice.budget, "cost": choice.cost, "uniform": uniform},
        "damage": {"predicted": choice.damage, "gap": choice.gap, "output_error": measured},
        "bits": {unit.label: bits for unit, bits in choice.bits.items()},
        "overrides": override_texts(choice.overrides),
    }


def choice_rows(choice: BitChoice, found: Sensitivity) -> Rows:
    """Return (unit, what, bits, damage, its share) of every unit."""
    total = choice.damage or 1.0
    rows: Rows = []
    for unit, bits in choice.bits.items():
        damage = found.damage[unit.label][bits]
        what = "weights" if unit.kind == WEIGHTS else "activations"
        rows.append((_shown(unit), what, str(bits), f"{damage:.2e}", f"{100 * damage / total:.1f} %"))
    return rows


def encode_control(found: Controlled) -> Json:
    """Return the trials of an accuracy control, what stays in 16 bits, and why."""
    return {
        "reached": found.reached,
        "verdict": found.verdict,
        "baseline": found.target.baseline,
        "max_drop": found.target.max_drop,
        "score": found.score,
        "raised": [
            {
                "unit": raised.unit.label,
                "members": list(raised.unit.members),
                "rank": raised.rank,
                "damage": raised.damage,
                "without": None if math.isnan(raised.without) else raised.without,
            }
            for raised in found.raised
        ],
        "overrides": override_texts([o for raised in found.raised for o in raised.unit.overrides(16)]),
        "trials": [vars(trial) | {"raised": list(trial.raised)} for trial in found.trials],
    }


def trial_rows(found: Controlled) -> Rows:
    """Return (what for, units in 16 bits, score, drop, verdict) of every trial."""
    return [
        (
            trial.stage,
            str(len(trial.raised)),
            f"{trial.score:.4f}",
            f"{found.target.baseline - trial.score:.4f}",
            "enough" if trial.passed else "too low",
        )
        for trial in found.trials
    ]


def raised_rows(found: Controlled) -> Rows:
    """Return (unit, what, rank, damage, score without it) of what stays in 16 bits."""
    return [
        (
            _shown(raised.unit),
            "weights" if raised.unit.kind == WEIGHTS else "activations",
            str(raised.rank),
            f"{raised.damage:.2e}",
            "" if math.isnan(raised.without) else f"{raised.without:.4f}",
        )
        for raised in found.raised
    ]


def _shown(unit: Unit) -> str:
    more = len(unit.members) - 1
    return f"{unit.name} +{more}" if unit.kind == ACTIVATIONS and more else unit.name
