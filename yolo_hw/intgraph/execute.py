# SPDX-License-Identifier: Apache-2.0
"""Running an integer graph with the numpy reference."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from yolo_hw.errors import GraphError
from yolo_hw.fixedpoint import IntArray, quantise
from yolo_hw.intgraph.graph import INPUT, IntGraph
from yolo_hw.intgraph.kernels import Result, run_node
from yolo_hw.intgraph.liveness import last_reads


def image_codes(image: npt.NDArray[np.uint8]) -> IntArray:
    """Turn a prepared image [H, W, C] uint8 into the input's codes [C, H, W]."""
    return np.ascontiguousarray(image.transpose(2, 0, 1), np.int64)


def input_codes(graph: IntGraph, image: npt.NDArray[np.floating[Any]]) -> IntArray:
    """Round a real image [C, H, W] to the input's codes [C, H, W], with the graph's rounding and overflow."""
    return quantise(image, graph.tensors[INPUT].fmt, graph.contract.rounding, graph.contract.overflow)


def check_input(graph: IntGraph, codes: npt.NDArray[np.integer[Any]]) -> None:
    """Check that `codes` is an integer array [C, H, W] of the input's shape and within its format.

    Raises:
        GraphError: It is not.
    """
    info = graph.tensors[INPUT]
    if codes.shape != info.shape:
        raise GraphError(f"{graph.name}: the input must have shape {info.shape}, got {codes.shape}")
    if codes.dtype.kind not in "iu":
        raise GraphError(f"{graph.name}: the input must hold integer codes, got {codes.dtype}")
    kind = np.iinfo(codes.dtype)
    always = info.fmt.lo <= kind.min and kind.max <= info.fmt.hi
    if codes.size and not always and (codes.min() < info.fmt.lo or codes.max() > info.fmt.hi):
        raise GraphError(f"{graph.name}: input codes must lie in [{info.fmt.lo}, {info.fmt.hi}]")


def execute(graph: IntGraph, codes: npt.NDArray[np.integer[Any]]) -> Iterator[tuple[str, Result]]:
    """Run a graph on one image, node by node.

    Args:
        graph: A checked graph.
        codes: [C, H, W] input codes.

    Yields:
        (node name, codes and accumulators) in execution order; maps nobody needs any more are dropped.

    Raises:
        GraphError: See `check_input`.
    """
    check_input(graph, codes)
    maps: dict[str, IntArray] = {INPUT: np.asarray(codes, np.int64)}
    for node, dying in zip(graph.nodes, last_reads(graph.nodes), strict=True):
        inputs = [maps[name] for name in node.inputs]
        result = run_node(node, inputs, graph.inputs_of(node), graph.output_of(node), graph.contract)
        maps[node.name] = result.codes
        yield node.name, result
        for name in dying:
            del maps[name]


def run_outputs(graph: IntGraph, codes: npt.NDArray[np.integer[Any]]) -> list[IntArray]:
    """Run a graph on one image and return the output codes [C, H, W] in the order of `graph.outputs`."""
    wanted = {output.tensor for output in graph.outputs}
    found = {name: result.codes for name, result in execute(graph, codes) if name in wanted}
    return [found[output.tensor] for output in graph.outputs]
