# SPDX-License-Identifier: Apache-2.0
"""Convolution weights as TM x TN tiles.

Dense and grouped: output tile m reads the input tiles that its channels' groups cover, n in [first, first + count), and
for each of them ``[R * S][TM][TN]`` weights, zero where an output and an input channel are in different groups or lie
beyond the real channels. One group gives the plain order ``[K / TM][C / TN][R * S][TM][TN]``.

Depthwise: output tile m holds min(TM, TN) channels; the TN side holds the taps, ``[ceil(R * S / TN)][TM][TN]``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hls_export.config import AcceleratorConfig
from yolo_hw.fixedpoint import IntArray


@dataclass(frozen=True, eq=False)
class WeightTile:
    """The weights of one output tile.

    Attributes:
        first: First input tile (0 in the depthwise mode).
        codes: [count, R * S, TM, TN], or [chunks of taps, TM, TN] in the depthwise mode.
    """

    first: int
    codes: IntArray

    @property
    def count(self) -> int:
        """Input tiles, or chunks of taps."""
        return int(self.codes.shape[0])


def weight_tiles(weight: IntArray, groups: int, config: AcceleratorConfig) -> Iterator[WeightTile]:
    """Yield the tiles of a dense or grouped convolution's weights [K, C / groups, R, S], one per output tile."""
    k, per_group, r, s = weight.shape
    out_per_group = k // groups
    taps = weight.reshape(k, per_group, r * s)
    for start in range(0, k, config.tm):
        stop = min(start + config.tm, k)
        low, high = input_range(start, stop, out_per_group, per_group)
        first, last = low // config.tn, -(-high // config.tn)
        codes = np.zeros((config.tm, (last - first) * config.tn, r * s), np.int64)
        for group in range(start // out_per_group, (stop - 1) // out_per_group + 1):
            rows = slice(max(start, group * out_per_group), min(stop, (group + 1) * out_per_group))
            column = group * per_group - first * config.tn
            codes[rows.start - start : rows.stop - start, column : column + per_group] = taps[rows]
        tiled = codes.reshape(config.tm, last - first, config.tn, r * s).transpose(1, 3, 0, 2)
        yield WeightTile(first, tiled)


def depthwise_tiles(weight: IntArray, config: AcceleratorConfig) -> Iterator[WeightTile]:
    """Yield the tiles of a depthwise convolution's weights [C, 1, R, S], one per min(TM, TN) channels."""
    c, _, r, s = weight.shape
    chunks = -(-r * s // config.tn)
    for start in range(0, c, config.channels):
        rows = weight[start : start + config.channels].reshape(-1, r * s)
        codes = np.zeros((config.tm, chunks * config.tn), np.int64)
        codes[: len(rows), : r * s] = rows
        yield WeightTile(0, codes.reshape(config.tm, chunks, config.tn).transpose(1, 0, 2))


def input_range(start: int, stop: int, out_per_group: int, in_per_group: int) -> tuple[int, int]:
    """Return the input channels [low, high) that output channels [start, stop) read."""
    return start // out_per_group * in_per_group, ((stop - 1) // out_per_group + 1) * in_per_group


def untile_weights(tiles: list[WeightTile], shape: tuple[int, ...], groups: int, config: AcceleratorConfig) -> IntArray:
    """Return the weights [K, C / groups, R, S] that `weight_tiles` gave `tiles` for."""
    k, per_group, r, s = shape
    out_per_group = k // groups
    weight = np.zeros((k, per_group, r * s), np.int64)
    for index, tile in enumerate(tiles):
        start = index * config.tm
        rows = tile.codes.transpose(2, 0, 3, 1).reshape(config.tm, -1, r * s)
        for i in range(min(config.tm, k - start)):
            column = (start + i) // out_per_group * per_group - tile.first * config.tn
            weight[start + i] = rows[i, column : column + per_group]
    return weight.reshape(k, per_group, r, s)


def untile_depthwise(tiles: list[WeightTile], shape: tuple[int, ...], config: AcceleratorConfig) -> IntArray:
    """Return the weights [C, 1, R, S] that `depthwise_tiles` gave `tiles` for."""
    c, _, r, s = shape
    rows = [tile.codes.transpose(1, 0, 2).reshape(config.tm, -1)[: config.channels, : r * s] for tile in tiles]
    return np.concatenate(rows)[:c].reshape(c, 1, r, s)
