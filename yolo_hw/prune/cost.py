# SPDX-License-Identifier: Apache-2.0
"""What a network costs for given numbers of kept units, without building it.

Every extent of every tensor is a linear function of the counts, so a choice is priced by one matrix product: a search
over thousands of choices takes no time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
from torch import nn

from yolo_hw.errors import PruneError, nearest
from yolo_hw.prune.channels import IntArray, Op
from yolo_hw.prune.groups import ChannelGroups


class CostKind(str, Enum):
    """What is counted."""

    CHANNELS = "channels"
    """Output channels of all convolutions and fully connected layers."""
    PARAMS = "params"
    """Learned numbers."""
    MACS = "macs"
    """Multiply-accumulates of one image."""
    BYTES = "bytes"
    """Bytes of quantised weights, and four for each bias."""
    CYCLES = "cycles"
    """Cycles of an accelerator, by a function of the layers' shapes."""


def find_cost_kind(name: CostKind | str) -> CostKind:
    """Return a kind of cost by name.

    Raises:
        PruneError: There is none of that name.
    """
    names = [kind.value for kind in CostKind]
    if name not in names:
        raise PruneError(f"cost: must be one of {', '.join(names)}, got '{name}'{nearest(name, names)}")
    return CostKind(name)


@dataclass(frozen=True)
class LayerShape:
    """What an accelerator needs to know of a convolution or fully connected layer.

    Attributes:
        name: The layer.
        out_channels: K.
        in_channels: C.
        groups: Of the convolution; equal to `in_channels` of a depthwise one.
        kernel: (R, S).
        height: Rows of the output.
        width: Columns of the output.
    """

    name: str
    out_channels: int
    in_channels: int
    groups: int
    kernel: tuple[int, int]
    height: int
    width: int


CycleEstimate = Callable[[Sequence[LayerShape]], float]
"""Shapes of all layers -> cycles of one image."""

Counts = Mapping[str, int]
"""Group -> kept units, added ones included; groups that are not named keep everything."""


class CostModel:
    """Prices choices of channels."""

    def __init__(
        self,
        groups: ChannelGroups,
        shapes: Mapping[str, tuple[int, ...]],
        *,
        weight_bits: int = 8,
        cycles: CycleEstimate | None = None,
    ) -> None:
        """Set up the linear functions.

        Args:
            groups: All groups.
            shapes: Shape of every learned tensor by its key.
            weight_bits: Bits of a stored weight.
            cycles: Prices `CostKind.CYCLES`.
        """
        self.groups = groups
        self.weight_bits = weight_bits
        self.cycles = cycles
        self._paths = list(shapes)
        self._dims = np.ones((len(shapes), max((len(s) for s in shapes.values()), default=1)), np.int64)
        for row, shape in enumerate(shapes.values()):
            self._dims[row, : len(shape)] = shape
        rows = {path: row for row, path in enumerate(self._paths)}
        slots = {(rows[s.path], s.dim): s.labels for s in groups.graph.slots if s.path in rows}
        self._where = np.array(list(slots), np.int64).reshape(-1, 2)
        self._per_unit = groups.copies(list(slots.values()))
        self._ops = [op for op in groups.graph.ops if op.filters is not None]
        self._op_rows = np.array([rows[op.filters.weight] for op in self._ops if op.filters], np.int64)
        self._op_inputs = groups.copies([op.inputs[0].labels for op in self._ops])
        self._pixels = np.array([op.filters.height * op.filters.width for op in self._ops if op.filters], np.int64)
        self._is_weight = np.array([len(shape) > 1 for shape in shapes.values()], bool)

    @classmethod
    def of_module(cls, groups: ChannelGroups, module: nn.Module, cycles: CycleEstimate | None = None) -> CostModel:
        """Return the prices of a module's channels; `groups` are those of `module`."""
        return cls(groups, {key: tuple(p.shape) for key, p in module.named_parameters()}, cycles=cycles)

    def _vector(self, counts: Counts) -> IntArray:
        """Return [1, groups] counts."""
        vector: IntArray = self.groups.sizes.copy()
        for name, count in counts.items():
            vector[self.groups.number_of(name)] = count
        return vector[None]

    def _extents(self, vectors: IntArray) -> IntArray:
        """Return [n, tensors, dims] the shape of every tensor."""
        dims: IntArray = np.repeat(self._dims[None], len(vectors), axis=0)
        dims[:, self._where[:, 0], self._where[:, 1]] = self.groups.completed(vectors) @ self._per_unit.T
        return dims

    def price(self, kind: CostKind | str, counts: Counts) -> float:
        """Return what a choice costs.

        Args:
            kind: What is counted.
            counts: See `Counts`.

        Raises:
            PruneError: There is no such kind, or cycles are asked for and no function gives them.
        """
        kind = find_cost_kind(kind)
        if kind is CostKind.CYCLES:
            if self.cycles is None:
                raise PruneError("budget of cycles: needs a function of the layers' shapes, got none")
            return float(self.cycles(self.layers(counts)))
        if kind is CostKind.MACS:
            return float(self.macs_of(self._vector(counts))[0])
        dims = self._extents(self._vector(counts))[0]
        sizes = dims.prod(1)
        if kind is CostKind.PARAMS:
            return float(sizes.sum())
        if kind is CostKind.CHANNELS:
            return float(dims[self._op_rows, 0].sum())
        return float(sizes[self._is_weight].sum()) * self.weight_bits / 8 + 4.0 * float(sizes[~self._is_weight].sum())

    def macs_of(self, vectors: IntArray) -> IntArray:
        """Return [n] the multiply-accumulates of many choices at once.

        Args:
            vectors: [n, groups] kept units of all groups, added ones included; those of followers are worked out.
        """
        sizes = self._extents(vectors)[:, self._op_rows].prod(2)
        return np.asarray(sizes @ self._pixels, np.int64)

    def of(self, kind: CostKind | str) -> Callable[[Counts], float]:
        """Return the price of `kind` as a function of the counts."""
        found = find_cost_kind(kind)
        return lambda counts: self.price(found, counts)

    def layers(self, counts: Counts) -> list[LayerShape]:
        """Return the shape of every convolution and fully connected layer."""
        vectors = self.groups.completed(self._vector(counts))
        dims, inputs = self._extents(vectors)[0], self._op_inputs @ vectors[0]
        shapes = []
        for op, row, channels in zip(self._ops, self._op_rows.tolist(), inputs.tolist(), strict=True):
            filters = op.filters
            assert filters is not None
            groups = max(channels // int(dims[row, 1]), 1)
            shapes.append(
                LayerShape(op.layer, int(dims[row, 0]), channels, groups, filters.kernel, filters.height, filters.width)
            )
        return shapes


def filter_ops(groups: ChannelGroups) -> dict[str, Op]:
    """Return layer -> its operation, of all convolutions and fully connected layers."""
    return {op.layer: op for op in groups.graph.ops if op.filters is not None}
