# SPDX-License-Identifier: Apache-2.0
"""Commands that overwrite their input: only where the order of reads and writes allows it, and the replay knows it."""

from pathlib import Path

import numpy as np
import pytest
from support.bundle import failures, write_bundle
from support.cfg_graph import cfg_graph
from support.networks import CfgWriter
from support.random_graph import random_graph

from hls_export.config import AcceleratorConfig
from hls_export.plan import CommandOp, make_plan
from hls_export.plan import memory as plan_memory
from hls_export.verify.memory import replay_memory
from yolo_hw.errors import BundleError, ExportError
from yolo_hw.intgraph import IntGraph

TILES = [(16, 16), (8, 32), (12, 20), (24, 24), (48, 32), (4, 4)]


def pool_graph() -> IntGraph:
    """A pool of 48 channels that needs several row tiles with a small input buffer."""
    cfg = CfgWriter(64, 64)
    cfg.conv(48, 3)
    cfg.section("maxpool", size=2, stride=2)
    cfg.conv(16, 3)
    cfg.yolo([0], 1, "4,4, 8,8")
    return cfg_graph(cfg.text())


def pool_in_place(config: AcceleratorConfig) -> bool:
    plan = make_plan(pool_graph(), config)
    (pool,) = (command for command in plan.program if command.op is CommandOp.MAXPOOL)
    source, out = plan.memory.locations[pool.inputs[0]], plan.memory.locations[pool.output]
    assert pool.tile.h < 32
    return out.offset < source.offset + source.bytes and source.offset < out.offset + out.bytes


@pytest.mark.parametrize(("tile", "in_place"), [((16, 16), True), ((24, 24), False), ((12, 12), False)])
def test_a_pool_runs_in_place_only_piece_by_piece(tile: tuple[int, int], in_place: bool):
    config = AcceleratorConfig(tm=tile[0], tn=tile[1], ifm_words=1024)
    assert (config.channels == config.lanes) == in_place
    assert pool_in_place(config) == in_place


@pytest.mark.parametrize("tile", [(16, 16), (24, 24)])
def test_the_simulated_accelerator_agrees(tile: tuple[int, int], tmp_path: Path):
    write_bundle(pool_graph(), tmp_path / "bundle", AcceleratorConfig(tm=tile[0], tn=tile[1], ifm_words=1024))
    assert failures(tmp_path / "bundle", skip=()) == {}


def test_the_replay_refuses_a_pool_in_place_over_several_pieces(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(plan_memory, "streams_in_place", lambda graph, command, config: list(command.inputs))
    plan = make_plan(pool_graph(), AcceleratorConfig(tm=24, tn=24, ifm_words=1024))
    with pytest.raises(BundleError, match="overwrites byte"):
        replay_memory(plan)


@pytest.mark.parametrize("tile", TILES)
def test_the_replay_of_many_graphs_finds_every_word(tile: tuple[int, int]):
    for seed in range(60):
        plan = make_plan(random_graph(seed), AcceleratorConfig(tm=tile[0], tn=tile[1], ifm_words=256, acc_words=64))
        assert replay_memory(plan) > 0


def test_a_depthwise_kernel_beyond_the_weight_buffer_is_refused():
    cfg = CfgWriter(16, 16)
    cfg.conv(8, 3)
    cfg.conv(8, 7, groups=8)
    cfg.yolo([0], 1, "4,4, 8,8")
    graph = cfg_graph(cfg.text())
    fits = -(-49 // 4)
    assert np.prod(graph.nodes[1].window.size) == 49
    make_plan(graph, AcceleratorConfig(tm=4, tn=4, max_taps=fits))
    with pytest.raises(ExportError, match=f"holds {fits - 1} taps, a kernel of 7x7 needs {fits}"):
        make_plan(graph, AcceleratorConfig(tm=4, tn=4, max_taps=fits - 1))
