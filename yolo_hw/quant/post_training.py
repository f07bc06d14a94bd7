# SPDX-License-Identifier: Apache-2.0
"""Post-training quantisation in one call."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from yolo_hw.intgraph.graph import IntGraph
from yolo_hw.quant.calibrate import ImageBatch, Progress, calibrate, shape_of
from yolo_hw.quant.config import QuantConfig
from yolo_hw.quant.fold import fold_model
from yolo_hw.quant.lower import lower_graph


def quantise_model(
    model: nn.Module, batches: Iterable[ImageBatch], config: QuantConfig | None = None, progress: Progress | None = None
) -> IntGraph:
    """Bring a float model into integers: fold batch norms, choose formats on images, round, lower.

    Args:
        model: A darknet model, or any module of images [N, C, H, W] in [0, 1] that `trace_module` can follow; it is not
            changed.
        batches: Calibration images [N, H, W, C] uint8 of the network's input size.
        config: Word lengths, observers, rounding.
        progress: Called after every batch.

    Returns:
        The checked integer graph.

    Raises:
        QuantError: No image, values that are not finite, or a layer without legal integer form.
    """
    images = list(batches)
    calibrated = calibrate(fold_model(model, shape_of(images)), images, config or QuantConfig(), progress)
    return lower_graph(calibrated.graph, calibrated.plan)
