# SPDX-License-Identifier: Apache-2.0
"""Every loss teaches what the detector decodes: descent on bare maps ends at the objects."""

from __future__ import annotations

import pytest
import torch
from support.loss_heads import NET, batch, head, region_spec, total, yolo_spec

from yolo_hw.nn.heads import decode_heads
from yolo_hw.nn.nms import NmsConfig, centre_to_corners, non_maximum_suppression, pairwise_iou
from yolo_hw.train import Focal, LossConfig, RegionConfig, RegionLoss, YoloLoss

OBJECTS = [
    [0, 2, 0.40, 0.65, 18 / 64, 22 / 64],
    [0, 0, 0.80, 0.20, 14 / 64, 24 / 64],
    [1, 1, 0.45, 0.50, 36 / 64, 34 / 64],
]
PLAIN = [head(yolo_spec((16.0, 24.0), scale_x_y=1.2), (4, 4)), head(yolo_spec((40.0, 30.0), scale_x_y=1.2), (2, 2))]
SCALED = [head(yolo_spec((16.0, 24.0), (40.0, 30.0), scale_x_y=2.0, new_coords=True), (4, 4))]


def yolo(heads, **options):
    return YoloLoss(heads, NET, [LossConfig(**options)] * len(heads))


def region(**options):
    spec = region_spec((1.0, 1.5), (2.5, 2.0), softmax=options.pop("softmax", True))
    return RegionLoss([head(spec, (4, 4))], NET, [RegionConfig(object_scale=5.0, **options)])


LOSSES = {
    "mse": yolo(PLAIN, box_loss="mse", box_weight=1.0),
    "iou": yolo(PLAIN, box_loss="iou"),
    "giou": yolo(PLAIN, box_loss="giou"),
    "diou": yolo(PLAIN, box_loss="diou"),
    "ciou": yolo(PLAIN, box_loss="ciou"),
    "ciou_darknet": yolo(PLAIN, box_loss="ciou", box_gradient="darknet", box_weight=0.07),
    "ciou_limited": yolo(PLAIN, box_loss="ciou", max_box_gradient=0.05),
    "focal": yolo(PLAIN, class_focal=Focal(), objectness_focal=Focal()),
    "smoothed": yolo(PLAIN, label_smoothing=0.1, objectness_smooth=1.0),
    "new_coords_ciou": yolo(SCALED),
    "new_coords_mse": yolo(SCALED, box_loss="mse"),
    "new_coords_darknet": yolo(SCALED, box_loss="ciou", box_gradient="darknet", box_weight=0.05, max_box_gradient=5.0),
    "region": region(),
    "region_anchors": region(bias_match=True, rescore=True),
    "region_sigmoids": region(softmax=False),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_descent_on_the_maps_ends_at_the_objects(loss):
    data = batch(OBJECTS)
    raw = [torch.zeros(2, *h.shape, requires_grad=True) for h in loss.heads]

    def maps():
        return [r.sigmoid() if h.spec.new_coords else r for r, h in zip(raw, loss.heads, strict=True)]

    optimizer = torch.optim.Adam(raw, lr=0.1)
    for _ in range(150):
        optimizer.zero_grad()
        total(loss(maps(), data)).backward()
        optimizer.step()
    with torch.no_grad():
        found = non_maximum_suppression(
            decode_heads(maps(), [h.spec for h in loss.heads], NET), NmsConfig(confidence=0.5)
        )
    for image, detections in enumerate(found):
        wanted = data.targets[data.targets[:, 0] == image]
        assert sorted(detections.classes.tolist()) == sorted(wanted[:, 1].int().tolist())
        overlap = pairwise_iou(centre_to_corners(wanted[:, 2:]), detections.boxes)
        assert (overlap.amax(1) > 0.9).all()
        assert torch.equal(detections.classes[overlap.argmax(1)], wanted[:, 1].long())
