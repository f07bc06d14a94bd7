# SPDX-License-Identifier: Apache-2.0
"""From a float model to one that trains as the hardware computes, and from there to the integer graph."""

from __future__ import annotations

import copy
from collections.abc import Iterable

from yolo_hw.intgraph.graph import IntGraph
from yolo_hw.nn.darknet import Darknet
from yolo_hw.quant.calibrate import ImageBatch, Progress
from yolo_hw.quant.config import QuantConfig
from yolo_hw.quant.fold import trace_darknet
from yolo_hw.quant.lower import lower_graph
from yolo_hw.quant.qat.config import QatConfig
from yolo_hw.quant.qat.model import QatModel


def prepare_qat(
    model: Darknet,
    config: QuantConfig | None = None,
    *,
    qat: QatConfig | None = None,
    batches: Iterable[ImageBatch] | None = None,
    progress: Progress | None = None,
) -> QatModel:
    """Make a model that is trained in its quantised form.

    Args:
        model: A trained float model; it is not changed.
        config: Word lengths, rounding, the observers that choose the first fraction bits.
        qat: How fraction bits and batch norms follow the training.
        batches: Calibration images [N, H, W, C] uint8; None lets the first batch of the training decide.
        progress: Called after every calibration batch.

    Returns:
        A module with the outputs of `model`, in evaluation mode.

    Raises:
        QuantError: A layer has no integer form, or the options contradict each other.
    """
    config, qat = config or QuantConfig(), qat or QatConfig()
    prepared = QatModel(trace_darknet(model), model.network, config, qat)
    if batches is not None:
        prepared.calibrate(list(batches), progress)
    return prepared.eval()


def lower_model(qat: QatModel) -> IntGraph:
    """Bring a trained quantised model into integers: every code is the one its evaluation in float64 computes.

    Args:
        qat: The model; it is not changed.

    Returns:
        The checked integer graph.

    Raises:
        QuantError: The fraction bits are not set, or the model has no integer form (`QatModel.obstacle`).
        GraphError: A number could leave its word; names the layer.
    """
    return lower_graph(qat.graph, qat.plan())


def float_model(qat: QatModel, like: Darknet) -> Darknet:
    """Return a float model with the trained weights and batch norms.

    Args:
        qat: The model.
        like: The float model `qat` was made of, or one of the same cfg; it is not changed.

    Returns:
        A copy of `like` with the parameters of `qat`, in evaluation mode.
    """
    restored = copy.deepcopy(like)
    for name, source in trace_darknet(restored).sources.items():
        source.load(*qat.conv(name).source())
    return restored.eval()
