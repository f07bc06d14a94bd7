# SPDX-License-Identifier: Apache-2.0
"""Where channels go when a tensor is cut, joined, viewed or turned: the operation itself is run on channel numbers.

A tensor of the traced code is described by a tensor of the same shape that holds the number of the channel each element
belongs to. Whatever only moves elements (``cat``, ``chunk``, ``view``, ``transpose``, ``pixel_shuffle``, ...) moves
these numbers in the same way, so no operation needs a rule of its own that could be wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from yolo_hw.prune.channels import IntArray, Value

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Tracked:
    """The channels of a tensor of the traced code.

    Attributes:
        value: The feature map of the channel graph whose channels these are.
        shape: The tensor's.
        axis: The axis along which channels leave.
        mixed: [dims of size 1 where nothing varies] position in `value` of each element's channel, where several axes
            together number the channels, as between the two views of a channel shuffle; None where `axis` alone does,
            in the order of `value`.
    """

    value: Value
    shape: Shape
    axis: int
    mixed: Tensor | None = None

    def positions(self) -> Tensor:
        """Return the position in `value` of each element's channel, of the tensor's shape."""
        numbers = self.mixed if self.mixed is not None else along(np.arange(self.value.channels), self.axis, self.shape)
        return numbers.expand(self.shape)

    def ids(self) -> IntArray:
        """Return the channel id of each index of `axis`; where several ids share an index, they are one unit."""
        numbers = self.positions().movedim(self.axis, 0).reshape(self.shape[self.axis], -1)[:, 0]
        return np.asarray(self.value.labels[numbers.numpy()])


def along(numbers: IntArray, axis: int, shape: Shape) -> Tensor:
    """Return numbers along one axis of a shape, every other dim of size 1."""
    sizes = [1] * len(shape)
    sizes[axis] = len(numbers)
    return torch.from_numpy(np.ascontiguousarray(numbers)).reshape(sizes)


def squeeze_constant(numbers: Tensor) -> Tensor:
    """Return the tensor with every dim along which nothing varies cut to size 1."""
    for dim, size in enumerate(numbers.shape):
        if size > 1:
            first = numbers.narrow(dim, 0, 1)
            if numbers.stride(dim) == 0 or torch.equal(first.expand_as(numbers), numbers):
                numbers = first
    return numbers


def channel_axis(numbers: Tensor) -> int | None:
    """Return the axis along which channels can leave the tensor of `numbers` (constant dims of size 1).

    Its indices must share no channel, or a channel would leave only a part of the tensor; of several such axes the
    longest one keeps most freedom.
    """
    best: int | None = None
    for dim in range(1, numbers.dim()):
        rows = numbers.movedim(dim, 0).flatten(1) if numbers.dim() > 1 else numbers[:, None]
        found = torch.cat([torch.unique(row) for row in rows])
        if len(found) == len(torch.unique(found)) and (best is None or numbers.shape[dim] > numbers.shape[best]):
            best = dim
    return best


def joined_positions(parts: Sequence[Tracked]) -> list[Tensor]:
    """Return the positions of several tensors, counted through the concatenation of their values."""
    starts = np.cumsum([0, *(part.value.channels for part in parts)])
    return [part.positions() + int(start) for part, start in zip(parts, starts[:-1], strict=True)]
