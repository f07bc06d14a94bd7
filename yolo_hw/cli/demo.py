# SPDX-License-Identifier: Apache-2.0
"""``yolo-hw demo``: the whole way with the embedded network and generated images."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image

from yolo_hw import assets
from yolo_hw.atomic import atomic_file, check_replaceable
from yolo_hw.cli.compile import compile_summary
from yolo_hw.cli.console import mebibytes, millions, note, print_json, print_table, step_progress
from yolo_hw.cli.eval import evaluate, percent
from yolo_hw.cli.main import EXIT_DIFFERENCE
from yolo_hw.cli.options import FilePath
from yolo_hw.data.dataset import DetectionDataset, open_dataset, read_names
from yolo_hw.data.image import ImageArray, find_images, read_image
from yolo_hw.data.synthetic import write_dataset
from yolo_hw.evaluate.detector import DetectorConfig, FloatRunner, HeadRunner, detect_images
from yolo_hw.evaluate.draw import draw_detections
from yolo_hw.evaluate.int_runner import IntRunner
from yolo_hw.evaluate.metrics import DetectionMetrics
from yolo_hw.nn.darknet import Darknet
from yolo_hw.nn.nms import NmsConfig
from yolo_hw.pipeline import CompileConfig, CompileState, compile_network

MARKER = "README.txt"
CALIBRATION_IMAGES = 48
PICTURES = 12
THUMBNAIL = 240
"""Side of an image in the overview, in pixels."""
CONFIDENCE = {"evaluate": 0.005, "draw": 0.4}
"""Smallest score; average precision wants the whole curve, a picture only what is likely."""

ABOUT = """Written by `yolo-hw demo`.

