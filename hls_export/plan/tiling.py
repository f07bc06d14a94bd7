# SPDX-License-Identifier: Apache-2.0
"""Spatial tiles of convolutions and pools: the largest useful pieces that fit the on-chip buffers."""

from __future__ import annotations

from typing import NamedTuple

from hls_export.config import ROW_BANKS, AcceleratorConfig
from yolo_hw.darknet.layers import Shape
from yolo_hw.errors import ExportError
from yolo_hw.geometry import Window


class Tile(NamedTuple):
    """Output rows and columns computed at a time."""

    h: int
    w: int


def choose_tile(name: str, config: AcceleratorConfig, window: Window, out: Shape) -> Tile:
    """Return the tile that loads the fewest input words, halos counted; of equals the widest.

    Args:
        name: The node, for messages.
        config: Buffer sizes.
        window: Geometry.
        out: Output shape.

    Raises:
        ExportError: Not even one output pixel fits.
    """
    best: tuple[int, int, Tile] | None = None
    for width in _splits(out.w):
        height = min(out.h, config.acc_words // width)
        while height > 0 and not _fits(config, window, height, width):
            height -= 1
        if height == 0:
            continue
        tile = Tile(_even(out.h, height), width)
        words = _loaded_words(window, out, tile)
        if best is None or (words, -width) < best[:2]:
            best = (words, -width, tile)
    if best is None:
        extent = window.extent(0) * window.extent(1)
        raise ExportError(
            f"{name}: one window of {window.size[0]}x{window.size[1]} needs {extent} words of the input buffer, it has "
            f"{config.ifm_words}; export with a larger ifm_words"
        )
    return best[2]


def _splits(length: int) -> list[int]:
    """Return the sizes of pieces when `length` is cut evenly into 1, 2, 3, ... parts."""
    return sorted({-(-length // parts) for parts in range(1, length + 1)}, reverse=True)


def _even(length: int, limit: int) -> int:
    """Return the smallest piece not above `limit` that covers `length` in as few parts."""
    parts = -(-length // limit)
    return -(-length // parts)


def _fits(config: AcceleratorConfig, window: Window, height: int, width: int) -> bool:
    rows_per_bank = -(-window.span(0, height) // ROW_BANKS)
    return rows_per_bank * window.span(1, width) <= config.ifm_words // ROW_BANKS


def _loaded_words(window: Window, out: Shape, tile: Tile) -> int:
    rows = sum(window.span(0, min(tile.h, out.h - y)) for y in range(0, out.h, tile.h))
    columns = sum(window.span(1, min(tile.w, out.w - x)) for x in range(0, out.w, tile.w))
    return rows * columns
