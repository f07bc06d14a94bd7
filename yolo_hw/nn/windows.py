# SPDX-License-Identifier: Apache-2.0
"""Padding a map for windows given by `yolo_hw.geometry.Window`."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from yolo_hw.geometry import Window


def pad_windows(x: Tensor, window: Window, out_size: tuple[int, int], value: float) -> Tensor:
    """Pad (or crop) [N, C, H, W] so that exactly the windows of the output fit."""
    bottom = window.trailing_pad(0, x.shape[2], out_size[0])
    right = window.trailing_pad(1, x.shape[3], out_size[1])
    x = x[:, :, : x.shape[2] + min(bottom, 0), : x.shape[3] + min(right, 0)]
    return F.pad(x, (window.pad[1], max(right, 0), window.pad[0], max(bottom, 0)), value=value)
