# SPDX-License-Identifier: Apache-2.0
"""Non-maximum suppression in plain torch, batched over images and classes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from yolo_hw.nn.heads import Candidates


@dataclass(frozen=True)
class NmsConfig:
    """What to keep of the candidates."""

    confidence: float = 0.25
    """A (box, class) pair takes part if its score exceeds this."""
    iou: float = 0.45
    """A pair is suppressed by a better one if their boxes overlap more than this."""
    class_agnostic: bool = False
    """Suppress across classes, and let every box take part with its best class only."""
    max_detections: int = 100
    """Kept per image, best first."""
    max_candidates: int = 30000
    """Pairs per image that enter the suppression, best first."""


@dataclass(frozen=True)
class Detections:
    """Detections of one image, best first.

    Attributes:
        boxes: [D, 4] x1, y1, x2, y2, in the frame of the caller.
        scores: [D].
        classes: [D] int64.
    """

    boxes: Tensor
    scores: Tensor
    classes: Tensor


def centre_to_corners(boxes: Tensor) -> Tensor:
    """[..., 4] (centre x, centre y, width, height) to [..., 4] (x1, y1, x2, y2)."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], -1)


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of corner boxes: [..., A, 4], [..., B, 4] to [..., A, B]."""
    low = torch.maximum(a[..., :, None, :2], b[..., None, :, :2])
    high = torch.minimum(a[..., :, None, 2:], b[..., None, :, 2:])
    overlap = (high - low).clamp_min(0).prod(-1)
    area_a = (a[..., 2:] - a[..., :2]).clamp_min(0).prod(-1)
    area_b = (b[..., 2:] - b[..., :2]).clamp_min(0).prod(-1)
    union = area_a[..., :, None] + area_b[..., None, :] - overlap
    return overlap / union.clamp_min(torch.finfo(a.dtype).tiny)


def non_maximum_suppression(candidates: Candidates, config: NmsConfig) -> list[Detections]:
    """Keep the best of overlapping boxes.

    Args:
        candidates: Boxes [N, M, 4] (centre form) and scores [N, M, classes].
        config: Thresholds.

    Returns:
        One `Detections` per image, corner boxes in the frame of `candidates`.
    """
    return [
        _one_image(boxes, scores, config) for boxes, scores in zip(candidates.boxes, candidates.scores, strict=True)
    ]


def _one_image(boxes: Tensor, scores: Tensor, config: NmsConfig) -> Detections:
    if config.class_agnostic:
        best, label = scores.max(1)
        index = torch.nonzero(best > config.confidence)[:, 0]
        classes = label[index]
    else:
        index, classes = torch.nonzero(scores > config.confidence, as_tuple=True)
    pair_scores = scores[index, classes]
    order = torch.sort(pair_scores, descending=True, stable=True).indices[: config.max_candidates]
    index, classes, pair_scores = index[order], classes[order], pair_scores[order]
    corners = centre_to_corners(boxes[index])
    keep = _suppress(corners, classes, config)[: config.max_detections]
    return Detections(corners[keep], pair_scores[keep], classes[keep])


def _suppress(corners: Tensor, classes: Tensor, config: NmsConfig) -> Tensor:
    """Return the kept indices of boxes sorted best first."""
    groups = torch.zeros_like(classes) if config.class_agnostic else classes
    alive = torch.ones(len(corners), dtype=torch.bool, device=corners.device)
    kept: list[int] = []
    block = 1024
    for start in range(0, len(corners), block):
        stop = min(start + block, len(corners))
        same = groups[start:stop, None] == groups[None, start:]
        overlaps = (pairwise_iou(corners[start:stop], corners[start:]) > config.iou) & same
        for i in range(stop - start):
            if alive[start + i]:
                kept.append(start + i)
                alive[start:] &= ~overlaps[i]
                if len(kept) == config.max_detections:
                    return torch.tensor(kept, dtype=torch.long, device=corners.device)
    return torch.tensor(kept, dtype=torch.long, device=corners.device)
