# SPDX-License-Identifier: Apache-2.0
"""``yolo-hw qat``: from a trained detector to one that was trained in integers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from yolo_hw.cli.options import QAT_QUANT_NAMES, FilePath, qat_quant_options, quant_config
from yolo_hw.cli.train import run_training, train_options
from yolo_hw.cli.train_extras import QAT, given_extras
from yolo_hw.intgraph.target_profiles import TARGETS
from yolo_hw.quant.qat import HeadForm, NormFold, QatConfig, ScaleMethod

DEFAULT = QatConfig()
QAT_NAMES = ("w_scale", "a_scale", "norm_fold", "heads", "norms_at", "scales_at", "calib_images")
SCALES = click.Choice([method.value for method in ScaleMethod if method.power_of_two])
FOLDS = click.Choice([fold.value for fold in NormFold if fold.folds])
SHARE = click.FloatRange(0, 1)


@click.command(
    "qat",
    epilog="Example: yolo-hw qat --cfg net.cfg --weights net.weights --data bccd/ --w-bits 4 --epochs 40 "
    "--learning-rate 2e-4 --out runs/qat",
)
@qat_quant_options
@click.option("--w-scale", type=SCALES, default=DEFAULT.w_scale.value, show_default=True,
              help="How the weights' fraction bits follow the training.")  # fmt: skip
@click.option("--a-scale", type=SCALES, default=DEFAULT.a_scale.value, show_default=True,
              help="How the activations' fraction bits follow the training.")  # fmt: skip
@click.option("--norm-fold", type=FOLDS, default=DEFAULT.norm_fold.value, show_default=True,
              help="Batch norms before their statistics are frozen.")  # fmt: skip
@click.option("--heads", type=click.Choice([form.value for form in HeadForm]), default=DEFAULT.heads.value,
              show_default=True, help="Last convolutions: as all others; of 16 bits; or in float while training and of "
              "16 bits afterwards.")  # fmt: skip
@click.option("--norms-at", type=SHARE, default=0.7, show_default=True,
              help="Share of the run after which batch-norm statistics are frozen.")  # fmt: skip
@click.option("--scales-at", type=SHARE, default=0.9, show_default=True,
              help="Share of the run after which fraction bits are frozen.")  # fmt: skip
@click.option("--calib-images", type=click.IntRange(1), default=64, show_default=True,
              help="Training images that choose the first fraction bits.")  # fmt: skip
@click.option("--masks", type=FilePath, metavar="masks.npz", help="Weights to keep at zero, from 'yolo-hw prune'.")
@train_options("The trained network: darknet weights or a checkpoint (.pt).", "runs/qat", quantised=True)
def command(**options: Any) -> None:  # noqa: ANN401
    """Train a detector as the hardware will compute it; what is kept is the integer graph, best.graph/."""
    words = {name: options[name] for name in (*QAT_QUANT_NAMES, *QAT_NAMES)}
    if not options["resume"]:
        quant_config(words)  # what is wrong is said before anything is read
        if words["target"] not in TARGETS:  # a file, and the run may be resumed from elsewhere
            words["target"] = str(Path(words["target"]).absolute())
        if options["weights"] is None:
            raise click.UsageError("name the trained network's --weights")
    extras = given_extras(None, options["masks"]) | {QAT: json.dumps(words)}
    run_training(options, extras, "best.graph/, best.cfg, best.weights, best.names")
