# SPDX-License-Identifier: Apache-2.0
"""Translation of `yolo_hw.quant.boundary`: the places of quantisers stay visible as nodes of their own."""

from __future__ import annotations

from typing import Any

from yolo_hw.quant.boundary import FoldedBoundary
from yolo_hw.quant.traced.tracer import Operator, Tracer, reshaped
from yolo_hw.quant.traced.values import Value


def boundary(tracer: Tracer, op: Operator, args: dict[str, Any]) -> Value:
    """A node that rounds a value; the image is rounded as it is, without the pixels' factor."""
    value, label = args["x"], args["label"]
    source = value.source if value.whole else tracer.gathered(value)
    node = FoldedBoundary(name=tracer.builder.unique(label), inputs=(source.name,), shape=source.shape, label=label)
    made = tracer.builder.emit(node)
    return Value((made,), value.shape, op.name, value.index, True) if value.whole else reshaped(made, value.shape)
