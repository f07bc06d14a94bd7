# SPDX-License-Identifier: Apache-2.0
"""Replaying the memory map: proof that no byte is overwritten while somebody still needs it.

Independent of the planner: it knows only the program and every tensor's address. A shadow of the activation memory
holds, for every word, which node wrote it last. Each command must find its inputs' words owned by the nodes that
produce them, and then claims its output's words. Where a command writes onto its own inputs, the order of its reads and
writes is replayed row by row.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hls_export.plan import AcceleratorPlan, Command, CommandOp, Location
from yolo_hw.darknet.layers import Shape
from yolo_hw.errors import BundleError
from yolo_hw.intgraph import nodes as N
from yolo_hw.intgraph.graph import INPUT

Span = tuple[int, int]
"""Bytes [start, stop) of the activation memory."""


def replay_memory(plan: AcceleratorPlan) -> int:
    """Check addresses and replay the program.

    Returns:
        The number of words checked.

    Raises:
        BundleError: A tensor lies outside of the memory, is misaligned, or would be read after being overwritten; names
            tensors, record and address.
    """
    for name, location in plan.memory.locations.items():
        _check_location(plan, name, location)
    _check_total(plan)
    shadow = _Shadow(plan)
    shadow.claim(INPUT, _extent(plan, INPUT))
    for i, command in enumerate(plan.program):
        for name in command.inputs:
            shadow.check(i, name)
        _check_order(plan, i, command)
        shadow.claim(command.node, _written(plan, command))
    for output in plan.graph.outputs:
        shadow.check(len(plan.program), output.tensor)
    return shadow.checked


class _Shadow:
    """Which node wrote each word of the activation memory last."""

    def __init__(self, plan: AcceleratorPlan) -> None:
        self.plan = plan
        self.checked = 0
        self._names = [INPUT, *(node.name for node in plan.graph.nodes)]
        self._number = {name: i for i, name in enumerate(self._names)}
        self._owner = np.full(-(-plan.memory.total_bytes // plan.config.lanes), -1, np.int32)

    def claim(self, writer: str, span: Span) -> None:
        """Note that `writer` has written the words of `span`."""
        self._owner[self._words(span)] = self._number[writer]

    def check(self, record: int, name: str) -> None:
        """Check that every word of a tensor was written last by a node that produces it."""
        span = _extent(self.plan, name)
        found = self._owner[self._words(span)]
        wrong = ~np.isin(found, [self._number[producer] for producer in _producers(self.plan, name)])
        if wrong.any():
            at = int(wrong.argmax())
            other = self._names[int(found[at])] if found[at] >= 0 else "nobody"
            address = span[0] + at * self.plan.config.lanes
            raise BundleError(
                f"memory map: record {record} reads {name} at byte {address}, but {other} has written there last"
            )
        self.checked += int(found.size)

    def _words(self, span: Span) -> slice:
        return slice(span[0] // self.plan.config.lanes, -(-span[1] // self.plan.config.lanes))


def _check_total(plan: AcceleratorPlan) -> None:
    """Check the size of the memory before a shadow of it is made: no plan needs more than a buffer for each tensor."""
    enough = sum(location.bytes + plan.config.align for location in plan.memory.locations.values())
    if plan.memory.total_bytes > enough:
        raise BundleError(
            f"memory map: the activation memory has {plan.memory.total_bytes} bytes, the tensors need at most {enough}"
        )


def _check_location(plan: AcceleratorPlan, name: str, location: Location) -> None:
    info = plan.graph.tensors[name]
    expected = (
        -(-info.shape.c // location.lanes) * location.lanes * info.shape.h * info.shape.w * info.fmt.storage_bytes
    )
    if location.bytes != expected or location.element_bytes != info.fmt.storage_bytes:
        raise BundleError(f"memory map: {name} needs {expected} bytes, the map gives it {location.bytes}")
    if location.offset % plan.config.lanes:
        raise BundleError(f"memory map: {name} must start at a multiple of {plan.config.lanes}, got {location.offset}")
    if location.offset + location.bytes > plan.memory.total_bytes:
        raise BundleError(
            f"memory map: {name} ends at byte {location.offset + location.bytes}, the activation memory has "
            f"{plan.memory.total_bytes}"
        )


def _producers(plan: AcceleratorPlan, name: str) -> set[str]:
    """Return the nodes that write a tensor: its own, and for concats and slices by address those of the inputs."""
    if name == INPUT:
        return {INPUT}
    node = plan.graph.node(name)
    written = {command.node for command in plan.program}
    found = {name} if name in written else set()
    if isinstance(node, (N.Concat, N.Slice)):
        for source in node.inputs:
            found |= _producers(plan, source)
    return found


def _extent(plan: AcceleratorPlan, name: str) -> Span:
    location = plan.memory.locations[name]
    return location.offset, location.offset + location.bytes


def _written(plan: AcceleratorPlan, command: Command) -> Span:
    """Return the bytes a command writes: whole blocks of the output, or the blocks of the copied channels."""
    location, info = plan.memory.locations[command.output], plan.graph.tensors[command.output]
    block = info.shape.h * info.shape.w * location.lanes * location.element_bytes
    first = command.out_channel // location.lanes
    last = -(-(command.out_channel + command.channels) // location.lanes)
    return location.offset + first * block, location.offset + last * block


def _check_order(plan: AcceleratorPlan, record: int, command: Command) -> None:
    """Where output and an input overlap, check that no step writes what a later step reads."""
    low, high = _written(plan, command)
    for name in command.inputs:
        start, stop = _extent(plan, name)
        if stop <= low or high <= start:
            continue
        steps = list(_steps(plan, command, name))
        if not steps:
            raise BundleError(
                f"memory map: record {record} ({command.node}) writes bytes {low} to {high} onto its input {name}, "
                f"which a {command.op.name} command cannot do in place"
            )
        unread = np.zeros(stop - start, bool)
        for reads, writes in reversed(steps):
            for first, last in writes:
                overwritten = unread[max(first - start, 0) : max(last - start, 0)]
                if overwritten.any():
                    at = max(first, start) + int(overwritten.argmax())
                    raise BundleError(
                        f"memory map: record {record} ({command.node}) overwrites byte {at} of its input {name} "
                        "before it has read it"
                    )
            for first, last in reads:
                unread[first - start : last - start] = True


def _steps(plan: AcceleratorPlan, command: Command, name: str) -> Iterator[tuple[list[Span], list[Span]]]:
    """Yield (bytes read of `name`, bytes written) in the accelerator's order; nothing if it has no fixed order.

    A step of a max pool is a tile of rows of all the pieces that make up min(TM, TN) channels.
    """
    source, out = plan.memory.locations[name], plan.memory.locations[command.output]
    in_shape, out_shape = plan.graph.tensors[name].shape, plan.graph.tensors[command.output].shape
    pieces = 1
    if command.op in (CommandOp.ADD, CommandOp.MUL) and in_shape == out_shape:
        rows = [(y, y + 1, y, y + 1) for y in range(out_shape.h)]
    elif command.op is CommandOp.MAXPOOL and command.tile.w == out_shape.w:
        node = plan.graph.node(command.node)
        assert isinstance(node, N.MaxPool)
        pieces = plan.config.channels // plan.config.lanes
        rows = []
        for y in range(0, out_shape.h, command.tile.h):
            stop = min(y + command.tile.h, out_shape.h)
            first = y * node.window.stride[0] - node.window.pad[0]
            last = (stop - 1) * node.window.stride[0] - node.window.pad[0] + node.window.size[0]
            rows.append((max(first, 0), min(last, in_shape.h), y, stop))
    else:
        return
    blocks = -(-out_shape.c // source.lanes)
    for group in range(0, blocks, pieces):
        members = range(group, min(group + pieces, blocks))
        for read_first, read_last, write_first, write_last in rows:
            yield (
                [_rows(source, in_shape, block, read_first, read_last) for block in members],
                [_rows(out, out_shape, block, write_first, write_last) for block in members],
            )


def _rows(location: Location, shape: Shape, block: int, first: int, last: int) -> Span:
    row = shape.w * location.lanes * location.element_bytes
    start = location.offset + block * shape.h * row
    return start + first * row, start + last * row
