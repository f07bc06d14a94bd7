# SPDX-License-Identifier: Apache-2.0
"""The integer graph: the border between floating point and hardware. Needs no torch."""

from yolo_hw.intgraph.check import check_graph
from yolo_hw.intgraph.execute import execute, image_codes, run_outputs
from yolo_hw.intgraph.graph import INPUT, INPUT_FORMAT, IntGraph, Output
from yolo_hw.intgraph.io import load_graph, save_graph
from yolo_hw.intgraph.nodes import Activation, TensorInfo
from yolo_hw.intgraph.requant import NumericContract

__all__ = [
    "INPUT",
    "INPUT_FORMAT",
    "Activation",
    "IntGraph",
    "NumericContract",
    "Output",
    "TensorInfo",
    "check_graph",
    "execute",
    "image_codes",
    "load_graph",
    "run_outputs",
    "save_graph",
]
