# SPDX-License-Identifier: Apache-2.0
"""Groups: channels that are interchangeable, found from a channel graph.

A *unit* is what has to be pruned together: one channel of a plain convolution, or the same channel of every layer of a
residual chain. Units that appear in exactly the same places form a *group*; a method decides how many of its units to
keep and which.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from yolo_hw.errors import PruneError, nearest
from yolo_hw.prune.channels import ChannelGraph, Filters, IntArray, NormPaths, Op


@dataclass(frozen=True, eq=False)
class Member:
    """A layer that makes channels of a group.

    Attributes:
        name: The layer.
        kind: ``conv``, ``depthwise``, ``linear`` or ``norm`` (a normalisation that follows no filters directly).
        filters: Its filters, None for a norm alone.
        norm: The batch norm directly after them, or None.
        positions: Positions of its output channels that are in the group.
        units: Index in the group of the channel at each of these positions.
    """

    name: str
    kind: str
    filters: Filters | None
    norm: NormPaths | None
    positions: IntArray
    units: IntArray


@dataclass(frozen=True, eq=False)
class Group:
    """Units that are interchangeable.

    Attributes:
        name: Name of the first layer that makes them, with the range of its channels where it makes those of several.
        units: Numbers of the units in the graph, in order of appearance.
        members: Layers that make the channels, in graph order.
        consumers: Layers that read them.
        joined: Whether a sum joins channels of several layers.
        why_protected: Why they cannot be pruned, or None.
        why_follows: Why their number follows from another group, or None.
    """

    name: str
    units: IntArray
    members: tuple[Member, ...]
    consumers: tuple[str, ...]
    joined: bool
    why_protected: str | None = None
    why_follows: str | None = None

    @property
    def size(self) -> int:
        """Number of units."""
        return len(self.units)

    @property
    def prunable(self) -> bool:
        """Whether a method may choose how many units to keep."""
        return self.why_protected is None and self.why_follows is None

    def details(self) -> str:
        """Return a description of several lines: makers, readers, and what stands in the way of pruning."""
        why = self.why_protected or self.why_follows
        lines = [f"group {self.name}: {self.size} units" + (f" ({why})" if why else "")]
        for member in self.members:
            copies = len(member.positions) // max(self.size, 1)
            times = "" if copies == 1 else f", {copies} channels for each unit"
            norm = ", batch norm" if member.norm and member.filters else ""
            lines.append(f"  made by {member.kind} {member.name}{norm}{times}")
        lines += [f"  read by {name}" for name in self.consumers]
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.details()


class ChannelGroups(Mapping[str, Group]):
    """Every group of a graph by its name, in graph order.

    Attributes:
        graph: The graph.
        group_of: [units] index of each unit's group.
        place_of: [units] index of each unit in its group.
    """

    def __init__(self, graph: ChannelGraph) -> None:
        """Find the groups of `graph`."""
        self.graph = graph
        units = _units_by_place(graph)
        self.group_of = np.full(graph.num_units, -1, np.int64)
        self.place_of = np.zeros(graph.num_units, np.int64)
        for index, members in enumerate(units):
            self.group_of[members] = index
            self.place_of[members] = np.arange(len(members))
        self._groups = {group.name: group for group in _describe(self, units)}
        self._order = list(self._groups)
        self._numbers = {name: number for number, name in enumerate(self._order)}

    def __getitem__(self, name: str) -> Group:
        if name not in self._groups:
            raise PruneError(f"groups: there is no group '{name}'{nearest(name, self._groups)}")
        return self._groups[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._groups)

    def __len__(self) -> int:
        return len(self._groups)

    @property
    def prunable(self) -> tuple[Group, ...]:
        """The groups a method may choose from."""
        return tuple(group for group in self._groups.values() if group.prunable)

    def at(self, labels: IntArray) -> tuple[IntArray, IntArray]:
        """Return (index of the group, index in the group) of each channel id."""
        units = self.graph.unit_of[labels]
        return self.group_of[units], self.place_of[units]

    def name_of(self, index: int) -> str:
        """Return the name of group number `index`."""
        return self._order[index]

    def number_of(self, name: str) -> int:
        """Return the number of a group."""
        return self._numbers[name]

    @cached_property
    def sizes(self) -> IntArray:
        """[groups] Number of units of each group."""
        return np.array([group.size for group in self._groups.values()], np.int64)

    def copies(self, labels: Sequence[IntArray]) -> IntArray:
        """Return [labels, groups] how many positions of each array of ids one unit of each group has."""
        rows = np.zeros((len(labels), len(self)), np.int64)
        for row, ids in enumerate(labels):
            rows[row] = np.bincount(self.at(ids)[0], minlength=len(self)) // self.sizes
        return rows

    @cached_property
    def slot_copies(self) -> IntArray:
        """[slots, groups] `copies` of every slot of the graph."""
        return self.copies([slot.labels for slot in self.graph.slots])

    def completed(self, counts: IntArray) -> IntArray:
        """Return [n, groups] numbers of units with those of followers worked out from their leaders'."""
        counts = counts.copy()
        for follower in self.graph.followers:
            own, _ = self.at(follower.labels[:1])
            leaders = counts @ self.copies([follower.leaders])[0]
            counts[:, own[0]] = [follower.count(count) for count in leaders.tolist()]
        return counts

    def veto(self, reasons: Mapping[str, str]) -> ChannelGroups:
        """Return the same groups with some of them protected.

        Args:
            reasons: Name of a group -> why it must stay as it is.

        Returns:
            New groups; these stay as they are.

        Raises:
            PruneError: There is no such group.
        """
        for name in reasons:
            self[name]
        vetoed = copy.copy(self)
        vetoed._groups = {
            name: replace(group, why_protected=reasons.get(name, group.why_protected))
            for name, group in self._groups.items()
        }
        return vetoed

    def details(self) -> str:
        """Return the description of every group."""
        return "\n".join(group.details() for group in self.values())


