# SPDX-License-Identifier: Apache-2.0
"""The channel graph of any traceable torch module. The table of rules is `RULES`, at the end."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor, fx, nn

from yolo_hw.prune import torch_layers as T
from yolo_hw.prune.channels import ChannelGraph, IntArray, Slot
from yolo_hw.prune.example_trace import EXAMPLE, Inputs, Traced, trace_example
from yolo_hw.prune.movement import Tracked, along
from yolo_hw.prune.torch_moves import move
from yolo_hw.prune.torch_names import JOINS, MEANS, MOVES, POINTWISE, POOLS, SIZES, UNCHANGED, operation_name
from yolo_hw.prune.torch_walk import Call, Known, Stored, Walk, map_size


@dataclass(frozen=True, eq=False)
class TracedChannels:
    """A traced module and its channels.

    Attributes:
        traced: The graph of the code.
        graph: The channel graph; paths are keys of the module's state dict.
        results: Node -> where the channels of its result are.
        stored_ids: Path of a tensor that elementwise operations use -> its channel ids.
    """

    traced: Traced
    graph: ChannelGraph
    results: Mapping[fx.Node, Known]
    stored_ids: Mapping[str, IntArray]


def trace_channels(module: nn.Module, example: Tensor | Inputs, way: str = "auto") -> ChannelGraph:
    """Return the channel graph of a module.

    Inputs, outputs and whatever an operation reads for which there is no rule are protected, with the operation and the
    module it is in as the reason.

    Args:
        module: A module whose tensors have channels along axis 1, in the mode it will be used in.
        example: Its arguments.
        way: See `trace_example`.

    Returns:
        The graph; paths of its slots are keys of the module's state dict.

    Raises:
        PruneError: The module cannot be traced.
    """
    return trace_model(module, example, way).graph


def trace_model(module: nn.Module, example: Tensor | Inputs, way: str = "auto") -> TracedChannels:
    """Return the channel graph of a module and where each tensor of its code has the channels, see `trace_channels`."""
    traced = trace_example(module, example, way)
    walk = Walk(traced, paths=frozenset(module.state_dict()), uses=_uses(traced.graph))
    same: dict[int, list[fx.Node]] = defaultdict(list)
    for node in traced.graph.nodes:
        result = _visit(walk, node)
        walk.known[node] = walk.results[node] = result
        value = node.meta.get(EXAMPLE)
        if isinstance(value, Tensor):
            same[id(value)].append(node)
            for earlier in same[id(value)]:  # one tensor that is written in place
                walk.known[earlier] = result
    _join_repeated(walk)
    _protect_tied(walk)
    _free_normed(walk)
    return TracedChannels(traced, walk.builder.build(), walk.results, walk.stored_ids)


def _uses(graph: fx.Graph) -> Counter[str]:
    """Return how often each module is called and each parameter read as a weight."""
    called = [str(node.target) for node in graph.nodes if node.op == "call_module"]
    functions = [node for node in graph.nodes if node.op == "call_function" and len(node.args) > 1]
    weights = [node.args[1] for node in functions]
    return Counter(called + [str(w.target) for w in weights if isinstance(w, fx.Node) and w.op == "get_attr"])


def _visit(walk: Walk, node: fx.Node) -> Known:
    if node.op == "placeholder":
        return _input(walk, node)
    if node.op == "get_attr":
        return _stored(walk, node)
    if node.op == "output":
        _outputs(walk, node)
        return None
    module = walk.traced.module.get_submodule(str(node.target)) if node.op == "call_module" else None
    call = Call(walk, node, operation_name(node, module), module)
    return RULES.get(call.name, T.unknown)(call)


def _input(walk: Walk, node: fx.Node) -> Known:
    value = node.meta[EXAMPLE]
    if not isinstance(value, Tensor) or value.dim() < 2:
        return None
    shape = tuple(value.shape)
    size = map_size(shape, 1)
    given = walk.builder.input(shape[1], *size)
    return Tracked(walk.builder.moved([given], node.name, None, size), shape, 1)


def _stored(walk: Walk, node: fx.Node) -> Known:
    shape = tuple(node.meta[EXAMPLE].shape)
    dims = [dim for dim, size in enumerate(shape) if size > 1]
    if len(dims) != 1:
        return Stored(str(node.target), shape)
    return Stored(str(node.target), shape, dims[0], along(np.arange(shape[dims[0]]), dims[0], shape))


def _outputs(walk: Walk, node: fx.Node) -> None:
    for source in node.all_input_nodes:
        known = walk.known[source]
        for part in known if isinstance(known, tuple) else (known,):
            if isinstance(part, Tracked):
                walk.builder.output(part.value, f"output of the network ({source.name})")


def _join_repeated(walk: Walk) -> None:
    """Make channels one where a tensor is used twice, and name it once."""
    builder, first = walk.builder, dict[tuple[str, int], Slot]()
    for slot in builder.slots:
        known = first.setdefault((slot.path, slot.dim), slot)
        if known is not slot:
            builder.couple(np.stack([known.labels, slot.labels]))
    builder.slots[:] = first.values()


def _protect_tied(walk: Walk) -> None:
    """Protect channels of tensors that have several names, because a change under one would not reach the other."""
    names = defaultdict(list)
    for path, tensor in walk.traced.module.state_dict(keep_vars=True).items():
        names[id(tensor)].append(path)
    tied = {path: paths for paths in names.values() if len(paths) > 1 for path in paths}
    for slot in walk.builder.slots:
        if slot.path in tied:
            reason = f"one tensor under several names: {', '.join(tied[slot.path])}"
            walk.builder.protect(walk.builder.value(slot.labels, 1, 1), reason)


def _free_normed(walk: Walk) -> None:
    """Let constants pass filters without bias if a norm follows that can take them up in its mean."""
    readers = defaultdict(list)
    for op in walk.builder.ops:
        for value in op.inputs:
            readers[value.index].append(op.norm)
    for index, op in enumerate(walk.builder.ops):
        after = readers[op.output.index]
        if op.filters is not None and op.filters.fixed_bias and len(after) == 1 and after[0] and after[0].mean:
            walk.builder.ops[index] = replace(op, filters=replace(op.filters, fixed_bias=False))


RULES: dict[str, Callable[[Call], Known]] = {
    **dict.fromkeys(MOVES, move),
    **dict.fromkeys(POINTWISE, T.pointwise),
    **dict.fromkeys(UNCHANGED, T.unchanged),
    **dict.fromkeys(POOLS, T.pool),
    **dict.fromkeys(MEANS, T.mean),
    **dict.fromkeys(JOINS, T.join),
    **dict.fromkeys(SIZES, T.size),
    **dict.fromkeys(("layer_norm", "group_norm", "LayerNorm", "GroupNorm"), T.group_norm),
    "conv": T.conv,
    "linear": T.linear,
    "batch_norm": T.norm,
    "instance_norm": T.norm,
    "prelu": T.prelu,
    "div": T.divide,
    "pad": T.pad,
}
"""Operation, see `torch_names` -> its rule; what is not here protects the channels it reads."""
