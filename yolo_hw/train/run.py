# SPDX-License-Identifier: Apache-2.0
"""Training a detector from files to a folder of results."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console

from yolo_hw.darknet.weights import read_weights
from yolo_hw.data.dataset import DetectionDataset, open_dataset, read_names
from yolo_hw.errors import nearest
from yolo_hw.evaluate import DetectionMetrics, DetectorConfig, detect_dataset, evaluate_detections
from yolo_hw.evaluate.plots import plot_evaluation
from yolo_hw.nn.darknet import Darknet, load_darknet
from yolo_hw.nn.nms import NmsConfig
from yolo_hw.train.batches import ImageSource, train_batches
from yolo_hw.train.best import SaveBest
from yolo_hw.train.callbacks import MEASURING, Evaluate, MeasureDetector, ShowProgress
from yolo_hw.train.checkpoint import SaveCheckpoint, load_checkpoint
from yolo_hw.train.distributed import ALONE, World
from yolo_hw.train.errors import TrainError
from yolo_hw.train.form import FLOAT, DetectorForm
from yolo_hw.train.freeze import freeze
from yolo_hw.train.initialise import initialise
from yolo_hw.train.loop import fit
from yolo_hw.train.loss import detection_loss
from yolo_hw.train.loss_config import LossConfig, RegionConfig
from yolo_hw.train.pictures import batch_picture, found_picture, true_picture, write_picture
from yolo_hw.train.records import HAS_TENSORBOARD, RecordResults
from yolo_hw.train.report import write_report
from yolo_hw.train.run_options import DetectorRun, write_run
from yolo_hw.train.sources import CachedImages, DatasetImages, FittedImages
from yolo_hw.train.state import Callback, TrainState
from yolo_hw.train.step import Regulariser

PICTURED_BATCHES = 3
CHECKPOINT_SUFFIX = ".pt"
LAST = "last.pt"
SIMPLE = (bool, int, float, str)


@dataclass(frozen=True)
class TrainedDetector:
    """What a run came to.

    Attributes:
        state: Its last state.
        model: The fittest model, in float.
        metrics: Its figures on the validation images.
    """

    state: TrainState
    model: Darknet
    metrics: DetectionMetrics


@dataclass(frozen=True)
class Extra:
    """What a caller adds to a run, such as a penalty or masks.

    Attributes:
        callback: Called before those that measure and save.
        regulariser: Added to the loss once per step, or None.
        form: What is trained in the place of the float network, or None; one extra of a run may have one.
    """

    callback: Callback
    regulariser: Regulariser | None = None
    form: DetectorForm | None = None


MakeExtras = Callable[[Darknet, Mapping[str, str], Path], Sequence[Extra]]
"""(model, `DetectorRun.extras`, folder of the run) to what is added to the run; raises for a name it does not know."""


def train_detector(
    run: DetectorRun,
    folder: Path,
    *,
    resume: bool = False,
    world: World = ALONE,
    console: Console | None = None,
    make_extras: MakeExtras | None = None,
) -> TrainedDetector:
    """Train a detector and write everything about it into a folder.

    Args:
        run: What to train, on what.
        folder: Where to write; must not hold a run unless it is to be resumed.
        resume: Go on with the run in `folder` where its ``last.pt`` stopped.
        world: The processes that train together.
        console: Where progress goes.
        make_extras: Turns `run.extras` into callbacks and regularisers.

    Returns:
        The fittest model and its figures; process 0 has written ``args.toml``, ``results.csv``, ``results.png``,
        TensorBoard events, ``last.pt``, ``best.pt``, ``best.cfg``, ``.weights`` and ``.names``, pictures of batches,
        curves, the confusion matrix and ``report.md``.

    Raises:
        TrainError: The folder is taken, the run cannot go on, or it has extras and nothing makes them.
        YoloHwError: The network, the weights or the data cannot be read.
    """
    console = console if console is not None and world.leads else Console(stderr=True, quiet=not world.leads)
    began = time.perf_counter()
    # What can be refused is refused before anything is written.
    world.device(run.train.device)
    model = make_model(run, console)
    loss = detection_loss(model.network, **loss_options(model, run.loss))
    extras = _extras(run, model, folder, make_extras)
    form = _form(extras)
    training, held_out = open_data(run, model)
    fitted = FittedImages(DatasetImages(training), model.network.input, run.resize)
    source = CachedImages(fitted, run.cache_bytes // world.size)
    subject = form.prepare(model, source)
    freeze(subject, run.train.freeze)
    world.lead(lambda: prepare_folder(folder, run, resume, console))
    if world.leads:
        draw_data(folder, source, run, training, held_out)
    callbacks = [
        *(extra.callback for extra in extras),
        *make_callbacks(run, folder, held_out, form, resume=resume, console=console),
    ]
    regularisers = [extra.regulariser for extra in extras if extra.regulariser is not None]
    state = fit(subject, source, run.train, loss=loss, regularisers=regularisers, callbacks=callbacks, world=world)
    if state.stop:
        console.print(f"stopped: {state.stop}")
    trained = TrainedDetector(state, *measure_best(run, folder, held_out, world, form))
    if world.leads:
        write_report(folder, run, trained.state, trained.metrics, time.perf_counter() - began)
    return trained


def _extras(run: DetectorRun, model: Darknet, folder: Path, make: MakeExtras | None) -> Sequence[Extra]:
    if not run.extras:
        return ()
    if make is None:
        raise TrainError(f"train_detector: the run has extras ({', '.join(run.extras)}), so make_extras must be given")
    return make(model, run.extras, folder)


def _form(extras: Sequence[Extra]) -> DetectorForm:
    """Return what is trained."""
    forms = [extra.form for extra in extras if extra.form is not None]
    if len(forms) > 1:
        raise TrainError(f"train_detector: one extra may change what is trained, got {len(forms)}")
    return forms[0] if forms else FLOAT


def prepare_folder(folder: Path, run: DetectorRun, resume: bool, console: Console) -> None:
    """Make the folder of a run, or check that it holds one to resume."""
    if not resume:
        if (folder / LAST).exists():
            raise TrainError(f"{folder}: holds a run already; resume it, or choose another folder")
        folder.mkdir(parents=True, exist_ok=True)
        write_run(folder, run)
    elif not (folder / LAST).exists():
        console.print(f"{folder}: nothing was saved, the run starts anew")
    if not HAS_TENSORBOARD:
        console.print("no TensorBoard events: pip install tensorboard to have them")


def loss_options(model: Darknet, options: Mapping[str, float | str]) -> dict[str, float | str]:
    """Check fields of the loss's options that come as words.

    Raises:
        TrainError: There is no such field, or it does not take a number or a name.
    """
    kinds = {head.spec.kind for head in model.network.heads}
    defaults: LossConfig | RegionConfig = RegionConfig() if kinds == {"region"} else LossConfig()
    simple = {name: value for name, value in vars(defaults).items() if isinstance(value, SIMPLE)}
    for name, value in options.items():
        if name not in simple:
            raise TrainError(f"loss: no option '{name}' that a word can set{nearest(name, simple)}")
        wanted = "a name" if isinstance(simple[name], str) else "a finite number"
        if isinstance(value, str) != isinstance(simple[name], str) or (
            not isinstance(value, str) and not math.isfinite(value)
        ):
            raise TrainError(f"loss: {name} must be {wanted}, got '{value}'")
    return dict(options)


def make_model(run: DetectorRun, console: Console) -> Darknet:
    """Build the network and bring it to where training starts."""
    model = load_darknet(run.cfg, size=run.size)
    initialise(model, run.train.seed)
    if run.weights is None:
        return model
    if run.weights.suffix == CHECKPOINT_SUFFIX:
        checkpoint = load_checkpoint(run.weights)
        kind = checkpoint.description["kind"]
        if kind != type(model).__name__:
            raise TrainError(
                f"{run.weights}: a checkpoint to start from must be of a {type(model).__name__}, this one is of a "
                f"{kind}: give the .weights file beside it"
            )
        try:
            model.load_state_dict(checkpoint.best_weights)
        except RuntimeError as error:
            raise TrainError(f"{run.weights}: the checkpoint is not one of {run.cfg}: {error}") from None
        return model
    weights = read_weights(run.weights, model.network, partial=True)
    model.load_weights(weights)
    whole = len(model.network.layers)
    if weights.loaded_layers < whole:
        console.print(f"{run.weights}: the first {weights.loaded_layers} of {whole} layers; the others start anew")
    return model


def open_data(run: DetectorRun, model: Darknet) -> tuple[DetectionDataset, DetectionDataset]:
    """Open training and validation images; class i of the model is class i of both."""
    names = None if run.names is None else read_names(run.names)
    training = open_dataset(run.data, names, split=run.train_split, usual_split="train")
    val = run.val or run.data
    held_out = open_dataset(val, names, split=run.val_split, usual_split="val")
    classes = {head.spec.classes for head in model.network.heads}
    for dataset, path in ((training, run.data), (held_out, val)):
        if not dataset.items:
            raise TrainError(f"{path}: no image to train on or to measure")
        if classes != {len(dataset.names)}:
            raise TrainError(
                f"{path}: the data have {len(dataset.names)} classes, the heads of {run.cfg} "
                f"{' and '.join(str(c) for c in sorted(classes)) or 'do not exist'}"
            )
    if training.names != held_out.names:
        raise TrainError(f"training and validation classes must be equal: {training.names} and {held_out.names}")
    return training, held_out


def make_callbacks(
    run: DetectorRun, folder: Path, held_out: DetectionDataset, form: DetectorForm, *, resume: bool, console: Console
) -> list[Callback]:
    """What a run does besides training, in this order; the checkpoint is last and so holds all of it."""
    measure = MeasureDetector(
        held_out, replace(MEASURING, resize=run.resize), warn=lambda message: console.print(f"skipped: {message}")
    )
    evaluate = Evaluate(measure, run.every_epochs, run.patience, lambda s: _print(console, s))
    return [
        ShowProgress(console),
        evaluate,
        SaveBest(folder, held_out.names, form),
        RecordResults(folder),
        SaveCheckpoint(folder / LAST, run.save_steps, resume=resume, names=held_out.names),
    ]


def measure_best(
    run: DetectorRun, folder: Path, held_out: DetectionDataset, world: World, form: DetectorForm
) -> tuple[Darknet, DetectionMetrics]:
    """Load the fittest model as a user would, measure it and draw its curves."""
    torch.cuda.empty_cache()
    world.gather(None)  # best.pt is complete
    model = load_darknet(folder / "best.cfg", folder / "best.weights")
    runner = form.open(folder / "best", str(world.device(run.train.device)))
    detections = detect_dataset(runner, held_out, replace(MEASURING, resize=run.resize)).detections
    class_map = range(len(held_out.names))
    metrics = evaluate_detections(held_out, detections, class_map)
    if world.leads:
        plot_evaluation(folder, held_out, detections, class_map)
        shown = DetectorConfig(resize=run.resize, nms=NmsConfig(confidence=max(metrics.confidence, 0.05)))
        write_picture(folder / "val_detections.jpg", found_picture(runner, held_out, shown))
    return model, metrics


def draw_data(
    folder: Path, source: ImageSource, run: DetectorRun, training: DetectionDataset, held_out: DetectionDataset
) -> None:
    """Draw the first batches as the model will see them, and what it should find in the first validation images."""
    batches = train_batches(source, run.train, 0)
    for index, batch in zip(range(PICTURED_BATCHES), batches, strict=False):
        write_picture(folder / f"train_batch{index}.jpg", batch_picture(batch, training.names))
    write_picture(folder / "val_labels.jpg", true_picture(held_out))


def _print(console: Console, state: TrainState) -> None:
    found = state.history[-1]
    best = state.best
    mark = "  best" if best is found else ""
    figures = found.figures
    console.print(f"epoch {found.epoch}: AP50 {figures['ap50']:.4f}  AP50:95 {figures['ap']:.4f}{mark}")
