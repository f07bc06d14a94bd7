# SPDX-License-Identifier: Apache-2.0
"""One reader per format. `FORMATS` is the list, in the order in which a source is tried."""

from yolo_hw.data.readers import (
    bdd100k,
    coco,
    darknet,
    dior,
    hand,
    kitti,
    ultralytics,
    visdrone,
    voc,
    yolo,
)
from yolo_hw.data.readers.format import Format, Request

FORMATS: tuple[Format, ...] = (
    ultralytics.FORMAT,
    darknet.FORMAT,
    dior.FORMAT,
    voc.FORMAT,
    kitti.FORMAT,
    hand.FORMAT,
    visdrone.FORMAT,
    bdd100k.FORMAT,
    coco.FORMAT,
    yolo.FORMAT,  # any folder of images
)

__all__ = ["FORMATS", "Format", "Request"]
