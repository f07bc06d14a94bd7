# SPDX-License-Identifier: Apache-2.0
"""Cycles of the accelerator's computing pipelines, from the loop bounds of ``hls_export/engine``.

Counted are the iterations, times the interval, of the loops that multiply, add, compare or move codes. Not counted are
the loops that fill the buffers, those that requantise and write a tile of a convolution or max pool, pipeline fill,
memory latency and control. The stages run one after the other, so the sum is a lower bound of the run time.
"""

from __future__ import annotations

from dataclasses import dataclass

from hls_export.plan import AcceleratorPlan, Command, CommandOp
from hls_export.plan.estimate import MIN_PIXELS, ConvWork, conv_cycles, spatial_tiles
from yolo_hw.darknet.layers import Shape
from yolo_hw.intgraph import nodes as N

REORG_INTERVAL = 4
"""Cycles between two codes of a reorg (yhw_copy.h)."""


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


def paying_tensor(command: Command) -> str:
    """Return the tensor whose bytes per code count where a command's cycles depend on them.

    An average is bound by what it reads, sums and copies by what they write.
    """
    return command.inputs[0] if command.op is CommandOp.AVGPOOL else command.output


def _cycles(plan: AcceleratorPlan, command: Command, node: N.Node, out: Shape) -> int:
    config = plan.config
    first = command.out_channel // config.lanes
    blocks = -(-(command.out_channel + command.channels) // config.lanes) - first
    if isinstance(node, N.Conv2d):
        conv = ConvWork(node.window, node.groups, int(node.weight.shape[1]), out)
        return conv_cycles(command.op, conv, command.tile, config)
    if command.op is CommandOp.MAXPOOL and isinstance(node, N.MaxPool):
        groups = -(-out.c // config.channels)
        return groups * node.window.taps * sum(max(h * w, MIN_PIXELS) for h, w in spatial_tiles(command.tile, out))
    pixels = blocks * out.h * out.w
    paying = plan.graph.tensors[paying_tensor(command)]
    if command.op is CommandOp.AVGPOOL:
        return blocks * paying.shape.h * paying.shape.w * paying.fmt.storage_bytes
    words = pixels * paying.fmt.storage_bytes
    if command.op is CommandOp.REORG:
        return pixels * config.lanes * REORG_INTERVAL + words
    return words
