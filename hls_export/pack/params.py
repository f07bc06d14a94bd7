# SPDX-License-Identifier: Apache-2.0
"""The parameter image ``ddr/params.bin``: one block per command that has parameters.

A block is ``[weight tiles | tile table | channel table | activation table]``, every part aligned:

* weight tiles: int8 or int16, see `hls_export.pack.weights`;
* tile table: per output tile uint32 first input tile, uint32 count, uint32 byte offset of its weights in the image, 0;
* channel table: per output channel int32 bias, int32 shift, padded with zero to whole output tiles;
* activation table: int16 per code of the argument, lowest first.

Everything is little-endian, padding is zero.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from hls_export.config import AcceleratorConfig
from hls_export.pack.weights import WeightTile, depthwise_tiles, untile_depthwise, untile_weights, weight_tiles
from hls_export.plan import AcceleratorPlan, Command, CommandOp
from yolo_hw.errors import BundleError, ExportError
from yolo_hw.fixedpoint import IntArray
from yolo_hw.intgraph import nodes as N
from yolo_hw.intgraph.graph import IntGraph

MAX_IMAGE_BYTES = 1 << 32
TILE_ENTRY_BYTES = 16
CHANNEL_ENTRY_BYTES = 8


@dataclass(frozen=True)
class ParamBlock:
    """Byte offsets of a command's parameters in the image; parts that are absent have the offset of the block's end.

    Attributes:
        offset: Start of the block (and of the weight tiles).
        bytes: Its length.
        tile_table: Offset of the tile table.
        channel_table: Offset of the channel table.
        table: Offset of the activation table.
        weight_bytes: Bytes of one weight, 1 or 2; 0 without weights.
        crc32: Of the block's bytes.
    """

    offset: int
    bytes: int
    tile_table: int
    channel_table: int
    table: int
    weight_bytes: int
    crc32: int


NO_PARAMS = ParamBlock(0, 0, 0, 0, 0, 0, 0)


def pack_params(plan: AcceleratorPlan) -> tuple[bytes, list[ParamBlock]]:
    """Build the parameter image.

    Returns:
        The image, and the block of every command (`NO_PARAMS` for commands without).

    Raises:
        ExportError: The image exceeds 4 GiB.
    """
    image = bytearray()
    blocks: list[ParamBlock] = []
    for command in plan.program:
        node = plan.graph.node(command.node)
        act = node.act if isinstance(node, (N.Conv2d, N.Add, N.Mul)) else N.LINEAR
        if not isinstance(node, N.Conv2d) and act.table is None:
            blocks.append(NO_PARAMS)
            continue
        start = len(image)
        tile_table = channel_table = start
        weight_bytes = 0
        if isinstance(node, N.Conv2d):
            weight_bytes = 1 if node.w_bits <= 8 else 2
            layout = ConvLayout(command, len(node.bias), plan.config)
            tile_table = _append(image, _append_weights(image, node, layout), plan.config.align)
            channel_table = _append(image, _channel_table(plan.graph, node, layout), plan.config.align)
        table = _append(image, b"" if act.table is None else act.table.astype("<i2").tobytes(), plan.config.align)
        if len(image) > MAX_IMAGE_BYTES:
            raise ExportError(f"{plan.graph.name}: the parameters exceed 4 GiB")
        crc = zlib.crc32(memoryview(image)[start:])
        blocks.append(ParamBlock(start, len(image) - start, tile_table, channel_table, table, weight_bytes, crc))
    return bytes(image), blocks


@dataclass(frozen=True)
class ConvLayout:
    """How many output tiles a convolution has, and of how many channels."""

    command: Command
    channels: int
    config: AcceleratorConfig

    @property
    def depthwise(self) -> bool:
        """Whether the command uses the depthwise mode."""
        return self.command.op is CommandOp.DWCONV

    @property
    def per_tile(self) -> int:
        """Output channels of a tile."""
        return self.config.channels if self.depthwise else self.config.tm

    @property
    def tiles(self) -> int:
        """Number of output tiles."""
        return -(-self.channels // self.per_tile)

    def pack(self, node: N.Conv2d) -> Iterator[WeightTile]:
        """Yield the weight tiles of `node`."""
        if self.depthwise:
            return depthwise_tiles(node.weight, self.config)
        return weight_tiles(node.weight, node.groups, self.config)

    def unpack(self, tiles: list[WeightTile], node: N.Conv2d) -> IntArray:
        """Return the weights that gave `tiles`; only the shape of `node` is used."""
        if self.depthwise:
            return untile_depthwise(tiles, node.weight.shape, self.config)
        return untile_weights(tiles, node.weight.shape, node.groups, self.config)


@dataclass(frozen=True)
class BlockReader:
    """Reads a convolution's parameters back from the image.

    Attributes:
        image: The parameter image.
        block: The command's block.
        node: The convolution; only its shapes are used.
        layout: Its tiles.
    """

    image: bytes
    block: ParamBlock
    node: N.Conv2d
    layout: ConvLayout

    def weights(self) -> IntArray:
        """Return the weight codes [K, C / groups, R, S].

        Raises:
            BundleError: The tile table points outside of the block, or padding is not zero.
        """
        tiles = [self._tile(index) for index in range(self.layout.tiles)]
        weight = self.layout.unpack(tiles, self.node)
        again = self.layout.pack(replace(self.node, weight=weight))
        for index, (found, expected) in enumerate(zip(tiles, again, strict=True)):
            if found.first != expected.first or not np.array_equal(found.codes, expected.codes):
                raise BundleError(f"{self.node.name}: weight tile {index} has non-zero padding or a wrong input tile")
        return weight

    def channel_table(self) -> IntArray:
        """Return bias and shift of every output channel, [K, 2].

        Raises:
            BundleError: The table lies outside of the block, or its padding is not zero.
        """
        rows = self.layout.tiles * self.layout.per_tile
        data = self._slice(self.block.channel_table, rows * CHANNEL_ENTRY_BYTES)
        table = np.frombuffer(data, "<i4").reshape(rows, 2).astype(np.int64)
        if table[self.layout.channels :].any():
            raise BundleError(f"{self.node.name}: the channel table's padding is not zero")
        return table[: self.layout.channels]

    def _tile(self, index: int) -> WeightTile:
        entry = self._slice(self.block.tile_table + index * TILE_ENTRY_BYTES, TILE_ENTRY_BYTES)
        first, count, offset, zero = (int(v) for v in np.frombuffer(entry, "<u4"))
        taps = self.node.window.taps
        limit = max(int(self.node.weight.shape[1]) * self.node.groups, taps)
        if zero or not 0 < count <= limit or first > limit:
            raise BundleError(
                f"{self.node.name}: tile table entry {index} is invalid: {first}, {count}, {offset}, {zero}"
            )
        config = self.layout.config
        shape = (count, *(() if self.layout.depthwise else (taps,)), config.tm, config.tn)
        data = self._slice(offset, math.prod(shape) * self.block.weight_bytes)
        return WeightTile(first, np.frombuffer(data, f"<i{self.block.weight_bytes}").reshape(shape).astype(np.int64))

    def _slice(self, offset: int, size: int) -> bytes:
        block = self.block
        if not block.offset <= offset <= offset + size <= block.offset + block.bytes <= len(self.image):
            raise BundleError(
                f"{self.node.name}: bytes {offset} to {offset + size} lie outside of its parameter block, bytes "
                f"{block.offset} to {block.offset + block.bytes} of {len(self.image)}"
            )
        return self.image[offset : offset + size]


def _append(image: bytearray, data: bytes, align: int) -> int:
    """Append `data` and zeros up to the alignment; return where it starts."""
    start = len(image)
    image += data
    image += bytes(-len(image) % align)
    return start


def _append_weights(image: bytearray, node: N.Conv2d, layout: ConvLayout) -> bytes:
    """Append the weight tiles; return the tile table."""
    dtype = "<i1" if node.w_bits <= 8 else "<i2"
    table = bytearray()
    for tile in layout.pack(node):
        offset = _append(image, tile.codes.astype(dtype).tobytes(), layout.config.align)
        table += np.array([tile.first, tile.count, offset, 0], "<u4").tobytes()
    return bytes(table)


def _channel_table(graph: IntGraph, node: N.Conv2d, layout: ConvLayout) -> bytes:
    requant = node.requant(graph.inputs_of(node), graph.output_of(node))
    table = np.zeros((layout.tiles * layout.per_tile, 2), "<i4")
    table[: layout.channels, 0] = node.bias
    table[: layout.channels, 1] = requant.shift
    return table.tobytes()
