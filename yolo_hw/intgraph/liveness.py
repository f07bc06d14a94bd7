# SPDX-License-Identifier: Apache-2.0
"""How long tensors are needed when nodes run one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Reader(Protocol):
    """Anything that reads tensors by name: a node of the integer graph or of the folded one."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the tensors it reads."""


def last_reads(nodes: Sequence[Reader]) -> list[set[str]]:
    """Return for every node the inputs that no later node reads; their maps can be dropped after it."""
    dying: list[set[str]] = []
    read_later: set[str] = set()
    for node in reversed(nodes):
        dying.append(set(node.inputs) - read_later)
        read_later |= set(node.inputs)
    return dying[::-1]
