# SPDX-License-Identifier: Apache-2.0
"""``yolo-hw eval``: average precision, curves and speed of the float model, the integer engine or an ONNX file."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from yolo_hw.atomic import atomic_file
from yolo_hw.cli.console import advance_all, note, print_json, print_table, progress_bar
from yolo_hw.cli.options import FilePath, class_names, quant_options
from yolo_hw.cli.runner_options import make_runner, network_options
from yolo_hw.data.dataset import DetectionDataset, open_dataset
from yolo_hw.data.preprocess import Resize
from yolo_hw.errors import DataError
from yolo_hw.evaluate.detector import DetectorConfig, HeadRunner
from yolo_hw.evaluate.metrics import ClassMetrics, DetectionMetrics, evaluate_detections, match_classes
from yolo_hw.evaluate.plots import plot_evaluation
from yolo_hw.evaluate.shards import Detected, detect_dataset
from yolo_hw.nn.nms import NmsConfig

COLUMNS = {
    "coco": (("AP50", "ap50"), ("AP50:95", "ap")),
    "voc07": (("VOC07", "voc07"),),
    "voc12": (("VOC12", "voc12"),),
    "darknet": (("darknet", "darknet"),),
}
"""--metrics -> columns of the table and the field of a class behind each."""

TOTALS = {
    "coco": ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "fitness"),
    "voc07": ("voc07",),
    "voc12": ("voc12",),
    "darknet": ("darknet",),
}
"""--metrics -> figures of the whole set in the report."""

ALWAYS = ("confidence", "precision", "recall", "f1")


@click.command(
    "eval",
    epilog="Example: yolo-hw eval --cfg net.cfg --weights net.weights --names coco.names --data instances_val.json",
)
@network_options
@click.option("--data", type=FilePath, required=True, help="Data set of any format of 'yolo-hw data'.")
@click.option("--split", help="Part of it: a split's name or a list file. Default: val where there is one, else all.")
@click.option("--conf", type=click.FloatRange(0, 1), default=0.005, show_default=True, help="Smallest score.")
@click.option("--iou", type=click.FloatRange(0, 1), default=0.45, show_default=True, help="NMS threshold.")
@click.option("--resize", type=click.Choice([r.value for r in Resize]), default="stretch", show_default=True)
@click.option("--batch", type=click.IntRange(1), default=8, show_default=True, help="Images per run of the network.")
@click.option("--max-images", type=click.IntRange(1), help="Use only the first images.")
@click.option(
    "--metrics",
    type=click.Choice(list(COLUMNS)),
    multiple=True,
    help="Whose average precision to report; may be repeated. Default: all.",
)
@click.option("--plots", type=FilePath, help="Folder for PR, P, R and F1 curves and the confusion matrix (PNG).")
@click.option("--report", type=FilePath, help="File for the JSON report.")
@click.option("--json", "as_json", is_flag=True, help="Print the JSON report.")
@quant_options
def command(**options: Any) -> None:  # noqa: ANN401
    """Measure average precision, precision, recall, F1 and milliseconds per image, in total and per class."""
    runner = make_runner(options)
    names = class_names(options["names"], runner.heads[0].classes)
    dataset = open_dataset(options["data"], names, split=options["split"], usual_split="val")
    for warning in dataset.warnings:
        note(f"warning: {warning}")
    if options["max_images"]:
        dataset = DetectionDataset(dataset.names, dataset.items[: options["max_images"]])
    class_map = class_map_of(names if options["names"] else (), dataset, len(names))
    nms = NmsConfig(confidence=options["conf"], iou=options["iou"])
    config = DetectorConfig(resize=Resize(options["resize"]), nms=nms, batch=options["batch"])
    metrics, detected = evaluate(runner, dataset, class_map, config)
    chosen = options["metrics"] or tuple(COLUMNS)
    report = make_report(metrics, detected, chosen)
    if options["plots"]:
        paths = plot_evaluation(options["plots"], dataset, detected.detections, class_map)
        report["plots"] = [str(path) for path in paths]
    if options["report"]:
        _write_json(options["report"], report)
    if options["as_json"]:
        print_json(report)
    else:
        print_metrics(metrics, detected, chosen)


def evaluate(
    runner: HeadRunner, dataset: DetectionDataset, class_map: list[int], config: DetectorConfig, title: str = "eval"
) -> tuple[DetectionMetrics, Detected]:
    """Run a network over a data set with a progress bar.

    Returns:
        The metrics and the detections; unreadable images are named and count as images without detections.
    """
    with progress_bar(title, len(dataset)) as progress:
        detected = detect_dataset(runner, dataset, config, lambda: advance_all(progress))
    for error in detected.errors:
        note(f"skipped: {error}")
    return evaluate_detections(dataset, detected.detections, class_map), detected


def make_report(metrics: DetectionMetrics, detected: Detected, chosen: Sequence[str]) -> dict[str, Any]:
    """Return the JSON report: the chosen figures in [0, 1] (null if undefined), milliseconds per image, counts."""
    totals = {**asdict(metrics), "fitness": metrics.fitness}
    names = [name for kind in chosen for name in TOTALS[kind]]
    fields = ["name", "objects", "precision", "recall", "f1", *(f for kind in chosen for _, f in COLUMNS[kind])]
    report = {name: totals[name] for name in (*names, *ALWAYS)}
    report["classes"] = [{field: getattr(c, field) for field in fields} for c in metrics.classes]
    report["milliseconds"] = detected.times.milliseconds()
    report |= {"images": metrics.images, "skipped": len(detected.errors)}
    return {key: _finite(value) for key, value in report.items()}


def print_metrics(metrics: DetectionMetrics, detected: Detected, chosen: Sequence[str]) -> None:
    """Print classes, totals and times."""
    columns = [column for kind in chosen for column in COLUMNS[kind]]
    totals = {**asdict(metrics), "darknet": metrics.darknet.map50}
    rows: list[tuple[object, ...]] = [_class_row(c, [field for _, field in columns]) for c in metrics.classes]
    figures = ["precision", "recall", "f1", *(field for _, field in columns)]
    rows.append(("all", sum(c.objects for c in metrics.classes), *(percent(totals[field]) for field in figures)))
    threshold = "-" if math.isnan(metrics.confidence) else f"{metrics.confidence:.3f}"
    footer = [
        f"{metrics.images} images, {len(detected.errors)} skipped. P, R, F1 at IoU 0.5 and confidence {threshold}, "
        "where the mean F1 is highest"
    ]
    if "coco" in chosen:
        footer.append(
            f"COCO: AP75 {percent(metrics.ap75)}; AP of small objects {percent(metrics.ap_small)}, medium "
            f"{percent(metrics.ap_medium)}, large {percent(metrics.ap_large)}; fitness {metrics.fitness:.4f}"
        )
    if "darknet" in chosen:
        d = metrics.darknet
        footer.append(
            f"darknet at confidence 0.25: P {percent(d.precision)}, R {percent(d.recall)}, F1 {percent(d.f1)}, "
            f"average IoU {percent(d.mean_iou)}"
        )
    times = detected.times.milliseconds()
    footer.append("milliseconds per image: " + ", ".join(f"{stage} {value:.2f}" for stage, value in times.items()))
    title = "average precision in percent"
    print_table(title, ("class", "objects", "P", "R", "F1", *(name for name, _ in columns)), rows, "\n".join(footer))


def percent(value: float) -> str:
    """Format a share, '-' where it is undefined."""
    return "-" if math.isnan(value) else f"{100 * value:.2f}"


def _class_row(c: ClassMetrics, fields: Sequence[str]) -> tuple[object, ...]:
    return (c.name, c.objects, *(percent(getattr(c, field)) for field in ("precision", "recall", "f1", *fields)))


def class_map_of(names: Sequence[str], dataset: DetectionDataset, classes: int) -> list[int]:
    """Return model class -> data set class or -1: by name where the network's are known, else by number.

    Args:
        names: The network's classes, or none.
        dataset: Has names of its own.
        classes: How many the network has.

    Raises:
        DataError: No name is common, or the numbers differ.
    """
    if names:
        return match_classes(names, dataset.names)
    if classes != len(dataset.names):
        raise DataError(
            f"the network has {classes} classes, the data set {len(dataset.names)}: give the network's with --names"
        )
    return list(range(classes))


def _finite(value: Any) -> Any:  # noqa: ANN401
    """Replace NaN by None, at any depth: JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _write_json(path: Path, document: dict[str, Any]) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", "utf-8")
