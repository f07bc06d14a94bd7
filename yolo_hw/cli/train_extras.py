# SPDX-License-Identifier: Apache-2.0
"""What pruning adds to ``yolo-hw train``: a penalty on batch-norm scales, and masks that stay."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from yolo_hw.errors import PruneError, nearest
from yolo_hw.nn.darknet import Darknet
from yolo_hw.prune.darknet_surgery import darknet_groups
from yolo_hw.prune.gamma_report import GammaHistory
from yolo_hw.prune.gamma_sparsity import Decay, GammaSparsity, StrengthSchedule
from yolo_hw.prune.mask_file import load_masks
from yolo_hw.prune.masked_training import MaskedTraining
from yolo_hw.prune.masks import check_masks
from yolo_hw.train.run import Extra

SPARSITY, MASKS = "sparsity", "masks"
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
        strength, schedule = parse_sparsity(options[SPARSITY])
        norms = prunable_norms(model)
        penalty = GammaSparsity(norms, strength, schedule)
        extras.append(Extra(penalty, penalty))
    if MASKS in options:
        masks = load_masks(options[MASKS])
        check_masks(model, masks)
        extras.append(Extra(MaskedTraining(masks)))
    if SPARSITY in options:
        extras.append(Extra(GammaHistory(folder, norms)))
    return extras


def parse_sparsity(text: str) -> tuple[float, StrengthSchedule]:
    """Parse ``1e-4`` or ``1e-4:cosine``.

    Raises:
        PruneError: It is neither.
    """
    number, colon, decay = text.partition(":")
    decays = [member.value for member in Decay]
    if colon and decay not in decays:
        raise PruneError(
            f"--sparsity: schedule must be one of {', '.join(decays)}, got '{decay}'{nearest(decay, decays)}"
        )
    try:
        strength = float(number)
    except ValueError:
        raise PruneError(
            f"--sparsity must be STRENGTH or STRENGTH:SCHEDULE, such as 1e-4:cosine, got '{text}'"
        ) from None
    if not 0 < strength < float("inf"):
        raise PruneError(f"--sparsity: the strength must be finite and above 0, got {number}")
    return strength, StrengthSchedule(decay=Decay(decay or Decay.CONSTANT.value))


def prunable_norms(model: Darknet) -> list[str]:
    """Return the batch norms of all channels that pruning could remove.

    Raises:
        PruneError: There is none.
    """
    found = {
        member.norm.weight.removesuffix(".weight"): None
        for group in darknet_groups(model).prunable
        for member in group.members
        if member.norm is not None and member.norm.weight is not None
    }
    if not found:
        raise PruneError(f"{model.network.name}: no channel that can be pruned has a batch norm to make sparse")
    return list(found)
