# SPDX-License-Identifier: Apache-2.0
"""What computes a network's head maps: the options that several verbs share, and the runner they turn into."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import torch

from hls_export.verify import open_bundle
from yolo_hw.cli.add_options import add_options
from yolo_hw.cli.console import note, step_progress
from yolo_hw.cli.options import (
    QUANT_NAMES,
    BatchNormEpsilon,
    FilePath,
    image_size,
    quant_config,
    refuse_unheeded,
)
from yolo_hw.darknet.network import load_network
from yolo_hw.data.preprocess import Resize
from yolo_hw.errors import YoloHwError
from yolo_hw.evaluate.detector import FloatRunner, HeadRunner
from yolo_hw.evaluate.int_runner import IntRunner
from yolo_hw.evaluate.onnx_runner import PIXEL_SCALE, OnnxRunner
from yolo_hw.intgraph.check import check_graph
from yolo_hw.intgraph.graph import IntGraph
from yolo_hw.nn.darknet import DARKNET_BN_EPS, load_darknet
from yolo_hw.pipeline import QUANTISE_STEPS, CompileConfig, CompileState, run_steps

F = TypeVar("F", bound=Callable[..., Any])

RUNNERS = ("float", "engine", "onnx")
"""What can compute a network's head maps."""


def network_options(function: F) -> F:
    """Add the options that name a network and what runs it: --cfg, --weights, --bundle, --onnx, --runner, --names."""
    options = [
        click.option("--cfg", type=FilePath, help="Darknet cfg."),
        click.option("--weights", type=FilePath, help="Darknet weights."),
        click.option("--bundle", type=FilePath, help="A bundle, instead of cfg and weights; runs in integers."),
        click.option("--onnx", type=FilePath, help="An ONNX file that gives the raw maps of the cfg's heads."),
        click.option(
            "--runner",
            type=click.Choice(RUNNERS),
            help="float: the torch model; engine: the integer engine; onnx: onnxruntime. Default: engine with "
            "--bundle, onnx with --onnx, else float.",
        ),
        click.option("--calib", type=FilePath, help="Calibration images, for --runner engine without a bundle."),
        click.option("--device", default="cpu", show_default=True, help="Where the torch model runs: cpu or cuda."),
        click.option("--imgsz", metavar="SIZE|HxW", callback=image_size,
                     help="Input height and width instead of the cfg's."),
        click.option("--pixel-scale", type=click.FloatRange(0, min_open=True), default=PIXEL_SCALE,
                     show_default="1/255", help="Factor from pixels to the float input of an ONNX file."),
        click.option("--names", type=FilePath, help="Class names, one per line."),
        click.option(
            "--bn-eps", type=BatchNormEpsilon, default=DARKNET_BN_EPS, show_default=True, help="Batch-norm epsilon."
        ),
        click.option("--lenient", is_flag=True, help="Skip unknown training keys of the cfg with a warning."),
    ]  # fmt: skip
    return add_options(function, options)


def make_runner(options: dict[str, Any]) -> HeadRunner:
    """Build what computes the head maps from the values of `network_options` and `quant_options`.

    Raises:
        YoloHwError: The options name no network, more than one, or one that lacks what the runner needs.
    """
    kind = options["runner"] or ("engine" if options["bundle"] else "onnx" if options["onnx"] else "float")
    if options["bundle"] is not None:
        return _bundle_runner(options, kind)
    if kind == "onnx" or options["onnx"] is not None:
        return _onnx_runner(options, kind)
    refuse_unheeded(["pixel_scale"] if kind == "float" else ["pixel_scale", "device"], f"--runner {kind}")
    if options["cfg"] is None or options["weights"] is None:
        raise YoloHwError("name a network: --cfg and --weights, or --bundle, or --cfg and --onnx")
    if kind == "float":
        refuse_unheeded([*QUANT_NAMES, "calib"], "the float model")
        model = load_darknet(
            options["cfg"],
            options["weights"],
            bn_eps=options["bn_eps"],
            lenient=options["lenient"],
            size=options["imgsz"],
        )
        for warning in model.network.warnings:
            note(f"warning: {warning}")
        return FloatRunner(model, _checked_device(options["device"]))
    if options["calib"] is None:
        raise YoloHwError("--runner engine needs calibration images (--calib), or a --bundle")
    return IntRunner(quantise_on_the_fly(options))


def _checked_device(name: str) -> str:
    """Return a device's name if torch can compute there."""
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise YoloHwError(f"--device {name} cannot be used: {str(error).splitlines()[0]}") from None
    return name


def _bundle_runner(options: dict[str, Any], kind: str) -> HeadRunner:
    if options["cfg"] or options["weights"] or options["onnx"] or kind != "engine":
        raise YoloHwError(
            "--bundle holds the integer network: leave out --cfg, --weights, --onnx, and --runner other than engine"
        )
    fixed = [*QUANT_NAMES, "calib", "bn_eps", "imgsz", "pixel_scale", "device"]
    refuse_unheeded(fixed, "a bundle, whose numbers are fixed")
    graph = open_bundle(options["bundle"]).plan.graph
    check_graph(graph)
    return IntRunner(graph)


def _onnx_runner(options: dict[str, Any], kind: str) -> HeadRunner:
    if kind != "onnx" or options["onnx"] is None or options["cfg"] is None or options["weights"]:
        raise YoloHwError(
            "an ONNX file needs --onnx and --cfg for its heads, and neither --weights nor another --runner"
        )
    refuse_unheeded([*QUANT_NAMES, "calib", "bn_eps", "device"], "an ONNX file")
    network = load_network(options["cfg"], lenient=options["lenient"], size=options["imgsz"])
    for warning in network.warnings:
        note(f"warning: {warning}")
    return OnnxRunner(options["onnx"], network, pixel_scale=options["pixel_scale"])


def quantise_on_the_fly(options: dict[str, Any]) -> IntGraph:
    """Calibrate and lower a network without exporting it."""
    config = CompileConfig(
        cfg=options["cfg"],
        weights=options["weights"],
        calib=options["calib"],
        out=Path(""),
        quant=quant_config(options),
        resize=Resize(options["resize"]),
        bn_eps=options["bn_eps"],
        lenient=options["lenient"],
        size=options["imgsz"],
    )
    with step_progress() as progress:
        state = CompileState(config, progress)
        run_steps(state, QUANTISE_STEPS)
    assert state.graph is not None
    return state.graph
