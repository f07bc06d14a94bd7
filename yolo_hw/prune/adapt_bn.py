# SPDX-License-Identifier: Apache-2.0
"""Adaptive batch norm: running statistics of a pruned model, measured anew.

After channels are gone the inputs of every batch norm have another mean and variance than the running ones say. With
the right ones a pruned model's accuracy before fine-tuning tells how good it will be after it.

Li et al., "EagleEye: Fast Sub-net Evaluation for Efficient Neural Network Pruning", ECCV 2020, section 3.3.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import torch
from torch import Tensor, nn

from yolo_hw.errors import PruneError

Model = TypeVar("Model", bound=nn.Module)


def adapt_batch_norms(model: Model, batches: Iterable[Tensor]) -> Model:
    """Set the running statistics of all batch norms to the average over some batches.

    Every batch norm normalises by its batch while the next ones are measured, as in training; all else (dropout) is in
    evaluation mode. The average is exact, each image counts the same, and earlier statistics do not matter::

        mean = sum_b n_b mean_b / sum_b n_b        var likewise, of the unbiased variances

    Args:
        model: Its running statistics change; afterwards it is in evaluation mode.
        batches: Images [N, C, H, W] as the model takes them, on any device: training images, never those that judge.

    Returns:
        The model.

    Raises:
        PruneError: The model has no batch norm with running statistics, there is no batch, or a batch norm sees one
            value per channel only.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    if not norms:
        raise PruneError("adaptive batch norm: the model must have batch norms with running statistics, it has none")
    momenta = [norm.momentum for norm in norms]
    reference = next(model.parameters(), torch.empty(0))
    model.eval()
    images = 0
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.train()
        with torch.no_grad():
            for batch in batches:
                images += len(batch)
                for norm in norms:
                    norm.momentum = len(batch) / images
                _run(model, batch.to(reference))
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        model.eval()
    if not images:
        raise PruneError("adaptive batch norm: at least one batch of images is needed, there is none")
    return model


def _run(model: nn.Module, batch: Tensor) -> None:
    try:
        model(batch)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise PruneError(
            f"adaptive batch norm: a batch norm sees a single value per channel of a batch {list(batch.shape)}; "
            "use larger batches or images"
        ) from None