calibration/  generated images that the integer formats were chosen on
held_out/     generated images with ground truth that accuracy was measured on
bundle/       what an FPGA project needs: see bundle/manifest.json; `make -C bundle/hls csim` simulates the accelerator
pictures/     detections, float model left, integer engine right; overview.png shows them all
"""


@dataclass
class DemoState:
    """What the steps have made so far."""

    out: Path
    images: int
    dataset: DetectionDataset | None = None
    compiled: CompileState | None = None
    runners: dict[str, HeadRunner] = field(default_factory=dict)
    metrics: dict[str, DetectionMetrics] = field(default_factory=dict)

    @property
    def bundle(self) -> Path:
        """Where the bundle lies."""
        return self.out / "bundle"


@click.command("demo", epilog="Example: yolo-hw demo --out yolo_hw_demo/")
@click.option("--out", type=FilePath, default=Path("yolo_hw_demo"), show_default=True, help="Folder for everything.")
@click.option("--images", type=click.IntRange(1), default=200, show_default=True, help="Images to measure on.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(out: Path, images: int, as_json: bool) -> int:
    """Compile and verify the embedded network, measure it in float and in integers, draw what it finds."""
    started = time.monotonic()
    state = DemoState(out, images)
    for step in DEMO_STEPS:
        note(f"{(step.__doc__ or '').splitlines()[0].rstrip('.')} ...")
        step(state)
    assert state.compiled is not None
    assert state.compiled.report is not None
    summary = demo_summary(state)
    if as_json:
        print_json(summary)
    else:
        print_demo(state, summary, time.monotonic() - started)
    return 0 if state.compiled.report.passed else EXIT_DIFFERENCE


def generate_images(state: DemoState) -> None:
    """Generate images."""
    check_replaceable(state.out, MARKER)
    with atomic_file(state.out / MARKER) as temporary:
        temporary.write_text(ABOUT, "utf-8")
    write_dataset(state.out / "calibration", CALIBRATION_IMAGES, assets.CALIBRATION_SEED)
    write_dataset(state.out / "held_out", state.images, assets.HELD_OUT_SEED)
    state.dataset = open_dataset(state.out / "held_out", read_names(assets.PARTS_NAMES))


def compile_parts(state: DemoState) -> None:
    """Compile and verify the embedded network."""
    config = CompileConfig(
        cfg=assets.PARTS_CFG,
        weights=assets.PARTS_WEIGHTS,
        calib=state.out / "calibration" / "images",
        out=state.bundle,
    )
    with step_progress() as progress:
        state.compiled = compile_network(config, progress)
    assert isinstance(state.compiled.model, Darknet)
    assert state.compiled.graph is not None
    state.runners = {"float": FloatRunner(state.compiled.model), "int8": IntRunner(state.compiled.graph)}


def measure_accuracy(state: DemoState) -> None:
    """Measure accuracy on held-out images."""
    assert state.dataset is not None
    config = DetectorConfig(nms=NmsConfig(confidence=CONFIDENCE["evaluate"]))
    classes = list(range(len(state.dataset.names)))
    for name, runner in state.runners.items():
        state.metrics[name], _ = evaluate(runner, state.dataset, classes, config, f"measure {name}")


def draw_pictures(state: DemoState) -> None:
    """Draw detections."""
    assert state.dataset is not None
    config = DetectorConfig(nms=NmsConfig(confidence=CONFIDENCE["draw"]))
    pairs = []
    for path in find_images(state.out / "held_out" / "images")[:PICTURES]:
        image = read_image(path)
        drawn = [
            draw_detections(image, detect_images(runner, [image], config)[0], state.dataset.names)
            for runner in state.runners.values()
        ]
        pairs.append(_tiled([drawn], gap=4))
        _save(state.out / "pictures" / f"{path.stem}.png", pairs[-1])
    thumbnails = [np.array(Image.fromarray(pair).resize((2 * THUMBNAIL, THUMBNAIL))) for pair in pairs]
    columns = min(len(thumbnails), 3)
    rows = [thumbnails[i : i + columns] for i in range(0, len(thumbnails) - columns + 1, columns)]
    _save(state.out / "pictures" / "overview.png", _tiled(rows, gap=12))


DEMO_STEPS: tuple[Callable[[DemoState], None], ...] = (generate_images, compile_parts, measure_accuracy, draw_pictures)
"""The flow, in order."""


def demo_summary(state: DemoState) -> dict[str, Any]:
    """Return sizes, accuracy and verification as one document."""
    assert state.compiled is not None
    assert state.compiled.report is not None
    accuracy = {name: {"ap50": m.ap50, "ap": m.ap, "images": m.images} for name, m in state.metrics.items()}
    return {**compile_summary(state.compiled), "accuracy": accuracy, "verify": state.compiled.report.to_json()}


def print_demo(state: DemoState, summary: dict[str, Any], seconds: float) -> None:
    """Print the one table and where everything lies."""
    assert state.compiled is not None
    assert state.compiled.report is not None
    passed = sum(result.status.value == "passed" for result in state.compiled.report.results)
    params = summary["params"]
    ap = {name: (percent(m.ap50), percent(m.ap)) for name, m in state.metrics.items()}
    arena = mebibytes(summary["arena_bytes"])
    rows = [
        ("AP50 on held-out images, %", ap["float"][0], ap["int8"][0]),
        ("AP50:95 on held-out images, %", ap["float"][1], ap["int8"][1]),
        ("parameters", f"{millions(params)} float32", f"{millions(params)} codes"),
        ("parameter memory", mebibytes(4 * params), mebibytes(summary["code_bytes"])),
        ("multiply-accumulates", millions(summary["macs"]), millions(summary["macs"])),
        ("activation memory", "-", f"{arena}, lower bound {mebibytes(summary['arena_bound_bytes'])}"),
        ("checks passed", "-", f"{passed} of {len(state.compiled.report.results)}"),
        ("codes compared, each layer", "-", f"{summary['simulated_codes']}, 0 differ"),
    ]
    if not state.compiled.report.passed:
        rows[-1] = ("codes compared, each layer", "-", "THE BUNDLE IS NOT VALID: run yolo-hw verify")
    where = (
        f"{state.metrics['float'].images} images, {seconds:.0f} s. Bundle: {state.bundle}  pictures: "
        f"{state.out / 'pictures'}  everything: {state.out / MARKER}"
    )
    print_table("yolo_hw demo", ("", "float model", "integer accelerator"), rows, where)


def _tiled(rows: list[list[ImageArray]], gap: int) -> ImageArray:
    """Return images of one size as a grid, `gap` white pixels between them."""
    height, width = rows[0][0].shape[:2]
    picture = np.full((len(rows) * (height + gap) - gap, len(rows[0]) * (width + gap) - gap, 3), 255, np.uint8)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            y, x = i * (height + gap), j * (width + gap)
            picture[y : y + height, x : x + width] = image
    return picture


def _save(path: Path, picture: ImageArray) -> None:
    with atomic_file(path) as temporary:
        Image.fromarray(picture).save(temporary, "PNG")
