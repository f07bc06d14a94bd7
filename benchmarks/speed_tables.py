# SPDX-License-Identifier: Apache-2.0
"""Tables of the measured speeds, as Markdown. Every number is a median; a ratio is one of medians of one run."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.markdown import table
from benchmarks.record import RESULTS, Row, load_speeds

Document = dict[str, Any]

NONE = "-"
UNITS = (("us", 1e6), ("ms", 1e3), ("s", 1.0))
RUNTIMES = ("onnxruntime fp32", "openvino fp32", "onnxruntime int8", "openvino int8", "deepsparse int8")


def rows_of(document: Document, benchmark: str, **wanted: object) -> list[Row]:
    """Return the rows of a benchmark with the given facts; none if it was not measured."""
    rows = document["benchmarks"].get(benchmark, {"rows": []})["rows"]
    return [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]


def by_case(rows: Iterable[Row]) -> dict[tuple[str, int], list[Row]]:
    """Group rows by case and number of threads, in the order measured."""
    found: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        found.setdefault((row["case"], row["threads"]), []).append(row)
    return found


def fastest(rows: Iterable[Row]) -> Row | None:
    """Return the row of the smallest median."""
    return min(rows, key=lambda row: float(row["median_s"]), default=None)


def ratio(slower: Row | None, faster: Row | None) -> str:
    """Return how many times as fast the second row is."""
    return NONE if slower is None or faster is None else f"{slower['median_s'] / faster['median_s']:.2f}"


def seconds(row: Row | None) -> str:
    """Return a median with half the distance of its quartiles, in a unit that suits it."""
    if row is None:
        return NONE
    unit, factor = next(scale for scale in UNITS if row["median_s"] * scale[1] < 999.5 or scale == UNITS[-1])
    spread = 50 * (row["q3_s"] - row["q1_s"]) / row["median_s"]
    return f"{factor * row['median_s']:.3g} {unit} ±{spread:.0f} %"


def engine(document: Document) -> str:
    """Whole networks against the runtimes."""
    body = []
    for (_, threads), rows in by_case(rows_of(document, "engine")).items():
        if "network" not in rows[0]:
            continue
        named = {row["candidate"]: row for row in rows}
        ours = fastest(row for row in rows if row.get("ours"))
        peer = fastest(row for row in rows if row["dtype"] == "int8" and not row.get("ours"))
        torch = fastest(row for row in rows if row["candidate"].startswith("torch"))
        cells = [seconds(row) for row in (ours, torch, *(named.get(name) for name in RUNTIMES))]
        path = ours["path"] if ours else NONE
        body.append((rows[0]["network"], threads, path, *cells, ratio(peer, ours)))
    head = ("network", "threads", "path", "yolo_hw int8", "torch fp32", *RUNTIMES, "best int8 peer / yolo_hw")
    return table(head, body)


def engine_paths(document: Document) -> str:
    """The engine's instruction sets, how they scale, and what share of the machine's peak they reach."""
    peaks = {row["threads"]: row["gop_per_s"] for row in rows_of(document, "engine", case="int8 peak")}
    body = []
    for row in rows_of(document, "engine", ours=True, threads=1):
        same = {"case": row["case"], "candidate": row["candidate"]}
        two = next(iter(rows_of(document, "engine", threads=2, **same)), None)
        scalar = next(iter(rows_of(document, "engine", case=row["case"], threads=1, path="scalar")), None)
        share = f"{100 * row['gop_per_s'] / peaks[1]:.1f} %" if peaks.get(1) else NONE
        times = (seconds(row), seconds(two), ratio(row, two), ratio(scalar, row))
        body.append((row["network"], row["path"], *times, f"{row['gop_per_s']:.0f}", share))
    head = ("network", "path", "one thread", "two threads", "one / two", "scalar / path", "GOP/s", "of the int8 peak")
    return table(head, body)


def fake_quant(document: Document) -> str:
    """Times over a copy of the same tensor."""
    rows = rows_of(document, "fake_quant", threads=1)
    cases = [(case, found) for (case, _), found in by_case(rows).items() if "part" in found[0]]
    everyone = [row for _, found in cases for row in found if row["candidate"] != "memcpy"]
    everyone.sort(key=lambda row: not row.get("ours"))
    names = list(dict.fromkeys(row["candidate"] for row in everyone))
    body = []
    for case, found in cases:
        named = {row["candidate"]: row for row in found}
        copy = named["memcpy"]
        body.append((case, seconds(copy), *(ratio(named.get(name), copy) for name in names)))
    return table(("times over the copy", "memcpy", *names), body)


def fold_bn(document: Document) -> str:
    """Every candidate in time, and over the first one: the copy, or the plain convolution with batch norm."""
    body = []
    for (case, threads), rows in by_case(rows_of(document, "fold_bn")).items():
        if "part" not in rows[0]:
            continue
        base = rows[0]
        for row in rows:
            body.append((case, threads, row["candidate"], seconds(row), ratio(row, base)))
    return table(("case", "threads", "candidate", "time", "over the first"), body)


def training(document: Document) -> str:
    """A step of a whole network, and its loss, over the network in bare torch."""
    body = []
    for name in ("train_step", "qat_step", "losses"):
        for (case, threads), rows in by_case(rows_of(document, name)).items():
            base = next((row for row in rows if row.get("baseline")), None)
            if base is not None:
                body += [(case, threads, row["candidate"], seconds(row), ratio(row, base)) for row in rows]
    return table(("case", "threads", "candidate", "time", "over the first"), body)


def sparsity_speedups(document: Document) -> dict[tuple[str, str], dict[float, list[float]]]:
    """Return (library, pattern) -> sparsity -> speed-up of each layer over its fastest dense candidate of that type."""
    found: dict[tuple[str, str], dict[float, list[float]]] = {}
    for rows in by_case(rows_of(document, "sparse_conv", threads=1)).values():
        for row in rows:
            if "sparsity" not in row:
                continue
            dense = fastest(r for r in rows if r.get("dense") and r["dtype"] == row["dtype"])
            if dense is not None:
                key = (row["candidate"].split()[0], row["pattern"])
                found.setdefault(key, {}).setdefault(row["sparsity"], []).append(dense["median_s"] / row["median_s"])
    return found


def sparse_conv(document: Document) -> str:
    """Median and range of the speed-ups over all layers."""
    found = sparsity_speedups(document)
    sparsities = sorted({sparsity for values in found.values() for sparsity in values})
    body = []
    for sparsity in sparsities:
        cells = []
        for values in found.values():
            speeds = values.get(sparsity, [])
            text = f"{statistics.median(speeds):.2f} ({min(speeds):.2f}..{max(speeds):.2f})" if speeds else NONE
            cells.append(text)
        body.append((f"{sparsity:.0%}", *cells))
    return table(("sparsity", *(f"{library} {pattern}" for library, pattern in found)), body)


def ceilings(document: Document) -> str:
    """What the machine reached in each benchmark's run."""
    body = []
    for name in document["benchmarks"]:
        counts = sorted({row["threads"] for row in rows_of(document, name)})
        for threads in counts:
            speeds = {row["case"]: row for row in rows_of(document, name, threads=threads)}
            copy, real, byte = (speeds.get(case) for case in ("memory copy", "float peak", "int8 peak"))
            cells = [f"{copy['gb_per_s']:.1f}" if copy else NONE]
            cells += [f"{row['gop_per_s']:.0f}" if row else NONE for row in (real, byte)]
            body.append((name, threads, *cells))
    return table(("run", "threads", "copy, GB/s", "float32, GOP/s", "int8, GOP/s"), body)


