# SPDX-License-Identifier: Apache-2.0
"""The rule for everything that moves elements: run it on channel numbers and see where they come out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from yolo_hw.prune.channels import Value
from yolo_hw.prune.example_trace import EXAMPLE
from yolo_hw.prune.movement import Tracked, channel_axis, joined_positions, squeeze_constant
from yolo_hw.prune.torch_walk import Call, Known, Stored, map_size, plain


def move(call: Call) -> Known:
    """Follow channels (or the elements of one parameter) through an operation that only moves elements."""
    nodes = [node for node in call.node.all_input_nodes if isinstance(node.meta[EXAMPLE], (Tensor, tuple, list))]
    nodes = [node for node in nodes if not isinstance(node.meta[EXAMPLE], torch.Size)]
    if call.name == "getitem" and nodes and isinstance(nodes[0].meta[EXAMPLE], (tuple, list)):
        return _part(call, nodes[0])
    known = {node: call.known(node) for node in nodes}
    stored = [part for part in known.values() if isinstance(part, Stored)]
    if stored:
        if len(nodes) == 1 and stored[0].numbers is not None:
            return _move_stored(call, nodes[0], stored[0])
        return call.unknown("parameters beside channels" if call.name == "cat" else "moved by the numbers in a tensor")
    if not any(isinstance(part, Tracked) for part in known.values()):
        return None
    parts: dict[fx.Node, Tracked] = {}
    for node in nodes:
        part = known[node]
        if isinstance(part, Tracked):
            parts[node] = part
        elif call.name == "cat":
            axis = call.number(1, "dim", 0) % len(call.shape)
            parts[node] = call.given(axis, tuple(node.meta[EXAMPLE].shape), "made without channels")
        else:
            return call.unknown("moved by the numbers in a tensor")
    return _move_tracked(call, parts)


def run_on(call: Call, numbers: dict[fx.Node, Tensor]) -> Any:  # noqa: ANN401
    """Return the result of a call with some arguments replaced."""

    def replaced(node: fx.Node) -> Any:  # noqa: ANN401
        return numbers[node] if node in numbers else node.meta[EXAMPLE]

    args, kwargs = fx.node.map_arg((call.node.args, call.node.kwargs), replaced)
    return call.walk.traced.execute(call.node, args, kwargs, call.walk.traced.module)


def _part(call: Call, source: fx.Node) -> Known:
    """Take one tensor of a tuple."""
    known, index = call.known(source), call.number(1, "index")
    return known[index] if isinstance(known, tuple) and isinstance(index, (int, slice)) else None


def _move_stored(call: Call, node: fx.Node, stored: Stored) -> Known:
    assert stored.numbers is not None
    result = run_on(call, {node: stored.numbers.expand(stored.shape)})
    if not isinstance(result, Tensor):
        return None
    return Stored(stored.path, tuple(result.shape), stored.dim, squeeze_constant(result))


def _move_tracked(call: Call, parts: dict[fx.Node, Tracked]) -> Known:
    inputs = list(parts.values())
    if len(inputs) > 1:
        inputs = [plain(call, part) for part in inputs]
    if call.name == "channel_shuffle":
        groups = call.module.groups if isinstance(call.module, nn.ChannelShuffle) else call.number(1, "groups")
        call.builder.couple(inputs[0].value.labels.reshape(groups, -1))
    positions = [numbers.contiguous() for numbers in joined_positions(inputs)]  # `view` asks for it
    result = run_on(call, dict(zip(parts, positions, strict=True)))
    values = [part.value for part in inputs]
    if isinstance(result, Tensor):
        return _arrived(call, values, result)
    return tuple(_arrived(call, values, part) for part in result)


def _arrived(call: Call, values: Sequence[Value], result: Tensor) -> Tracked | None:
    """Describe a result by the positions of its elements in the concatenation of `values`."""
    shape, numbers = tuple(result.shape), squeeze_constant(result)
    varying = [dim for dim, size in enumerate(numbers.shape) if size > 1]
    axis: int | None = 1 if not varying and len(shape) > 1 and shape[1] == 1 else None
    if varying and 0 not in varying:
        axis = varying[0] if len(varying) == 1 else channel_axis(numbers)
    if axis is None:
        call.unknown("no axis of its result numbers the channels")
        return None
    builder, size = call.builder, map_size(shape, axis)
    if len(varying) <= 1:
        sources = np.array(numbers.reshape(-1).numpy(), np.int64)
        in_order = np.array_equal(sources, np.arange(sum(value.channels for value in values)))
        return Tracked(builder.moved(values, call.layer, None if in_order else sources, size), shape, axis)
    value = values[0] if len(values) == 1 else builder.moved(values, call.layer, None, size)
    for row in numbers.movedim(axis, 0).flatten(1):
        builder.couple(value.labels[row.unique().numpy()][:, None])
    return Tracked(value, shape, axis, numbers)
