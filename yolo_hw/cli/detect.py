# SPDX-License-Identifier: Apache-2.0
"""``yolo-hw detect``: pictures with boxes, and the boxes as JSON and text."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image

from yolo_hw.atomic import atomic_file
from yolo_hw.cli.console import advance_all, note, print_json, print_table, progress_bar
from yolo_hw.cli.options import FilePath, class_names, quant_options
from yolo_hw.cli.runner_options import make_runner, network_options
from yolo_hw.data.image import find_images
from yolo_hw.data.preprocess import Resize
from yolo_hw.errors import DataError, YoloHwError
from yolo_hw.evaluate.detector import DetectorConfig, ImageResult, detect_files
from yolo_hw.evaluate.draw import draw_detections
from yolo_hw.nn.nms import NmsConfig


@click.command(
    "detect",
    epilog="Example: yolo-hw detect --cfg net.cfg --weights net.weights --source photos/ --out found/",
)
@network_options
@click.option("--source", type=FilePath, required=True, help="An image, a folder of images or a text file of paths.")
@click.option("--out", type=FilePath, required=True, help="Folder for pictures and labels.")
@click.option("--conf", type=click.FloatRange(0, 1), default=0.25, show_default=True, help="Smallest score.")
@click.option("--iou", type=click.FloatRange(0, 1), default=0.45, show_default=True, help="NMS threshold.")
@click.option("--agnostic", is_flag=True, help="Suppress across classes.")
@click.option("--resize", type=click.Choice([r.value for r in Resize]), default="stretch", show_default=True)
@click.option("--no-pictures", is_flag=True, help="Write only JSON and text.")
@click.option("--json", "as_json", is_flag=True, help="Print the detections as JSON.")
@quant_options
def command(**options: Any) -> None:  # noqa: ANN401
    """Find objects; writes one picture and one text file per image and detections.json."""
    paths = find_images(options["source"])
    runner = make_runner(options)
    names = class_names(options["names"], runner.heads[0].classes)
    nms = NmsConfig(confidence=options["conf"], iou=options["iou"], class_agnostic=options["agnostic"])
    out: Path = options["out"]
    stems = output_stems(paths)
    _check_targets(paths, [out / stem for stem in stems.values()], out)
    documents = []
    skipped = 0
    with progress_bar("detect", len(paths)) as progress:
        for result in detect_files(runner, paths, DetectorConfig(resize=Resize(options["resize"]), nms=nms)):
            advance_all(progress)
            if result.error:
                skipped += 1
                note(f"skipped: {result.error}")
                continue
            documents.append(_write(result, names, out / stems[result.path], not options["no_pictures"]))
    if not documents:
        raise DataError(f"{options['source']}: none of the {len(paths)} images can be read")
    summary = {"images": documents, "skipped": skipped}
    with atomic_file(out / "detections.json") as temporary:
        temporary.write_text(json.dumps(summary, indent=1) + "\n", "utf-8")
    if options["as_json"]:
        print_json(summary)
        return
    rows = [
        (
            Path(d["file"]).name,
            len(d["detections"]),
            ", ".join(f"{x['class']} {x['score']:.2f}" for x in d["detections"][:6]),
        )
        for d in documents
    ]
    print_table("detections", ("image", "objects", "<best"), rows, f"{len(rows)} images, {skipped} skipped; in {out}")


def output_stems(paths: list[Path]) -> dict[Path, str]:
    """Return the name of every image's output files without suffix: its stem, or more of its path where two collide."""
    root = os.path.commonpath([path.parent.absolute() for path in paths])
    stems = {path: path.stem for path in paths}
    for longer in (lambda path: path.name, lambda path: os.path.relpath(path, root)):
        counts = Counter(stems.values())
        stems = {path: stem if counts[stem] == 1 else longer(path) for path, stem in stems.items()}
    return stems


def _check_targets(paths: list[Path], targets: list[Path], out: Path) -> None:
    """Refuse an output that is no folder, or that holds source images: pictures and labels there would be lost."""
    if out.exists() and not out.is_dir():
        raise YoloHwError(f"{out}: the output must be a folder")
    both = {path.parent.resolve() for path in paths} & {target.parent.resolve() for target in targets}
    if both:
        raise YoloHwError(f"{min(both)}: --out must not be a folder of source images, choose another one")


def _write(result: ImageResult, names: tuple[str, ...], target: Path, picture: bool) -> dict[str, Any]:
    assert result.image is not None
    assert result.detections is not None
    height, width = result.image.shape[:2]
    rows = list(
        zip(
            result.detections.boxes.tolist(),
            result.detections.scores.tolist(),
            result.detections.classes.tolist(),
            strict=True,
        )
    )
    if picture:
        with atomic_file(target.with_name(f"{target.name}.png")) as temporary:
            Image.fromarray(draw_detections(result.image, result.detections, names)).save(temporary, "PNG")
    lines = []
    for (x1, y1, x2, y2), score, label in rows:
        box = np.array([(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height])
        lines.append(f"{label} {' '.join(f'{v:.6f}' for v in box)} {score:.4f}\n")
    with atomic_file(target.with_name(f"{target.name}.txt")) as temporary:
        temporary.write_text("".join(lines), "utf-8")
    return {
        "file": str(result.path),
        "width": width,
        "height": height,
        "detections": [
            {"class": names[label], "label": label, "score": round(score, 6), "box": [round(v, 2) for v in box]}
            for box, score, label in rows
        ],
    }
