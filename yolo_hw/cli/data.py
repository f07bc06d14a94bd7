# SPDX-License-Identifier: Apache-2.0
"""``yolo-hw data``: check, convert, split and generate data sets; find anchors."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from yolo_hw.atomic import atomic_folder, check_replaceable
from yolo_hw.cli.add_options import add_options
from yolo_hw.cli.console import advance_all, note, print_json, print_table, progress_bar
from yolo_hw.cli.main import EXIT_DIFFERENCE
from yolo_hw.cli.options import F, FilePath
from yolo_hw.data.anchors import GENERATIONS, AnchorFit, box_sizes, find_anchors
from yolo_hw.data.check import CheckReport, check_dataset, draw_sizes
from yolo_hw.data.dataset import DetectionDataset, open_dataset, read_names
from yolo_hw.data.folds import MARKER, stratified_parts, write_splits
from yolo_hw.data.preprocess import Resize
from yolo_hw.data.readers import FORMATS
from yolo_hw.data.synthetic import write_dataset
from yolo_hw.data.writers import CLASSES, USUAL_SPLITS, Target, open_parts, write_dataset_as
from yolo_hw.errors import YoloHwError

REPORT = "report.json"
MAX_FINDINGS = 20
"""Findings that `check` prints; the report has all."""

Out = click.option("--out", type=FilePath, required=True, help="Folder to write.")


@click.group(
    "data",
    epilog="Example: yolo-hw data check VOCdevkit/VOC2007 --split trainval",
)
def command() -> None:
    """Check, convert, split and generate data sets; find anchors.

    SOURCE is a COCO json, a data.yaml of ultralytics, a darknet .data file, a list or folder of images with YOLO
    labels, or the folder of a Pascal VOC, KITTI, BDD100K, VisDrone, DIOR or Oxford hand set.
    """


def source_options(*, split: bool = True) -> Callable[[F], F]:
    """Add SOURCE and the options that say how to read it."""

    def add(function: F) -> F:
        options = [
            click.argument("source", type=FilePath),
            click.option("--format", type=click.Choice([f.name for f in FORMATS]), help="Where it could be several."),
            click.option("--names", type=FilePath, help="Class names, for YOLO labels that come without."),
        ]
        if split:
            options.append(click.option("--split", help="train, val, ... or a list of images; default: all images."))
        return add_options(function, options)

    return add


def opened(options: dict[str, Any], *, strict: bool = True) -> DetectionDataset:
    """Open the data set of `source_options`."""
    names = read_names(options["names"]) if options["names"] else None
    return open_dataset(options["source"], names, split=options.get("split"), format=options["format"], strict=strict)


def note_findings(dataset: DetectionDataset) -> None:
    """Print what was dropped or changed on reading."""
    for warning in dataset.warnings[:MAX_FINDINGS]:
        note(f"warning: {warning}")
    if len(dataset.findings) > MAX_FINDINGS:
        note(f"warning: {len(dataset.findings) - MAX_FINDINGS} more; see yolo-hw data check")


@command.command(epilog="Example: yolo-hw data check set/data.yaml --out report/")
@source_options()
@click.option("--out", type=FilePath, help=f"Folder for {REPORT} and box_sizes.png.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(as_json: bool, out: Path | None, **options: Any) -> int:  # noqa: ANN401
    """Decode every image and look at every box; exit code 1 if anything is wrong."""
    if out is not None:
        check_replaceable(out, REPORT)
    dataset = opened(options, strict=False)
    with progress_bar("check", len(dataset)) as progress:
        report = check_dataset(dataset, lambda: advance_all(progress))
    if out is not None:
        with atomic_folder(out, marker=REPORT) as folder:
            (folder / REPORT).write_text(json.dumps(report.document(), indent=1, ensure_ascii=False), "utf-8")
            draw_sizes(dataset, folder / "box_sizes.png")
    if as_json:
        print_json(report.document())
    else:
        _print_report(report)
    return EXIT_DIFFERENCE if report.findings else 0


def _print_report(report: CheckReport) -> None:
    rows = [(entry.name, entry.objects, entry.images, entry.ignored) for entry in report.classes]
    footer = f"{report.images} images, {report.empty} of them without objects"
    print_table("classes", ("class", "objects", "images", "ignored regions"), rows, footer)
    last = len(report.sizes) - 1
    bins = [
        (f"below {2**k}" if k == 0 else f"{2 ** (k - 1)} and more" if k == last else f"{2 ** (k - 1)} to {2**k}", count)
        for k, count in enumerate(report.sizes)
        if count
    ]
    print_table("box sizes", ("square root of the area in pixels", "boxes"), bins)
    for finding in report.findings[:MAX_FINDINGS]:
        click.echo(f"{finding.flaw.value}: {finding}")
    if report.findings:
        totals = ", ".join(f"{flaw}: {count}" for flaw, count in report.flaws.items())
        click.echo(f"{len(report.findings)} findings: {totals}")
    else:
        click.echo("nothing wrong")


@command.command(epilog="Example: yolo-hw data convert VOCdevkit/VOC2007 --to yolo --out voc_yolo/")
@source_options(split=False)
@click.option("--to", "target", type=click.Choice([t.value for t in Target]), required=True, help="Format to write.")
@click.option("--split", "splits", multiple=True, help="Only this split; may be repeated.")
@click.option("--link", is_flag=True, help="Link to the images instead of copying them.")
@Out
def convert(target: str, splits: tuple[str, ...], link: bool, out: Path, **options: Any) -> None:  # noqa: ANN401
    """Write a data set, all splits of it, in another format."""
    check_replaceable(out, CLASSES)
    names = read_names(options["names"]) if options["names"] else None
    parts = open_parts(options["source"], names, options["format"], splits)
    for part in parts.values():
        note_findings(part)
    for remark in write_dataset_as(Target(target), parts, out, link=link):
        note(f"warning: {remark}")
    for split, part in parts.items():
        boxes = sum(len(item.boxes) for item in part.items)
        click.echo(f"{split}: {len(part)} images, {boxes} boxes")


@command.command(epilog="Example: yolo-hw data split photos/ --folds 5 --out folds/")
@source_options()
@click.option("--folds", type=click.IntRange(2), help="Number of folds; each gets a list to train on and one to test.")
@click.option("--ratio", metavar="A,B[,C]", help="Shares of train, val and, if given, test, like .8,.2")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@Out
def split(folds: int | None, ratio: str | None, seed: int, out: Path, **options: Any) -> None:  # noqa: ANN401
    """Divide a data set so that every part has its share of every class; writes lists of images."""
    if (folds is None) == (ratio is None):
        raise YoloHwError("give either --folds or --ratio")
    check_replaceable(out, MARKER)
    shares = [1.0] * folds if folds else _shares(ratio or "")
    dataset = opened(options)
    note_findings(dataset)
    parts = stratified_parts(dataset, shares, seed)
    if folds:
        lists = {}
        for k, part in enumerate(parts):
            lists[f"fold{k}_val"] = part
            lists[f"fold{k}_train"] = sorted(i for other in parts if other is not part for i in other)
    else:
        lists = dict(zip(USUAL_SPLITS, parts, strict=False))
    how = f"--folds {folds}" if folds else f"--ratio {ratio}"
    write_splits(dataset, lists, out, f"yolo-hw data split {options['source']} {how} --seed {seed}")
    rows = []
    for name, indices in lists.items():
        labels = [int(label) for i in indices for label in dataset.items[i].labels[~dataset.items[i].crowd]]
        rows.append((name, len(indices), *(labels.count(c) for c in range(len(dataset.names)))))
    print_table("lists", ("list", "images", *dataset.names), rows)


def _shares(text: str) -> list[float]:
    try:
        shares = [float(word) for word in text.split(",")]
    except ValueError:
        shares = []
    if len(shares) not in (2, 3) or not all(0 < share < 1 for share in shares) or abs(sum(shares) - 1) > 1e-6:
        raise YoloHwError(f"--ratio must be two or three shares that sum to 1, for example .8,.2, got '{text}'")
    return shares


@command.command(epilog="Example: yolo-hw data synth --images 200 --out parts/")
@click.option("--images", type=click.IntRange(1), required=True, help="Number of images.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@Out
def synth(images: int, seed: int, out: Path) -> None:
    """Generate labelled pictures of machine parts."""
    write_dataset(out, images, seed)
    click.echo(f"{out}: {images} images")


@command.command(epilog="Example: yolo-hw data anchors set/data.yaml --split train --net 416x416 --count 9")
@source_options()
@click.option("--net", required=True, metavar="WIDTHxHEIGHT", help="Input of the network.")
@click.option("--count", type=click.IntRange(1, 1000), default=9, show_default=True, help="Number of anchors.")
@click.option("--iou", type=click.FloatRange(0, 1), default=0.5, show_default=True, help="Of recalled boxes.")
@click.option("--generations", type=click.IntRange(0), default=GENERATIONS, show_default=True, help="Of mutation.")
@click.option("--resize", type=click.Choice([r.value for r in Resize]), default="stretch", show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def anchors(as_json: bool, **options: Any) -> None:  # noqa: ANN401
    """Find anchors: k-means with IoU distance, then refinement by mutation."""
    match = re.fullmatch("([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", options["net"])
    if match is None:
        raise YoloHwError(f"--net must be WIDTHxHEIGHT, for example 416x416, got '{options['net']}'")
    width, height = int(match[1]), int(match[2])
    dataset = opened(options)
    note_findings(dataset)
    sizes = box_sizes(dataset, (width, height), Resize(options["resize"]))
    before, after = find_anchors(
        sizes,
        options["count"],
        seed=options["seed"],
        threshold=options["iou"],
        generations=options["generations"],
    )
    if as_json:
        print_json({"boxes": len(sizes), "k_means": _fit(before), "refined": _fit(after)})
        return
    rows = [
        (name, f"{fit.mean_iou:.4f}", f"{fit.recall:.4f}") for name, fit in (("k-means", before), ("refined", after))
    ]
    columns = ("anchors", "mean best IoU", f"best possible recall at IoU {options['iou']:g}")
    print_table(f"{len(after.anchors)} anchors for {len(sizes)} boxes at {width}x{height}", columns, rows)
    click.echo(after.cfg_line)


def _fit(fit: AnchorFit) -> dict[str, Any]:
    return {"anchors": fit.anchors.astype(int).tolist(), "mean_best_iou": fit.mean_iou, "recall": fit.recall}
