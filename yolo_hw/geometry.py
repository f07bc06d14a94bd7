# SPDX-License-Identifier: Apache-2.0
"""Window geometry of convolutions and pools, shared by the float and the integer graph."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Window:
    """A sliding window over a map; (vertical, horizontal) throughout.

    Attributes:
        size: R, S.
        stride: Steps between windows.
        pad: Rows above and columns left of the map that windows may cover; how far the last window reaches beyond the
            other sides follows from the output's size.
        dilation: Distance between neighbouring taps.
    """

    size: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    pad: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)

    @property
    def taps(self) -> int:
        """R * S."""
        return self.size[0] * self.size[1]

    def extent(self, axis: int) -> int:
        """Rows (axis 0) or columns (axis 1) between the first and the last tap, both included."""
        return self.dilation[axis] * (self.size[axis] - 1) + 1

    def span(self, axis: int, outputs: int) -> int:
        """Input rows or columns that `outputs` neighbouring windows touch."""
        return (outputs - 1) * self.stride[axis] + self.extent(axis)

    def trailing_pad(self, axis: int, inputs: int, outputs: int) -> int:
        """How far the last of `outputs` windows reaches beyond the `inputs` rows or columns (negative: ends before)."""
        return self.span(axis, outputs) - self.pad[axis] - inputs
