# SPDX-License-Identifier: Apache-2.0
"""Numbers in traced code that count channels, set to what the kept channels need.

Most code counts its channels itself (``c // 2`` of ``x.shape``) and needs nothing. Where a number was fixed, as in
``split((64, 64), 1)`` or ``x[:, :64]``, or where halves are no longer equal, the operation gets new numbers. Which ones
is not guessed: every operation that moves elements is run on the channel ids of its compact inputs, and its result must
be the ids of the kept channels in their order.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from yolo_hw.errors import PruneError
from yolo_hw.prune.channels import IntArray
from yolo_hw.prune.example_trace import EXAMPLE, Traced, copy_graph
from yolo_hw.prune.movement import Tracked
from yolo_hw.prune.plan import PAD, PrunePlan
from yolo_hw.prune.positions import kept_positions
from yolo_hw.prune.torch_graph import TracedChannels
from yolo_hw.prune.torch_names import JOINS, MOVES, POINTWISE, operation_name
from yolo_hw.prune.torch_walk import Known, Stored

_NOTHING = PAD - 1
"""Id of the elements of tensors that hold no channels."""


@dataclass(frozen=True, eq=False)
class _Site:
    """A node of the new graph that moves channels along an axis, and what it should do.

    Attributes:
        node: Of the new graph.
        name: See `operation_name`.
        axis: Of the channels in its first input.
        before: [compact channels of the first input] ids.
        after: One [compact channels] list of ids per tensor of the result.
        axes: Axis of the channels of each tensor of the result.
    """

    node: fx.Node
    name: str
    axis: int
    before: IntArray
    after: Sequence[IntArray]
    axes: Sequence[int]


def fit_graph(channels: TracedChannels, plan: PrunePlan, small: nn.Module) -> tuple[fx.Graph, tuple[str, ...]]:
    """Return the traced code for a module with the kept channels.

    Args:
        channels: The traced module.
        plan: The choice, followers and carriers included.
        small: The module with compact parameters; it is executed on the example.

    Returns:
        A graph and the names of the nodes that got new numbers; with none the code is good as it is.

    Raises:
        PruneError: An operation cannot be made to do what the kept channels need.
    """
    nodes: dict[fx.Node, fx.Node] = {}
    graph = copy_graph(channels.traced.graph, nodes)
    fit = _Fit(channels, plan, small, nodes)
    changed = [node.name for node in channels.traced.graph.nodes if node.op != "output" and fit.visit(node)]
    graph.lint()
    return graph, tuple(changed)


class _Fit:
    """Walks over the old and the new graph together."""

    def __init__(
        self, channels: TracedChannels, plan: PrunePlan, small: nn.Module, nodes: Mapping[fx.Node, fx.Node]
    ) -> None:
        self.channels, self.plan, self.small, self.nodes = channels, plan, small, nodes
        self.traced: Traced = channels.traced
        self.old = {new: old for old, new in nodes.items()}
        self.values: dict[fx.Node, Any] = {}  # of the new nodes on the example
        self.ids: dict[fx.Node, Any] = {}  # old node -> ids of each element, tuples for tuples
        self.compact_ids: dict[fx.Node, Any] = {}  # new node -> the same of the kept ones

    def visit(self, old: fx.Node) -> bool:
        """Execute a node on the compact example; return whether it had to be changed."""
        new = self.nodes[old]
        if old.op == "placeholder":
            self._remember(old, old.meta[EXAMPLE])
            return False
        module = self.traced.module.get_submodule(str(old.target)) if old.op == "call_module" else None
        name = operation_name(old, module) if old.op != "get_attr" else "get_attr"
        changed = self._fit_move(old, name) if name in MOVES else self._fit_numbers(old, name)
        args, kwargs = self._arguments(new, self.values)
        try:
            value = self.traced.execute(new, args, kwargs, self.small)
        except RuntimeError as error:
            raise PruneError(f"{old.name} ({name}) does not take the kept channels: {error}") from None
        self._remember(old, value)
        return changed

    def _remember(self, old: fx.Node, value: Any) -> None:  # noqa: ANN401
        """Keep the value and, where the node did not get them from `_fit_move`, the ids of its elements."""
        new, known = self.nodes[old], self.channels.results[old]
        self.values[new] = value
        if old not in self.ids:
            self.ids[old], self.compact_ids[new] = self._ids_of(known), self._compact_of(known)
        tensors, parts = (value, known) if isinstance(known, tuple) else ((value,), (known,))
        for tensor, part in zip(tensors, parts, strict=True):
            if isinstance(part, Tracked) and tensor.shape[part.axis] != len(self._kept(part)):
                raise PruneError(
                    f"{old.name}: must have {len(self._kept(part))} channels along axis {part.axis} after pruning, "
                    f"got shape {tuple(tensor.shape)}"
                )

    def _kept(self, part: Tracked) -> IntArray:
        return kept_positions(self.plan, part.ids())

    def _ids_of(self, known: Known) -> Any:  # noqa: ANN401
        if isinstance(known, tuple):
            return tuple(self._ids_of(part) for part in known)
        if isinstance(known, Tracked):
            return torch.from_numpy(known.value.labels)[known.positions()]
        if isinstance(known, Stored) and known.path in self.channels.stored_ids and known.numbers is not None:
            return torch.from_numpy(self.channels.stored_ids[known.path])[known.numbers].expand(known.shape)
        return None

    def _compact_of(self, known: Known) -> Any:  # noqa: ANN401
        if isinstance(known, tuple):
            return tuple(self._compact_of(part) for part in known)
        ids = self._ids_of(known)
        if isinstance(known, Tracked):
            return _take(ids, known.axis, self._kept(known))
        axis = _axis(known)
        if ids is not None and axis is not None:
            labels = ids.movedim(axis, 0).reshape(ids.shape[axis], -1)[:, 0].numpy()
            return _take(ids, axis, kept_positions(self.plan, labels))
        return None

    def _arguments(self, node: fx.Node, values: Mapping[fx.Node, Any]) -> tuple[Any, Any]:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda one: values[one])
        return args, kwargs

    # --- operations that move elements

    def _fit_move(self, old: fx.Node, name: str) -> bool:
        """Make a movement bring the kept channels where they belong; return whether it had to be changed."""
        new, known = self.nodes[old], self.channels.results[old]
        sources = [node for node in old.all_input_nodes if self.ids.get(node) is not None]
        if not sources or known is None or (isinstance(known, Stored) and self._ids_of(known) is None):
            return False
        full = self._run(old, self.ids, {node: node.meta[EXAMPLE] for node in old.all_input_nodes})
        wanted = self._wanted(full, known)
        self.ids[old] = full
        self.compact_ids[new] = wanted
        if self._brings(new, wanted):
            return False
        axis = _axis(self.channels.results[sources[0]])
        axes = [_axis(part) for part in (known if isinstance(known, tuple) else (known,))]
        if axis is not None and None not in axes:
            tensors = wanted if isinstance(wanted, tuple) else (wanted,)
            found = [one for one in axes if one is not None]
            rows = [_row(tensor, one) for tensor, one in zip(tensors, found, strict=True)]
            site = _Site(new, name, axis, _row(self.compact_ids[self.nodes[sources[0]]], axis), rows, found)
            if name in REWRITES and REWRITES[name](site) and self._brings(new, wanted):
                return True
        raise PruneError(f"{old.name} ({name}): its numbers cannot be fitted to the kept channels; exclude its groups")

    def _wanted(self, full: Any, known: Known) -> Any:  # noqa: ANN401
        if isinstance(known, tuple):
            return tuple(self._wanted(tensor, part) for tensor, part in zip(full, known, strict=True))
        if isinstance(known, Tracked):
            return _take(full, known.axis, self._kept(known))
        return self._compact_of(known)

    def _run(self, node: fx.Node, ids: Mapping[fx.Node, Any], values: Mapping[fx.Node, Any]) -> Any:  # noqa: ANN401
        chosen = {one: _movable(ids.get(one), values[one]) for one in node.all_input_nodes}
        args, kwargs = self._arguments(node, chosen)
        return self.traced.execute(node, args, kwargs, self.small)

    def _brings(self, new: fx.Node, wanted: Any) -> bool:  # noqa: ANN401
        try:
            found = self._run(new, self.compact_ids, self.values)
        except (RuntimeError, IndexError):
            return False
        return _equal(found, wanted)

    # --- operations that compute

    def _fit_numbers(self, old: fx.Node, name: str) -> bool:
        """Set the groups of a functional convolution and padded channels; keep numbers that counted channels before."""
        new = self.nodes[old]
        if name == "conv" and old.op != "call_module":
            groups = int(_argument(old, 6, "groups", 1))
            source = self.channels.results[old.args[0]] if isinstance(old.args[0], fx.Node) else None
            weight = self.values[self.nodes[old.args[1]]] if isinstance(old.args[1], fx.Node) else None
            if groups == 1 or not isinstance(source, Tracked) or weight is None:
                return False
            return _set_argument(new, 6, "groups", len(self._kept(source)) // weight.shape[1])
        if name == "pad" and old.op != "call_module":
            return self._fit_pad(old)
        changed = False
        if name in POINTWISE or name in JOINS or name == "div":
            for one in list(new.all_input_nodes):
                before = self.old[one].meta[EXAMPLE]
                if not isinstance(before, Tensor) and before != self.values[one]:
                    new.replace_input_with(one, before)  # fx takes numbers here, too
                    changed = True
        return changed

    def _fit_pad(self, old: fx.Node) -> bool:
        new, known = self.nodes[old], self.channels.results[old]
        source = self.channels.results[old.args[0]] if isinstance(old.args[0], fx.Node) else None
        pads = list(_argument(old, 1, "pad", ()))
        if not isinstance(known, Tracked) or not isinstance(source, Tracked):
            return False
        where = 2 * (len(known.shape) - 1 - known.axis)
        if len(pads) <= where:
            return False
        labels, before = known.ids(), int(pads[where])
        after = before + source.shape[source.axis]
        parts = (labels[:before], labels[after:])
        pads[where : where + 2] = [len(kept_positions(self.plan, part)) if len(part) else 0 for part in parts]
        return _set_argument(new, 1, "pad", pads)


def _take(ids: Tensor, axis: int, kept: IntArray) -> Tensor:
    taken = ids.index_select(axis, torch.from_numpy(np.maximum(kept, 0)))
    added = np.flatnonzero(kept == PAD)
    return taken.index_fill(axis, torch.from_numpy(added), PAD) if len(added) else taken


def _axis(known: Known) -> int | None:
    """Return the axis that holds channels."""
    if isinstance(known, Tracked):
        return known.axis
    if isinstance(known, Stored) and known.numbers is not None:
        return int(np.argmax(known.numbers.shape))
    return None


def _row(ids: Tensor, axis: int) -> IntArray:
    return np.asarray(ids.movedim(axis, 0).reshape(ids.shape[axis], -1)[:, 0].numpy())


def _movable(ids: Any, value: Any) -> Any:  # noqa: ANN401
    """Return ids in place of a value: its own, one id of nothing for a tensor without channels, or the value."""
    if isinstance(ids, (tuple, list)):
        return tuple(_movable(*pair) for pair in zip(ids, value, strict=True))
    if ids is not None:
        return ids.contiguous()
    return torch.full(value.shape, _NOTHING) if isinstance(value, Tensor) else value


def _equal(found: Any, wanted: Any) -> bool:  # noqa: ANN401
    if isinstance(wanted, tuple):
        return len(found) == len(wanted) and all(_equal(a, b) for a, b in zip(found, wanted, strict=True))
    return wanted is None or torch.equal(found, wanted)


def _argument(node: fx.Node, position: int, key: str, default: Any) -> Any:  # noqa: ANN401
    return node.args[position] if position < len(node.args) else node.kwargs.get(key, default)


def _set_argument(node: fx.Node, position: int, key: str, value: Any) -> bool:  # noqa: ANN401
    """Set an argument; return whether it was another."""
    if _argument(node, position, key, None) == value:
        return False
    if position < len(node.args):
        node.update_arg(position, value)
    else:
        node.update_kwarg(key, value)
    return True


def _call(node: fx.Node, function: Any, *args: Any) -> bool:  # noqa: ANN401
    """Make a node call a function."""
    node.op, node.target, node.args, node.kwargs = "call_function", function, args, {}
    return True


def _sizes(site: _Site) -> list[Any]:
    given = site.node.args[1:] if len(site.node.args) > 1 else tuple(site.node.kwargs.values())
    return list(given[0] if len(given) == 1 and isinstance(given[0], (tuple, list)) else given)


def _fit_view(site: _Site) -> bool:
    """``view``, ``reshape``, ``expand``: the size of the axis that holds the channels."""
    sizes, axis = _sizes(site), site.axes[0]
    if axis >= len(sizes):
        return False
    sizes[axis] = len(site.after[0])
    function = torch.Tensor.expand if site.name == "expand" else torch.reshape
    return _call(site.node, function, site.node.args[0], sizes)


def _fit_unflatten(site: _Site) -> bool:
    """``unflatten``: the part of the channels."""
    node = site.node
    if node.op == "call_module" or len(node.args) < 3:
        return False
    dim, sizes = int(node.args[1]), list(node.args[2])  # type: ignore[arg-type]
    if not 0 <= site.axes[0] - dim < len(sizes):
        return False
    sizes[site.axes[0] - dim] = len(site.after[0])
    return _call(node, torch.unflatten, node.args[0], dim, sizes)


def _fit_split(site: _Site) -> bool:
    """``chunk``, ``split``: parts of the lengths that their kept channels have."""
    return _call(site.node, torch.split, site.node.args[0], [len(part) for part in site.after], site.axis)


def _fit_slice(site: _Site) -> bool:
    """``x[:, a:b]``, ``narrow``: the range, or the list, of the kept channels."""
    node, wanted = site.node, site.after[0]
    chosen = _window(site.before, wanted)
    if site.name != "getitem":
        index: list[Any] = [slice(None)] * site.axis + [chosen]
        return _call(node, operator.getitem, node.args[0], tuple(index))
    index = list(node.args[1]) if isinstance(node.args[1], tuple) else [node.args[1]]
    if any(part is None or isinstance(part, int) for part in index):
        return False
    if Ellipsis in index:
        at = index.index(Ellipsis)
        rank = site.node.args[0].meta[EXAMPLE].dim()  # type: ignore[union-attr]
        index[at : at + 1] = [slice(None)] * (rank - len(index) + 1)
    index[site.axis] = chosen
    return _call(node, operator.getitem, node.args[0], tuple(index))


def _window(before: IntArray, wanted: IntArray) -> slice | list[int]:
    """Return where the wanted ids lie: a range where they are one."""
    for start in np.flatnonzero(before == wanted[0]).tolist() if len(wanted) else []:
        if np.array_equal(before[start : start + len(wanted)], wanted):
            return slice(start, start + len(wanted))
    places = {int(one): place for place, one in reversed(list(enumerate(before)))}
    return [places[int(one)] for one in wanted]


REWRITES = {
    "view": _fit_view,
    "reshape": _fit_view,
    "expand": _fit_view,
    "unflatten": _fit_unflatten,
    "chunk": _fit_split,
    "split": _fit_split,
    "tensor_split": _fit_split,
    "getitem": _fit_slice,
    "narrow": _fit_slice,
    "slice": _fit_slice,
}
"""Operation -> what gives it new numbers."""
