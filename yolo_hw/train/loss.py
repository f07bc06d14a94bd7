# SPDX-License-Identifier: Apache-2.0
"""The detection loss of YOLOv3/v4 heads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum

import torch
import torch.nn.functional as F
from torch import Tensor

from yolo_hw.darknet.layers import HeadSpec, Shape
from yolo_hw.darknet.network import Network
from yolo_hw.nn.heads import decode_head
from yolo_hw.nn.nms import centre_to_corners, pairwise_iou
from yolo_hw.train.batches import Batch
from yolo_hw.train.box_iou import paired_ciou, paired_giou, paired_iou
from yolo_hw.train.errors import TrainError
from yolo_hw.train.targets import AssignConfig, Assignment, assign_targets

LossTerms = dict[str, Tensor]
"""Named scalars; their sum is what a training step reduces."""


class BoxLoss(str, Enum):
    """What a box is measured by; the loss is one minus it."""

    GIOU = "giou"
    CIOU = "ciou"


_OVERLAP: dict[BoxLoss, Callable[[Tensor, Tensor], Tensor]] = {BoxLoss.GIOU: paired_giou, BoxLoss.CIOU: paired_ciou}


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights and thresholds of the loss."""

    box_loss: BoxLoss = BoxLoss.CIOU
    box_weight: float = 5.0
    objectness_weight: float = 1.0
    class_weight: float = 1.0
    ignore_iou: float = 0.7
    """A prediction that answers for nothing but overlaps an object more than this counts neither as right nor as
    wrong; darknet's ``ignore_thresh``."""
    objectness_smooth: float = 0.0
    """Share of the overlap in the objectness target ``(1 - s) + s * IoU``, in [0, 1]; darknet's key of that name."""
    assign: AssignConfig = field(default_factory=AssignConfig)

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("box_weight", "objectness_weight", "class_weight"):
            if getattr(self, name) < 0:
                raise TrainError(f"LossConfig: {name} must be at least 0, got {getattr(self, name)}")
        for name in ("ignore_iou", "objectness_smooth"):
            if not 0 <= getattr(self, name) <= 1:
                raise TrainError(f"LossConfig: {name} must be in [0, 1], got {getattr(self, name)}")


