# SPDX-License-Identifier: Apache-2.0
"""Integer graph <-> a JSON document and a set of arrays.

The document holds everything but the arrays; it is validated against ``graph.schema.json`` before anything
is built from it. All numbers that hardware sees are integers.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from yolo_hw.darknet.layers import HeadSpec, Shape
from yolo_hw.errors import GraphError
from yolo_hw.fixedpoint import FixedPoint, IntArray, Overflow, Rounding
from yolo_hw.geometry import Window
from yolo_hw.intgraph import nodes as N
from yolo_hw.intgraph.graph import IntGraph, Output
from yolo_hw.intgraph.nodes import NODE_TYPES, Activation, Node, TensorInfo
from yolo_hw.intgraph.requant import NumericContract
from yolo_hw.intgraph.schema import first_violation

SCHEMA_ID = "yolo_hw.intgraph/1"
SCHEMA_FILE = Path(__file__).with_name("graph.schema.json")

Json = dict[str, Any]
_STORED = {"weight": np.int16, "w_frac": np.int16, "bias": np.int32, "table": np.int16}
"""Type of each array role in an npz file."""


@cache
def graph_schema() -> Json:
    """Return the JSON Schema of the document."""
    return cast(Json, json.loads(SCHEMA_FILE.read_text("utf-8")))


def encode_graph(graph: IntGraph) -> tuple[Json, dict[str, npt.NDArray[np.integer[Any]]]]:
    """Split a graph into its JSON document and its arrays, keyed ``<node>.<role>``."""
    arrays: dict[str, npt.NDArray[np.integer[Any]]] = {
        f"{node.name}.{role}": array.astype(_STORED[role])
        for node in graph.nodes
        for role, array in node.arrays.items()
    }
    contract = graph.contract
    document: Json = {
        "schema": SCHEMA_ID,
        "name": graph.name,
        "contract": {
            "rounding": contract.rounding.value,
            "overflow": contract.overflow.value,
            "acc_bits": contract.acc_bits,
            "min_shift": contract.min_shift,
            "max_shift": contract.max_shift,
        },
        "tensors": [{"name": name, **_encode_tensor(info)} for name, info in graph.tensors.items()],
        "nodes": [_encode_node(node) for node in graph.nodes],
        "outputs": [{"tensor": o.tensor, "head": _encode_head(o.head)} for o in graph.outputs],
    }
    return document, arrays


def decode_graph(document: Json, arrays: Mapping[str, npt.NDArray[np.integer[Any]]]) -> IntGraph:
    """Build a graph from `encode_graph`'s document and arrays.

    Raises:
        GraphError: The document does not follow the schema, or an array is missing or left over. Call `check_graph` on
            the result for the graph's own invariants.
    """
    violation = first_violation(document, graph_schema())
    if violation:
        raise GraphError(f"graph document: {violation}")
    names = [tensor["name"] for tensor in document["tensors"]]
    if len(set(names)) < len(names):
        raise GraphError(f"graph document: tensor {max(names, key=names.count)} is declared twice")
    left = dict(arrays)
    contract = document["contract"]
    graph = IntGraph(
        name=document["name"],
        contract=NumericContract(
            Rounding(contract["rounding"]),
            Overflow(contract["overflow"]),
            contract["acc_bits"],
            contract["min_shift"],
            contract["max_shift"],
        ),
        nodes=tuple(_decode_node(node, left) for node in document["nodes"]),
        tensors={tensor["name"]: _decode_tensor(tensor) for tensor in document["tensors"]},
        outputs=tuple(Output(output["tensor"], _decode_head(output["head"])) for output in document["outputs"]),
    )
    if left:
        raise GraphError(f"graph arrays: no node owns {', '.join(sorted(left))}")
    return graph


def _encode_tensor(info: TensorInfo) -> Json:
    fmt = info.fmt
    return {"shape": list(info.shape), "bits": fmt.bits, "frac": fmt.frac, "signed": fmt.signed}


def _decode_tensor(document: Json) -> TensorInfo:
    return TensorInfo(Shape(*document["shape"]), FixedPoint(document["bits"], document["frac"], document["signed"]))


def _encode_head(head: HeadSpec | None) -> Json | None:
    if head is None:
        return None
    return {
        "kind": head.kind,
        "classes": head.classes,
        "anchors": [list(pair) for pair in head.anchors],
        "scale_x_y": head.scale_x_y,
        "new_coords": head.new_coords,
        "softmax": head.softmax,
    }


def _decode_head(document: Json | None) -> HeadSpec | None:
    if document is None:
        return None
    anchors = tuple((float(w), float(h)) for w, h in document["anchors"])
    return HeadSpec(**{**document, "anchors": anchors})


def _encode_window(window: Window) -> Json:
    parts = ("size", "stride", "pad", "dilation")
    return {part: list(getattr(window, part)) for part in parts}


def _decode_window(document: Json) -> Window:
    return Window(**{part: (pair[0], pair[1]) for part, pair in document.items()})


def _encode_activation(act: Activation) -> Json:
    document: Json = {"function": act.function}
    if act.table_fmt is not None:
        fmt = act.table_fmt
        document["table_argument"] = {"bits": fmt.bits, "frac": fmt.frac, "signed": fmt.signed}
    elif act.function == "leaky":
        document |= {"slope_mul": act.slope_mul, "slope_shift": act.slope_shift}
    elif act.function in ("relu", "relu6"):
        document["cap"] = act.cap
    return document


def _decode_activation(document: Json, table: IntArray | None) -> Activation:
    fields = {key: value for key, value in document.items() if key != "table_argument"}
    argument = document.get("table_argument")
    if argument is None:
        return Activation(**fields)
    return Activation(**fields, table=table, table_fmt=FixedPoint(**argument))


def _encode_node(node: Node) -> Json:
    document: Json = {"op": node.op, "name": node.name, "inputs": list(node.inputs)}
    if isinstance(node, (N.Conv2d, N.MaxPool)):
        document["window"] = _encode_window(node.window)
    if isinstance(node, N.Conv2d):
        document |= {"groups": node.groups, "w_bits": node.w_bits}
    if isinstance(node, (N.Conv2d, N.Add, N.Mul)):
        document["activation"] = _encode_activation(node.act)
    if isinstance(node, N.AvgPool):
        document |= {"mul": node.mul, "mul_shift": node.mul_shift}
    if isinstance(node, N.Slice):
        document |= {"start": node.start, "stop": node.stop}
    if isinstance(node, (N.Upsample, N.Reorg)):
        document["stride"] = node.stride
    if isinstance(node, N.Reorg):
        document |= {"reverse": node.reverse, "mode": node.mode}
    return document


def _decode_node(document: Json, arrays: dict[str, npt.NDArray[np.integer[Any]]]) -> Node:
    fields = {key: value for key, value in document.items() if key not in ("op", "activation", "window")}
    fields["inputs"] = tuple(document["inputs"])
    if "window" in document:
        fields["window"] = _decode_window(document["window"])
    if document["op"] == N.Conv2d.op:
        for role in ("weight", "w_frac", "bias"):
            fields[role] = _take(arrays, document["name"], role)
    if "activation" in document:
        has_table = "table_argument" in document["activation"]
        table = _take(arrays, document["name"], "table") if has_table else None
        fields["act"] = _decode_activation(document["activation"], table)
    node_type = NODE_TYPES[document["op"]]
    foreign = fields.keys() - {known.name for known in dataclasses.fields(node_type)}
    if foreign:
        raise GraphError(f"graph document: {document['name']}: a {document['op']} has no '{min(foreign)}'")
    return node_type(**fields)


def _take(arrays: dict[str, npt.NDArray[np.integer[Any]]], name: str, role: str) -> IntArray:
    array = arrays.pop(f"{name}.{role}", None)
    if array is None:
        raise GraphError(f"graph arrays: {name}.{role} is missing")
    if array.dtype != _STORED[role]:
        raise GraphError(f"graph arrays: {name}.{role} must have type {np.dtype(_STORED[role])}, got {array.dtype}")
    return array.astype(np.int64)
