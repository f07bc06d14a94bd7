# SPDX-License-Identifier: Apache-2.0
"""Write the measured tables into README.md and docs/results.md: ``python -m benchmarks.make_table``.

Each table stands between ``<!-- results: NAME -->`` and ``<!-- end -->``; NAME is a function below. With ``--check``
nothing is written, and a table that is not up to date is an error.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from functools import partial
from statistics import mean
from typing import Any

from benchmarks.markdown import table
from benchmarks.record import RESULTS
from benchmarks.speed_tables import SPEED_TABLES, speed_table

ROOT = RESULTS.parents[1]
PAGES = (
    ROOT / "README.md",
    ROOT / "docs" / "results.md",
    ROOT / "docs" / "mixed_precision.md",
    ROOT / "docs" / "ptq.md",
    ROOT / "docs" / "targets.md",
    ROOT / "docs" / "results" / "bccd.md",
    ROOT / "docs" / "results" / "seed_rows.md",
    ROOT / "docs" / "results" / "prune_rivals.md",
)
BLOCK = re.compile(r"(<!-- results: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def accuracy() -> str:
    """Float against 8 bits."""
    rows = [
        (
            row["network"],
            row["images"],
            _percent(row["float_ap50"]),
            _percent(row["int8_ap50"]),
            _percent(row["float_ap"]),
            _percent(row["int8_ap"]),
        )
        for row in _load("accuracy")["rows"]
    ]
    return table(("network", "images", "AP50 float, %", "AP50 int8, %", "AP50:95 float, %", "AP50:95 int8, %"), rows)


def mixed_precision() -> str:
    """Equal and chosen word lengths of the same size."""
    rows = [
        (
            row["weights"],
            f"{row['bytes']:,.0f}" if "bytes" in row else "-",
            *("-" if row.get(key) is None else f"{row[key]:.4f}" for key in ("predicted", "error")),
            _percent(row["ap50"]),
            _percent(row["ap"]),
        )
        for row in _load("mixed_precision")["rows"]
    ]
    head = ("weights", "bytes", "sum of damages", "measured output error", "AP50, %", "AP50:95, %")
    return table(head, rows)


def targets() -> str:
    """What every target profile costs."""
    rows = [
        (
            row["target"],
            f"{row['w_bits']}/{row['a_bits']}",
            f"{row['tensors_moved']} + {row['weights_moved']}",
            "none" if row["added_noise_db"] is None else f"{row['added_noise_db']:.1f}",
            ", ".join(f"{value:.1f}" for value in row["heads_db"]),
            _percent(row["ap50"]),
            _percent(row["ap"]),
        )
        for row in _load("targets")["rows"]
    ]
    head = ("target", "bits w/a", "moved tensors + weights", "added noise, dB below a layer's signal", "heads, dB")
    return table((*head, "AP50, %", "AP50:95, %"), rows)


def ptq() -> str:
    """Observers, corrections and other libraries."""
    rows = []
    for row in _load("ptq")["rows"]:
        if "missing" in row:
            rows.append((row["candidate"], f"not measured: {row['missing']}", "", ""))
            continue
        heads = ", ".join("exact" if value is None else f"{value:.1f}" for value in row["heads_db"])
        rows.append((row["candidate"], heads, _percent(row["ap50"]), _percent(row["ap"])))
    return table(("candidate", "heads, dB", "AP50, %", "AP50:95, %"), rows)


def memory() -> str:
    """Activation arenas."""
    rows = [
        (
            row["network"],
            f"{row['width']} x {row['height']}",
            f"{row['params'] / 1e6:.2f} M",
            _mebibytes(row["unshared_bytes"]),
            _mebibytes(row["arena_bytes"]),
            _mebibytes(row["arena_bound_bytes"]),
        )
        for row in _load("memory")["rows"]
    ]
    return table(("network", "input", "parameters", "a buffer each", "arena", "lower bound"), rows)


def engine_memory() -> str:
    """Resident memory of the engine."""
    rows = []
    for row in _load("engine_memory")["rows"]:
        floor = row["weight_bytes"] + row["arena_bytes"]
        sizes = [row[key] for key in ("weight_bytes", "arena_bytes", "build_peak_bytes", "run_peak_bytes")]
        rows.append((row["network"], row["path"], *map(_mebibytes, sizes), f"{row['run_peak_bytes'] / floor:.2f}"))
    head = ("network", "path", "weights", "arena", "peak, building", "peak, running", "running / (weights + arena)")
    return table(head, rows)


def input_pipeline() -> str:
    """Images per second of the training input, by worker processes."""
    rows = _load("input_pipeline")["rows"]
    rates = {(row["pipeline"], row["workers"]): row["images_per_s"] for row in rows}
    names, workers = (list(dict.fromkeys(key[i] for key in rates)) for i in range(2))
    body = [(name, *(f"{rates[name, count]:.0f}" for count in workers)) for name in names]
    return table(("images per second", *(f"{count} workers" for count in workers)), body)


def seed_yolov3() -> str:
    """KITTI YOLOv3 at each ratio: published, bounds of the ratio, and with the published dead filters."""
    kinds = ("published", "ratio_agreeing", "ratio_independent", "ratio_fpgm", "ratio_fpgm_dead")
    rows = [
        (row["ratio"], *(f"{row[f'{kind}_params']:,}" for kind in kinds), row["dead_by_training"])
        for row in _load("seed_rows")["rows"]
        if row["network"] == "yolov3-kitti"
    ]
    shares = [
        (f"{row['ratio']}, operations", *(f"{_percent(row[f'{kind}_share'])} %" for kind in kinds), "")
        for row in _load("seed_rows")["rows"]
        if row["network"] == "yolov3-kitti"
    ]
    head = (
        "ratio, parameters",
        "published",
        "ratio alone, layers agree",
        "independent",
        "random weights",
        "and the dead filters",
        "dead filters",
    )
    return table(head, [*rows, *shares])


def seed_resnets() -> str:
    """ResNets: published and with random weights."""
    rows = [
        (
            f"{row['network']}, {row['ratio']}, {row['method']}",
            row["published_mflops"],
            row["mflops"],
            row["published_mparams"],
            row["mparams"],
        )
        for row in _load("seed_rows")["rows"]
        if "method" in row
    ]
    return table(("network, ratio, method", "FLOPs", "ours", "parameters", "ours"), rows)


def prune_rivals() -> str:
    """Torch-Pruning and this library."""
    rows = []
    for row in _load("prune_rivals")["rows"]:
        if "failed" in row:
            rows.append((row["model"], row["candidate"], "fails", "", "", "", ""))
        elif "cpu_s" in row:
            errors = (row["error_without_constants"], row["error_with_constants"])
            times = (f"{row['cpu_s']:.2f} s", f"{row['median_s']:.2f} s")
            rows.append(
                (row["model"], row["candidate"], *times, row["irregular"], *(f"{error:.1e}" for error in errors))
            )
    head = ("model", "library", "CPU time", "elapsed", "irregular layers", "error, zeroed", "error, constants kept")
    return table(head, rows)


def bccd_pruning() -> str:
    """The detector of blood cells, pruned by every method; runs that differ in their seed alone are one row."""
    runs: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for row in _load("bccd_pruning")["rows"]:
        runs.setdefault((row["epochs"], row["method"]), []).append(row)
    whole = next(row for (_, method), (row, *_) in runs.items() if method == "unpruned")

    def order(rows: list[dict[str, Any]]) -> tuple[Any, ...]:
        return rows[0]["epochs"], rows[0]["ratio"] > 0, -mean(row["ap50"] for row in rows)

    body = [
        (
            row["method"],
            row["epochs"],
            row["multiple_of"],
            f"{row['params']:,}",
            f"{100 * row['params'] / whole['params']:.1f}",
            f"{100 * row['macs'] / whole['macs']:.1f}",
            _percent(row["ap50_before"]),
            *(_over_seeds([row[figure] for row in rows]) for figure in ("ap50", "ap")),
        )
        for rows in sorted(runs.values(), key=order)
        for row in rows[:1]
    ]
    left = ("parameters", "% of them", "% of MACs")
    head = ("method", "epochs", "multiple of", *left, "AP50 before", "AP50", "AP50:95")
    return table(head, body)


def bccd_ratios() -> str:
    """Weights and filters of the detector of blood cells under masks."""
    rows = _load("bccd_ratios")["rows"]
    figures = [("weights", "ap50_before"), ("weights", "ap50"), ("filters", "ap50_before"), ("filters", "ap50")]
    found = {(row["kind"], row["share"]): row for row in rows}
    body = [
        (f"{100 * share:.0f} %", *(_percent(found[kind, share][figure]) for kind, figure in figures))
        for share in sorted({row["share"] for row in rows})
    ]
    head = ("pruned", "weights", "weights, retrained", "filters", "filters, retrained")
    return table(head, body)


def bccd_qat() -> str:
    """The detector of blood cells, trained by every quantiser."""
    rows = [
        (
            row["name"],
            f"{row['w_bits']}/{row['a_bits']}",
            row["fold"] or "-",
            row["runs"],
            row["epochs"],
            *(_percent(row[figure]) for figure in ("ap50_before", "ap50", "ap")),
        )
        for row in _load("bccd_qat")["rows"]
    ]
    head = ("row", "bits w/a", "batch norms", "runs", "epochs", "AP50 before", "AP50", "AP50:95")
    return table(head, rows)


def bccd_summary() -> str:
    """The detector of blood cells on its way: trained, pruned, trained on in integers."""
    pruning = {row["method"]: row for row in reversed(_load("bccd_pruning")["rows"])}  # the first run of each method
    qat = {row["name"]: row for row in _load("bccd_qat")["rows"]}
    whole, pruned = pruning["unpruned"]["params"], pruning["regular"]["params"]
    start = {figure: qat["float"][f"{figure}_before"] for figure in ("ap50", "ap")}
    steps = {
        "trained": (whole, qat["float"] | start),
        "in 8 bits": (whole, qat["qat8"]),
        "in 8 bits, heads in 16": (whole, qat["qat8-wide-heads"]),
        "pruned": (pruned, qat["float"] | {figure: pruning["regular"][figure] for figure in start}),
        "pruned, in 8 bits": (pruned, qat["qat8-pruned"]),
        "pruned, in 8 bits, heads in 16": (pruned, qat["qat8-wide-heads-pruned"]),
        "pruned, weights in 4 bits": (pruned, qat["qat-w4a8-pruned"]),
    }
    body = [
        (name, f"{params:,}", f"{row['w_bits']}/{row['a_bits']}", _percent(row["ap50"]), _percent(row["ap"]))
        for name, (params, row) in steps.items()
    ]
    return table(("network", "parameters", "bits w/a", "AP50, %", "AP50:95, %"), body)


TABLES: dict[str, Callable[[], str]] = {
    **{
        function.__name__: function
        for function in (
            accuracy,
            mixed_precision,
            targets,
            ptq,
            memory,
            engine_memory,
            input_pipeline,
            seed_yolov3,
            seed_resnets,
            prune_rivals,
            bccd_pruning,
            bccd_ratios,
            bccd_qat,
            bccd_summary,
        )
    },
    **{name: partial(speed_table, name) for name in SPEED_TABLES},
}


def main() -> None:
    """Fill every page."""
    stale = []
    for page in PAGES:
        old = page.read_text("utf-8")
        new = BLOCK.sub(lambda match: match[1] + TABLES[match[2]]() + match[3], old)
        if new != old and "--check" in sys.argv[1:]:
            stale.append(page.name)
        elif new != old:
            page.write_text(new, "utf-8")
    if stale:
        raise SystemExit(f"{', '.join(stale)}: not up to date; run python -m benchmarks.make_table")


def _load(name: str) -> dict[str, Any]:
    return dict(json.loads((RESULTS / f"{name}.json").read_text("utf-8")))


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"


def _over_seeds(values: list[float]) -> str:
    """Return the mean of several runs with the smallest and the largest; one run's value alone."""
    if len(values) == 1:
        return _percent(values[0])
    return f"{_percent(mean(values))} ({_percent(min(values))}-{_percent(max(values))})"


def _mebibytes(value: int) -> str:
    return f"{value / (1 << 20):.3f} MiB"


if __name__ == "__main__":
    main()
