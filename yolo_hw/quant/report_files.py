# SPDX-License-Identifier: Apache-2.0
"""The report on a quantised network as a JSON document and as rows of a table."""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path
from typing import Any, cast

from yolo_hw.atomic import atomic_file
from yolo_hw.errors import QuantError
from yolo_hw.intgraph.io import json_bytes, read_json
from yolo_hw.intgraph.schema import first_violation
from yolo_hw.quant.layer_report import LayerReport, LayerRow, WeightRow
from yolo_hw.quant.layer_statistics import Clipping, Likeness

REPORT_FILE = "quant_report.json"
SCHEMA_ID = "yolo_hw.quant_report/1"
SCHEMA_FILE = Path(__file__).with_name("quant_report.schema.json")

Json = dict[str, Any]

COLUMNS = (
    *("layer", "<op", "<format", "w bits", "<w frac", "w dB"),
    *("alone dB", "net dB", "drop dB", "cosine", "clipped %", "unused %"),
)
"""Columns of `table_rows`; ``<``: left-aligned."""


@cache
def report_schema() -> Json:
    """Return the JSON Schema of the report."""
    return cast("Json", json.loads(SCHEMA_FILE.read_text("utf-8")))


def encode_report(report: LayerReport) -> Json:
    """Return the report as a document that follows `report_schema`."""
    hurt = report.first_hurt
    return {
        "schema": SCHEMA_ID,
        "name": report.name,
        "images": report.images,
        "hurt_db": report.hurt_db,
        "first_hurt": None if hurt is None else hurt.name,
        "outputs": list(report.outputs),
        "layers": [_layer(row) for row in report.rows],
    }


def write_report(report: LayerReport, path: str | Path) -> None:
    """Write `encode_report`; the file appears complete or not at all."""
    document = encode_report(report)
    violation = first_violation(document, report_schema())
    assert violation is None, violation
    with atomic_file(path) as temporary:
        temporary.write_bytes(json_bytes(document))


def read_report(path: str | Path) -> Json:
    """Read and check a report's document.

    Raises:
        GraphError: The file is missing or holds no JSON object.
        QuantError: The document does not follow the schema.
    """
    document = read_json(Path(path))
    violation = first_violation(document, report_schema())
    if violation:
        raise QuantError(f"{path}: {violation}")
    return document


def _layer(row: LayerRow) -> Json:
    weights = row.weights
    return {
        "name": row.name,
        "op": row.op,
        "output": _clipping(row.clipping),
        "argument": None if row.argument is None else _clipping(row.argument),
        "weights": None
        if weights is None
        else {
            "bits": weights.bits,
            "frac_min": weights.frac_min,
            "frac_max": weights.frac_max,
            "sqnr_db": _finite(weights.sqnr_db),
        },
        "accumulated": _likeness(row.accumulated),
        "isolated": _likeness(row.isolated),
        "drop_db": _finite(row.drop_db),
    }


def _likeness(sums: Likeness) -> Json:
    return {
        "sqnr_db": _finite(sums.sqnr_db),
        "cosine": sums.cosine,
        "signal": sums.signal,
        "noise": sums.noise,
    }


def _clipping(clipping: Clipping) -> Json:
    return {
        "bits": clipping.fmt.bits,
        "frac": clipping.fmt.frac,
        "signed": clipping.fmt.signed,
        "low": clipping.low_share,
        "high": clipping.high_share,
        "unused": clipping.unused,
    }


def _finite(value: float) -> float | None:
    """JSON has no infinity."""
    return value if math.isfinite(value) else None


def table_rows(report: LayerReport) -> list[tuple[str, ...]]:
    """Return the layers as cells under `COLUMNS`; layers that hurt are marked ``!``."""
    hurt = {row.name for row in report.hurt}
    return [_cells(row, "!" if row.name in hurt else "") for row in report.rows]


def _cells(row: LayerRow, mark: str) -> tuple[str, ...]:
    w = row.weights
    return (
        row.name + mark,
        row.op,
        str(row.fmt),
        "" if w is None else str(w.bits),
        "" if w is None else show_fracs(w),
        "" if w is None else show_db(w.sqnr_db),
        show_db(row.isolated.sqnr_db),
        show_db(row.accumulated.sqnr_db),
        show_db(row.drop_db),
        f"{row.accumulated.cosine:.5f}",
        f"{100 * (row.clipping.low_share + row.clipping.high_share):.3f}",
        f"{100 * row.clipping.unused:.1f}",
    )


def show_fracs(weights: WeightRow) -> str:
    """Format the fraction bits of all output channels."""
    low, high = weights.frac_min, weights.frac_max
    return str(low) if low == high else f"{low}..{high}"


def show_db(value: float) -> str:
    """Format a ratio in dB; ``exact`` without any noise, ``none`` for noise without signal."""
    if math.isinf(value):
        return "exact" if value > 0 else "none"
    return f"{value:.1f}"


def verdict(report: LayerReport) -> str:
    """Return one sentence on where quantisation hurts first."""
    hurt, first = report.hurt, report.first_hurt
    if first is None:
        return f"every layer alone keeps {report.hurt_db:g} dB or more"
    more = f"; {len(hurt)} of {len(report.rows)} layers are below" if len(hurt) > 1 else ""
    return (
        f"quantisation first hurts in {first.name}: alone it leaves {show_db(first.isolated.sqnr_db)} dB "
        f"(limit {report.hurt_db:g}){more}"
    )
