# SPDX-License-Identifier: Apache-2.0
"""``yolo-hw compile``: from a network, of darknet, in ONNX or in integers already, and images to a verified bundle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from hls_export.bundle.golden import GoldenOptions
from hls_export.plan import AcceleratorPlan
from yolo_hw.cli.accelerator_options import accelerator_config, accelerator_options
from yolo_hw.cli.compile_graph import GraphJob, compile_graph
from yolo_hw.cli.console import mebibytes, millions, print_json, print_table, step_progress
from yolo_hw.cli.main import EXIT_DIFFERENCE
from yolo_hw.cli.onnx_options import DARKNET_NAMES, ONNX_NAMES, onnx_options, onnx_source
from yolo_hw.cli.options import (
    QUANT_NAMES,
    FilePath,
    calibration_config,
    calibration_options,
    check_network,
    quant_options,
    refuse_unheeded,
)
from yolo_hw.cli.verify import SkippableCheck, report_rows, verdict
from yolo_hw.data.preprocess import Resize
from yolo_hw.intgraph.cost import graph_cost
from yolo_hw.pipeline import CompileState, compile_network
from yolo_hw.quant.ptq_search import SearchResult


@click.command(
    "compile",
    epilog="Example: yolo-hw compile --cfg net.cfg --weights net.weights --calib images/ --tile 16x16 --out build/",
)
@calibration_options
@onnx_options
@click.option("--graph", type=FilePath, help="A saved integer graph, such as best.graph of 'yolo-hw qat', instead of a "
              "float network; the images become golden vectors only.")  # fmt: skip
@click.option("--out", type=FilePath, required=True, help="Folder of the bundle; an older bundle there is replaced.")
@quant_options
@click.option(
    "--search",
    "search_seconds",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="Search observers, equalisation, corrections and AdaRound, beginning with the options given.",
)
@click.option("--search-log", type=FilePath, help="File of --search's trials; a later search goes on behind them.")
@accelerator_options("16x16", "Multiply-accumulate tile.")
@click.option("--golden-images", type=click.IntRange(1), default=1, show_default=True, help="Images in golden vectors.")
@click.option("--golden-limit-mb", type=click.IntRange(0), default=256, show_default=True,
              help="Above this size golden vectors are digests only.")  # fmt: skip
@click.option(
    "--skip", multiple=True, type=SkippableCheck, help="A check to leave out, for example csim; may be repeated."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(**options: Any) -> int:  # noqa: ANN401
    """Quantise, plan, export and verify a network in one go. Exit code 1 if any check fails."""
    check_network(options)
    if options["graph"] is not None:
        return _compile_graph(options)
    if options["search_log"] is not None and options["search_seconds"] is None:
        raise click.UsageError("--search-log has no effect without --search")
    config = replace(
        calibration_config(options, onnx_source(options)),
        accelerator=accelerator_config(options),
        golden_images=options["golden_images"],
        golden=_golden(options),
        skip=options["skip"],
        search_seconds=options["search_seconds"],
        search_log=options["search_log"],
    )
    with step_progress() as progress:
        state = compile_network(config, progress)
    assert state.report is not None
    if options["as_json"]:
        print_json({**compile_summary(state), "verify": state.report.to_json()})
    else:
        print_compile(state)
    return 0 if state.report.passed else EXIT_DIFFERENCE


def _compile_graph(options: dict[str, Any]) -> int:
    """Compile what is in integers already."""
    unheeded = [*QUANT_NAMES, *ONNX_NAMES, *DARKNET_NAMES, "max_calib", "imgsz", "search_seconds", "search_log"]
    refuse_unheeded(unheeded, "a graph in integers")
    job = GraphJob(
        graph=options["graph"],
        images=options["calib"],
        out=options["out"],
        accelerator=accelerator_config(options),
        resize=Resize(options["resize"]),
        golden_images=options["golden_images"],
        golden=_golden(options),
        skip=options["skip"],
    )
    with step_progress() as progress:
        plan, report = compile_graph(job, progress)
    summary = plan_summary(plan, options["out"])
    if options["as_json"]:
        print_json({**summary, "verify": report.to_json()})
    else:
        print_table(f"{summary['name']} -> {summary['out']}", ("what", "<value"), plan_rows(summary))
        print_table("verification", ("check", "<outcome", "<detail"), report_rows(report), verdict(report))
    return 0 if report.passed else EXIT_DIFFERENCE


def _golden(options: dict[str, Any]) -> GoldenOptions:
    return GoldenOptions(max_bytes=options["golden_limit_mb"] << 20)


def plan_summary(plan: AcceleratorPlan, out: Path) -> dict[str, Any]:
    """Return the sizes of a bundle."""
    costs = graph_cost(plan.graph)
    return {
        "name": plan.graph.name,
        "out": str(out),
        "nodes": len(plan.graph.nodes),
        "records": len(plan.program),
        "macs": sum(cost.macs for cost in costs),
        "params": sum(cost.params for cost in costs),
        "code_bytes": sum(cost.param_bytes for cost in costs),
        "params_bin_bytes": (out / "ddr" / "params.bin").stat().st_size,
        "tile": [plan.config.tm, plan.config.tn],
        "arena_bytes": plan.memory.arena_bytes,
        "arena_bound_bytes": plan.memory.arena_bound,
        "io_bytes": plan.memory.io_bytes,
    }


def compile_summary(state: CompileState) -> dict[str, Any]:
    """Return the sizes of what was compiled."""
    assert state.plan is not None
    assert state.calibrated is not None
    assert state.calibrated.legal is not None
    return {
        **plan_summary(state.plan, state.config.out),
        "target": state.config.quant.profile.name,
        "legal": state.calibrated.legal.to_json(),
        "w_bits": state.config.quant.w_bits,
        "a_bits": state.config.quant.a_bits,
        "calibration_images": len(state.images),
        "skipped_images": len(state.skipped),
        "simulated_codes": state.simulated_codes,
        "notes": state.calibrated.plan.notes,
        "search": [] if state.search is None else search_rows(state.search),
    }


def search_rows(search: SearchResult) -> list[dict[str, Any]]:
    """Return the trials of a search, the best one marked."""
    return [
        {"setting": trial.setting, "head_db": trial.score, "seconds": trial.seconds, "best": trial is search.best}
        for trial in search.trials
    ]


def print_search(search: SearchResult) -> None:
    """Print the trials of a search, best first."""
    trials = sorted(search.trials, key=lambda trial: float("inf") if trial.score is None else -trial.score)
    rows = [
        ("none" if trial.score is None else f"{trial.score:.2f}", f"{trial.seconds:.1f}", trial.setting)
        for trial in trials
    ]
    print_table("search", ("heads dB", "seconds", "<setting"), rows, "the first was taken")


def print_compile(state: CompileState) -> None:
    """Print the summary and the checks."""
    summary = compile_summary(state)
    assert state.report is not None
    if state.search is not None:
        print_search(state.search)
    rows = [
        ("calibration", f"{summary['calibration_images']} images, {summary['skipped_images']} skipped"),
        ("formats", f"weights {summary['w_bits']} bits, activations {summary['a_bits']} bits"),
        ("target", _target_text(summary)),
        *plan_rows(summary),
        *[("moved", text) for text in summary["notes"]],
    ]
    print_table(f"{summary['name']} -> {summary['out']}", ("what", "<value"), rows)
    simulated = ("simulation", "passed", f"torch float64 = numpy on {summary['simulated_codes']} codes")
    checks = [simulated, *report_rows(state.report)]
    print_table("verification", ("check", "<outcome", "<detail"), checks, verdict(state.report))


def plan_rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what `plan_summary` says as a table."""
    sizes = {name: mebibytes(value) for name, value in summary.items() if name.endswith("_bytes")}
    return [
        (
            "network",
            f"{summary['nodes']} nodes, {millions(summary['macs'])} MACs, {millions(summary['params'])} params",
        ),
        ("tile", "x".join(map(str, summary["tile"]))),
        ("parameters", f"{sizes['code_bytes']} of codes, {sizes['params_bin_bytes']} in ddr/params.bin"),
        (
            "activations",
            f"arena {sizes['arena_bytes']} (bound {sizes['arena_bound_bytes']}), io {sizes['io_bytes']}",
        ),
        ("program", f"{summary['records']} records"),
    ]


def _target_text(summary: dict[str, Any]) -> str:
    legal = summary["legal"]
    if not legal["changes"]:
        return f"{summary['target']}, no format had to be moved"
    noise = "no noise" if legal["sqnr"] is None else f"noise {legal['sqnr']:.1f} dB below a layer's signal"
    gap = f" (at most {legal['gap']:.1%} more than the least)" if legal["gap"] > 1e-6 else ""
    return f"{summary['target']}, {len(legal['changes'])} formats moved, {noise} added{gap}"
