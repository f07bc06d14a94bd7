# SPDX-License-Identifier: Apache-2.0
"""The memory map of the activations: an io region for image and results, an arena for everything between."""

from __future__ import annotations

from dataclasses import dataclass

from hls_export.config import AcceleratorConfig
from hls_export.plan.arena import Lifetime, lower_bound, pack_arena
from hls_export.plan.commands import Command, CommandOp
from hls_export.plan.placement import Placement
from yolo_hw.errors import ExportError
from yolo_hw.intgraph import nodes as N
from yolo_hw.intgraph.graph import INPUT, IntGraph

IMAGE_LANES = 4
"""Channels of one pixel of an image with at most four channels: RGBX, so a pixel is a power of two of bytes."""

MAX_ADDRESS = 1 << 32


@dataclass(frozen=True)
class Location:
    """Where a tensor lies in the activation memory.

    The layout is [ceil(C / lanes)][H][W][lanes]. Channels beyond C are zero; in a view they are the next channels.

    Attributes:
        offset: Byte offset from the base of the activation memory.
        bytes: Bytes from the first to the last word of the tensor.
        lanes: Channels of one pixel's piece.
        element_bytes: 1 or 2.
        root: The tensor that owns the memory.
        channel: First channel within the root.
    """

    offset: int
    bytes: int
    lanes: int
    element_bytes: int
    root: str
    channel: int


@dataclass(frozen=True)
class MemoryPlan:
    """The whole activation memory: ``[io | arena]``.

    Attributes:
        locations: Every tensor's place.
        lifetimes: Every root's size and lifetime in commands; the image lives from before the first command, results to
            after the last.
        io_bytes: Size of the io region, which starts at 0.
        arena_bytes: Size of the arena, which follows it.
        arena_bound: Bytes that no plan can undercut.
        unshared_bytes: What the arena's tensors would take with a buffer each.
    """

    locations: dict[str, Location]
    lifetimes: dict[str, Lifetime]
    io_bytes: int
    arena_bytes: int
    arena_bound: int
    unshared_bytes: int

    @property
    def total_bytes(self) -> int:
        """Bytes of the activation memory."""
        return self.io_bytes + self.arena_bytes


def plan_memory(
    graph: IntGraph, placements: dict[str, Placement], program: list[Command], config: AcceleratorConfig
) -> MemoryPlan:
    """Give every tensor an address.

    Args:
        graph: The network.
        placements: Which tensors share memory.
        program: The commands, which decide lifetimes and what may happen in place.
        config: Lanes and alignment.

    Returns:
        The memory map.

    Raises:
        ExportError: The memory exceeds 4 GiB.
    """
    roots = {place.root for place in placements.values()}
    sizes = {root: _align(_tensor_bytes(graph, root, config), config.align) for root in roots}
    lifetimes = _lifetimes(graph, placements, program, sizes, config)
    io_roots = [INPUT, *dict.fromkeys(placements[output.tensor].root for output in graph.outputs)]
    offsets: dict[str, int] = {}
    position = 0
    for root in io_roots:
        offsets[root] = position
        position += sizes[root]
    arena = sorted((lifetimes[root] for root in roots - set(io_roots)), key=lambda b: (b.first, b.name))
    arena_offsets, arena_bytes = pack_arena(arena)
    offsets |= {name: position + offset for name, offset in arena_offsets.items()}
    if position + arena_bytes > MAX_ADDRESS:
        raise ExportError(
            f"{graph.name}: activations need {position + arena_bytes} bytes, at most 4 GiB are addressable"
        )
    return MemoryPlan(
        locations={name: _locate(graph, name, place, offsets, config) for name, place in placements.items()},
        lifetimes=lifetimes,
        io_bytes=position,
        arena_bytes=arena_bytes,
        arena_bound=lower_bound(arena),
        unshared_bytes=sum(buffer.size for buffer in arena),
    )


