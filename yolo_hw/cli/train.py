# SPDX-License-Identifier: Apache-2.0
"""``yolo-hw train``: from a cfg and images to a trained detector and a folder of results."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

import click
import torch
from click.core import ParameterSource

from yolo_hw.cli.add_options import add_options
from yolo_hw.cli.console import ERR, note, print_json, print_table
from yolo_hw.cli.eval import percent
from yolo_hw.cli.options import FilePath, image_size
from yolo_hw.cli.train_extras import given_extras, make_extras
from yolo_hw.data.augment import AugmentConfig
from yolo_hw.data.preprocess import Resize
from yolo_hw.errors import YoloHwError
from yolo_hw.train.config import Optimizer, Precision, Schedule, TrainConfig
from yolo_hw.train.distributed import join_world
from yolo_hw.train.run import TrainedDetector, train_detector
from yolo_hw.train.run_options import DetectorRun, read_run

F = TypeVar("F", bound=Callable[..., Any])

FIT, AUGMENT = TrainConfig(), AugmentConfig()
SHARE = click.FloatRange(0, 1)
POSITIVE = click.FloatRange(0)
COUNT = click.IntRange(1)
FREE = ("device", "workers")
"""Options that a resumed run may be given anew."""


def _choice(values: Iterable[Enum]) -> click.Choice[str]:
    return click.Choice([member.value for member in values])


def _loss_fields(_: click.Context, __: click.Parameter, words: tuple[str, ...]) -> dict[str, float | str]:
    found: dict[str, float | str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise YoloHwError(f"--loss must be NAME=VALUE, such as box_weight=5, got '{word}'")
        try:
            found[name] = float(value)
        except ValueError:
            found[name] = value
    return found


_SOURCE_OPTIONS = [
    click.option("--cfg", type=FilePath, help="Darknet cfg of the network."),
    click.option("--data", type=FilePath, help="Training images with labels, any format of 'yolo-hw data'."),
    click.option("--train-split", help="Part of --data to train on: a split's name or a list file."),
    click.option("--val", type=FilePath, help="Images to measure on, where --data does not have them."),
    click.option("--val-split", help="Part of the validation images."),
    click.option("--names", type=FilePath, help="Class names, one per line, where the data have none."),
]  # fmt: skip
_FIT_OPTIONS = [
    click.option("--resume", type=FilePath, metavar="FOLDER", help="Go on with the run in this folder, nothing else."),
    click.option("--imgsz", metavar="SIZE|HxW", callback=image_size, help="Input height and width, not the cfg's."),
    click.option("--resize", type=_choice(Resize), default=Resize.STRETCH.value, show_default=True,
                 help="How images are brought to that size."),
    click.option("--epochs", type=COUNT, default=FIT.epochs, show_default=True, help="Passes over the data."),
    click.option("--batch", "--batch-size", type=COUNT, default=FIT.batch, show_default=True,
                 help="Images per step, of all processes and micro-batches together."),
    click.option("--accumulate", type=COUNT, default=1, show_default=True, help="Micro-batches per step."),
    click.option("--optimizer", type=_choice(Optimizer), default=FIT.optimizer.value, show_default=True),
    click.option("--learning-rate", "--lr0", type=click.FloatRange(0, min_open=True), default=FIT.learning_rate,
                 show_default=True, help="Its highest value."),
    click.option("--final-lr-ratio", "--lrf", type=SHARE, default=FIT.final_lr_ratio, show_default=True,
                 help="Last learning rate relative to the highest."),
    click.option("--schedule", type=_choice(Schedule), default=FIT.schedule.value, show_default=True),
    click.option("--milestones", metavar="PARTS", default=",".join(map(str, FIT.milestones)), show_default=True,
                 help="Parts of the run after which multi_step multiplies by --step-ratio."),
    click.option("--step-ratio", type=SHARE, default=FIT.step_ratio, show_default=True),
    click.option("--warmup-epochs", type=POSITIVE, default=FIT.warmup_epochs, show_default=True),
    click.option("--momentum", type=SHARE, default=FIT.momentum, show_default=True, help="Of SGD; beta1 of AdamW."),
    click.option("--weight-decay", type=POSITIVE, default=FIT.weight_decay, show_default=True),
    click.option("--clip-norm", type=POSITIVE, default=FIT.clip_norm, show_default=True, help="0 switches it off."),
    click.option("--ema-decay", type=SHARE, default=FIT.ema_decay, show_default=True,
                 help="Of the averaged weights; 0 switches them off."),
    click.option("--freeze", multiple=True, metavar="PATTERN", help="Modules to leave as they are, such as "
                 "'blocks.conv_*'; may be repeated."),
    click.option("--loss", "losses", multiple=True, metavar="NAME=VALUE", callback=_loss_fields,
                 help="A field of LossConfig or RegionConfig in place of the cfg's, as box_loss=giou; repeatable."),
    click.option("--device", default=FIT.device, show_default=True, help="cpu, cuda or cuda:N."),
    click.option("--workers", type=click.IntRange(0), default=FIT.workers, show_default=True,
                 help="Processes that prepare batches."),
    click.option("--threads", type=click.IntRange(0), default=0, show_default=True,
                 help="Processor threads of torch in each process; 0: torch's own choice."),
    click.option("--cache", "cache_mb", type=click.IntRange(0), default=2048, show_default=True, metavar="MiB",
                 help="Memory for decoded images."),
    click.option("--seed", type=click.IntRange(0), default=FIT.seed, show_default=True),
    click.option("--val-period", type=COUNT, default=1, show_default=True, help="Epochs between measurements."),
    click.option("--save-steps", type=COUNT, default=200, show_default=True, help="Steps between saves."),
    click.option("--patience", type=click.IntRange(0), default=0, show_default=True,
                 help="Epochs without a fitter model after which to stop; 0: never."),
    click.option("--flip-x", "--fliplr", type=SHARE, default=AUGMENT.flip_x, show_default=True),
    click.option("--flip-y", "--flipud", type=SHARE, default=AUGMENT.flip_y, show_default=True),
    click.option("--transpose", type=SHARE, default=AUGMENT.transpose, show_default=True),
    click.option("--hue", "--hsv-h", type=SHARE, default=AUGMENT.hue, show_default=True),
    click.option("--saturation", "--hsv-s", type=SHARE, default=AUGMENT.saturation, show_default=True),
    click.option("--value", "--hsv-v", type=SHARE, default=AUGMENT.value, show_default=True),
    click.option("--mosaic", type=SHARE, default=AUGMENT.mosaic, show_default=True),
    click.option("--mixup", type=SHARE, default=AUGMENT.mixup, show_default=True),
    click.option("--scale", type=SHARE, default=AUGMENT.scale, show_default=True),
    click.option("--translate", type=SHARE, default=AUGMENT.translate, show_default=True),
    click.option("--rotate", "--degrees", type=POSITIVE, default=AUGMENT.rotate, show_default=True),
    click.option("--shear", type=POSITIVE, default=AUGMENT.shear, show_default=True),
    click.option("--multi-scale", type=SHARE, default=AUGMENT.multi_scale, show_default=True),
    click.option("--close-mosaic", type=click.IntRange(0), default=AUGMENT.close_mosaic, show_default=True,
                 help="Last epochs without mosaic and mixup."),
    click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON."),
]  # fmt: skip
_FLOAT_OPTIONS = [
    click.option("--precision", type=_choice(Precision), default=FIT.precision.value, show_default=True),
    click.option("--sync-batch-norm", "--sync-bn", is_flag=True, help="Statistics over all processes."),
]  # fmt: skip
"""Of training in float alone."""


def train_options(weights: str, out: str, *, quantised: bool = False) -> Callable[[F], F]:
    """Return what adds the options of a training run.

    Args:
        weights: What is said of ``--weights``.
        out: Usual folder of the results.
        quantised: Leave out what means nothing to training in integers, whose sums need float32 and whose batch norms
            are in the weights.
    """
    own = [
        click.option("--weights", type=FilePath, help=weights),
        click.option("--out", type=FilePath, default=Path(out), show_default=True,
                     help="Folder for all results; must not hold a run."),
    ]  # fmt: skip
    options = [*_SOURCE_OPTIONS, *own, *([] if quantised else _FLOAT_OPTIONS), *_FIT_OPTIONS]

    def add(function: F) -> F:
        return add_options(function, options)

    return add


@click.command(
    "train",
    epilog="Example: yolo-hw train --cfg net.cfg --data bccd/ --epochs 100 --mosaic 0.5 --out runs/bccd. "
    "Several processes: torchrun --nproc-per-node 2 -m yolo_hw train ...",
)
@click.option("--sparsity", metavar="STRENGTH[:WORD]...", help="Penalty on batch-norm scales before pruning, such as "
              "1e-4:cosine. Words: constant, linear, cosine; l1, fixed-norm; warmup=SHARE; method=NAME, the method of "
              "'yolo-hw prune' that will judge by them.")  # fmt: skip
@click.option("--masks", type=FilePath, metavar="masks.npz", help="Weights to keep at zero, from 'yolo-hw prune'.")
@train_options(
    "Where to start: darknet weights, whole or of the first layers, or a checkpoint (.pt). Default: drawn anew.",
    "runs/train",
)
def command(**options: Any) -> None:  # noqa: ANN401
    """Train a detector; flips, mosaic and the like are chances, hue to shear the largest change."""
    run_training(options, given_extras(options["sparsity"], options["masks"]), "best.cfg, best.weights, best.names")


def run_training(options: dict[str, Any], extras: dict[str, str], kept: str) -> None:
    """Train as the options say and show the figures.

    Args:
        options: The values of `train_options`.
        extras: What is added to the run; a resumed one has its own.
        kept: Names of the files that hold the detector.
    """
    folder: Path = options["resume"] or options["out"]
    run = _resumed(options) if options["resume"] else _run_of(options, extras)
    if run.threads:
        torch.set_num_threads(run.threads)
    with join_world(run.train.device) as world:
        resume = bool(options["resume"])
        trained = train_detector(run, folder, resume=resume, world=world, console=ERR, make_extras=make_extras)
        if world.leads:
            _show(trained, folder, options["as_json"], kept)


def _run_of(options: dict[str, Any], extras: dict[str, str]) -> DetectorRun:
    for name in ("cfg", "data"):
        if options[name] is None:
            raise YoloHwError(f"name the {'network' if name == 'cfg' else 'training images'} with --{name}")
    augment = AugmentConfig(**{name: options[name] for name in vars(AUGMENT) if name in options})
    chosen = {name: options[name] for name in vars(FIT) if name in options}
    enums = {"optimizer": Optimizer, "schedule": Schedule, "precision": Precision}
    chosen |= {name: enum(options[name]) for name, enum in enums.items() if name in options}
    try:
        chosen["milestones"] = tuple(float(part) for part in options["milestones"].split(","))
    except ValueError:
        raise YoloHwError(f"--milestones must be numbers like 0.8,0.9, got '{options['milestones']}'") from None
    return DetectorRun(
        cfg=options["cfg"],
        data=options["data"],
        train_split=options["train_split"],
        val=options["val"],
        val_split=options["val_split"],
        weights=options["weights"],
        names=options["names"],
        size=options["imgsz"],
        resize=Resize(options["resize"]),
        cache_bytes=options["cache_mb"] << 20,
        threads=options["threads"],
        every_epochs=options["val_period"],
        patience=options["patience"],
        save_steps=options["save_steps"],
        loss=options["losses"],
        extras=extras,
        train=TrainConfig(**{**chosen, "augment": augment}),
    )


def _resumed(options: dict[str, Any]) -> DetectorRun:
    """The options of an earlier run, but for those that do not change it."""
    context = click.get_current_context()
    given = {name for name in options if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    other = sorted(given - {"resume", "threads", "cache_mb", "as_json", *FREE})
    if other:
        raise YoloHwError(f"--resume goes on with the options of {options['resume']}: leave --{other[0]} out")
    run = read_run(options["resume"])
    if "threads" in given:
        run = replace(run, threads=options["threads"])
    if "cache_mb" in given:
        run = replace(run, cache_bytes=options["cache_mb"] << 20)
    return replace(run, train=replace(run.train, **{name: options[name] for name in FREE if name in given}))


def _show(trained: TrainedDetector, folder: Path, as_json: bool, kept: str) -> None:
    metrics = trained.metrics
    if as_json:
        print_json({"folder": str(folder), "ap50": metrics.ap50, "ap": metrics.ap, "fitness": metrics.fitness})
        return
    rows = [(c.name, c.objects, percent(c.ap50), percent(c.ap)) for c in metrics.classes]
    rows.append(("all", sum(c.objects for c in metrics.classes), percent(metrics.ap50), percent(metrics.ap)))
    print_table("fittest model, average precision in percent", ("class", "objects", "AP50", "AP50:95"), rows)
    note(f"{folder}/: report.md, {kept}, best.pt, results.csv")
