# SPDX-License-Identifier: Apache-2.0
"""Parts of a model by name or glob pattern."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from yolo_hw.errors import PruneError, nearest


def named(every: Iterable[str], patterns: Sequence[str], what: str) -> list[str]:
    """Return the names that patterns choose, in the order of `every`.

    Args:
        every: Full names of modules or parameters, dots between the parts.
        patterns: Each a name, that of a module it is in, or a glob pattern of either: ``blocks.conv_0.bn``,
            ``blocks.conv_0``, ``blocks.conv_*``; ``*`` is all.
        what: What the names stand for, for the message.

    Raises:
        PruneError: A pattern chooses nothing.
    """
    parents = {name: _with_parents(name) for name in every}
    chosen: set[str] = set()
    for pattern in patterns:
        found = {name for name, above in parents.items() if any(fnmatchcase(other, pattern) for other in above)}
        if not found:
            hint = nearest(pattern, {other for above in parents.values() for other in above})
            raise PruneError(f"'{pattern}' must name a {what} or what holds one{hint}")
        chosen |= found
    return [name for name in parents if name in chosen]


def _with_parents(name: str) -> list[str]:
    """Return a name and those of the modules it is in."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(len(parts), 0, -1)]
