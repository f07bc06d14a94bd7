# SPDX-License-Identifier: Apache-2.0
"""Train a residual network on a folder of classes, on CIFAR's binary files, or on generated shapes.

Without ``--data`` the images are generated, and one processor core needs about a minute::

    python examples/train_classifier.py --model resnet20 --epochs 6 --out shapes.pt
    python examples/train_classifier.py --model resnet18 --data cifar-10-batches-bin/ --epochs 100 --learning-rate 0.01

The file holds the state dict of the averaged weights; `yolo_hw.nn.load_resnet` reads it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from rich.console import Console

from yolo_hw.atomic import atomic_file
from yolo_hw.darknet.layers import Shape
from yolo_hw.data import ClassificationDataset, generate_shapes, open_classification
from yolo_hw.nn import RESNETS, account
from yolo_hw.train import (
    ClassifiedImages,
    CrossEntropy,
    Evaluate,
    FittedImages,
    MeasureAccuracy,
    SaveCheckpoint,
    ShowProgress,
    TrainConfig,
    TrainState,
    fit,
)


def main() -> None:
    """Train, measure, write the weights."""
    options = parse_options()
    console = Console()
    torch.manual_seed(options.seed)
    train, held_out = open_sets(options)
    model = RESNETS[options.model](len(train.names))
    net = Shape(3, options.size, options.size)
    cost = account(model, net)
    console.print(f"{options.model}: {cost.params / 1e6:.2f} M parameters, {cost.macs / 1e6:.1f} M MACs at {net}")
    config = TrainConfig(
        epochs=options.epochs,
        batch=options.batch,
        learning_rate=options.learning_rate,
        weight_decay=1e-4,
        ema_decay=options.ema_decay,
        seed=options.seed,
        device=options.device,
        workers=options.workers,
    )
    evaluate = Evaluate(
        MeasureAccuracy(held_out, net), options.evaluate_every, report=lambda state: report(console, state)
    )
    callbacks = [ShowProgress(console), evaluate]
    if options.checkpoint:
        callbacks.insert(0, SaveCheckpoint(options.checkpoint, every_steps=500))
    source = FittedImages(ClassifiedImages(train), net)
    state = fit(model, source, config, loss=CrossEntropy(options.label_smoothing), callbacks=callbacks)
    with atomic_file(options.out) as temporary:
        torch.save(state.best_model.state_dict(), temporary)


def report(console: Console, state: TrainState) -> None:
    """Write one line of figures."""
    found = state.history[-1].figures
    console.print(f"epoch {state.epoch}: top-1 {found['top1']:.4f}  top-5 {found['top5']:.4f}")


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(RESNETS), default="resnet20")
    parser.add_argument("--data", type=Path, help="class folders or CIFAR's binary files; default: generated shapes")
    parser.add_argument("--images", type=int, default=1000, help="generated training images")
    parser.add_argument("--size", type=int, default=32, help="height and width of the input")
    parser.add_argument("--out", type=Path, default=Path("classifier.pt"), help="weights file to write")
    parser.add_argument("--checkpoint", type=Path, help="where the run saves itself and resumes from")
    parser.add_argument("--epochs", type=int, default=10, help="passes over the images")
    parser.add_argument("--batch", type=int, default=32, help="images per step")
    parser.add_argument("--learning-rate", type=float, default=0.05, help="highest learning rate")
    parser.add_argument(
        "--label-smoothing", type=float, default=0.1, help="share of the target spread over all classes"
    )
    parser.add_argument("--ema-decay", type=float, default=0.99, help="decay of the averaged weights per step")
    parser.add_argument("--evaluate-every", type=int, default=1, help="epochs between measurements")
    parser.add_argument("--seed", type=int, default=0, help="of images, weights, order and augmentation")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=0, help="processes that prepare batches")
    return parser.parse_args()


def open_sets(options: argparse.Namespace) -> tuple[ClassificationDataset, ClassificationDataset]:
    """Return training and held-out images."""
    if options.data is None:
        held_out = max(options.images // 5, 1)
        return (
            generate_shapes(options.images, options.seed, options.size),
            generate_shapes(held_out, options.seed + 1, options.size),
        )
    return open_classification(options.data, "train"), open_classification(options.data, "val")


if __name__ == "__main__":
    main()
