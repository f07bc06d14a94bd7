# SPDX-License-Identifier: Apache-2.0
"""The detector of blood cells as a subject of studies: its images, how it is trained further, how it is measured.

Needs the images of BCCD in ``$YOLO_HW_DATA/bccd``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import click
import torch
from torch import nn

from benchmarks.record import Row, require_data
from yolo_hw.atomic import atomic_file
from yolo_hw.data.augment import AugmentConfig
from yolo_hw.data.dataset import DetectionDataset, open_dataset
from yolo_hw.evaluate import FloatRunner, HeadRunner, IntRunner
from yolo_hw.nn.darknet import Darknet, load_darknet
from yolo_hw.quant.qat import QatModel, lower_model
from yolo_hw.train import (
    CachedImages,
    Callback,
    DatasetImages,
    Evaluate,
    FittedImages,
    MeasureDetector,
    Optimizer,
    Regulariser,
    SaveCheckpoint,
    TrainConfig,
    TrainState,
    detection_loss,
    fit,
)

ROOT = Path(__file__).resolve().parents[1]
CFG, WEIGHTS = ROOT / "examples/bccd/bccd-tiny.cfg", ROOT / "examples/bccd/bccd-tiny.weights"
FINE_TUNING = TrainConfig(
    epochs=150,
    batch=16,
    optimizer=Optimizer.ADAMW,
    learning_rate=2e-3,
    weight_decay=0.02,
    warmup_epochs=3,
    ema_decay=0.998,
    channels_last=True,
    augment=AugmentConfig(flip_y=0.5, mosaic=0.5, scale=0.3, translate=0.1, close_mosaic=20),
)
EVERY_EPOCHS = 5


@dataclass(frozen=True)
class Images:
    """Training images, kept in memory, and validation images."""

    source: CachedImages
    held_out: DetectionDataset


def trained_model() -> Darknet:
    """Return the detector as it was trained."""
    return load_darknet(CFG, WEIGHTS)


def bccd_folder() -> Path:
    """Return the folder of the data set."""
    return require_data() / "bccd" / "BCCD"


def open_images(count: int | None = None) -> Images:
    """Open the training and validation images; of both the first `count`, if given."""
    sets = (open_dataset(bccd_folder(), None, split=split) for split in ("train", "val"))
    training, held_out = (replace(dataset, items=dataset.items[:count]) for dataset in sets)
    return Images(
        CachedImages(FittedImages(DatasetImages(training), load_darknet(CFG).network.input), 2 << 30), held_out
    )


def runner_of(model: nn.Module) -> HeadRunner:
    """Return what measures a model: the integer engine where it has an integer form."""
    if isinstance(model, QatModel) and model.obstacle is None:
        return IntRunner(lower_model(model), threads=torch.get_num_threads())
    return FloatRunner(cast(Darknet, model))


def train(
    model: Darknet | QatModel,
    images: Images,
    config: TrainConfig,
    checkpoint: Path,
    *,
    callbacks: Sequence[Callback] = (),
    regularisers: Sequence[Regulariser] = (),
    every_epochs: int = EVERY_EPOCHS,
) -> TrainState:
    """Train with the loss the detector was trained with; goes on with a checkpoint that is there."""
    loss = detection_loss(model.network, box_gradient="exact", box_weight=5.0)
    evaluate = Evaluate(MeasureDetector(images.held_out, make_runner=runner_of), every_epochs, 0, _show)
    saves = SaveCheckpoint(checkpoint, 10_000, resume=checkpoint.exists())
    everything = [*callbacks, evaluate, saves]
    return fit(model.train(), images.source, config, loss=loss, regularisers=regularisers, callbacks=everything)


def measure(model: Darknet | QatModel, images: Images) -> dict[str, float]:
    """Return AP50 and AP50:95 on the validation images."""
    _, figures = MeasureDetector(images.held_out, make_runner=runner_of)(model.eval())
    return {name: figures[name] for name in ("ap50", "ap")}


def fine_tuned(
    model: Darknet | QatModel,
    images: Images,
    config: TrainConfig,
    checkpoint: Path,
    callbacks: Sequence[Callback] = (),
) -> Row:
    """Measure, train, measure: a row with the figures before and those of the fittest epoch."""
    before = {f"{name}_before": value for name, value in measure(model, images).items()}
    state = train(model, images, config, checkpoint, callbacks=callbacks)
    assert state.best is not None
    figures = {name: state.best.figures[name] for name in ("ap50", "ap")}
    with atomic_file(checkpoint.with_suffix(".weights.pt")) as temporary:
        torch.save(state.best_model.state_dict(), temporary)
    return {**before, **figures, "epoch": state.best.epoch}


def _show(state: TrainState) -> None:
    click.echo(f"epoch {state.epoch}: AP50 {state.history[-1].figures['ap50']:.4f}")
