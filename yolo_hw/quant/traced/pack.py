# SPDX-License-Identifier: Apache-2.0
"""From the folded graph's outputs to what the module returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_unflatten

from yolo_hw.quant.traced.values import Value


@dataclass(frozen=True, eq=False)
class Leaf:
    """One tensor [N, *shape] that a module returns.

    Attributes:
        tensors: Positions of the outputs it is made of.
        shape: Sizes without N.
        index: [numel] number of every element among those of the outputs, flattened and joined, from 1; 0 is a zero.
            None: the elements of the one output in their order.
    """

    tensors: tuple[int, ...]
    shape: tuple[int, ...]
    index: Tensor | None

    @classmethod
    def of(cls, value: Value, position: dict[str, int]) -> Leaf:
        """Return how a value comes from its sources, which are outputs at `position`."""
        index = value.elements().flatten()
        plain = len(value.sources) == 1 and torch.equal(index, torch.arange(1, len(index) + 1))
        plain = plain and len(index) == value.source.shape.numel
        return cls(tuple(position[source.name] for source in value.sources), value.shape, None if plain else index)

    def of_maps(self, maps: list[Tensor]) -> Tensor:
        """Return the tensor [N, *shape]."""
        parts = [maps[i].flatten(1) for i in self.tensors]
        flat = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        if self.index is not None:
            flat = torch.nn.functional.pad(flat, (1, 0))[:, self.index.to(flat.device)]
        return flat.reshape(len(flat), *self.shape)


@dataclass(frozen=True, eq=False)
class Pack:
    """Gives the outputs the form in which the module returns them.

    Attributes:
        leaves: Tensors and constants in the order of the module's.
        structure: How the module nests them, a `torch.utils._pytree.TreeSpec`.
    """

    leaves: tuple[Any, ...]
    structure: Any

    def __call__(self, maps: list[Tensor]) -> Any:  # noqa: ANN401 - whatever the module returns
        """Return what the module returns.

        Args:
            maps: [N, K, h, w] of every output of the graph.
        """
        leaves = [leaf.of_maps(maps) if isinstance(leaf, Leaf) else leaf for leaf in self.leaves]
        return tree_unflatten(leaves, self.structure)

    def __deepcopy__(self, memo: dict[int, object]) -> Pack:
        """It never changes: copies of what holds one share it."""
        return self
