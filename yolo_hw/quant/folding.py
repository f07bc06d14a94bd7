# SPDX-License-Identifier: Apache-2.0
"""What every way from a float model into the folded graph shares: names, the pixels' factor, dead nodes."""

from __future__ import annotations

import re

from yolo_hw.geometry import Window
from yolo_hw.quant.folded import FoldedConv, FoldedGraph, FoldedNode

PIXEL_GAIN = 256 / 255
"""Networks are trained on pixel / 255, the integer graph's input stands for pixel / 256."""

POINT = Window((1, 1))


def conv_names(graph: FoldedGraph) -> list[str]:
    """Return the names of the convolutions of a graph, in order."""
    return [node.name for node in graph.nodes if isinstance(node, FoldedConv)]


def plain_name(name: str) -> str:
    """Return a name with everything replaced that has no place in file names and symbols."""
    return re.sub("[^A-Za-z0-9_.+-]|^[.+-]", "_", name)[:128] or "_"


def reachable(nodes: list[FoldedNode], wanted: set[str]) -> tuple[FoldedNode, ...]:
    """Return the nodes that the tensors `wanted` depend on."""
    kept: list[FoldedNode] = []
    for node in reversed(nodes):
        if node.name in wanted:
            wanted = wanted | set(node.inputs)
            kept.append(node)
    return tuple(reversed(kept))
