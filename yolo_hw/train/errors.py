# SPDX-License-Identifier: Apache-2.0
"""The error of the training stage."""

from __future__ import annotations

from yolo_hw.errors import YoloHwError


class TrainError(YoloHwError):
    """A training option, a checkpoint or a run that cannot go on."""
