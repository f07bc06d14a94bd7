# SPDX-License-Identifier: Apache-2.0
"""The YOLOv3 of ReconstructionPruning for KITTI, and how many channels its pruned networks have."""

from __future__ import annotations

from support.networks import build, yolov3

from yolo_hw.darknet import Network

PARAMS = {0.0: 61_626_499, 0.3: 12_149_889, 0.5: 7_182_739, 0.7: 5_869_315, 0.9: 2_490_926}
"""Ratio -> parameters as published."""
SHARES = {0.3: 0.4377, 0.5: 0.2910, 0.7: 0.1967, 0.9: 0.0557}
"""Ratio -> share of the operations as published."""

KEPT = {
    0.3: [
        23, 55, 23, 114, 40, 45, 255, 58, 72, 90, 90, 90, 90, 90, 90, 420, 80, 139, 103, 110, 146, 101, 144, 132,
        150, 237, 317, 230, 75, 192, 159, 141, 172, 86, 1024, 42, 180, 207, 149, 170, 96, 512, 80, 90, 178, 90, 146,
        82, 256,
    ],
    0.5: [
        16, 47, 16, 100, 32, 32, 251, 45, 58, 64, 64, 64, 64, 64, 64, 358, 35, 66, 79, 72, 95, 81, 72, 67,
        133, 23, 81, 36, 2, 90, 134, 74, 147, 63, 1024, 33, 128, 184, 121, 143, 85, 512, 64, 64, 128, 64, 126,
        64, 256,
    ],
    0.7: [
        10, 32, 10, 91, 20, 20, 235, 39, 39, 39, 39, 39, 39, 39, 39, 341, 39, 60, 77, 72, 77, 77, 70, 67,
        134, 12, 62, 12, 4, 93, 138, 74, 150, 65, 1024, 37, 77, 154, 77, 146, 77, 512, 39, 39, 77, 39, 77,
        39, 256,
    ],
    0.9: [
        4, 14, 4, 39, 7, 7, 148, 13, 13, 13, 13, 13, 13, 13, 13, 251, 26, 26, 26, 26, 26, 26, 26, 26,
        126, 38, 41, 45, 31, 52, 103, 52, 103, 52, 1024, 26, 26, 52, 26, 52, 26, 512, 13, 13, 26, 13, 26,
        13, 256,
    ],
}  # fmt: skip
"""Ratio -> channels of every group in graph order, from ``filters=`` of the published cfg files.

The convolutions before the head convolutions keep all of theirs.
"""


def kitti_yolov3() -> Network:
    """YOLOv3 for 20 classes whose three head convolutions are followed by a batch norm."""
    text = yolov3(416, 20)
    head = "filters=75\nsize=1\nstride=1\npad=1\nactivation=linear\nbatch_normalize=0\n"
    assert text.count(head) == 3
    text = text.replace(head, f"{head}\n[batchnorm]\n")
    # the two routes back to the last convolution before a head pass one layer more
    return build(text.replace("layers=-4\n", "layers=-5\n"))
