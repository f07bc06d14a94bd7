# SPDX-License-Identifier: Apache-2.0
"""What other stages add to a training run: a penalty on batch-norm scales, masks that stay, the quantised form."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yolo_hw.cli.options import quant_config
from yolo_hw.errors import PruneError, nearest
from yolo_hw.nn.darknet import Darknet
from yolo_hw.prune.config import PruneConfig
from yolo_hw.prune.darknet_surgery import darknet_groups
from yolo_hw.prune.gamma_report import GammaHistory
from yolo_hw.prune.gamma_sparsity import Decay, GammaSparsity, Penalty, StrengthSchedule
from yolo_hw.prune.mask_file import load_masks
from yolo_hw.prune.masked_training import MaskedTraining
from yolo_hw.prune.masks import Masks, apply_masks
from yolo_hw.prune.methods import eligible_norms, find_scale_method
from yolo_hw.quant.qat import FreezeQat, HeadForm, NormFold, QatConfig, ScaleMethod, prepare_qat, qat_masks
from yolo_hw.quant.qat.detector import QatForm
from yolo_hw.train.run import Extra

SPARSITY, MASKS, QAT = "sparsity", "masks", "qat"
"""Names in `DetectorRun.extras`: as the options are called."""


def given_extras(sparsity: str | None, masks: Path | None) -> dict[str, str]:
    """Return what a run has to remember of ``--sparsity`` and ``--masks``.

    Raises:
        PruneError: The words mean no strength.
    """
    extras = {}
    if sparsity is not None:
        parse_sparsity(sparsity)
        extras[SPARSITY] = sparsity
    if masks is not None:
        extras[MASKS] = str(masks.absolute())
    return extras


def make_extras(model: Darknet, options: Mapping[str, str], folder: Path) -> list[Extra]:
    """Return the callbacks and regularisers of a run; of a sparse one the histograms of scales are written, too.

    Masks come before all that looks at the model after a step.

    Args:
        model: What is trained.
        options: Of `given_extras`.
        folder: Of the run.

    Raises:
        PruneError: Masks that are not the model's, or no batch norm that pruning could use.
    """
    extras = []
    if SPARSITY in options:
        wanted = parse_sparsity(options[SPARSITY])
        norms = eligible_norms(darknet_groups(model), PruneConfig(method=wanted.method))
        penalty = GammaSparsity(norms, wanted.strength, wanted.schedule, penalty=wanted.penalty)
        extras.append(Extra(penalty, penalty))
    quantised = _quantised(json.loads(options[QAT])) if QAT in options else None
    if MASKS in options:
        extras.append(Extra(MaskedTraining(_masks(model, Path(options[MASKS]), quantised))))
    if SPARSITY in options:
        extras.append(Extra(GammaHistory(folder, norms)))
    if quantised is not None:
        extras.append(Extra(FreezeQat(*quantised.freeze_at), form=quantised.form))
    return extras


@dataclass(frozen=True)
class Quantised:
    """The quantised form a detector is trained in, and the shares of the run at which it freezes."""

    form: QatForm
    freeze_at: tuple[float, float]


def _masks(model: Darknet, path: Path, quantised: Quantised | None) -> Masks:
    """Read masks, by the names of what is trained; the model, from which calibration starts, is masked."""
    masks = load_masks(path)
    apply_masks(model, masks)
    if quantised is None:
        return masks
    return qat_masks(prepare_qat(model, quantised.form.quant, qat=quantised.form.qat), model, masks)


def _quantised(words: dict[str, Any]) -> Quantised:
    """Return what trains a detector in its quantised form, from the values of the options of ``yolo-hw qat``."""
    qat = QatConfig(
        w_scale=ScaleMethod(words["w_scale"]),
        a_scale=ScaleMethod(words["a_scale"]),
        norm_fold=NormFold(words["norm_fold"]),
        heads=HeadForm(words["heads"]),
    )
    form = QatForm(quant_config(words), qat, words["calib_images"])
    return Quantised(form, (words["norms_at"], words["scales_at"]))


@dataclass(frozen=True)
class Sparsity:
    """What ``--sparsity`` says.

    Attributes:
        strength: The highest strength.
        schedule: How it changes.
        penalty: Its kind.
        method: The batch norms it acts on are those this method of pruning will judge by.
    """

    strength: float
    schedule: StrengthSchedule
    penalty: Penalty
    method: str


PENALTIES = {"l1": Penalty.L1, "fixed-norm": Penalty.L1_OF_FIXED_NORM}


def parse_sparsity(text: str) -> Sparsity:
    """Parse a strength and what may follow it, such as ``1e-4:cosine`` or ``0.06:fixed-norm:warmup=0.1:method=normal``.

    Raises:
        PruneError: A word means nothing.
    """
    number, *words = text.split(":")
    try:
        strength = float(number)
    except ValueError:
        raise PruneError(f"--sparsity must start with a strength, such as 1e-4:cosine, got '{text}'") from None
    if not 0 < strength < float("inf"):
        raise PruneError(f"--sparsity: the strength must be finite and above 0, got {number}")
    decays = {member.value: member for member in Decay}
    decay, penalty, warmup, method = Decay.CONSTANT, Penalty.L1, 0.0, PruneConfig().method
    for word in words:
        key, equals, value = word.partition("=")
        if word in decays:
            decay = decays[word]
        elif word in PENALTIES:
            penalty = PENALTIES[word]
        elif equals and key == "warmup":
            warmup = _share(value)
        elif equals and key == "method":
            find_scale_method(value)
            method = value
        else:
            known = [*decays, *PENALTIES, "warmup=", "method="]
            raise PruneError(
                f"--sparsity: after the strength comes {', '.join(known)}, got '{word}'{nearest(word, known)}"
            )
    return Sparsity(strength, StrengthSchedule(decay=decay, warmup=warmup), penalty, method)


def _share(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise PruneError(f"--sparsity: warmup must be a share of the run, such as 0.1, got '{text}'") from None
