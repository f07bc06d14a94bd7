# SPDX-License-Identifier: Apache-2.0
"""Packing buffers with known lifetimes into one arena."""

from __future__ import annotations

import random
from dataclasses import dataclass

SEARCH_ROUNDS = 200
"""Random orders tried after the fixed ones, while the lower bound is not reached."""


@dataclass(frozen=True)
class Lifetime:
    """A buffer's size and the commands between which it must stay intact.

    Attributes:
        name: The root tensor.
        size: Bytes, a multiple of the alignment.
        first: Index of the first command that writes it.
        last: Index of the last command that reads it (or writes, if nobody reads).
        reuses: Buffers that die at `first` and whose bytes this one may overwrite from at or below their start, because
            the command reads every byte of them before it writes there.
    """

    name: str
    size: int
    first: int
    last: int
    reuses: tuple[str, ...] = ()

    def overlaps(self, other: Lifetime) -> bool:
        """Whether both are alive at some command."""
        return self.first <= other.last and other.first <= self.last


def lower_bound(buffers: list[Lifetime]) -> int:
    """Return the largest number of bytes alive at any command: no packing needs less."""
    by_name = {buffer.name: buffer for buffer in buffers}
    bound = 0
    for time in {buffer.first for buffer in buffers}:
        alive = sum(b.size for b in buffers if b.first <= time <= b.last)
        saved = 0
        for buffer in buffers:
            if buffer.first == time and buffer.reuses:
                saved += min(buffer.size, sum(by_name[name].size for name in buffer.reuses if name in by_name))
        bound = max(bound, alive - saved)
    return bound


def pack_arena(buffers: list[Lifetime], seed: int = 0) -> tuple[dict[str, int], int]:
    """Give every buffer an offset such that buffers alive at the same time do not overlap, reuse aside.

    First fit in several orders (size, lifetime times size, start); if none reaches the lower bound, seeded random
    exchanges in the best order.

    Args:
        buffers: Sizes and lifetimes.
        seed: Of the random exchanges; equal seeds give equal plans.

    Returns:
        Offset of every buffer, and the arena's size.
    """
    bound = lower_bound(buffers)
    orders = [
        sorted(buffers, key=lambda b: (-b.size, b.first, b.name)),
        sorted(buffers, key=lambda b: (-b.size * (b.last - b.first + 1), b.first, b.name)),
        sorted(buffers, key=lambda b: (b.first, -b.size, b.name)),
        sorted(buffers, key=lambda b: (-(b.last - b.first), -b.size, b.name)),
    ]
    plans = [(_first_fit(order), order) for order in orders]
    (offsets, size), order = min(plans, key=lambda plan: plan[0][1])
    rng = random.Random(seed)
    for _ in range(SEARCH_ROUNDS if len(buffers) > 1 else 0):
        if size == bound:
            break
        candidate = list(order)
        for _ in range(rng.randint(1, 4)):
            i, j = rng.randrange(len(candidate)), rng.randrange(len(candidate))
            candidate.insert(j, candidate.pop(i))
        found, found_size = _first_fit(candidate)
        if found_size <= size:
            offsets, size, order = found, found_size, candidate
    return offsets, size


def _first_fit(order: list[Lifetime]) -> tuple[dict[str, int], int]:
    placed: list[tuple[int, Lifetime]] = []
    for buffer in order:
        neighbours = [(offset, other) for offset, other in placed if other.overlaps(buffer)]
        starts = {0, *(offset + other.size for offset, other in neighbours)}
        starts |= {offset for offset, other in neighbours if other.name in buffer.reuses}
        starts |= {offset + other.size - buffer.size for offset, other in neighbours if buffer.name in other.reuses}
        position = min(s for s in starts if s >= 0 and all(_compatible(s, buffer, o, b) for o, b in neighbours))
        placed.append((position, buffer))
    return {b.name: offset for offset, b in placed}, max((offset + b.size for offset, b in placed), default=0)


def _compatible(start: int, buffer: Lifetime, offset: int, other: Lifetime) -> bool:
    """Whether `buffer` at `start` and `other` at `offset`, alive at the same time, can coexist."""
    if start + buffer.size <= offset or offset + other.size <= start:
        return True
    if other.name in buffer.reuses:
        return start <= offset
    return buffer.name in other.reuses and offset <= start
