# SPDX-License-Identifier: Apache-2.0
"""``yolo-hw eval``: COCO and VOC average precision of the float model or the integer engine."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import click

from yolo_hw.cli.console import advance_all, note, print_json, print_table, progress_bar
from yolo_hw.cli.options import FilePath, class_names, make_runner, network_options, quant_options
from yolo_hw.data.dataset import DetectionDataset, open_dataset
from yolo_hw.data.preprocess import Resize
from yolo_hw.errors import DataError
from yolo_hw.evaluate.detector import DetectorConfig, HeadRunner, detect_files
from yolo_hw.evaluate.metrics import DetectionMetrics, evaluate_detections, match_classes
from yolo_hw.nn.nms import Detections, NmsConfig


@click.command(
    "eval",
    epilog="Example: yolo-hw eval --cfg net.cfg --weights net.weights --names coco.names --data instances_val.json",
)
@network_options
@click.option("--data", type=FilePath, required=True, help="COCO json, or a folder or list of images with YOLO labels.")
@click.option("--conf", type=click.FloatRange(0, 1), default=0.005, show_default=True, help="Smallest score.")
@click.option("--iou", type=click.FloatRange(0, 1), default=0.45, show_default=True, help="NMS threshold.")
@click.option("--resize", type=click.Choice([r.value for r in Resize]), default="stretch", show_default=True)
@click.option("--max-images", type=click.IntRange(1), help="Use only the first images.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@quant_options
def command(**options: Any) -> None:  # noqa: ANN401
    """Measure average precision, in total and per class."""
    runner = make_runner(options)
    names = class_names(options["names"], runner.heads[0].classes)
    dataset = open_dataset(options["data"], names)
    for warning in dataset.warnings:
        note(f"warning: {warning}")
    if options["max_images"]:
        dataset = DetectionDataset(dataset.names, dataset.items[: options["max_images"]])
    class_map = match_classes(names, dataset.names) if options["names"] else _by_number(names, dataset)
    nms = NmsConfig(confidence=options["conf"], iou=options["iou"])
    metrics, skipped = evaluate(runner, dataset, class_map, DetectorConfig(resize=Resize(options["resize"]), nms=nms))
    if options["as_json"]:
        print_json({**_finite(asdict(metrics)), "skipped": skipped})
    else:
        print_metrics(metrics, skipped)


def evaluate(
    runner: HeadRunner, dataset: DetectionDataset, class_map: list[int], config: DetectorConfig, title: str = "eval"
) -> tuple[DetectionMetrics, int]:
    """Run a network over a data set with a progress bar.

    Returns:
        The metrics, and the number of unreadable images, which are named and count as images without detections.
    """
    detections: list[Detections | None] = []
    skipped = 0
    with progress_bar(title, len(dataset)) as progress:
        for result in detect_files(runner, [item.path for item in dataset.items], config):
            advance_all(progress)
            if result.error:
                skipped += 1
                note(f"skipped: {result.error}")
            detections.append(result.detections)
    if skipped == len(dataset):
        raise DataError("none of the images can be read")
    return evaluate_detections(dataset, detections, class_map), skipped


def print_metrics(metrics: DetectionMetrics, skipped: int) -> None:
    """Print totals and classes."""
    rows = [
        (c.name, c.objects, percent(c.ap50), percent(c.ap), percent(c.voc07), percent(c.voc12)) for c in metrics.classes
    ]
    total = sum(c.objects for c in metrics.classes)
    rows.append(
        ("all", total, percent(metrics.ap50), percent(metrics.ap), percent(metrics.voc07), percent(metrics.voc12))
    )
    footer = (
        f"{metrics.images} images, {skipped} skipped. AP75 {percent(metrics.ap75)}; AP of small objects "
        f"{percent(metrics.ap_small)}, medium {percent(metrics.ap_medium)}, large {percent(metrics.ap_large)}"
    )
    print_table("average precision in percent", ("class", "objects", "AP50", "AP50:95", "VOC07", "VOC12"), rows, footer)


def percent(value: float) -> str:
    """Format a share, '-' where it is undefined."""
    return "-" if math.isnan(value) else f"{100 * value:.2f}"


def _by_number(names: tuple[str, ...], dataset: DetectionDataset) -> list[int]:
    if len(names) != len(dataset.names):
        raise DataError(
            f"the network has {len(names)} classes, the data set {len(dataset.names)}: give the network's with --names"
        )
    return list(range(len(names)))


def _finite(document: dict[str, Any]) -> dict[str, Any]:
    """Replace NaN by None: JSON has no NaN."""
    document = {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in document.items()}
    if "classes" in document:
        document["classes"] = [_finite(c) for c in document["classes"]]
    return document
