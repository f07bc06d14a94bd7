# SPDX-License-Identifier: Apache-2.0
"""The loss of YOLOv3, YOLOv4 and scaled YOLOv4 heads."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from yolo_hw.darknet.layers import DetectionHead, HeadSpec, Shape
from yolo_hw.darknet.network import Network
from yolo_hw.train.batches import Batch
from yolo_hw.train.box_iou import paired_ciou, paired_diou, paired_giou, paired_iou
from yolo_hw.train.errors import TrainError
from yolo_hw.train.loss_boxes import (
    Cells,
    Truth,
    best_overlap,
    decode_planes,
    limited_sum,
    squared_error,
    with_darknet_gradient,
)
from yolo_hw.train.loss_config import BoxGradient, BoxLoss, LossConfig
from yolo_hw.train.loss_detection import DetectionLoss, Sums, add_sums
from yolo_hw.train.loss_entropy import as_logits, at_least_float32, binary_entropy, one_hot
from yolo_hw.train.targets import Assignment, assign_targets

_OVERLAP: dict[BoxLoss, Callable[[Tensor, Tensor], Tensor]] = {
    BoxLoss.IOU: paired_iou,
    BoxLoss.GIOU: paired_giou,
    BoxLoss.DIOU: paired_diou,
    BoxLoss.CIOU: paired_ciou,
}


Place = tuple[Tensor, Tensor, Tensor, Tensor]
"""Image, anchor, row and column of predictions, [P] int64 each."""


class YoloLoss(DetectionLoss):
    """Box, objectness and class loss of all ``[yolo]`` heads, each a sum divided by the number of positives.

    Positives are the predictions that answer for an object (`assign_targets`). Boxes: one minus the IoU, GIoU, DIoU or
    CIoU of the decoded box (Bochkovskiy et al., "YOLOv4", section 3.4; the formulas in `yolo_hw.train.box_iou`), or
    YOLOv3's squared error. Objectness and classes: binary cross entropy (Redmon & Farhadi, "YOLOv3", sections 2.1 and
    2.2), objectness over all predictions except ignored ones, classes over the positive ones; label smoothing, focal
    loss and factors per class as the config says. Maps of new_coords heads are probabilities already (Wang et al.,
    "Scaled-YOLOv4"); the same entropies are taken of their logits.

    Anchors are in pixels of the images of the batch, so training at several sizes sees them at all sizes.
    """

    def __init__(self, heads: Sequence[DetectionHead], net: Shape, configs: Sequence[LossConfig]) -> None:
        """Remember heads and options.

        Args:
            heads: In the order of the maps.
            net: Input of the network.
            configs: Weights and thresholds of every head.

        Raises:
            TrainError: A head is not a ``[yolo]`` section, or its classes are not those of ``class_balance``.
        """
        super().__init__(heads, net)
        self.configs = tuple(configs)
        for head, config in zip(self.heads, self.configs, strict=True):
            if head.spec.kind != "yolo":
                raise TrainError(f"YoloLoss: {head.name} must be a [yolo] section, got [{head.spec.kind}]")
            if len(config.class_balance) not in (0, head.spec.classes):
                raise TrainError(
                    f"YoloLoss: class_balance must have one factor for each of {head.spec.classes} classes of "
                    f"{head.name}, got {len(config.class_balance)}"
                )

    @classmethod
    def of_network(cls, network: Network, config: LossConfig | None = None, **overrides: Any) -> YoloLoss:  # noqa: ANN401
        """Return the loss of a network's heads.

        Args:
            network: With ``[yolo]`` heads.
            config: For all heads; None for what each head's cfg section says (`LossConfig.of_head`).
            **overrides: Fields of `LossConfig` that replace what `config` or the section says, for all heads.

        Raises:
            TrainError: A key of the cfg that this loss does not do, or an option out of range.
        """
        if config is not None:
            return cls(network.heads, network.input, [replace(config, **overrides)] * len(network.heads))
        return cls(network.heads, network.input, [LossConfig.of_head(head, **overrides) for head in network.heads])

    def positives(self, batch: Batch) -> Tensor:
        """Return the number of predictions that answer for an object, over all heads."""
        count = sum(len(found.target) for found in self._assign(batch))
        return torch.tensor(count, device=batch.targets.device)

    def _assign(self, batch: Batch) -> list[Assignment]:
        height, width = batch.images.shape[2:]
        specs = [head.spec for head in self.heads]
        configs = [config.assign for config in self.configs]
        return assign_targets(batch.targets, self._grids(batch), specs, (height, width), configs)

    def _sums(self, maps: Sequence[Tensor], batch: Batch) -> tuple[Sums, int]:
        height, width = batch.images.shape[2:]
        assigned = self._assign(batch)
        truth = Truth.of(batch.targets, len(batch.images))
        parts = [
            _HeadLoss(head.spec, config, found, batch.targets, truth, (height, width)).sums(raw)
            for raw, head, config, found in zip(maps, self.heads, self.configs, assigned, strict=True)
        ]
        return add_sums(parts), sum(len(found.target) for found in assigned)


@dataclass(frozen=True)
class _HeadLoss:
    """One head and what it is to find.

    Attributes:
        spec: The head.
        config: Its options.
        found: Its positive predictions.
        targets: [T, 6] of the batch.
        truth: The same by image.
        image: Height and width of the input.
    """

    spec: HeadSpec
    config: LossConfig
    found: Assignment
    targets: Tensor
    truth: Truth
    image: tuple[int, int]

    def sums(self, raw: Tensor) -> Sums:
        """Return the weighted sums of a map [N, A * (5 + classes), h, w]."""
        c, found = self.config, self.found
        n, _, h, w = raw.shape
        t = raw.reshape(n, len(self.spec.anchors), 5 + self.spec.classes, h, w)
        place = (found.image, found.anchor, found.row, found.column)
        chosen = _at(t, place)
        cells = Cells.of_map(self.spec, (h, w), self.image, chosen)
        wanted = self.targets[found.target].to(chosen.dtype)
        box, iou = self._box(chosen[:, :4], wanted, cells.at(found))

        labels, rows = wanted[:, 1].long(), chosen[:, 5:]
        goal, weight, also, also_labels = self._unassigned(t, cells, place)
        goal[place] = self._presence(iou)
        weight[place] = self._balance(labels, chosen)
        if len(also_labels):
            labels, rows = torch.cat([labels, also_labels]), torch.cat([rows, _at(t, also)[:, 5:]])
        logits = self._logits(at_least_float32(t[:, :, 4]))
        objectness = (binary_entropy(logits, goal, c.objectness_focal) * weight).sum()
        return Sums(box * c.box_weight, objectness * c.objectness_weight, self._classes(rows, labels) * c.class_weight)

    @torch.no_grad()
    def _unassigned(self, t: Tensor, cells: Cells, place: Place) -> tuple[Tensor, Tensor, Place, Tensor]:
        """Judge the predictions that are not positive by their overlap with objects.

        Returns:
            Objectness goals and weights [N, A, h, w], without those of the positives at `place`; the place of the
            predictions above truth_iou, and the classes of the objects they overlap.
        """
        c = self.config
        boxes = decode_planes(at_least_float32(t[:, :, :4]).unbind(2), cells)
        best, owner = best_overlap(boxes, self.truth)
        goal, weight = torch.zeros_like(best), (best <= c.ignore_iou).to(best.dtype)
        above = best > c.truth_iou
        above[place] = False
        image, anchor, row, column = above.nonzero().unbind(1)
        also = (image, anchor, row, column)
        labels = self.targets[owner[also], 1].long()
        goal[also] = self._presence(best[also])
        weight[also] = self._balance(labels, best)
        return goal, weight, also, labels

    def _box(self, t: Tensor, wanted: Tensor, cells: Cells) -> tuple[Tensor, Tensor]:
        """Return the box sum and the IoU [P], the latter without gradient."""
        c = self.config
        balance = self._balance(wanted[:, 1].long(), t)

        def terms(t: Tensor) -> Tensor:
            if c.box_loss is BoxLoss.MSE:
                return balance * squared_error(t, wanted[:, 2:], cells)
            boxes = torch.stack(decode_planes(t.unbind(1), cells), 1)
            if c.box_gradient is BoxGradient.DARKNET:
                boxes = with_darknet_gradient(t, boxes, self.spec.new_coords)
            return balance * (1 - _OVERLAP[c.box_loss](boxes, wanted[:, 2:]))

        limited = math.isfinite(c.max_box_gradient) and c.box_weight > 0
        total = limited_sum(t, terms, c.max_box_gradient / c.box_weight) if limited else terms(t).sum()
        with torch.no_grad():
            boxes = torch.stack(decode_planes(t.unbind(1), cells), 1)
            return total, paired_iou(boxes, wanted[:, 2:])

    def _classes(self, rows: Tensor, labels: Tensor) -> Tensor:
        """Return the class sum of raw class values [P, classes]; a class's factor is on its own entry only."""
        goals = one_hot(labels, self.spec.classes, self.config.label_smoothing, 2, rows)
        entropy = binary_entropy(self._logits(rows), goals, self.config.class_focal)
        if self.config.class_balance:
            weight = torch.ones_like(goals)
            entropy = entropy * weight.scatter_(1, labels[:, None], self._balance(labels, rows)[:, None])
        return entropy.sum()

    def _presence(self, iou: Tensor) -> Tensor:
        """Return what the objectness of a prediction with this overlap should be."""
        return 1 - self.config.objectness_smooth * (1 - iou)

    def _balance(self, labels: Tensor, like: Tensor) -> Tensor:
        """Return the factors [P] of the objects' classes."""
        if not self.config.class_balance:
            return like.new_ones(len(labels))
        return like.new_tensor(self.config.class_balance)[labels]

    def _logits(self, values: Tensor) -> Tensor:
        """Return logits of raw objectness or class values."""
        return as_logits(values) if self.spec.new_coords else values


def _at(t: Tensor, place: Place) -> Tensor:
    """Return predictions [P, 5 + classes] of a map [N, A, 5 + classes, h, w]."""
    image, anchor, row, column = place
    return at_least_float32(t[image, anchor, :, row, column])
