# SPDX-License-Identifier: Apache-2.0
"""Flags that a state dict keeps, read without waiting for a device."""

from __future__ import annotations

from torch import Tensor


class Flag:
    """Reads a buffer of one bool, which may be on a device, again only after something has written to it.

    A device would have to finish all its work before it could answer, in every layer of every step.
    """

    def __init__(self) -> None:
        """Know nothing yet."""
        self._seen: tuple[Tensor, int, bool] | None = None

    def read(self, buffer: Tensor) -> bool:
        """Return the value of a buffer [], always the same module's, whatever tensor that is by now."""
        if buffer.is_inference():  # has no count of what was written
            return bool(buffer)
        if self._seen is None or self._seen[0] is not buffer or self._seen[1] != buffer._version:
            self._seen = buffer, buffer._version, bool(buffer)
        return self._seen[2]
