# SPDX-License-Identifier: Apache-2.0
"""``yolo-hw onnx``: a network as an ONNX file, in float, quantise-dequantise or pure integer form, or as QONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hls_export.bundle.manifest import MANIFEST
from hls_export.verify import open_bundle
from yolo_hw.cli.console import mebibytes, note, print_json, print_table
from yolo_hw.cli.options import BatchNormEpsilon, FilePath, image_size
from yolo_hw.errors import GraphError
from yolo_hw.fixedpoint import Rounding
from yolo_hw.interop.mismatch import ExportReport
from yolo_hw.interop.onnx_float import export_float_onnx
from yolo_hw.interop.onnx_integer import export_integer_onnx
from yolo_hw.interop.onnx_qdq import export_qdq_onnx
from yolo_hw.interop.qonnx import HALF_UP_AS, export_qonnx
from yolo_hw.intgraph.check import check_graph
from yolo_hw.intgraph.graph import IntGraph
from yolo_hw.intgraph.io import GRAPH_FILE, load_graph
from yolo_hw.nn.darknet import DARKNET_BN_EPS, load_darknet

FORMS = ("float", "qdq", "integer", "qonnx")
REPORTED = ("qdq", "qonnx")
"""The forms that may differ from the integer graph."""

OWN_OPTIONS = {
    "cfg": ("float",),
    "weights": ("float",),
    "keep_batch_norm": ("float",),
    "bn_eps": ("float",),
    "imgsz": ("float",),
    "lenient": ("float",),
    "graph": ("qdq", "integer", "qonnx"),
    "strict": REPORTED,
    "half_up_as": ("qonnx",),
}
"""Options that mean something for some forms only."""
NEEDED = {"float": ("cfg", "weights"), "qdq": ("graph",), "integer": ("graph",), "qonnx": ("graph",)}


@click.command("onnx", epilog="Example: yolo-hw onnx --form integer --graph build/ --out net.int.onnx")
@click.option("--form", type=click.Choice(FORMS), required=True,
              help="float: from cfg and weights; qdq, integer, qonnx: from an integer graph.")  # fmt: skip
@click.option("--cfg", type=FilePath, help="Darknet cfg, for float.")
@click.option("--weights", type=FilePath, help="Darknet weights, for float.")
@click.option("--graph", type=FilePath, help="A bundle of `compile`, or a folder of a saved integer graph.")
@click.option("--out", type=FilePath, required=True, help="The ONNX file; an older file there is replaced.")
@click.option("--batch", type=click.IntRange(0), default=1, show_default=True, help="Images per run; 0: any number.")
@click.option("--keep-batch-norm", is_flag=True, help="float: batch norms stay nodes instead of being folded.")
@click.option("--bn-eps", type=BatchNormEpsilon, help=f"float: batch-norm epsilon.  [default: {DARKNET_BN_EPS}]")
@click.option("--imgsz", metavar="SIZE|HxW", callback=image_size, help="float: input size instead of the cfg's.")
@click.option("--lenient", is_flag=True, help="float: skip unknown training keys of the cfg with a warning.")
@click.option("--strict", is_flag=True, help="qdq, qonnx: refuse a graph whose codes may differ.")
@click.option("--half-up-as", type=click.Choice([mode.value for mode in HALF_UP_AS]),
              help="qonnx: what stands for half_up, which it has no name for.  [default: half_away]")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(form: str, out: Path, batch: int, as_json: bool, **options: Any) -> None:  # noqa: ANN401
    """Write a network as ONNX, and say what the form guarantees."""
    for name, forms in OWN_OPTIONS.items():
        option = f"--{name.replace('_', '-')}"
        if options[name] and form not in forms:
            raise click.UsageError(f"{option} goes with --form {' or '.join(forms)}, not with {form}")
        if name in NEEDED[form] and not options[name]:
            raise click.UsageError(f"--form {form} needs {option}")
    images = batch or None
    report: ExportReport | None = None
    if form == "float":
        _export_float(out, images, options)
    else:
        graph = _read_graph(options["graph"])
        if form == "integer":
            export_integer_onnx(graph, out, batch=images)
        elif form == "qdq":
            report = export_qdq_onnx(graph, out, strict=options["strict"], batch=images)
        else:
            half_up_as = Rounding(options["half_up_as"] or HALF_UP_AS[0].value)
            report = export_qonnx(graph, out, strict=options["strict"], half_up_as=half_up_as, batch=images)
    if as_json:
        print_json(_document(form, out, report))
    else:
        _print(form, out, report)


def _export_float(out: Path, batch: int | None, options: dict[str, Any]) -> None:
    model = load_darknet(
        options["cfg"],
        options["weights"],
        bn_eps=options["bn_eps"] or DARKNET_BN_EPS,
        lenient=options["lenient"],
        size=options["imgsz"],
    )
    for warning in model.network.warnings:
        note(f"warning: {warning}")
    export_float_onnx(model, out, keep_batch_norm=options["keep_batch_norm"], batch=batch)


def _read_graph(folder: Path) -> IntGraph:
    if (folder / GRAPH_FILE).is_file():
        return load_graph(folder)
    if (folder / MANIFEST).is_file():
        graph = open_bundle(folder).plan.graph
        check_graph(graph)
        return graph
    raise GraphError(f"{folder}: must be a bundle or the folder of a saved graph; holds no {MANIFEST} or {GRAPH_FILE}")


def _exact(form: str, report: ExportReport | None) -> bool | None:
    """Whether the codes equal the integer graph's; None for float, which has no codes."""
    return {"float": None, "integer": True}[form] if report is None else report.exact


def _document(form: str, out: Path, report: ExportReport | None) -> dict[str, Any]:
    found = () if report is None else report.mismatches
    return {
        "form": form,
        "out": str(out),
        "bytes": out.stat().st_size,
        "exact": _exact(form, report),
        "mismatches": [{"node": m.node, "reason": m.reason.value, "share": m.share} for m in found],
    }


VERDICTS = {
    None: "float numbers, no codes",
    True: "every code equals the integer graph's",
    False: "codes of these nodes may differ from the integer graph's",
}


def _print(form: str, out: Path, report: ExportReport | None) -> None:
    title, verdict = f"{out}: {form}, {mebibytes(out.stat().st_size)}", VERDICTS[_exact(form, report)]
    if report is None or not report.mismatches:
        click.echo(f"{title}; {verdict}")
    else:
        print_table(title, ("reason", "nodes", "mean share", "<first"), _rows(report), verdict)


def _rows(report: ExportReport) -> list[tuple[str, str, str, str]]:
    rows = []
    for reason, found in report.by_reason().items():
        shares = [m.share for m in found if m.share is not None]
        share = f"{100 * sum(shares) / len(shares):.3g} %" if shares else "not predicted"
        rows.append((reason.value, f"{len(found)} of {report.nodes}", share, found[0].node))
    return rows
