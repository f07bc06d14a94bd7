# SPDX-License-Identifier: Apache-2.0
"""What a tensor of traced code is made of: elements of the folded graph's tensors, in some order.

Reshapes, permutations, slices, concatenations, padding, nearest upsampling and the like compute nothing, so they are
not translated operator by operator: each is executed on the positions of the elements instead. What comes out says what
the code did, however it was written; `yolo_hw.quant.traced.gather` then finds the nodes that do the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from yolo_hw.darknet.layers import Shape
from yolo_hw.errors import QuantError

BATCH = 2
"""Images of the example: two, so that code which mixes them shows."""

_SAMPLE = float(1 << 40)
"""Distance between the positions of two images; float64 holds all of them exactly."""


class Source(NamedTuple):
    """A tensor of the folded graph."""

    name: str
    shape: Shape


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor [N, ...] of the traced code whose elements come from tensors of the folded graph.

    Attributes:
        sources: The folded tensors; their elements, flattened, are numbered from 1, one tensor after the other.
        shape: Sizes without N.
        name: For nodes that have to be made for it.
        index: [*shape] int64 number of every element, 0 for a zero; None: the only source as it is.
        sole: Whether nothing else in the code reads the sources, so that their nodes may still be changed.
    """

    sources: tuple[Source, ...]
    shape: tuple[int, ...]
    name: str
    index: Tensor | None = None
    sole: bool = False

    @classmethod
    def of(cls, source: Source, sole: bool = True) -> Value:
        """Return a folded tensor as [N, C, H, W]."""
        return cls((source,), tuple(source.shape), source.name, None, sole)

    def elements(self) -> Tensor:
        """Return the number of every element, [*shape] int64."""
        return numbers(self.shape) if self.index is None else self.index

    @cached_property
    def whole(self) -> bool:
        """Whether the value is one source, every element once."""
        if self.index is None:
            return True
        if len(self.sources) != 1 or self.index.numel() != self.sources[0].shape.numel:
            return False
        return torch.equal(self.index.flatten().sort().values, numbers((self.index.numel(),)))

    @property
    def source(self) -> Source:
        """The only source."""
        (source,) = self.sources
        return source


def numbers(shape: Sequence[int]) -> Tensor:
    """Return the numbers of a tensor's elements in their order, [*shape] int64 from 1."""
    return torch.arange(1, torch.Size(shape).numel() + 1).reshape(*shape)


def broadcast(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """Return the sizes that tensors of these sizes have together."""
    return tuple(torch.broadcast_shapes(*shapes))  # type: ignore[no-untyped-call]


def starts(sources: Sequence[Source]) -> list[int]:
    """Return how many elements lie before each source, and behind all of them."""
    return [0, *accumulate(source.shape.numel for source in sources)]


def source_of(index: Tensor, sources: Sequence[Source]) -> Tensor:
    """Return which source every element belongs to, -1 for zeros."""
    limits = torch.tensor(starts(sources)[1:], dtype=torch.int64)
    return torch.where(index > 0, torch.bucketize((index - 1).contiguous(), limits, right=True), -1)


def rearranged(
    move: Callable[[list[Tensor]], Tensor | Sequence[Tensor]], values: Sequence[Value], name: str
) -> list[Value]:
    """Execute a function that moves elements on their positions.

    Args:
        move: From tensors [N, ...] like `values` to one or more tensors.
        values: What it reads.
        name: Name of the results.

    Returns:
        The results; one for a function that returns one tensor.

    Raises:
        QuantError: Images of a batch are mixed.
    """
    sources = tuple(dict.fromkeys(source for value in values for source in value.sources))
    moved = move([_positions(value, sources) for value in values])
    sole = all(value.sole for value in values)
    return [_value(x, sources, name, sole) for x in ([moved] if isinstance(moved, Tensor) else moved)]


def _positions(value: Value, sources: tuple[Source, ...]) -> Tensor:
    """Return the numbers of a value's elements among `sources`, [BATCH, *shape] float64, a sample apart per image."""
    index = _renumbered(value.elements(), value.sources, sources).double()
    return torch.stack([torch.where(index > 0, index + n * _SAMPLE, 0.0) for n in range(BATCH)])


def _value(moved: Tensor, sources: tuple[Source, ...], name: str, sole: bool) -> Value:
    image = torch.floor(moved / _SAMPLE)
    local = moved - image * _SAMPLE
    own = torch.arange(float(BATCH)).reshape(-1, *[1] * (moved.dim() - 1)) if moved.dim() else torch.zeros(())
    apart = moved.dim() > 0 and len(moved) == BATCH and bool((torch.where(local > 0, image, own) == own).all())
    if not apart or not torch.equal(local[0], local[1]):
        raise QuantError(f"{name}: the images of a batch must stay apart, in the first dimension")
    index = local[0].long()
    used = set(source_of(index, sources).flatten().tolist())
    kept = tuple(source for i, source in enumerate(sources) if i in used)
    index = _renumbered(index, sources, kept)
    if len(kept) == 1 and tuple(kept[0].shape) == tuple(index.shape) and torch.equal(index, numbers(index.shape)):
        return Value(kept, tuple(index.shape), name, None, sole)
    return Value(kept, tuple(index.shape), name, index, sole)


def _renumbered(index: Tensor, old: tuple[Source, ...], new: tuple[Source, ...]) -> Tensor:
    """Return the numbers among `new` of elements numbered among `old`."""
    if old == new:
        return index
    offsets = dict(zip(new, starts(new), strict=False))
    shifts = [offsets.get(source, 0) - start for source, start in zip(old, starts(old), strict=False)]
    return index + torch.tensor([*shifts, 0])[source_of(index, old)]
