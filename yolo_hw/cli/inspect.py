# SPDX-License-Identifier: Apache-2.0
"""``yolo-hw inspect``: what a bundle holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hls_export.plan import AcceleratorPlan
from hls_export.plan.cycles import plan_cycles
from hls_export.verify import OpenBundle, open_bundle
from yolo_hw.cli.console import mebibytes, millions, print_json, print_table
from yolo_hw.cli.options import FilePath
from yolo_hw.intgraph.check import check_graph
from yolo_hw.intgraph.cost import graph_cost
from yolo_hw.intgraph.nodes import Conv2d, Node


@click.command("inspect", epilog="Example: yolo-hw inspect build/")
@click.argument("bundle", type=FilePath)
@click.option("--memory", is_flag=True, help="Show the memory map instead of the layers.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(bundle: Path, memory: bool, as_json: bool) -> None:
    """Show layers with formats, shifts, accumulator widths and compute cycles, or the memory map."""
    opened = open_bundle(bundle)
    check_graph(opened.plan.graph)
    if as_json:
        print_json({"tensors": _tensors(opened.plan)} if memory else _document(opened))
    elif memory:
        _print_memory(opened.plan)
    else:
        _print_layers(opened.plan)


def _layers(plan: AcceleratorPlan) -> list[dict[str, Any]]:
    cycles: dict[str, int] = {}
    utilisation: dict[str, float] = {}
    for item in plan_cycles(plan):
        cycles[item.command.node] = cycles.get(item.command.node, 0) + item.cycles
        utilisation[item.command.node] = item.utilisation
    rows = []
    for node, cost in zip(plan.graph.nodes, graph_cost(plan.graph), strict=True):
        info = plan.graph.output_of(node)
        requant = node.requant(plan.graph.inputs_of(node), info)
        rows.append(
            {
                "node": node.name,
                "op": node.op,
                "shape": list(info.shape),
                "format": str(info.fmt),
                "weights": _weight_format(node),
                "shift": None if requant is None else [int(requant.shift.min()), int(requant.shift.max())],
                "acc_bits": cost.acc_bits,
                "macs": cost.macs,
                "param_bytes": cost.param_bytes,
                "cycles": cycles.get(node.name, 0),
                "utilisation": round(utilisation.get(node.name, 0.0), 4),
            }
        )
    return rows


def _weight_format(node: Node) -> str | None:
    """Return for example ``s8f5..9``: bits, and the fraction bits over the output channels."""
    if not isinstance(node, Conv2d):
        return None
    return f"s{node.w_bits}f{_span(int(node.w_frac.min()), int(node.w_frac.max()))}"


def _span(low: int, high: int) -> str:
    return f"{low}" if low == high else f"{low}..{high}"


def _document(opened: OpenBundle) -> dict[str, Any]:
    plan = opened.plan
    return {
        "name": plan.graph.name,
        "accelerator": opened.document["accelerator"],
        "contract": opened.document["graph"]["contract"],
        "memory": opened.document["memory"],
        "layers": _layers(plan),
    }


def _print_layers(plan: AcceleratorPlan) -> None:
    layers = _layers(plan)
    rows = [
        (
            row["node"],
            row["op"],
            "x".join(map(str, row["shape"])),
            row["format"],
            row["weights"] or "",
            "" if row["shift"] is None else _span(*row["shift"]),
            row["acc_bits"] or "",
            f"{row['macs']:,}",
            f"{row['param_bytes']:,}",
            f"{row['cycles']:,}",
            f"{100 * row['utilisation']:.1f} %" if row["macs"] else "",
        )
        for row in layers
    ]
    macs, cycles = sum(row["macs"] for row in layers), sum(row["cycles"] for row in layers)
    slots = cycles * plan.config.tm * plan.config.tn
    footer = (
        f"{plan.config.tm}x{plan.config.tn} tile, {plan.graph.contract.rounding.value}, {millions(macs)} MACs, "
        f"{millions(cycles)} compute cycles without memory transfers, {100 * macs / slots:.1f} % of the tile used"
    )
    columns = (
        "node",
        "<op",
        "<output",
        "<format",
        "<weights",
        "shift",
        "acc bits",
        "MACs",
        "bytes",
        "cycles",
        "used",
    )
    print_table(plan.graph.name, columns, rows, footer)


def _tensors(plan: AcceleratorPlan) -> list[dict[str, Any]]:
    lifetimes, places = plan.memory.lifetimes, plan.memory.locations
    order = sorted(places, key=lambda name: (places[name].offset, lifetimes[places[name].root].first, name))
    return [
        {
            "tensor": name,
            "region": "io" if places[name].offset < plan.memory.io_bytes else "arena",
            "offset": places[name].offset,
            "bytes": places[name].bytes,
            "first_record": lifetimes[places[name].root].first,
            "last_record": lifetimes[places[name].root].last,
            "root": places[name].root,
            "channel": places[name].channel,
        }
        for name in order
    ]


def _print_memory(plan: AcceleratorPlan) -> None:
    rows = []
    for row in _tensors(plan):
        first = "image" if row["first_record"] < 0 else row["first_record"]
        last = "end" if row["last_record"] == len(plan.program) else row["last_record"]
        shared = "" if row["root"] == row["tensor"] else f"in {row['root']} at channel {row['channel']}"
        rows.append(
            (row["tensor"], row["region"], f"0x{row['offset']:08x}", f"{row['bytes']:,}", f"{first}..{last}", shared)
        )
    memory = plan.memory
    footer = (
        f"io {mebibytes(memory.io_bytes)}, arena {mebibytes(memory.arena_bytes)} (lower bound of any plan "
        f"{mebibytes(memory.arena_bound)}, one buffer per tensor {mebibytes(memory.unshared_bytes)})"
    )
    print_table(plan.graph.name, ("tensor", "<region", "offset", "bytes", "records", "<shared"), rows, footer)
