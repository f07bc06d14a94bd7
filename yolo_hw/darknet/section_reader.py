# SPDX-License-Identifier: Apache-2.0
"""Typed, range-checked access to the options of one cfg section."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NoReturn, TypeVar

from yolo_hw.darknet.cfg import Option, Section, shorten
from yolo_hw.darknet.layers import ACTIVATION_ALIASES, ACTIVATIONS
from yolo_hw.errors import CfgError, nearest

T = TypeVar("T")

MAX_MESSAGE = 300
"""Characters of a message; what a file holds may be of any length."""

MAX_EXTENT = 1 << 16
"""Upper bound of any size, count or index in a cfg."""


class SectionReader:
    """Reads options of `section`; every failure names file, line, section and key."""

    def __init__(self, cfg_name: str, section: Section) -> None:
        """Remember where the section is for messages."""
        self.cfg_name = cfg_name
        self.section = section

    def fail(self, message: str, key: str | None = None) -> NoReturn:
        """Raise a CfgError at the option `key`, or at the section header."""
        option = self.section.get(key) if key else None
        line = option.line if option else self.section.line
        raise CfgError(f"{self.cfg_name}:{line} [{shorten(self.section.type)}]: {shorten(message, MAX_MESSAGE)}")

    def has(self, key: str) -> bool:
        """Whether the section gives `key`."""
        return self.section.get(key) is not None

    def integer(self, key: str, default: int | None, lo: int = 0, hi: int = MAX_EXTENT) -> int:
        """Return an integer in [lo, hi]; `default` None means the key is required."""
        option = self._option(key, default is None)
        value = default if option is None else self._convert(option, int, "an integer")
        assert value is not None
        if option is not None and not lo <= value <= hi:
            self.fail(f"{key} must be in [{lo}, {hi}], got {value}", key)
        return value

    def flag(self, key: str) -> bool:
        """Return a 0/1 option, false if absent."""
        return self.integer(key, 0, 0, 1) == 1

    def real(self, key: str, default: float) -> float:
        """Return a finite float."""
        option = self._option(key, required=False)
        return default if option is None else self._convert(option, _finite, "a finite number")

    def text(self, key: str) -> str:
        """Return a required option as it is written."""
        option = self._option(key, required=True)
        assert option is not None
        return option.value

    def choice(self, key: str, default: str, choices: Sequence[str]) -> str:
        """Return one of `choices`."""
        option = self._option(key, required=False)
        value = default if option is None else option.value
        if value not in choices:
            self.fail(f"{key} must be one of {', '.join(choices)}, got '{value}'{nearest(value, choices)}", key)
        return value

    def activation(self, default: str) -> str:
        """Return the activation function's main name."""
        option = self._option("activation", required=False)
        value = default if option is None else option.value
        value = ACTIVATION_ALIASES.get(value, value)
        if value not in ACTIVATIONS:
            self.fail(f"unknown activation '{value}'{nearest(value, ACTIVATIONS)}", "activation")
        return value

    def integers(self, key: str) -> tuple[int, ...]:
        """Return a required, non-empty, comma-separated list of integers."""
        return self._list(key, int, "integers")

    def reals(self, key: str) -> tuple[float, ...]:
        """Return a required, non-empty, comma-separated list of finite numbers."""
        return self._list(key, _finite, "finite numbers")

    def _list(self, key: str, convert: Callable[[str], T], what: str) -> tuple[T, ...]:
        option = self._option(key, required=True)
        assert option is not None
        parts = [part.strip() for part in option.value.split(",")]
        if parts and parts[-1] == "":
            parts.pop()
        try:
            values = tuple(convert(part) for part in parts)
        except ValueError:
            self.fail(f"{key} must be a list of {what}, got '{shorten(option.value)}'", key)
        if not 1 <= len(values) <= MAX_EXTENT:
            self.fail(f"{key} must not be empty", key)
        return values

    def _option(self, key: str, required: bool) -> Option | None:
        option = self.section.get(key)
        if option is None and required:
            self.fail(f"{key} is missing")
        return option

    def _convert(self, option: Option, convert: Callable[[str], T], what: str) -> T:
        try:
            return convert(option.value)
        except ValueError:
            self.fail(f"{option.key} must be {what}, got '{shorten(option.value)}'", option.key)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value