def setting(document: Document) -> str:
    """Machine, versions, commands, and the peers that were missing."""
    facts, lines = document["machine"], []
    lines.append(f"{facts['processor']} (family {facts['family']}, model {facts['model']}), {facts['cores']} cores.")
    for name, section in document["benchmarks"].items():
        versions = ", ".join(f"{library} {version}" for library, version in section["versions"].items())
        lines.append(f"- `{section['command']}`: {versions}.")
        lines += [f"  Missing: {peer}: {reason}." for peer, reason in section["missing"].items()]
        lines += [] if section["rows"] else [f"  {name} has no rows."]
    return "\n".join(lines) + "\n"


SPEED_TABLES: dict[str, Callable[[Document], str]] = {
    function.__name__: function
    for function in (engine, engine_paths, fake_quant, fold_bn, sparse_conv, training, ceilings, setting)
}


def speed_table(name: str, folder: Path = RESULTS) -> str:
    """Return a table for every measured machine, with the machine's name above where there are several."""
    documents = load_speeds(folder)
    if not documents:
        raise SystemExit(f"{folder}: no measured speeds; run python -m benchmarks")
    parts = []
    for document in documents:
        title = f"{document['machine']['processor']}, {document['machine']['cores']} cores\n\n"
        parts.append((title if len(documents) > 1 else "") + SPEED_TABLES[name](document))
    return "\n".join(parts)