class YoloLoss:
    """Box, objectness and class loss of all heads, each a sum divided by the number of positive predictions.

    Boxes: one minus GIoU or CIoU of the decoded box. Objectness and classes: binary cross entropy on logits (Redmon &
    Farhadi, "YOLOv3", sections 2.1 and 2.2), objectness over all predictions except ignored ones, classes over the
    positive ones. Boxes are decoded as in `yolo_hw.nn.heads.decode_head`.
    """

    def __init__(self, heads: Sequence[HeadSpec], net: Shape, config: LossConfig | None = None) -> None:
        """Remember the heads.

        Args:
            heads: In the order of the maps.
            net: Input of the network.
            config: Weights and thresholds.

        Raises:
            TrainError: A head is not of the plain YOLOv3/v4 kind.
        """
        for i, head in enumerate(heads):
            if head.kind != "yolo" or head.new_coords:
                found = "new_coords=1" if head.new_coords else f"[{head.kind}]"
                raise TrainError(f"YoloLoss: head {i} must be a [yolo] section with new_coords=0, got {found}")
        self.heads = tuple(heads)
        self.net = net
        self.config = config or LossConfig()

    @classmethod
    def of_network(cls, network: Network, config: LossConfig | None = None) -> YoloLoss:
        """Return the loss of a network's heads."""
        return cls([head.spec for head in network.heads], network.input, config)

    def __call__(self, maps: Sequence[Tensor], batch: Batch) -> LossTerms:
        """Compute the loss.

        Args:
            maps: Raw map [N, A * (5 + classes), h, w] of every head.
            batch: Its targets are used.

        Returns:
            Scalars ``box``, ``objectness`` and ``class``, already weighted.
        """
        grids = [(raw.shape[2], raw.shape[3]) for raw in maps]
        assigned = assign_targets(batch.targets, grids, self.heads, self.net, self.config.assign)
        truth = _padded_boxes(batch.targets, maps[0].shape[0])
        sums = [
            self._head_terms(raw, head, found, batch.targets, truth)
            for raw, head, found in zip(maps, self.heads, assigned, strict=True)
        ]
        positives = max(sum(len(found.target) for found in assigned), 1)
        c = self.config
        weights = {"box": c.box_weight, "objectness": c.objectness_weight, "class": c.class_weight}
        return {
            name: torch.stack([terms[i] for terms in sums]).sum() * (weight / positives)
            for i, (name, weight) in enumerate(weights.items())
        }

    def _head_terms(
        self, raw: Tensor, head: HeadSpec, found: Assignment, targets: Tensor, truth: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the unweighted sums of one head."""
        n, _, h, w = raw.shape
        t = raw.reshape(n, len(head.anchors), 5 + head.classes, h, w)
        chosen = t[found.image, found.anchor, :, found.row, found.column]  # [P, 5 + classes]
        boxes = _decode(chosen, found, head, (h, w), self.net)
        wanted = targets[found.target].to(raw.dtype)
        box_sum = (1 - _OVERLAP[self.config.box_loss](boxes, wanted[:, 2:])).sum()
        labels = F.one_hot(wanted[:, 1].long(), head.classes).to(raw.dtype)
        class_sum = F.binary_cross_entropy_with_logits(chosen[:, 5:], labels, reduction="sum")
        goal = torch.zeros_like(t[:, :, 4])
        weight = (self._best_overlap(raw, head, truth) <= self.config.ignore_iou).to(raw.dtype)
        place = (found.image, found.anchor, found.row, found.column)
        smooth = self.config.objectness_smooth
        goal[place] = 1 - smooth + smooth * paired_iou(boxes.detach(), wanted[:, 2:])
        weight[place] = 1
        objectness_sum = F.binary_cross_entropy_with_logits(t[:, :, 4], goal, weight, reduction="sum")
        return box_sum, objectness_sum, class_sum

    @torch.no_grad()
    def _best_overlap(self, raw: Tensor, head: HeadSpec, truth: Tensor) -> Tensor:
        """Return the largest IoU of every prediction with an object of its image, [N, A, h, w]."""
        n, _, h, w = raw.shape
        boxes = decode_head(raw.detach(), head, self.net).boxes  # [N, A * h * w, 4]
        if truth.shape[1] == 0:
            return boxes.new_zeros(n, len(head.anchors), h, w)
        overlap = pairwise_iou(centre_to_corners(boxes), centre_to_corners(truth.to(raw.dtype)))
        return overlap.amax(2).reshape(n, len(head.anchors), h, w)


def _decode(t: Tensor, found: Assignment, head: HeadSpec, grid: tuple[int, int], net: Shape) -> Tensor:
    """Return the boxes [P, 4] of chosen predictions [P, 5 + classes] relative to the input."""
    a = head.scale_x_y
    cell = torch.stack([found.column, found.row], 1).to(t.dtype)
    xy = (a * t[:, :2].sigmoid() - 0.5 * (a - 1) + cell) / t.new_tensor([grid[1], grid[0]])
    anchors = t.new_tensor(head.anchors) / t.new_tensor([net.w, net.h])
    return torch.cat([xy, t[:, 2:4].exp() * anchors[found.anchor]], 1)


def _padded_boxes(targets: Tensor, images: int) -> Tensor:
    """Sort the boxes of targets [T, 6] by image: [images, most per image, 4], padded with empty boxes."""
    image = targets[:, 0].long()
    counts = torch.bincount(image, minlength=images)
    padded = targets.new_zeros(images, int(counts.max()) if len(targets) else 0, 4)
    order = torch.argsort(image, stable=True)
    start = counts.cumsum(0) - counts
    rank = torch.arange(len(targets), device=targets.device) - start[image[order]]
    padded[image[order], rank] = targets[order, 2:]
    return padded
