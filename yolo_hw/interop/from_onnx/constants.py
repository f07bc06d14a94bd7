# SPDX-License-Identifier: Apache-2.0
"""Nodes that compute constants: `onnx`'s own reference evaluates them, within a bound on what they may produce."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from yolo_hw.errors import OnnxError
from yolo_hw.interop.from_onnx.document import Array, OnnxNode, float32

FOLDABLE = frozenset(
    "Abs Add And Cast CastLike Ceil Clip Concat ConstantOfShape CumSum Div Equal Exp Expand Flatten Floor Gather "
    "Greater GreaterOrEqual Identity Less LessOrEqual Log MatMul Max Min Mod Mul Neg Not Or Pow Range Reciprocal "
    "ReduceMax ReduceMin ReduceProd ReduceSum Reshape ScatterND Shape Size Slice Split Sqrt Squeeze Sub Tile Transpose "
    "Unsqueeze Where".split()
)
"""Operators that exporters compute shapes and tables of coordinates with."""

MAX_ELEMENTS = 1 << 26
"""Of one computed constant; the anchors of a detector for 4096x4096 images are below a million."""


def constant_value(node: OnnxNode) -> Array | None:
    """Return what a Constant node holds; None for what is no number."""
    for key in ("value", "value_float", "value_floats", "value_int", "value_ints"):
        if key in node.attributes:
            value = np.asarray(node.attributes[key])
            return float32(value, []) if value.dtype.kind in "biuf" else None
    return None


def fold(node: OnnxNode, inputs: Sequence[Array | None], opset: int) -> list[Array]:
    """Compute a node of constants.

    Args:
        node: One of `FOLDABLE`.
        inputs: Its inputs; None where an optional one is absent.
        opset: Version of the operators.

    Returns:
        Its outputs.

    Raises:
        OnnxError: It would produce more than `MAX_ELEMENTS` numbers, or cannot be computed.
    """
    given = {name: value for name, value in zip(node.inputs, inputs, strict=True) if value is not None}
    proto = helper.make_node(node.op, list(node.inputs), list(node.outputs), name=node.name)
    proto.attribute.extend(_attribute(key, value) for key, value in node.attributes.items())
    outputs = [helper.make_empty_tensor_value_info(name) for name in node.outputs if name]
    tensors = [numpy_helper.from_array(value, name) for name, value in given.items()]
    graph = helper.make_graph([proto], "constant", [], outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    try:
        _check_size(node, model, given)
        found = ReferenceEvaluator(model).run(None, {})
    except OnnxError:
        raise
    except Exception as error:  # the reference raises whatever numpy does
        raise OnnxError(f"node '{node.name}' ({node.op}): cannot be computed from its constants: {error}") from None
    results = iter(found)
    return [float32(np.asarray(next(results)), []) if name else np.empty(0) for name in node.outputs]


def _check_size(node: OnnxNode, model: onnx.ModelProto, given: dict[str, Array]) -> None:
    inferred = shape_inference.infer_shapes(model, data_prop=True).graph.output
    counts = [_count(value) for value in inferred]
    if None in counts and node.op == "Range":
        start, limit, delta = (float(given[name].reshape(-1)[0]) for name in node.inputs)
        counts = [max(0, math.ceil((limit - start) / delta)) if delta else MAX_ELEMENTS + 1]
    largest = sum(value.size for value in given.values()) if None in counts else max(c for c in counts if c is not None)
    if largest > MAX_ELEMENTS or (None in counts and node.op in ("ConstantOfShape", "Expand", "Tile")):
        raise OnnxError(
            f"node '{node.name}' ({node.op}): a computed constant must have at most {MAX_ELEMENTS} numbers, got "
            f"{largest if None not in counts else 'an unknown count'}"
        )


def _count(value: onnx.ValueInfoProto) -> int | None:
    kind = value.type.tensor_type
    if not kind.HasField("shape") or any(not dim.HasField("dim_value") for dim in kind.shape.dim):
        return None
    return math.prod(int(dim.dim_value) for dim in kind.shape.dim)


def _attribute(key: str, value: object) -> onnx.AttributeProto:
    return helper.make_attribute(key, numpy_helper.from_array(value) if isinstance(value, np.ndarray) else value)
