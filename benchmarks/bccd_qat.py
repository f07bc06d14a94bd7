# SPDX-License-Identifier: Apache-2.0
"""The detector of blood cells, quantised by every method and trained alike: ``python -m benchmarks.bccd_qat WORK``.

One row each: average precision before the training (calibrated, for the quantised) and of its fittest epoch, by the
integer engine where the method has an integer form, else by the quantised model in float. The float detector is trained
on with the same options, so that further training is not taken for a merit of quantisation. ``--curves`` adds the
precision after every epoch around the freeze of batch norms, for every way to fold them. WORK keeps what each run came
to, so a study that broke off goes on; a trial with fewer images or epochs leaves its results there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import click
import matplotlib
import numpy as np
import torch

from benchmarks.bccd import (
    FINE_TUNING,
    ROOT,
    Images,
    fine_tuned,
    measure,
    open_images,
    runner_of,
    train,
    trained_model,
)
from benchmarks.record import Row
from benchmarks.resumable import check_settings, once
from yolo_hw.atomic import atomic_file
from yolo_hw.evaluate import IntRunner
from yolo_hw.nn.darknet import Darknet, load_darknet
from yolo_hw.quant import QuantConfig, quantise_model
from yolo_hw.quant.calibrate import ImageBatch
from yolo_hw.quant.qat import FreezeQat, HeadForm, NormFold, QatConfig, QatModel, ScaleMethod, prepare_qat
from yolo_hw.quant.qat.seed.snr_correction import correct_biases_by_snr
from yolo_hw.train import MeasureDetector, TrainConfig

matplotlib.use("Agg")

from matplotlib import pyplot as plt

RESULTS = ROOT / "benchmarks/results/bccd_qat.json"
FIGURE = ROOT / "docs/results/bccd/norm_freeze.png"
TRAINING = replace(
    FINE_TUNING,
    epochs=40,
    learning_rate=5e-4,
    warmup_epochs=1,
    augment=replace(FINE_TUNING.augment, close_mosaic=10),
)
CURVE = "qat8"
CALIBRATION_BATCHES, CALIBRATION_BATCH = 8, 8
COLOURS = {"one-pass": "#c2410c", "two-pass": "#1d4ed8", "batch": "#0f766e", "none": "#64748b"}


@dataclass(frozen=True)
class Freeze:
    """Shares of the steps at which batch norms and scales rest."""

    norms: float = 0.7
    scales: float = 0.9


THEIRS = Freeze(norms=0.9, scales=0.1)
"""Published with google's ranges."""
LEARNED = Freeze(norms=0.9, scales=1.0)


@dataclass(frozen=True)
class Variant:
    """How the detector of one row is quantised and trained; without `qat` it is calibrated only."""

    bits: tuple[int, int]
    qat: QatConfig | None = None
    freeze: Freeze = field(default_factory=Freeze)
    per_channel: bool = True
    trained: bool = True
    pruned: bool = False

    @property
    def config(self) -> QuantConfig:
        """Word lengths of weights and activations."""
        return QuantConfig(w_bits=self.bits[0], a_bits=self.bits[1], per_channel=self.per_channel)

    @property
    def fold(self) -> str:
        """What becomes of batch norms: in training, or folded once before calibration."""
        return "calibrated" if self.qat is None else self.qat.norm_fold.value


def _theirs(method: ScaleMethod, bits: int, fold: NormFold, freeze: Freeze = LEARNED) -> Variant:
    """One step per tensor, for weights too, as the methods were published."""
    qat = QatConfig(w_scale=method, a_scale=method, norm_fold=fold)
    trained = method is not ScaleMethod.COSINE_PTQ
    return Variant((bits, bits), qat, freeze, per_channel=False, trained=trained)


