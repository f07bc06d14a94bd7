# SPDX-License-Identifier: Apache-2.0
"""From the raw maps of the heads to boxes and class scores, in the network's input frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from yolo_hw.darknet.layers import HeadSpec, Shape
from yolo_hw.errors import YoloHwError


@dataclass(frozen=True)
class Candidates:
    """All boxes of a batch before any suppression.

    Attributes:
        boxes: [N, M, 4] centre x, centre y, width, height relative to the network's input (1.0 is its whole extent).
        scores: [N, M, classes] objectness times class probability.
    """

    boxes: Tensor
    scores: Tensor


def decode_heads(maps: list[Tensor], heads: Sequence[HeadSpec], net_input: Shape) -> Candidates:
    """Decode every head and join the results.

    Args:
        maps: One raw map [N, anchors * (5 + classes), h, w] per head.
        heads: The heads in the same order.
        net_input: Shape of the network's input; YOLO anchors are in its pixels.

    Returns:
        All candidate boxes.

    Raises:
        YoloHwError: The heads have different numbers of classes.
    """
    classes = sorted({head.classes for head in heads})
    if len(classes) > 1:
        raise YoloHwError(
            f"all heads must have the same classes, got heads with {classes[0]} and {classes[-1]} classes"
        )
    parts = [decode_head(raw, head, net_input) for raw, head in zip(maps, heads, strict=True)]
    return Candidates(torch.cat([p.boxes for p in parts], 1), torch.cat([p.scores for p in parts], 1))


def decode_head(raw: Tensor, head: HeadSpec, net_input: Shape) -> Candidates:
    """Decode one head.

    YOLOv3/v4: ``x = (a * sigmoid(tx) - (a - 1) / 2 + column) / w`` with a = scale_x_y, ``bw = exp(tw) * anchor / W``
    (Redmon & Farhadi, "YOLOv3", section 2.1; Bochkovskiy et al., "YOLOv4", section 3.3). With new_coords the map is
    already sigmoided and ``bw = (2 tw)**2 * anchor / W``. YOLOv2 has anchors in cells and a softmax over the classes
    (Redmon & Farhadi, "YOLO9000", section 2).

    Args:
        raw: [N, A * (5 + classes), h, w], any floating dtype.
        head: Its description.
        net_input: Shape of the network's input.

    Returns:
        Boxes [N, A * h * w, 4] and scores [N, A * h * w, classes].
    """
    n, _, h, w = raw.shape
    t = raw.reshape(n, len(head.anchors), 5 + head.classes, h, w).permute(0, 1, 3, 4, 2)
    column = torch.arange(w, device=raw.device, dtype=raw.dtype)
    row = torch.arange(h, device=raw.device, dtype=raw.dtype)[:, None]
    anchors = torch.tensor(head.anchors, device=raw.device, dtype=raw.dtype)[None, :, None, None, :]
    if head.kind == "yolo":
        xy, wh, objectness, classes = _yolo_terms(t, head)
        wh = wh * anchors / torch.tensor([net_input.w, net_input.h], device=raw.device, dtype=raw.dtype)
    else:
        xy, wh, objectness, classes = _region_terms(t, head)
        wh = wh * anchors / torch.tensor([w, h], device=raw.device, dtype=raw.dtype)
    x = (xy[..., 0] + column) / w
    y = (xy[..., 1] + row) / h
    boxes = torch.stack([x, y, wh[..., 0], wh[..., 1]], -1)
    return Candidates(boxes.reshape(n, -1, 4), (objectness * classes).reshape(n, -1, head.classes))


def _yolo_terms(t: Tensor, head: HeadSpec) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if head.new_coords:
        xy, wh, objectness, classes = t[..., :2], (2 * t[..., 2:4]) ** 2, t[..., 4:5], t[..., 5:]
    else:
        xy, wh = t[..., :2].sigmoid(), t[..., 2:4].exp()
        objectness, classes = t[..., 4:5].sigmoid(), t[..., 5:].sigmoid()
    return head.scale_x_y * xy - 0.5 * (head.scale_x_y - 1), wh, objectness, classes


def _region_terms(t: Tensor, head: HeadSpec) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    classes = t[..., 5:].softmax(-1) if head.softmax else t[..., 5:].sigmoid()
    return t[..., :2].sigmoid(), t[..., 2:4].exp(), t[..., 4:5].sigmoid(), classes
