# SPDX-License-Identifier: Apache-2.0
"""From an integer graph to a plan for the accelerator: shared memory, program with tiles, memory map."""

from __future__ import annotations

from dataclasses import dataclass

from hls_export.config import AcceleratorConfig
from hls_export.plan.commands import Command, CommandOp, build_program
from hls_export.plan.memory import Location, MemoryPlan, plan_memory
from hls_export.plan.placement import Placement, place_tensors
from hls_export.plan.tiling import Tile
from yolo_hw.intgraph.graph import IntGraph

__all__ = [
    "AcceleratorPlan",
    "Command",
    "CommandOp",
    "Location",
    "MemoryPlan",
    "Placement",
    "Tile",
    "make_plan",
]


@dataclass(frozen=True)
class AcceleratorPlan:
    """How the accelerator runs a graph.

    Attributes:
        graph: The network.
        config: The hardware's parameters.
        program: Commands in execution order.
        memory: The activation memory map.
    """

    graph: IntGraph
    config: AcceleratorConfig
    program: list[Command]
    memory: MemoryPlan


def make_plan(graph: IntGraph, config: AcceleratorConfig) -> AcceleratorPlan:
    """Plan a checked graph for the accelerator.

    Raises:
        ExportError: A node or a size the accelerator cannot run; names the node.
    """
    placements = place_tensors(graph, config.lanes)
    program = build_program(graph, placements, config)
    return AcceleratorPlan(graph, config, program, plan_memory(graph, placements, program, config))
