# SPDX-License-Identifier: Apache-2.0
"""What a host needs to know of an exported model besides its tensors: formats and heads, as ``metadata_props``.

===================  =================================================================================================
key                  JSON value
===================  =================================================================================================
``yolo_hw.form``     ``"float"``, ``"integer"``, ``"qdq"`` or ``"qonnx"``
``yolo_hw.contract`` rounding, overflow and accumulator bits of the integer graph
``yolo_hw.input``    name, shape, and either ``scale`` (input = pixel * scale) or bits, frac, signed of the codes
``yolo_hw.outputs``  per output: name, tensor, shape, head (kind, classes, anchors, ...; null for others), and of an
                     integer graph bits, frac, signed: ``real = code * 2**-frac``
===================  =================================================================================================

Outputs of ``integer`` are codes, those of ``qdq`` and ``qonnx`` are real already, multiples of ``2**-frac``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from yolo_hw.darknet.layers import HeadSpec, Shape
from yolo_hw.intgraph.graph import INPUT, IntGraph
from yolo_hw.intgraph.nodes import TensorInfo


def graph_metadata(graph: IntGraph, form: str, names: Sequence[str]) -> dict[str, str]:
    """Return the metadata of an integer graph whose outputs are called `names` in the model."""
    contract = graph.contract
    outputs = [
        {"name": name, "tensor": output.tensor, **_tensor(graph.tensors[output.tensor]), "head": _head(output.head)}
        for name, output in zip(names, graph.outputs, strict=True)
    ]
    values = {
        "form": form,
        "contract": {
            "rounding": contract.rounding.value,
            "overflow": contract.overflow.value,
            "acc_bits": contract.acc_bits,
        },
        "input": {"name": INPUT, **_tensor(graph.tensors[INPUT])},
        "outputs": outputs,
    }
    return _encode(values)


def float_metadata(
    scale: float, shape: Shape, outputs: Sequence[tuple[str, str, Shape, HeadSpec | None]]
) -> dict[str, str]:
    """Return the metadata of a float model.

    Args:
        scale: Input value of one pixel step.
        shape: Of the input.
        outputs: (name in the model, tensor, shape, decoding or None).
    """
    documents = [
        {"name": name, "tensor": tensor, "shape": list(out), "head": _head(head)} for name, tensor, out, head in outputs
    ]
    image = {"name": INPUT, "shape": list(shape), "scale": scale}
    return _encode({"form": "float", "input": image, "outputs": documents})


def _tensor(info: TensorInfo) -> dict[str, Any]:
    fmt = info.fmt
    return {"shape": list(info.shape), "bits": fmt.bits, "frac": fmt.frac, "signed": fmt.signed}


def _head(head: HeadSpec | None) -> dict[str, Any] | None:
    return None if head is None else asdict(head)


def _encode(values: dict[str, Any]) -> dict[str, str]:
    return {f"yolo_hw.{key}": json.dumps(value, sort_keys=True) for key, value in values.items()}