FLOAT = "float"
VARIANTS = {
    "ptq8": Variant((8, 8), trained=False),
    "ptq-w4a8": Variant((4, 8), trained=False),
    "qat8": Variant((8, 8), QatConfig()),
    "qat8-two-pass": Variant((8, 8), QatConfig(norm_fold=NormFold.TWO_PASS)),
    "qat8-batch": Variant((8, 8), QatConfig(norm_fold=NormFold.BATCH)),
    "qat8-unfolded": Variant((8, 8), QatConfig(norm_fold=NormFold.NONE)),
    "qat8-wide-heads": Variant((8, 8), QatConfig(heads=HeadForm.WIDE)),
    "qat-w4a8": Variant((4, 8), QatConfig()),
    "qat4": Variant((4, 4), QatConfig()),
    "qat4-wide-heads": Variant((4, 4), QatConfig(heads=HeadForm.WIDE)),
    "google8": _theirs(ScaleMethod.GOOGLE_FLOAT, 8, NormFold.NONE, THEIRS),
    "google8-fold": _theirs(ScaleMethod.GOOGLE_FLOAT, 8, NormFold.BATCH, THEIRS),
    "google8-pow2": _theirs(ScaleMethod.GOOGLE, 8, NormFold.NONE, THEIRS),
    "google8-fold-pow2": _theirs(ScaleMethod.GOOGLE, 8, NormFold.BATCH, THEIRS),
    "google4": _theirs(ScaleMethod.GOOGLE_FLOAT, 4, NormFold.NONE, THEIRS),
    "google4-fold-pow2": _theirs(ScaleMethod.GOOGLE, 4, NormFold.BATCH, THEIRS),
    "tpsq8": _theirs(ScaleMethod.TPSQ, 8, NormFold.NONE),
    "tpsq8-fold": _theirs(ScaleMethod.TPSQ, 8, NormFold.BATCH),
    "tpsq4-fold": _theirs(ScaleMethod.TPSQ, 4, NormFold.BATCH),
    "dorefa8": _theirs(ScaleMethod.DOREFA, 8, NormFold.NONE),
    "dorefa8-fold": _theirs(ScaleMethod.DOREFA, 8, NormFold.BATCH),
    "dorefa4": _theirs(ScaleMethod.DOREFA, 4, NormFold.NONE),
    "cosine-ptq8": _theirs(ScaleMethod.COSINE_PTQ, 8, NormFold.BATCH),
    "cosine-ptq4": _theirs(ScaleMethod.COSINE_PTQ, 4, NormFold.BATCH),
    "qat8-pruned": Variant((8, 8), QatConfig(), pruned=True),
    "qat8-wide-heads-pruned": Variant((8, 8), QatConfig(heads=HeadForm.WIDE), pruned=True),
    "qat-w4a8-pruned": Variant((4, 8), QatConfig(), pruned=True),
}


@dataclass(frozen=True)
class Study:
    """What all rows share.

    Attributes:
        work: Where runs keep what they came to.
        images: Training and validation images.
        training: The options of every training.
        pruned: Cfg and weights of the pruned detector, as ``benchmarks.bccd_pruning`` leaves them; None: no such rows.
    """

    work: Path
    images: Images
    training: TrainConfig
    pruned: tuple[Path, Path] | None = None

    def float_model(self, pruned: bool = False) -> Darknet:
        """Return the detector to start from."""
        if not pruned:
            return trained_model()
        if self.pruned is None:
            raise click.UsageError("rows of the pruned detector need --pruned CFG WEIGHTS")
        cfg, weights = self.pruned
        if weights.suffix == ".weights":
            return load_darknet(cfg, weights)
        model = load_darknet(cfg)
        model.load_state_dict(torch.load(weights, weights_only=True))
        return model.eval()

    def calibration(self) -> list[ImageBatch]:
        """Return batches of the first training images."""
        count = min(CALIBRATION_BATCHES * CALIBRATION_BATCH, len(self.images.source))
        images = [self.images.source[i].image for i in range(count)]
        return [np.stack(images[i : i + CALIBRATION_BATCH]) for i in range(0, count, CALIBRATION_BATCH)]

    def prepared(self, variant: Variant) -> QatModel:
        """Return the calibrated model of a variant."""
        batches = self.calibration()
        model = self.float_model(variant.pruned)
        qat = prepare_qat(model, variant.config, qat=variant.qat, batches=batches)
        if not variant.trained:
            correct_biases_by_snr(qat, batches)
        return qat


def row_of(name: str, study: Study) -> Row:
    """Make one row."""
    if name == FLOAT:
        trained = fine_tuned(study.float_model(), study.images, study.training, study.work / f"{name}.pt")
        return {"name": name, "w_bits": 32, "a_bits": 32, "fold": "", "runs": "float", **trained, **_epochs(study)}
    variant = VARIANTS[name]
    row: Row = {"name": name, "w_bits": variant.bits[0], "a_bits": variant.bits[1], "fold": variant.fold}
    if variant.qat is None:
        graph = quantise_model(study.float_model(variant.pruned), study.calibration(), variant.config)
        measured = MeasureDetector(study.images.held_out, make_runner=lambda _: IntRunner(graph))
        _, figures = measured(torch.nn.Identity())
        return row | {"runs": "engine"} | _untrained(figures)
    qat = study.prepared(variant)
    row["runs"] = "engine" if isinstance(runner_of(qat), IntRunner) else "float"
    if not variant.trained:
        return row | _untrained(measure(qat, study.images))
    freeze = FreezeQat(variant.freeze.norms, variant.freeze.scales)
    trained = fine_tuned(qat, study.images, study.training, study.work / f"{name}.pt", [freeze])
    return row | trained | _epochs(study)


