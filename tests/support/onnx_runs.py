# SPDX-License-Identifier: Apache-2.0
"""Exported ONNX models run by onnxruntime and by qonnx, and graphs that fit what they can show."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import shape_inference

from yolo_hw.fixedpoint import IntArray
from yolo_hw.interop.mismatch import ExportReport
from yolo_hw.intgraph import INPUT, IntGraph, Output
from yolo_hw.intgraph import nodes as N

SMALL_BIAS = 1 << 17


def run_onnx(model: onnx.ModelProto, x: npt.NDArray[np.generic], *, optimise: bool = True) -> dict[str, npt.NDArray]:
    """Run a model with the input `x` on onnxruntime's CPU kernels; return its outputs by name."""
    runtime = pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3  # it remarks on constants that optimisation leaves unused
    if not optimise:
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {INPUT: x}), strict=True))


def run_codes(model: onnx.ModelProto, graph: IntGraph, codes: IntArray) -> dict[str, npt.NDArray]:
    """Run a model that takes codes on one image."""
    return run_onnx(model, codes[None].astype(graph.tensors[INPUT].fmt.storage_dtype))


def codes_of(real: npt.NDArray, graph: IntGraph, tensor: str) -> npt.NDArray[np.float64]:
    """Return real numbers [1, C, H, W] as codes [C, H, W], fractions included."""
    return np.ldexp(real[0].astype(np.float64), graph.tensors[tensor].fmt.frac)


def all_tensors(graph: IntGraph) -> IntGraph:
    """Return a graph every node of which is an output."""
    return replace(graph, outputs=tuple(Output(node.name) for node in graph.nodes))


def small_biases(graph: IntGraph) -> IntGraph:
    """Return a graph whose biases leave float32 room for exact sums."""
    nodes = tuple(
        replace(node, bias=node.bias.clip(-SMALL_BIAS, SMALL_BIAS)) if isinstance(node, N.Conv2d) else node
        for node in graph.nodes
    )
    return replace(graph, nodes=nodes)


def exact_nodes(graph: IntGraph, report: ExportReport) -> list[str]:
    """Return the nodes whose codes a report promises: neither they nor anything before them may differ."""
    spoilt = {found.node for found in report.mismatches}
    for node in graph.nodes:
        if spoilt & set(node.inputs):
            spoilt.add(node.name)
    return [node.name for node in graph.nodes if node.name not in spoilt]


def element_types(model: onnx.ModelProto) -> dict[str, int]:
    """Return the element type of every constant, input, output and tensor between nodes by name."""
    inferred = shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True).graph
    values = [*inferred.input, *inferred.output, *inferred.value_info]
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    types |= {constant.name: constant.data_type for constant in inferred.initializer}
    assert {name for node in inferred.node for name in (*node.input, *node.output)} <= types.keys()
    return types
