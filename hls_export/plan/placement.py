# SPDX-License-Identifier: Apache-2.0
"""Which tensors share memory: concat and slice by address.

In the accelerator's layout [ceil(C / L)][H][W][L] the channels from a multiple of L on are one contiguous piece. A
concat's inputs are therefore written straight into its buffer where their channel offsets allow, and a slice that
starts at a multiple of L is only an address.
"""

from __future__ import annotations

from dataclasses import dataclass

from yolo_hw.intgraph import nodes as N
from yolo_hw.intgraph.graph import INPUT, IntGraph


@dataclass(frozen=True)
class Placement:
    """Where a tensor lives.

    Attributes:
        root: The tensor that owns the memory.
        channel: First channel within it, a multiple of L.
    """

    root: str
    channel: int


def place_tensors(graph: IntGraph, lanes: int) -> dict[str, Placement]:
    """Decide for every tensor whether it is a part of another one.

    Args:
        graph: The network.
        lanes: L, channels of a memory word.

    Returns:
        Placement of every tensor; a root has itself and channel 0.
    """
    parent: dict[str, tuple[str, int]] = {}
    views: set[str] = {INPUT}
    for node in graph.nodes:
        if isinstance(node, N.Slice) and node.start % lanes == 0:
            parent[node.name] = (node.inputs[0], node.start)
            views.add(node.name)
    for node in graph.nodes:
        if isinstance(node, N.Concat):
            _place_inputs(graph, node, lanes, parent, views)
    return {name: _resolve(name, parent) for name in graph.tensors}


def _place_inputs(
    graph: IntGraph, node: N.Concat, lanes: int, parent: dict[str, tuple[str, int]], views: set[str]
) -> None:
    offset = 0
    for i, name in enumerate(node.inputs):
        channels = graph.tensors[name].shape.c
        fits = offset % lanes == 0 and (channels % lanes == 0 or i == len(node.inputs) - 1)
        if fits and name not in views and name not in parent and node.inputs.count(name) == 1:
            parent[name] = (node.name, offset)
        offset += channels


def _resolve(name: str, parent: dict[str, tuple[str, int]]) -> Placement:
    channel = 0
    while name in parent:
        name, offset = parent[name]
        channel += offset
    return Placement(name, channel)
