# SPDX-License-Identifier: Apache-2.0
"""Precision over the share pruned, of single weights and of whole filters: ``python -m benchmarks.bccd_ratios WORK``.

As in prerakmody/CS4180-DL: one global percentile of magnitudes, masks that stay through retraining, AP50 before and
after it at each share. Draws ``docs/results/bccd/pruning.png``.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import click
import matplotlib
import torch

from benchmarks.bccd import FINE_TUNING, ROOT, Images, fine_tuned, open_images, trained_model
from benchmarks.record import Row
from benchmarks.resumable import once
from yolo_hw.prune.magnitude import darknet_filters, filter_masks, weight_masks
from yolo_hw.prune.masked_training import MaskedTraining
from yolo_hw.prune.masks import apply_masks, mask_report

matplotlib.use("Agg")

from matplotlib import pyplot as plt

RESULTS = ROOT / "benchmarks/results/bccd_ratios.json"
FIGURE = ROOT / "docs/results/bccd/pruning.png"
SHARES = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
RETRAINING = replace(FINE_TUNING, epochs=15, augment=replace(FINE_TUNING.augment, close_mosaic=5))
KINDS = {"weights": "#c2410c", "filters": "#1d4ed8"}


def study(kind: str, share: float, work: Path, images: Images) -> Row:
    """Mask a share of the weights or filters, retrain under the masks, measure before and after."""
    model = trained_model()
    filters = darknet_filters(model)
    masks = weight_masks(model, share) if kind == "weights" else filter_masks(model, share, filters)
    apply_masks(model, masks)
    checkpoint = work / f"{kind}_{share}.pt"
    row = fine_tuned(model, images, RETRAINING, checkpoint, [MaskedTraining(masks)])
    report = mask_report(model, masks)
    assert report.is_consistent
    return {"kind": kind, "share": share, "zeros": report.total.rate, **row}


def draw(rows: list[dict[str, float]]) -> None:
    """Draw both curves of both kinds."""
    figure, axes = plt.subplots(figsize=(7.5, 4.5), layout="constrained")
    for kind, colour in KINDS.items():
        mine = sorted((row for row in rows if row["kind"] == kind), key=lambda row: row["share"])
        shares = [100 * row["share"] for row in mine]
        axes.plot(shares, [row["ap50"] for row in mine], "o-", color=colour, label=f"{kind}, retrained")
        axes.plot(shares, [row["ap50_before"] for row in mine], "o--", color=colour, label=f"{kind}, pruned only")
    axes.set(xlabel="pruned, % of weights or filters", ylabel="AP50", ylim=(0, 1), xlim=(-2, 92))
    axes.grid(alpha=0.3)
    axes.legend()
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURE, dpi=130)


@click.command()
@click.argument("work", type=click.Path(path_type=Path))
@click.option("--threads", default=1, show_default=True)
def main(work: Path, threads: int) -> None:
    """Run what WORK does not hold yet, write the results and the figure."""
    torch.set_num_threads(threads)
    work.mkdir(parents=True, exist_ok=True)
    images = open_images()
    rows = [
        once(work / f"{kind}_{share}.json", lambda kind=kind, share=share: study(kind, share, work, images))  # type: ignore[misc]
        for share in SHARES
        for kind in KINDS
    ]
    RESULTS.write_text(json.dumps({"rows": rows}, indent=1) + "\n", "utf-8")
    draw(rows)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
