# SPDX-License-Identifier: Apache-2.0
"""Activations and gradients of a darknet model's layers, under the names the scores ask for."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from yolo_hw.nn.darknet import Darknet
from yolo_hw.prune.darknet_surgery import darknet_groups
from yolo_hw.prune.scoring import Statistics
from yolo_hw.prune.statistics import collect_activations, collect_taylor
from yolo_hw.train.batches import Batch
from yolo_hw.train.loss import detection_loss


def activation_statistics(model: Darknet, images: Iterable[Tensor]) -> Statistics:
    """Return the mean magnitude of what every layer emits, after its activation.

    Args:
        model: The model.
        images: Batches [N, C, H, W].

    Raises:
        PruneError: There is no image.
    """
    paths = {
        member.name: f"blocks.{member.name}" if member.name in model.blocks else _module(member.filters.weight)
        for group in darknet_groups(model).values()
        for member in group.members
        if member.filters is not None
    }
    found = collect_activations(model, list(dict.fromkeys(paths.values())), images)
    return Statistics(activations={name: found[path] for name, path in paths.items()})


def gradient_statistics(model: Darknet, batches: Iterable[Batch]) -> Statistics:
    """Return the squared first-order change of the detection loss without a filter, and behind its batch norm.

    Args:
        model: A model with detection heads.
        batches: Labelled images.

    Raises:
        PruneError: There is no batch.
        TrainError: The network has no detection heads.
    """
    loss = detection_loss(model.network)
    filters, norms = {}, {}
    for group in darknet_groups(model).values():
        for member in group.members:
            if member.filters is not None:
                filters[member.name] = _module(member.filters.weight)
            if member.norm is not None and member.norm.weight is not None:
                norms[member.name] = _module(member.norm.weight)
    paths = list(dict.fromkeys([*filters.values(), *norms.values()]))

    def total(network: nn.Module, batch: Batch) -> Tensor:
        terms = loss(network(batch.images), batch)
        return sum(terms.values(), batch.images.new_zeros(()))

    found = collect_taylor(model, paths, batches, total)
    return Statistics(
        taylor={name: found[path] for name, path in filters.items()},
        gates={name: found[path] for name, path in norms.items()},
    )


def _module(key: str) -> str:
    """Return the module that owns a tensor of the state dict."""
    return key.rpartition(".")[0]
