# SPDX-License-Identifier: Apache-2.0
"""Compute cycles against counts by hand, from what yhw_*.h say about their loops."""

import numpy as np
import pytest
from support.cfg_graph import cfg_graph
from support.networks import CfgWriter
from support.random_graph import random_graph

from hls_export.config import AcceleratorConfig
from hls_export.plan import CommandOp, make_plan
from hls_export.plan.cycles import plan_cycles
from yolo_hw.intgraph import IntGraph


def network() -> IntGraph:
    """A convolution, two depthwise ones, a pool, a copy and two convolutions of one position."""
    cfg = CfgWriter(12, 20)
    cfg.conv(40, 3)
    cfg.conv(40, 3, groups=40)
    cfg.conv(40, 5, 2, groups=40)
    cfg.section("maxpool", size=2, stride=2)
    cfg.section("upsample", stride=2)
    cfg.conv(32, activation="linear")
    cfg.yolo([0, 1, 2], 2, "1,1,2,2,3,3")
    return cfg_graph(cfg.text())


def cycles(tm: int, tn: int, **buffers: int) -> list[tuple[CommandOp, int]]:
    plan = make_plan(network(), AcceleratorConfig(tm=tm, tn=tn, **buffers))
    return [(entry.command.op, entry.cycles) for entry in plan_cycles(plan)]


def test_cycles_counted_by_hand():
    """Maps of 20 x 12 (240 pixels), 10 x 6 after the stride, 5 x 3 after the pool; every layer is one spatial tile."""
    assert cycles(16, 16) == [
        (CommandOp.CONV, 3 * 1 * 9 * 240),  # 3 output tiles, 1 input tile, 9 positions
        (CommandOp.DWCONV, 3 * 12 * 22),  # 3 groups of 16 channels; 12 rows of 20 + 2 columns, 9 positions at once
        (CommandOp.DWCONV, 3 * 6 * (23 + 10)),  # a row has 9 * 2 + 5 columns; 25 positions: a second step per pixel
        (CommandOp.MAXPOOL, 3 * 4 * 16),  # 15 pixels, but at least 16 steps per position
        (CommandOp.COPY, 3 * 60),  # a word per cycle
        (CommandOp.CONV, 2 * 3 * 60),
        (CommandOp.CONV, 2 * 2 * 60),
    ]


def test_a_depthwise_kernel_that_fits_the_tile_gives_an_output_of_every_lane_per_cycle():
    """Every input column takes one cycle, so nothing but the halo columns lies above one cycle per pixel and group."""
    assert cycles(16, 16, acc_words=240)[1] == (CommandOp.DWCONV, 3 * (240 + 12 * 2))
    assert cycles(16, 8)[1] == (CommandOp.DWCONV, 5 * 12 * (22 + 20))  # 9 positions in two chunks of 8


@pytest.mark.parametrize("bits", [(8,), (16,)], ids=str)
def test_moves_take_a_cycle_per_memory_word(bits: tuple[int, ...]):
    """One word per cycle is written; maps have one byte per code up to 8 bits, else two. A reorg reads code by code."""
    graph = random_graph(3, bits=bits)
    plan = make_plan(graph, AcceleratorConfig(tm=8, tn=8))
    found = set()
    for entry in plan_cycles(plan):
        command = entry.command
        if command.op in (CommandOp.ADD, CommandOp.MUL, CommandOp.COPY, CommandOp.REORG):
            lanes = np.arange(command.out_channel, command.out_channel + command.channels) // 8
            shape = graph.tensors[command.output].shape
            per_piece = bits[0] // 8 + (4 * 8 if command.op is CommandOp.REORG else 0)
            assert entry.cycles == len(set(lanes)) * shape.h * shape.w * per_piece
            found.add(command.op)
    assert found == {CommandOp.ADD, CommandOp.MUL, CommandOp.COPY, CommandOp.REORG}