def tensor_lanes(graph: IntGraph, name: str, config: AcceleratorConfig) -> int:
    """Return the channels of one pixel's piece: L, or `IMAGE_LANES` for an image with few channels."""
    return IMAGE_LANES if name == INPUT and graph.tensors[name].shape.c <= IMAGE_LANES else config.lanes


def _tensor_bytes(graph: IntGraph, name: str, config: AcceleratorConfig) -> int:
    info, lanes = graph.tensors[name], tensor_lanes(graph, name, config)
    blocks = -(-info.shape.c // lanes)
    return blocks * info.shape.h * info.shape.w * lanes * info.fmt.storage_bytes


def _locate(
    graph: IntGraph, name: str, place: Placement, offsets: dict[str, int], config: AcceleratorConfig
) -> Location:
    info, lanes = graph.tensors[name], tensor_lanes(graph, name, config)
    block_bytes = info.shape.h * info.shape.w * lanes * info.fmt.storage_bytes
    return Location(
        offset=offsets[place.root] + place.channel // lanes * block_bytes,
        bytes=_tensor_bytes(graph, name, config),
        lanes=lanes,
        element_bytes=info.fmt.storage_bytes,
        root=place.root,
        channel=place.channel,
    )


def _lifetimes(
    graph: IntGraph,
    placements: dict[str, Placement],
    program: list[Command],
    sizes: dict[str, int],
    config: AcceleratorConfig,
) -> dict[str, Lifetime]:
    end = len(program)
    first = {INPUT: -1}
    last: dict[str, int] = {}
    for i, command in enumerate(program):
        first.setdefault(placements[command.output].root, i)
        for name in (command.output, *command.inputs):
            last[placements[name].root] = i
    for output in graph.outputs:
        last[placements[output.tensor].root] = end
    reuses = _reuses(graph, placements, program, last, config)
    return {
        root: Lifetime(root, size, first.get(root, 0), last.get(root, end), reuses.get(root, ()))
        for root, size in sizes.items()
    }


def _reuses(
    graph: IntGraph,
    placements: dict[str, Placement],
    program: list[Command],
    last: dict[str, int],
    config: AcceleratorConfig,
) -> dict[str, tuple[str, ...]]:
    """Return for every root the roots it may overwrite while its command runs (see `streams_in_place`)."""
    reuses: dict[str, tuple[str, ...]] = {}
    for i, command in enumerate(program):
        if placements[command.output] != Placement(command.output, 0):
            continue
        dying = [
            name
            for name in streams_in_place(graph, command, config)
            if placements[name] == Placement(name, 0) and last[name] == i and command.inputs.count(name) == 1
        ]
        if dying:
            reuses[command.output] = tuple(dying)
    return reuses


def streams_in_place(graph: IntGraph, command: Command, config: AcceleratorConfig) -> list[str]:
    """Return the inputs whose bytes a command reads before it writes at or below their addresses.

    Element by element commands go through inputs and output in step. A max pool whose windows do not overlap takes full
    rows of min(TM, TN) channels at a time, and its output never catches up with what it has yet to read, if these
    channels are one piece of memory or all rows are one tile.
    """
    shape, out = graph.tensors[command.output].shape, graph.tensors[command.output].fmt.storage_bytes
    same_width = [name for name in command.inputs if graph.tensors[name].fmt.storage_bytes == out]
    node = graph.node(command.node)
    if command.op is CommandOp.ADD:
        return same_width
    if command.op is CommandOp.MUL:
        return same_width[:1] if command.inputs[0] in same_width else []
    if command.op is CommandOp.MAXPOOL and isinstance(node, N.MaxPool):
        window = node.window
        in_step = command.tile.w == shape.w and (config.channels == config.lanes or command.tile.h == shape.h)
        return same_width if in_step and window.size == window.stride and window.pad == (0, 0) else []
    return []


def _align(value: int, alignment: int) -> int:
    return -(-value // alignment) * alignment
