# SPDX-License-Identifier: Apache-2.0
"""The accelerator's program: one command per piece of work, in execution order."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from hls_export.config import MAX_DEPTHWISE_SIZE, AcceleratorConfig
from hls_export.plan.placement import Placement
from hls_export.plan.tiling import Tile, choose_tile
from yolo_hw.darknet.layers import Shape
from yolo_hw.errors import ExportError
from yolo_hw.geometry import Window
from yolo_hw.intgraph import nodes as N
from yolo_hw.intgraph.graph import INPUT, IntGraph
from yolo_hw.intgraph.nodes import Node

MAX_INPUTS = 4
"""Tensors one add command can read."""


class CommandOp(IntEnum):
    """Operation codes of the descriptor records (``hls_export/engine/yhw_descriptor.h``)."""

    CONV = 1
    """Dense or grouped convolution on the TM x TN tile."""
    DWCONV = 2
    """Depthwise convolution: lanes are channels, the tile's TN side takes the kernel's taps."""
    MAXPOOL = 3
    AVGPOOL = 4
    ADD = 5
    MUL = 6
    COPY = 7
    """Channels from one tensor into another, enlarged by a factor: upsample, concat or slice at odd channels."""
    REORG = 8


@dataclass(frozen=True)
class Command:
    """One record of the program.

    Attributes:
        op: What to do.
        node: The graph's node it computes (or a part of).
        inputs: Tensors it reads.
        output: Tensor it writes.
        in_channel: COPY: first channel read.
        out_channel: COPY: first channel written.
        channels: Channels written.
        tile: Output rows and columns computed at a time, where the command works in tiles.
    """

    op: CommandOp
    node: str
    inputs: tuple[str, ...]
    output: str
    in_channel: int
    out_channel: int
    channels: int
    tile: Tile


def build_program(graph: IntGraph, placements: dict[str, Placement], config: AcceleratorConfig) -> list[Command]:
    """Turn nodes into commands; a concat by address, or a slice that starts at a whole piece, needs none.

    Args:
        graph: The network.
        placements: From `place_tensors`.
        config: The hardware's buffers.

    Returns:
        Commands in execution order.

    Raises:
        ExportError: A node the accelerator cannot run; names it.
    """
    program: list[Command] = []
    for node in graph.nodes:
        _check_node(node, config)
        out = graph.output_of(node).shape
        if isinstance(node, N.Slice):
            if node.start % config.lanes:
                program.append(_copy(node, node.inputs[0], node.start, 0, out))
        elif isinstance(node, N.Concat):
            program += _concat_copies(graph, node, placements)
        else:
            tile = Tile(out.h, out.w)
            if isinstance(node, (N.Conv2d, N.MaxPool)):
                tile = choose_tile(node.name, config, node.window, out)
            program.append(Command(_op_of(node), node.name, node.inputs, node.name, 0, 0, out.c, tile))
    return program


def conv_op(window: Window, *, depthwise: bool) -> CommandOp:
    """Return the mode a convolution runs in."""
    small = max(window.size) <= MAX_DEPTHWISE_SIZE and window.dilation == (1, 1)
    return CommandOp.DWCONV if depthwise and small else CommandOp.CONV


def _op_of(node: Node) -> CommandOp:
    if isinstance(node, N.Conv2d):
        return conv_op(node.window, depthwise=node.depthwise)
    return {
        N.MaxPool: CommandOp.MAXPOOL,
        N.AvgPool: CommandOp.AVGPOOL,
        N.Add: CommandOp.ADD,
        N.Mul: CommandOp.MUL,
        N.Upsample: CommandOp.COPY,
        N.Reorg: CommandOp.REORG,
    }[type(node)]


def _concat_copies(graph: IntGraph, node: N.Concat, placements: dict[str, Placement]) -> list[Command]:
    copies = []
    offset = 0
    place = placements[node.name]
    for name in node.inputs:
        shape = graph.tensors[name].shape
        if placements[name] != Placement(place.root, place.channel + offset):
            copies.append(_copy(node, name, 0, offset, shape))
        offset += shape.c
    return copies


def _copy(node: Node, source: str, in_channel: int, out_channel: int, shape: Shape) -> Command:
    tile = Tile(shape.h, shape.w)
    return Command(CommandOp.COPY, node.name, (source,), node.name, in_channel, out_channel, shape.c, tile)


def _check_node(node: Node, config: AcceleratorConfig) -> None:
    if isinstance(node, N.Add) and len(node.inputs) > MAX_INPUTS:
        raise ExportError(f"{node.name}: the accelerator adds at most {MAX_INPUTS} tensors, got {len(node.inputs)}")
    if INPUT in node.inputs and _op_of_image_reader(node) is not CommandOp.CONV:
        raise ExportError(f"{node.name}: only dense or grouped convolutions can read the image, got {node.op}")
    if isinstance(node, N.Conv2d):
        # The depthwise mode takes TN taps at a time, so its buffer entries are chunks of taps.
        entries = node.window.taps if _op_of(node) is CommandOp.CONV else -(-node.window.taps // config.tn)
        if entries > config.max_taps:
            raise ExportError(
                f"{node.name}: the weight buffer holds {config.max_taps} taps, a kernel of {node.window.size[0]}x"
                f"{node.window.size[1]} needs {entries}; export with a larger max_taps"
            )


def _op_of_image_reader(node: Node) -> CommandOp | None:
    return _op_of(node) if isinstance(node, N.Conv2d) else None