def _epochs(study: Study) -> Row:
    return {"epochs": study.training.epochs}


def _untrained(figures: dict[str, float]) -> Row:
    found = {name: figures[name] for name in ("ap50", "ap")}
    return {**{f"{name}_before": value for name, value in found.items()}, **found, "epochs": 0}


def curve_of(fold: NormFold, study: Study) -> Row:
    """Train with one way to fold batch norms, without averaging weights, and measure every epoch."""
    variant = VARIANTS[CURVE]
    assert variant.qat is not None
    qat = study.prepared(replace(variant, qat=replace(variant.qat, norm_fold=fold)))
    config = replace(study.training, ema_decay=0)
    freeze = FreezeQat(variant.freeze.norms, variant.freeze.scales)
    path = study.work / f"curve_{fold.value}.pt"
    before = measure(qat, study.images)["ap50"]
    state = train(qat, study.images, config, path, callbacks=[freeze], every_epochs=1)
    points = [[0, before], *([m.epoch, m.figures["ap50"]] for m in state.history)]
    return {"curve": fold.value, "frozen_at": variant.freeze.norms * config.epochs, "points": points}


def draw(curves: Sequence[Row], path: Path) -> None:
    """Draw precision over epochs, one line for every way to fold, and the freeze."""
    figure, axes = plt.subplots(figsize=(7.5, 4.5), layout="constrained")
    for row in sorted(curves, key=lambda row: list(COLOURS).index(str(row["curve"]))):
        epochs, values = zip(*row["points"], strict=True)  # type: ignore[call-overload]
        name = str(row["curve"])
        axes.plot(epochs, values, "o-", markersize=3, color=COLOURS[name], label=name)
        axes.axvline(row["frozen_at"], color="black", linewidth=0.8, linestyle=":")  # type: ignore[arg-type]
    axes.set(xlabel="epoch; batch norms rest from the dotted line on", ylabel="AP50")
    axes.grid(alpha=0.3)
    axes.legend(title="batch norms")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")
    plt.close(figure)


@click.command()
@click.argument("work", type=click.Path(path_type=Path))
@click.option("--rows", default=",".join([FLOAT, *(name for name, v in VARIANTS.items() if not v.pruned)]))
@click.option("--curves", is_flag=True, help="Measure every epoch for every way to fold batch norms.")
@click.option(
    "--pruned", nargs=2, type=click.Path(path_type=Path, exists=True), help="CFG WEIGHTS of a pruned detector."
)
@click.option("--epochs", default=TRAINING.epochs, show_default=True, type=click.IntRange(1))
@click.option("--images", type=click.IntRange(1), help="Only so many training and validation images.")
@click.option("--threads", default=1, show_default=True)
def main(
    work: Path,
    rows: str,
    curves: bool,
    pruned: tuple[Path, Path] | None,
    epochs: int,
    *,
    images: int | None,
    threads: int,
) -> None:
    """Make the ROWS that WORK does not hold yet; write all it holds, and the figure."""
    names = rows.split(",") if rows else []
    unknown = [name for name in names if name not in VARIANTS and name != FLOAT]
    if unknown:
        raise click.UsageError(f"--rows: no row {unknown[0]}; there are {', '.join([FLOAT, *VARIANTS])}")
    torch.set_num_threads(threads)
    work.mkdir(parents=True, exist_ok=True)
    check_settings(work, {"epochs": epochs, "images": images})
    augment = replace(TRAINING.augment, close_mosaic=min(TRAINING.augment.close_mosaic, epochs))
    training = replace(TRAINING, epochs=epochs, augment=augment)
    study = Study(work, open_images(images), training, pruned)
    for name in names:
        once(work / f"row_{name}.json", lambda name=name: row_of(name, study))  # type: ignore[misc]
    for fold in NormFold if curves else ():
        once(work / f"curve_{fold.value}.json", lambda fold=fold: curve_of(fold, study))  # type: ignore[misc]
    write_results(work, trial=images is not None or epochs != TRAINING.epochs)


def write_results(work: Path, trial: bool) -> None:
    """Collect what WORK holds, in the table's order."""
    order = [FLOAT, *VARIANTS]
    found = [json.loads(path.read_text("utf-8")) for path in work.glob("row_*.json")]
    curves = [json.loads(path.read_text("utf-8")) for path in sorted(work.glob("curve_*.json"))]
    found.sort(key=lambda row: order.index(row["name"]))
    with atomic_file(work / "results.json" if trial else RESULTS) as temporary:
        temporary.write_text(json.dumps({"rows": found, "curves": curves}, indent=1) + "\n", "utf-8")
    if curves:
        draw(curves, work / FIGURE.name if trial else FIGURE)


if __name__ == "__main__":
    main()
