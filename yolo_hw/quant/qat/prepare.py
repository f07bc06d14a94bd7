# SPDX-License-Identifier: Apache-2.0
"""From a float model to one that trains as the hardware computes, and from there to the integer graph."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import TypeVar

from torch import nn

from yolo_hw.darknet.layers import Shape
from yolo_hw.errors import QuantError
from yolo_hw.intgraph.graph import IntGraph
from yolo_hw.nn.darknet import Darknet
from yolo_hw.quant.calibrate import ImageBatch, Progress, shape_of
from yolo_hw.quant.config import QuantConfig
from yolo_hw.quant.fold import trace_model
from yolo_hw.quant.lower import lower_graph
from yolo_hw.quant.qat.config import QatConfig
from yolo_hw.quant.qat.model import QatModel

Model = TypeVar("Model", bound=nn.Module)


def prepare_qat(
    model: nn.Module,
    config: QuantConfig | None = None,
    *,
    qat: QatConfig | None = None,
    batches: Iterable[ImageBatch] | None = None,
    input_shape: Shape | None = None,
    progress: Progress | None = None,
) -> QatModel:
    """Make a model that is trained in its quantised form.

    Args:
        model: A trained float model, of darknet or any module that `trace_module` can follow; it is not changed.
        config: Word lengths, rounding, the observers that choose the first fraction bits.
        qat: How fraction bits and batch norms follow the training.
        batches: Calibration images [N, H, W, C] uint8; None lets the first batch of the training decide.
        input_shape: Of the images, where neither a darknet model nor `batches` say it.
        progress: Called after every calibration batch.

    Returns:
        A module with the outputs of `model`, in evaluation mode.

    Raises:
        QuantError: A layer has no integer form, or the options contradict each other.
    """
    config, qat = config or QuantConfig(), qat or QatConfig()
    for name in ("adaround", "absorb_biases"):
        if getattr(config, name):
            raise QuantError(f"QuantConfig.{name} has no effect on training, which finds weights and biases itself")
    images = None if batches is None else list(batches)
    if images is not None and input_shape is None:
        input_shape = shape_of(images)
    network = model.network if isinstance(model, Darknet) else None
    prepared = QatModel(trace_model(model, input_shape), network, config, qat)
    if images is not None:
        prepared.calibrate(images, progress)
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


def float_model(qat: QatModel, like: Model) -> Model:
    """Return a float model with the trained weights and batch norms.

    Args:
        qat: The model.
        like: The float model `qat` was made of, or one of the same architecture; it is not changed.

    Returns:
        A copy of `like` with the parameters of `qat`, in evaluation mode.
    """
    restored = copy.deepcopy(like)
    for name, source in trace_model(restored, qat.graph.input_shape).sources.items():
        source.load(*qat.conv(name).source())
    return restored.eval()
