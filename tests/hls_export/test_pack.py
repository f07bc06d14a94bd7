# SPDX-License-Identifier: Apache-2.0
"""The parameter image follows its documented order, byte by byte, and reads back; maps in the accelerator's layout."""

import struct

import numpy as np
import pytest
from support.cfg_graph import cfg_graph, feature_cfg
from support.random_graph import random_graph

from hls_export.config import AcceleratorConfig
from hls_export.pack import BlockReader, ConvLayout, pack_map, pack_params, unpack_map
from hls_export.pack.params import NO_PARAMS
from hls_export.plan import AcceleratorPlan, CommandOp, make_plan
from yolo_hw.fixedpoint import FixedPoint
from yolo_hw.intgraph import nodes as N

TILES = [(16, 16), (8, 32), (32, 8), (12, 20), (4, 4)]


def plans(seed: int) -> AcceleratorPlan:
    tm, tn = TILES[seed % len(TILES)]
    bits = (3, 8) if seed % 2 else (6, 8, 16)
    return make_plan(random_graph(seed, bits=bits), AcceleratorConfig(tm=tm, tn=tn))


def expected_tiles(node: N.Conv2d, depthwise: bool, tm: int, tn: int) -> list[tuple[int, int, list[int]]]:
    """Return (first input tile, count, codes in memory order) of every output tile, written as plain loops."""
    k_all, per_group, size_h, size_w = node.weight.shape
    out_per_group = k_all // node.groups
    taps = [(r, s) for r in range(size_h) for s in range(size_w)]
    rows = min(tm, tn) if depthwise else tm
    result = []
    for start in range(0, k_all, rows):
        channels = list(range(start, min(start + rows, k_all)))
        codes = []
        if depthwise:
            first, count = 0, -(-len(taps) // tn)
            for chunk in range(count):
                for m in range(tm):
                    for n in range(tn):
                        t, k = chunk * tn + n, start + m
                        used = k in channels and t < len(taps)
                        codes.append(int(node.weight[k, 0, taps[t][0], taps[t][1]]) if used else 0)
        else:
            groups = [k // out_per_group for k in channels]
            first, end = min(groups) * per_group // tn, -(-(max(groups) + 1) * per_group // tn)
            count = end - first
            for tile in range(first, end):
                for r, s in taps:
                    for m in range(tm):
                        for n in range(tn):
                            k, c = start + m, tile * tn + n
                            used = k in channels and c // per_group == k // out_per_group
                            codes.append(int(node.weight[k, c % per_group, r, s]) if used else 0)
        result.append((first, count, codes))
    return result


@pytest.mark.parametrize("seed", range(5))
def test_weight_tiles_follow_the_documented_order(seed: int):
    plan = plans(seed)
    image, blocks = pack_params(plan)
    kinds = set()
    for command, block in zip(plan.program, blocks, strict=True):
        node = plan.graph.node(command.node)
        if not isinstance(node, N.Conv2d):
            continue
        kinds.add((command.op, block.weight_bytes))
        assert block.weight_bytes == (1 if node.w_bits <= 8 else 2)
        tiles = expected_tiles(node, command.op is CommandOp.DWCONV, plan.config.tm, plan.config.tn)
        for index, (first, count, codes) in enumerate(tiles):
            entry = struct.unpack_from("<4I", image, block.tile_table + 16 * index)
            assert entry[:2] == (first, count)
            assert entry[3] == 0
            assert entry[2] % plan.config.align == 0
            letter = "b" if block.weight_bytes == 1 else "h"
            assert list(struct.unpack_from(f"<{len(codes)}{letter}", image, entry[2])) == codes
    assert len({op for op, _ in kinds}) == 2


@pytest.mark.parametrize("seed", range(5))
def test_channel_and_activation_tables(seed: int):
    plan = plans(seed)
    image, blocks = pack_params(plan)
    tables = 0
    for command, block in zip(plan.program, blocks, strict=True):
        node = plan.graph.node(command.node)
        if isinstance(node, N.Conv2d):
            code = node.act.table_fmt or plan.graph.output_of(node).fmt
            frac = plan.graph.tensors[node.inputs[0]].fmt.frac
            for k in range(len(node.bias)):
                bias, shift = struct.unpack_from("<2i", image, block.channel_table + 8 * k)
                assert (bias, shift) == (node.bias[k], node.w_frac[k] + frac - code.frac)
        table = node.arrays.get("table")
        if table is not None:
            assert list(struct.unpack_from(f"<{len(table)}h", image, block.table)) == list(table)
            tables += 1
    assert tables


@pytest.mark.parametrize("seed", range(5))
def test_blocks_are_aligned_contiguous_and_padded_with_zero(seed: int):
    plan = plans(seed)
    image, blocks = pack_params(plan)
    used = np.zeros(len(image), bool)
    end = 0
    for command, block in zip(plan.program, blocks, strict=True):
        node = plan.graph.node(command.node)
        if block is NO_PARAMS:
            assert not node.arrays
            continue
        assert block.offset == end
        for offset in (block.offset, block.tile_table, block.channel_table, block.table):
            assert offset % plan.config.align == 0
        end = block.offset + block.bytes
        if isinstance(node, N.Conv2d):
            layout = ConvLayout(command, len(node.bias), plan.config)
            used[block.offset : block.tile_table] = True
            used[block.tile_table : block.tile_table + 16 * layout.tiles] = True
            used[block.channel_table : block.channel_table + 8 * len(node.bias)] = True
        used[block.table : block.table + 2 * len(node.arrays.get("table", ()))] = True
    assert end == len(image)
    assert not np.frombuffer(image, np.uint8)[~used].any()


@pytest.mark.parametrize("seed", range(5))
def test_parameters_read_back(seed: int):
    plan = plans(seed)
    image, blocks = pack_params(plan)
    for command, block in zip(plan.program, blocks, strict=True):
        node = plan.graph.node(command.node)
        if isinstance(node, N.Conv2d):
            reader = BlockReader(image, block, node, ConvLayout(command, len(node.bias), plan.config))
            np.testing.assert_array_equal(reader.weights(), node.weight)
            np.testing.assert_array_equal(reader.channel_table()[:, 0], node.bias)


def test_one_group_is_the_plain_tile_order():
    """K / TM, C / TN, R * S, TM, TN, by reshaping alone."""
    plan = make_plan(cfg_graph(feature_cfg()), AcceleratorConfig(tm=4, tn=4))
    image, blocks = pack_params(plan)
    command, block = next((c, b) for c, b in zip(plan.program, blocks, strict=True) if c.node == "conv_5")
    weight = plan.graph.node(command.node).weight
    assert weight.shape == (12, 4, 3, 3)
    plain = weight.reshape(3, 4, 1, 4, 9).transpose(0, 2, 4, 1, 3).astype(np.int8).reshape(3, -1)
    for index in range(3):
        at = struct.unpack_from("<4I", image, block.tile_table + 16 * index)[2]
        assert image[at : at + plain[index].size] == plain[index].tobytes()


@pytest.mark.parametrize(("bits", "signed"), [(8, True), (8, False), (2, False), (3, True), (16, True), (12, False)])
@pytest.mark.parametrize(("channels", "lanes"), [(1, 4), (16, 16), (17, 8), (21, 4)])
def test_maps_lie_in_blocks_of_lanes(bits: int, signed: bool, channels: int, lanes: int):
    fmt = FixedPoint(bits, 3, signed)
    codes = np.random.default_rng(bits).integers(fmt.lo, fmt.hi + 1, (channels, 3, 5))
    data = pack_map(codes, fmt, lanes)
    width = fmt.storage_bytes
    assert len(data) == -(-channels // lanes) * lanes * 3 * 5 * width
    for c in range(-(-channels // lanes) * lanes):
        for y, x in np.ndindex(3, 5):
            at = ((((c // lanes) * 3 + y) * 5 + x) * lanes + c % lanes) * width
            found = int.from_bytes(data[at : at + width], "little", signed=signed)
            assert found == (codes[c, y, x] if c < channels else 0)
    np.testing.assert_array_equal(unpack_map(data, codes.shape, fmt, lanes), codes)
