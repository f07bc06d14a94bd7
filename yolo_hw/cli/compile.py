# SPDX-License-Identifier: Apache-2.0
"""``yolo-hw compile``: from a network, of darknet or in ONNX, and calibration images to a verified bundle."""

from __future__ import annotations

from typing import Any

import click

from hls_export.bundle.golden import GoldenOptions
from hls_export.config import AcceleratorConfig
from yolo_hw.cli.console import mebibytes, millions, print_json, print_table, step_progress
from yolo_hw.cli.main import EXIT_DIFFERENCE
from yolo_hw.cli.onnx_options import onnx_options, onnx_source
from yolo_hw.cli.options import BatchNormEpsilon, FilePath, quant_config, quant_options
from yolo_hw.cli.verify import SkippableCheck, report_rows, verdict
from yolo_hw.data.preprocess import Resize
from yolo_hw.intgraph.cost import graph_cost
from yolo_hw.nn.darknet import DARKNET_BN_EPS
from yolo_hw.pipeline import CompileConfig, CompileState, compile_network


@click.command(
    "compile",
    epilog="Example: yolo-hw compile --cfg net.cfg --weights net.weights --calib images/ --tile 16x16 --out build/",
)
@click.option("--cfg", type=FilePath, help="Darknet cfg.")
@click.option("--weights", type=FilePath, help="Darknet weights.")
@click.option("--random-weights", is_flag=True, help="Take random weights, to try a cfg without a trained network.")
@onnx_options
@click.option("--calib", type=FilePath, required=True, help="Calibration images: a folder, an image or a list.")
@click.option("--out", type=FilePath, required=True, help="Folder of the bundle; an older bundle there is replaced.")
@quant_options
@click.option("--tile", default="16x16", show_default=True, metavar="TMxTN", help="Multiply-accumulate tile.")
@click.option("--ifm-words", type=int, default=4096, show_default=True, help="Input buffer, words of TN codes.")
@click.option("--acc-words", type=int, default=1024, show_default=True, help="Accumulator buffer, words of TM sums.")
@click.option("--max-taps", type=int, default=49, show_default=True, help="Kernel positions of the weight buffer.")
@click.option("--resize", type=click.Choice([r.value for r in Resize]), default="stretch", show_default=True)
@click.option("--bn-eps", type=BatchNormEpsilon, default=DARKNET_BN_EPS, show_default=True, help="Batch-norm epsilon.")
@click.option("--max-calib", type=click.IntRange(1), default=48, show_default=True, help="Calibration images at most.")
@click.option("--golden-images", type=click.IntRange(1), default=1, show_default=True, help="Images in golden vectors.")
@click.option("--golden-limit-mb", type=click.IntRange(0), default=256, show_default=True,
              help="Above this size golden vectors are digests only.")  # fmt: skip
@click.option(
    "--skip", multiple=True, type=SkippableCheck, help="A check to leave out, for example csim; may be repeated."
)
@click.option("--lenient", is_flag=True, help="Skip unknown training keys of the cfg with a warning.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(**options: Any) -> int:  # noqa: ANN401
    """Quantise, plan, export and verify a network in one go. Exit code 1 if any check fails."""
    if (options["cfg"] is None) == (options["onnx"] is None):
        raise click.UsageError("name one network: --cfg, or --onnx")
    onnx = onnx_source(options)
    if onnx is None and (options["weights"] is None) != options["random_weights"]:
        raise click.UsageError("give --weights, or --random-weights")
    tm, tn = AcceleratorConfig.parse_tile(options["tile"])
    config = CompileConfig(
        cfg=options["cfg"],
        weights=options["weights"],
        onnx=onnx,
        calib=options["calib"],
        out=options["out"],
        quant=quant_config(options),
        accelerator=AcceleratorConfig(
            tm=tm,
            tn=tn,
            ifm_words=options["ifm_words"],
            acc_words=options["acc_words"],
            max_taps=options["max_taps"],
            align=max(64, (tm | tn) & -(tm | tn)),
        ),
        resize=Resize(options["resize"]),
        bn_eps=options["bn_eps"],
        max_calib=options["max_calib"],
        golden_images=options["golden_images"],
        golden=GoldenOptions(max_bytes=options["golden_limit_mb"] << 20),
        skip=options["skip"],
        lenient=options["lenient"],
    )
    with step_progress() as progress:
        state = compile_network(config, progress)
    assert state.report is not None
    if options["as_json"]:
        print_json({**compile_summary(state), "verify": state.report.to_json()})
    else:
        print_compile(state)
    return 0 if state.report.passed else EXIT_DIFFERENCE


def compile_summary(state: CompileState) -> dict[str, Any]:
    """Return the sizes of what was compiled."""
    assert state.plan is not None
    assert state.calibrated is not None
    plan = state.plan
    costs = graph_cost(plan.graph)
    return {
        "name": plan.graph.name,
        "out": str(state.config.out),
        "nodes": len(plan.graph.nodes),
        "records": len(plan.program),
        "macs": sum(cost.macs for cost in costs),
        "params": sum(cost.params for cost in costs),
        "code_bytes": sum(cost.param_bytes for cost in costs),
        "params_bin_bytes": (state.config.out / "ddr" / "params.bin").stat().st_size,
        "w_bits": state.config.quant.w_bits,
        "a_bits": state.config.quant.a_bits,
        "tile": [plan.config.tm, plan.config.tn],
        "arena_bytes": plan.memory.arena_bytes,
        "arena_bound_bytes": plan.memory.arena_bound,
        "io_bytes": plan.memory.io_bytes,
        "calibration_images": len(state.images),
        "skipped_images": len(state.skipped),
        "simulated_codes": state.simulated_codes,
        "notes": state.calibrated.plan.notes,
    }


def print_compile(state: CompileState) -> None:
    """Print the summary and the checks."""
    summary = compile_summary(state)
    assert state.report is not None
    rows = [
        ("calibration", f"{summary['calibration_images']} images, {summary['skipped_images']} skipped"),
        (
            "network",
            f"{summary['nodes']} nodes, {millions(summary['macs'])} MACs, {millions(summary['params'])} params",
        ),
        (
            "formats",
            f"weights {summary['w_bits']} bits, activations {summary['a_bits']} bits, tile "
            f"{summary['tile'][0]}x{summary['tile'][1]}",
        ),
        (
            "parameters",
            f"{mebibytes(summary['code_bytes'])} of codes, {mebibytes(summary['params_bin_bytes'])} in ddr/params.bin",
        ),
        (
            "activations",
            f"arena {mebibytes(summary['arena_bytes'])} (bound {mebibytes(summary['arena_bound_bytes'])}), "
            f"io {mebibytes(summary['io_bytes'])}",
        ),
        ("program", f"{summary['records']} records"),
        *[("repair", text) for text in summary["notes"]],
    ]
    print_table(f"{summary['name']} -> {summary['out']}", ("what", "<value"), rows)
    simulated = ("simulation", "passed", f"torch float64 = numpy on {summary['simulated_codes']} codes")
    checks = [simulated, *report_rows(state.report)]
    print_table("verification", ("check", "<outcome", "<detail"), checks, verdict(state.report))