def _units_by_place(graph: ChannelGraph) -> list[IntArray]:
    """Return the units of each group: those with the same slots, protection and leaders, in order of appearance."""
    keys: list[list[int]] = [[] for _ in range(graph.num_units)]
    first = np.full(graph.num_units, np.iinfo(np.int64).max)
    clock = 0
    for index, slot in enumerate(graph.slots):
        units = graph.unit_of[slot.labels]
        counts = np.bincount(units, minlength=graph.num_units)
        mine = np.flatnonzero(counts)
        for unit, count in zip(mine.tolist(), counts[mine].tolist(), strict=True):
            keys[unit] += (index, count)
        np.minimum.at(first, units, clock + np.arange(len(units)))
        clock += len(units)
    for number, op in enumerate(graph.ops):  # values of no slot: what an unknown operation reads and writes
        labels = np.concatenate([value.labels for value in (*op.inputs, op.output)])
        for unit in np.unique(graph.unit_of[labels]).tolist():
            if not keys[unit]:
                keys[unit].append(-1 - number)
                first[unit] = clock + number
    for number, follower in enumerate(graph.followers):
        for unit in np.unique(graph.unit_of[follower.leaders]).tolist():
            keys[unit].append(-1 - len(graph.ops) - number)
    by_place: dict[object, list[int]] = defaultdict(list)
    for unit in np.argsort(first, kind="stable").tolist():
        if keys[unit]:
            by_place[(tuple(keys[unit]), graph.protected.get(unit))].append(unit)
    return [np.array(units, np.int64) for units in by_place.values()]


def _describe(groups: ChannelGroups, units: Sequence[IntArray]) -> Iterator[Group]:
    """Name the groups and collect who makes and reads them."""
    graph = groups.graph
    members: list[list[Member]] = [[] for _ in units]
    consumers: list[dict[str, None]] = [{} for _ in units]
    joined: set[int] = set()
    for op, norm in _makers(graph):
        for index, positions, places in _split(groups, op.output.labels):
            kind = graph.layers[op.layer]
            members[index].append(Member(op.layer, kind, op.filters, norm, positions, places))
    for op in graph.ops:
        if op.kind == "filters" and not op.whole_groups:
            for index, _, _ in _split(groups, op.inputs[0].labels):
                consumers[index].setdefault(op.layer)
        if op.kind == "sum" and len(op.inputs) > 1:
            joined.update(index for index, _, _ in _split(groups, op.output.labels))
    follows = {
        int(unit): follower.why for follower in graph.followers for unit in graph.unit_of[follower.labels].tolist()
    }
    taken: set[str] = set()
    for index, numbers in enumerate(units):
        first = int(numbers[0])
        name = _name(members[index], index, taken)
        taken.add(name)
        yield Group(
            name,
            numbers,
            tuple(members[index]),
            tuple(consumers[index]),
            index in joined,
            graph.protected.get(first),
            follows.get(first),
        )


def norms_after(graph: ChannelGraph) -> dict[int, Op]:
    """Return value -> the norm that is its only reader."""
    readers: dict[int, list[Op]] = defaultdict(list)
    for op in graph.ops:
        for value in op.inputs:
            readers[value.index].append(op)
    return {index: ops[0] for index, ops in readers.items() if len(ops) == 1 and ops[0].kind == "norm"}


def _makers(graph: ChannelGraph) -> Iterator[tuple[Op, NormPaths | None]]:
    """Yield every operation that makes or scales channels, filters with the norm that directly follows them."""
    after = norms_after(graph)
    merged = {after[op.output.index].output.index for op in graph.ops if op.filters and op.output.index in after}
    for op in graph.ops:
        if op.kind == "filters":
            norm = after.get(op.output.index)
            yield op, norm.norm if norm else None
        elif op.kind == "norm" and op.output.index not in merged:
            yield op, op.norm


def _split(groups: ChannelGroups, labels: IntArray) -> Iterator[tuple[int, IntArray, IntArray]]:
    """Yield (index of a group, its positions in `labels`, their places in the group)."""
    index, place = groups.at(labels)
    for number in dict.fromkeys(index.tolist()):
        positions = np.flatnonzero(index == number)
        yield number, positions, place[positions]


def _name(members: Sequence[Member], index: int, taken: set[str]) -> str:
    """Return the first maker's name, with its first and last channel where another group has that name."""
    if not members:
        return f"value_{index}"
    first = members[0]
    name = first.name
    if name in taken:
        name = f"{first.name}[{first.positions[0]}:{first.positions[-1] + 1}]"
    while name in taken:
        name += "'"
    return name
