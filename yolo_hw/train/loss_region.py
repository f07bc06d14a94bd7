# SPDX-License-Identifier: Apache-2.0
"""The loss of YOLOv2 heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from yolo_hw.darknet.layers import DetectionHead, HeadSpec, Shape
from yolo_hw.darknet.network import Network
from yolo_hw.train.batches import Batch
from yolo_hw.train.box_iou import paired_iou
from yolo_hw.train.errors import TrainError
from yolo_hw.train.loss_boxes import Cells, Truth, best_overlap, decode_planes
from yolo_hw.train.loss_config import RegionConfig
from yolo_hw.train.loss_detection import DetectionLoss, Sums, add_sums
from yolo_hw.train.loss_entropy import at_least_float32, binary_entropy, one_hot
from yolo_hw.train.targets import Assignment, assign_in_cell, centre_cells


class RegionLoss(DetectionLoss):
    r"""Box, objectness and class loss of ``[region]`` heads, each a sum divided by the number of objects.

    The sum of squared errors of Redmon et al., "You Only Look Once", CVPR 2016, eq. (3), in the coordinates of Redmon &
    Farhadi, "YOLO9000", CVPR 2017, section 2 (direct location prediction), with darknet's factors:

    .. math::
        \tfrac12 \lambda_\text{coord} (2 - w h) \big[ (\sigma(t_x) - \hat x)^2 + (\sigma(t_y) - \hat y)^2
            + (t_w - \hat t_w)^2 + (t_h - \hat t_h)^2 \big], \quad
        \tfrac12 \lambda_\text{object} (\sigma(t_o) - \hat o)^2, \quad
        \tfrac12 \lambda_\text{noobject} \, \sigma(t_o)^2

    for the prediction of every object, and the last for all others but those that overlap an object more than
    ``thresh``. The goal of the objectness is 1, or the prediction's IoU with ``rescore``. Classes are a cross entropy
    behind a softmax or one sigmoid per class, as the head decodes them.

    The divisor is the number of objects, not of predictions: without ``bias_match`` two objects of one cell may want
    one prediction or two, depending on what is predicted. One that both want goes to the object it fits better, and the
    other object is not taught.
    """

    def __init__(self, heads: Sequence[DetectionHead], net: Shape, configs: Sequence[RegionConfig]) -> None:
        """Remember heads and options.

        Args:
            heads: In the order of the maps.
            net: Input of the network.
            configs: Factors and thresholds of every head.

        Raises:
            TrainError: A head is not a ``[region]`` section.
        """
        super().__init__(heads, net)
        self.configs = tuple(configs)
        for head, _ in zip(self.heads, self.configs, strict=True):
            if head.spec.kind != "region":
                raise TrainError(f"RegionLoss: {head.name} must be a [region] section, got [{head.spec.kind}]")

    @classmethod
    def of_network(cls, network: Network, config: RegionConfig | None = None, **overrides: Any) -> RegionLoss:  # noqa: ANN401
        """Return the loss of a network's heads; see `YoloLoss.of_network`."""
        if config is not None:
            return cls(network.heads, network.input, [replace(config, **overrides)] * len(network.heads))
        return cls(network.heads, network.input, [RegionConfig.of_head(head, **overrides) for head in network.heads])

    def positives(self, batch: Batch) -> Tensor:
        """Return the number of objects."""
        return torch.tensor(len(batch.targets), device=batch.targets.device)

    def _sums(self, maps: Sequence[Tensor], batch: Batch) -> tuple[Sums, int]:
        truth = Truth.of(batch.targets, len(batch.images))
        parts = [
            _head_sums(raw, head.spec, config, batch.targets, truth)
            for raw, head, config in zip(maps, self.heads, self.configs, strict=True)
        ]
        return add_sums(parts), len(batch.targets)


def _head_sums(raw: Tensor, spec: HeadSpec, config: RegionConfig, targets: Tensor, truth: Truth) -> Sums:
    """Return the weighted sums of one head."""
    n, _, h, w = raw.shape
    t = at_least_float32(raw).reshape(n, len(spec.anchors), 5 + spec.classes, h, w)
    cells = Cells.of_map(spec, (h, w), (h, w), t)
    found = _assign(t.detach(), cells, config, targets)
    place = (found.image, found.anchor, found.row, found.column)
    chosen = t[found.image, found.anchor, :, found.row, found.column]  # [P, 5 + classes]
    wanted = targets[found.target].to(t.dtype)
    box = config.coord_scale * _squared_error(chosen[:, :4], wanted[:, 2:], cells.at(found))

    planes = decode_planes(t[:, :, :4].detach().unbind(2), cells)
    best, _ = best_overlap(planes, truth)
    goal = torch.zeros_like(best)
    weight = config.noobject_scale * (best <= config.thresh).to(t.dtype)
    mine = torch.stack([plane[place] for plane in planes], 1)
    goal[place] = paired_iou(mine, wanted[:, 2:]) if config.rescore else 1.0
    weight[place] = config.object_scale
    objectness = (0.5 * weight * (t[:, :, 4].sigmoid() - goal).square()).sum()

    outcomes = spec.classes if spec.softmax else 2
    labels = one_hot(wanted[:, 1].long(), spec.classes, config.label_smoothing, outcomes, t)
    if spec.softmax:
        entropy = F.cross_entropy(chosen[:, 5:], labels, reduction="sum")
    else:
        entropy = binary_entropy(chosen[:, 5:], labels).sum()
    return Sums(box, objectness, config.class_scale * entropy)


@torch.no_grad()
def _assign(t: Tensor, cells: Cells, config: RegionConfig, targets: Tensor) -> Assignment:
    """Choose the prediction of every object: in the cell of its centre, the one whose shape fits best."""
    anchors = torch.cat([cells.anchor_w, cells.anchor_h], 1).flatten(1)  # [A, 2]
    grid = (cells.rows, cells.columns)
    shapes = anchors.expand(len(targets), -1, -1)
    if not config.bias_match:
        column, row = centre_cells(targets, grid).unbind(1)
        shapes = t[targets[:, 0].long(), :, 2:4, row, column].exp() * anchors  # [T, A, 2]
    return assign_in_cell(targets, shapes, grid)


def _squared_error(t: Tensor, wanted: Tensor, cells: Cells) -> Tensor:
    """Return the box sum of raw values [P, 4] with objects [P, 4] (centre, size; relative to the input)."""
    x, y = wanted[:, 0] * cells.columns - cells.column, wanted[:, 1] * cells.rows - cells.row
    ratio = wanted[:, 2:] / torch.stack([cells.anchor_w, cells.anchor_h], 1)
    error = torch.cat([t[:, :2].sigmoid() - torch.stack([x, y], 1), t[:, 2:] - ratio.log()], 1)
    return (0.5 * (2 - wanted[:, 2] * wanted[:, 3]) * error.square().sum(1)).sum()
