# SPDX-License-Identifier: Apache-2.0
"""Cycles of the accelerator's pipelines, from the loop bounds of ``hls_export/engine``.

Compute only: memory transfers, pipeline fill and the control between stages are not in it, so this is a lower bound.
"""

from __future__ import annotations

from dataclasses import dataclass

from hls_export.pack.weights import input_range
from hls_export.plan import AcceleratorPlan, Command, CommandOp
from yolo_hw.darknet.layers import Shape
from yolo_hw.geometry import Window
from yolo_hw.intgraph import nodes as N

MIN_PIXELS = 16
"""The dense pipeline runs at least this many steps per kernel position (yhw_conv.h)."""


@dataclass(frozen=True)
class CommandCycles:
    """Cycles of one command.

    Attributes:
        command: The command.
        cycles: Compute cycles.
        macs: Real multiply-accumulates of the layer.
        utilisation: Share of the tile's TM * TN multipliers that do real work, 0 for commands without.
    """

    command: Command
    cycles: int
    macs: int
    utilisation: float


def plan_cycles(plan: AcceleratorPlan) -> list[CommandCycles]:
    """Return the cycles of every command."""
    results = []
    for command in plan.program:
        node = plan.graph.node(command.node)
        out = plan.graph.tensors[command.output].shape
        macs = node.macs(plan.graph.inputs_of(node), plan.graph.output_of(node))
        cycles = _cycles(plan, command, node, out)
        slots = cycles * plan.config.tm * plan.config.tn
        results.append(CommandCycles(command, cycles, macs, macs / slots if macs else 0.0))
    return results


def _cycles(plan: AcceleratorPlan, command: Command, node: N.Node, out: Shape) -> int:
    config = plan.config
    blocks = -(-command.channels // config.lanes)
    if command.op is CommandOp.CONV and isinstance(node, N.Conv2d):
        passes = sum(_input_tiles(node, start, config.tm, config.tn) for start in range(0, out.c, config.tm))
        return passes * node.window.taps * sum(max(h * w, MIN_PIXELS) for h, w in _tiles(command, out))
    if command.op is CommandOp.DWCONV and isinstance(node, N.Conv2d):
        chunks = -(-node.window.taps // config.tn)
        groups = -(-out.c // config.channels)
        return groups * sum(_depthwise_tile(node.window, h, w, chunks) for h, w in _tiles(command, out))
    if command.op is CommandOp.MAXPOOL and isinstance(node, N.MaxPool):
        groups = -(-out.c // config.channels)
        return groups * node.window.taps * sum(max(h * w, MIN_PIXELS) for h, w in _tiles(command, out))
    if command.op is CommandOp.AVGPOOL:
        source = plan.graph.tensors[command.inputs[0]].shape
        return blocks * source.h * source.w
    per_piece = {CommandOp.ADD: len(command.inputs), CommandOp.MUL: 2, CommandOp.COPY: 4, CommandOp.REORG: config.lanes}
    return blocks * out.h * out.w * per_piece[command.op]


def _tiles(command: Command, out: Shape) -> list[tuple[int, int]]:
    heights = [min(command.tile.h, out.h - y) for y in range(0, out.h, command.tile.h)]
    widths = [min(command.tile.w, out.w - x) for x in range(0, out.w, command.tile.w)]
    return [(h, w) for h in heights for w in widths]


def _input_tiles(node: N.Conv2d, start: int, tm: int, tn: int) -> int:
    k = int(node.weight.shape[0])
    low, high = input_range(start, min(start + tm, k), k // node.groups, int(node.weight.shape[1]))
    return -(-high // tn) - low // tn


def _depthwise_tile(window: Window, height: int, width: int, chunks: int) -> int:
    columns = window.span(1, width)
    return height * (columns - width + width * chunks)
