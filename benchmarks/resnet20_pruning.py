# SPDX-License-Identifier: Apache-2.0
"""Accuracy of ResNet-20 over the share of filters pruned: ``python -m benchmarks.resnet20_pruning``.

Every layer loses the same share by L1, L2 or distance to the other filters; layers that a sum joins keep the union, and
the network is rebuilt without what no layer keeps. Half of the images of the CIFAR-10 subset in ``$YOLO_HW_DATA`` are
for fine-tuning, the other half for measuring. Draws ``docs/figures/resnet20_pruning.png``.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import matplotlib
import torch

from benchmarks.record import require_data
from yolo_hw.data.augment import AugmentConfig
from yolo_hw.data.classification import ClassificationDataset, open_classification
from yolo_hw.nn.resnet import load_resnet, resnet20
from yolo_hw.prune import PruneConfig, prune_module
from yolo_hw.train import ClassifiedImages, CrossEntropy, Optimizer, TrainConfig, fit, measure_accuracy

matplotlib.use("Agg")

from matplotlib import pyplot as plt

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results/resnet20_pruning.json"
FIGURE = ROOT / "docs/figures/resnet20_pruning.png"
METHODS = {"l1-reconstruct": "#c2410c", "l2-reconstruct": "#1d4ed8", "fpgm": "#0f766e"}
SHARES = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7)
FINE_TUNING = TrainConfig(
    epochs=15,
    batch=32,
    optimizer=Optimizer.SGD,
    learning_rate=0.01,
    momentum=0.9,
    weight_decay=5e-4,
    warmup_epochs=0,
    ema_decay=0,
    augment=AugmentConfig(hue=0.0, saturation=0.0, value=0.0),
)
Row = dict[str, float | str]


def halves(dataset: ClassificationDataset) -> tuple[ClassificationDataset, ClassificationDataset]:
    """Return every other image, and the rest; classes stay balanced."""
    first, second = (
        ClassificationDataset(dataset.names, dataset.labels[start::2], dataset.paths[start::2]) for start in (0, 1)
    )
    return first, second


def study(method: str, share: float, tuning: ClassificationDataset, held_out: ClassificationDataset) -> Row:
    """Prune, measure, fine-tune, measure."""
    model = resnet20()
    load_resnet(model, require_data() / "weights/resnet_cifar10/resnet20-12fca82f.th")
    pruned = prune_module(model.eval(), torch.zeros(1, 3, 32, 32), PruneConfig(method=method, ratio=share)).model
    before = measure_accuracy(pruned, held_out).top1
    fit(pruned, ClassifiedImages(tuning), FINE_TUNING, loss=CrossEntropy())
    return {
        "method": method,
        "share": share,
        "params": sum(p.numel() for p in pruned.parameters()),
        "accuracy_before": before,
        "accuracy": measure_accuracy(pruned, held_out).top1,
    }


def draw(rows: list[Row]) -> None:
    """Draw accuracy before and after fine-tuning."""
    figure, axes = plt.subplots(figsize=(7.5, 4.5), layout="constrained")
    for method, colour in METHODS.items():
        mine = [row for row in rows if row["method"] == method]
        shares = [100 * float(row["share"]) for row in mine]
        axes.plot(shares, [float(row["accuracy"]) for row in mine], "o-", color=colour, label=f"{method}, fine-tuned")
        before = [float(row["accuracy_before"]) for row in mine]
        axes.plot(shares, before, "o--", color=colour, label=f"{method}, pruned only")
    axes.set(xlabel="filters each layer votes against, %", ylabel="accuracy", ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(FIGURE, dpi=130)


@click.command()
@click.option("--threads", default=1, show_default=True)
def main(threads: int) -> None:
    """Run the study, write results and figure."""
    torch.set_num_threads(threads)
    dataset = open_classification(require_data() / "cifar10_subset")
    rows = []
    for method in METHODS:
        for share in SHARES:
            rows.append(study(method, share, *halves(dataset)))
            click.echo(json.dumps(rows[-1]))
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")
    draw(rows)


if __name__ == "__main__":
    main()
