# SPDX-License-Identifier: Apache-2.0
"""Options of a command, listed in the order that help shows them in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def add_options(function: F, options: Sequence[Callable[[F], F]]) -> F:
    """Add click options to a command; decorators apply from the last to the first."""
    for option in reversed(options):
        function = option(function)
    return function
