# SPDX-License-Identifier: Apache-2.0
"""The networks every guarantee of pruning is shown on, as cfg texts."""

from __future__ import annotations

import re
from collections.abc import Callable

from support.data import real_network
from support.networks import (
    yolov2_tiny,
    yolov3,
    yolov3_mobilenet,
    yolov3_spp,
    yolov3_tiny,
    yolov4,
    yolov4_tiny,
)

from yolo_hw.darknet import parse_cfg


def yolo_fastest(size: int = 320) -> str:
    """The published cfg of Yolo-Fastest-1.1; skips the calling test where it is absent."""
    text = real_network("yolo-fastest-1.1")[0].read_text("utf-8")
    return re.sub(r"^(width|height)\s*=.*$", rf"\1={size}", text, flags=re.MULTILINE)


NETWORKS: dict[str, Callable[[int], str]] = {
    make.__name__: make
    for make in (
        yolov2_tiny,
        yolov3,
        yolov3_spp,
        yolov3_tiny,
        yolov4,
        yolov4_tiny,
        yolov3_mobilenet,
        yolo_fastest,
    )
}
"""Name -> cfg text for a width and height."""


def thinner(text: str, factor: int) -> str:
    """Return the cfg with a share of the filters of every convolution that has a batch norm, at least 1."""
    cfg = parse_cfg(text, "thin.cfg")
    for section in cfg.sections[1:]:
        filters, norm = section.get("filters"), section.get("batch_normalize")
        if filters is not None and norm is not None and norm.value == "1":
            section.set("filters", str(max(int(filters.value) // factor, 1)))
    return cfg.text()
