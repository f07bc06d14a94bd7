# SPDX-License-Identifier: Apache-2.0
"""Make the default detector, ``yolo_hw/assets/parts.weights``, from nothing but generated images.

Everything follows from ``--seed``. The run saves itself beside the weights; started again with the same options it goes
on where it stopped. One processor core needs about one hour with the default options::

    OMP_WAIT_POLICY=PASSIVE python examples/train_default.py --threads 1
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import cv2
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from yolo_hw.assets import HELD_OUT_SEED, PARTS_CFG, PARTS_WEIGHTS, TRAINING_SEED
from yolo_hw.darknet import write_weights
from yolo_hw.darknet.weights import Header
from yolo_hw.data import DetectionDataset, open_dataset
from yolo_hw.data.augment import AugmentConfig
from yolo_hw.data.synthetic import SyntheticDataset, write_dataset
from yolo_hw.evaluate import FloatRunner
from yolo_hw.nn import Darknet, load_darknet
from yolo_hw.train import (
    AssignConfig,
    Evaluate,
    FittedImages,
    LossConfig,
    MeasureDetector,
    Optimizer,
    SaveCheckpoint,
    ShowProgress,
    TrainConfig,
    TrainState,
    YoloLoss,
    fit,
    initialise,
    measure,
    preload,
)


def main() -> None:
    """Train, write the weights, measure what was written."""
    options = parse_options()
    console = Console()
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(1)
    model = load_darknet(options.cfg)
    initialise(model, options.seed)
    source = FittedImages(SyntheticDataset(options.seed, options.images), model.network.input)
    images = list(track(preload(source, options.workers), "generate images", len(source), console=console))
    with tempfile.TemporaryDirectory() as folder:
        write_dataset(Path(folder) / "held_out", options.held_out, HELD_OUT_SEED)
        held_out = open_dataset(Path(folder) / "held_out")
        config = training_options(options)
        checkpoint = SaveCheckpoint(options.checkpoint, every_steps=250, resume=not options.restart)
        evaluate = Evaluate(MeasureDetector(held_out), options.evaluate_every, report=lambda s: report(console, s))
        callbacks = [checkpoint, ShowProgress(console), evaluate]
        loss = YoloLoss.of_network(
            model.network, LossConfig(objectness_smooth=0.3, assign=AssignConfig(anchor_iou=0.4))
        )
        state = fit(model, images, config, loss=loss, callbacks=callbacks)
        best = state.best_model
        assert isinstance(best, Darknet)
        seen = state.step * config.batch
        write_weights(options.out, model.network, best.to_weights(Header(seen=seen)))
        show_result(console, options.out, load_darknet(options.cfg, options.out), held_out)


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--cfg", type=Path, default=PARTS_CFG, help="network to train")
    parser.add_argument("--out", type=Path, default=PARTS_WEIGHTS, help="weights file to write")
    parser.add_argument("--checkpoint", type=Path, default=Path("parts.checkpoint"), help="where the run saves itself")
    parser.add_argument("--restart", action="store_true", help="ignore an existing checkpoint")
    parser.add_argument("--images", type=int, default=8000, help="generated training images, kept in memory")
    parser.add_argument("--held-out", type=int, default=200, help="generated images to measure on")
    parser.add_argument("--epochs", type=int, default=32, help="passes over the images")
    parser.add_argument("--batch", type=int, default=32, help="images per step")
    parser.add_argument("--learning-rate", type=float, default=3e-3, help="highest learning rate")
    parser.add_argument("--evaluate-every", type=int, default=4, help="epochs between measurements")
    parser.add_argument("--seed", type=int, default=TRAINING_SEED, help="of images, weights, order and augmentation")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="processor threads for training")
    parser.add_argument("--workers", type=int, default=2, help="processes that generate images")
    return parser.parse_args()


def training_options(options: argparse.Namespace) -> TrainConfig:
    """Return the options of the run; the camera looks down, so every mirror image is as good as the original."""
    return TrainConfig(
        epochs=options.epochs,
        batch=options.batch,
        optimizer=Optimizer.ADAMW,
        learning_rate=options.learning_rate,
        weight_decay=0.02,
        warmup_epochs=1.0,
        augment=AugmentConfig(flip_x=0.5, flip_y=0.5, transpose=0.5),
        ema_decay=0.9995,
        seed=options.seed,
    )


def report(console: Console, state: TrainState) -> None:
    """Write one line of figures."""
    found = state.history[-1].figures
    console.print(f"epoch {state.epoch}: AP50 {found['ap50']:.4f}  AP {found['ap']:.4f}  small {found['ap_small']:.4f}")


def show_result(console: Console, path: Path, model: Darknet, held_out: DetectionDataset) -> None:
    """Measure the weights file as a user would load it."""
    found = measure(FloatRunner(model), held_out)
    table = Table("class", "objects", "AP50", "AP", title=f"{path.name} on {found.images} held-out images")
    for entry in found.classes:
        table.add_row(entry.name, str(entry.objects), f"{entry.ap50:.3f}", f"{entry.ap:.3f}")
    table.add_row("all", str(sum(entry.objects for entry in found.classes)), f"{found.ap50:.3f}", f"{found.ap:.3f}")
    console.print(table)


if __name__ == "__main__":
    main()
