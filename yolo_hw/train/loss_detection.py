# SPDX-License-Identifier: Apache-2.0
"""What all detection losses have in common: three terms, one normaliser, arithmetic in at least float32."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from yolo_hw.darknet.layers import DetectionHead, Shape
from yolo_hw.train.batches import Batch
from yolo_hw.train.errors import TrainError

LossTerms = dict[str, Tensor]
"""Named scalars; their sum is what a training step reduces."""


class Sums(NamedTuple):
    """Weighted sums over all predictions of some heads, not yet divided."""

    box: Tensor
    objectness: Tensor
    classes: Tensor


class DetectionLoss(ABC):
    """A loss of raw head maps: sums over predictions, divided by the number of positives.

    What a positive is says the subclass; it depends on the batch alone, never on predictions. So a large batch may be
    taken in parts, on one device after another or on several at once, with exactly the gradient of the whole::

        total = sum(loss.positives(part) for part in parts)  # and over all processes
        for part in parts:
            sum(loss(model(part.images), part, total).values()).backward()

    Where processes average their gradients (DistributedDataParallel), the loss must be multiplied by their number.
    """

    def __init__(self, heads: Sequence[DetectionHead], net: Shape) -> None:
        """Remember the heads.

        Args:
            heads: In the order of the maps.
            net: Input of the network that gives the heads the shapes they state.
        """
        self.heads = tuple(heads)
        self.net = net

    @abstractmethod
    def positives(self, batch: Batch) -> Tensor:
        """Return what the sums of a batch are divided by unless the caller has a larger batch in mind.

        Returns:
            Scalar int64 on the device of the targets, 0 if there is nothing to find.
        """

    @abstractmethod
    def _sums(self, maps: Sequence[Tensor], batch: Batch) -> tuple[Sums, Tensor | int]:
        """Return the sums of all heads and the number of positives."""

    def __call__(self, maps: Sequence[Tensor], batch: Batch, positives: Tensor | int | None = None) -> LossTerms:
        """Compute the loss.

        Args:
            maps: Raw map [N, A * (5 + classes), h, w] of every head, of any floating dtype: terms of float16 and
                bfloat16 maps are computed in float32 (no operation here is one that autocast narrows).
            batch: Its targets, and the size of its images.
            positives: What to divide by, at least 1 is taken; None for this batch's own `positives`.

        Returns:
            Scalars ``box``, ``objectness`` and ``class``, already weighted.

        Raises:
            TrainError: Maps or targets are not those of the heads.
        """
        self._check(maps, batch)
        sums, own = self._sums(maps, batch)
        count = own if positives is None else positives
        divisor = count.clamp_min(1).to(sums.box.dtype) if isinstance(count, Tensor) else max(count, 1)
        return {"box": sums.box / divisor, "objectness": sums.objectness / divisor, "class": sums.classes / divisor}

    def _grids(self, batch: Batch) -> list[tuple[int, int]]:
        """Return rows and columns that every head's map has for images of the batch's size."""
        height, width = batch.images.shape[2:]
        grids = []
        for head in self.heads:
            rows, rest_h = divmod(height * head.shape.h, self.net.h)
            columns, rest_w = divmod(width * head.shape.w, self.net.w)
            if rest_h or rest_w:
                stride = f"{self.net.h / head.shape.h:g}x{self.net.w / head.shape.w:g}"
                raise TrainError(f"{head.name}: images must be multiples of the stride {stride}, got {height}x{width}")
            grids.append((rows, columns))
        return grids

    def _check(self, maps: Sequence[Tensor], batch: Batch) -> None:
        name = type(self).__name__
        if len(maps) != len(self.heads):
            raise TrainError(f"{name}: there must be one map for each of {len(self.heads)} heads, got {len(maps)}")
        for raw, head, grid in zip(maps, self.heads, self._grids(batch), strict=True):
            wanted = (len(batch.images), head.spec.channels, *grid)
            if tuple(raw.shape) != wanted:
                raise TrainError(f"{name}: the map of {head.name} must be {list(wanted)}, got {list(raw.shape)}")
        classes = min(head.spec.classes for head in self.heads)
        if len(batch.targets) and not bool(((batch.targets[:, 1] >= 0) & (batch.targets[:, 1] < classes)).all()):
            found = batch.targets[:, 1].aminmax()
            raise TrainError(f"{name}: classes must be in [0, {classes}), got {found.min:g} to {found.max:g}")


def add_sums(parts: Sequence[Sums]) -> Sums:
    """Add the sums of several heads."""
    return Sums(*(torch.stack(values).sum() for values in zip(*parts, strict=True)))
