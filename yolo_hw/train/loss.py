# SPDX-License-Identifier: Apache-2.0
"""The loss of a network, by the kind of its heads."""

from __future__ import annotations

from typing import Any

from yolo_hw.darknet.network import Network
from yolo_hw.train.errors import TrainError
from yolo_hw.train.loss_detection import DetectionLoss
from yolo_hw.train.loss_region import RegionLoss
from yolo_hw.train.loss_yolo import YoloLoss

LOSSES: dict[str, type[YoloLoss] | type[RegionLoss]] = {"yolo": YoloLoss, "region": RegionLoss}
"""Loss of every kind of head."""


def detection_loss(network: Network, **overrides: Any) -> DetectionLoss:  # noqa: ANN401
    """Return the loss that a network's head sections describe.

    Args:
        network: With heads of one kind.
        **overrides: Fields of `LossConfig` (``[yolo]``) or `RegionConfig` (``[region]``) that replace the cfg's.

    Raises:
        TrainError: No head, heads of both kinds, a key that the loss does not do, or an option out of range.
    """
    kinds = sorted({head.spec.kind for head in network.heads})
    if len(kinds) != 1:
        found = " and ".join(f"[{kind}]" for kind in kinds) or "none"
        raise TrainError(f"{network.name}: a detection loss needs heads of one kind, [yolo] or [region], got {found}")
    return LOSSES[kinds[0]].of_network(network, **overrides)
