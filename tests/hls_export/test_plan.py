# SPDX-License-Identifier: Apache-2.0
"""The plan: arena sizes of published networks, buffers that never collide, tiles that cover, cycles that make sense."""

import itertools
from collections.abc import Callable

import pytest
from support.cfg_graph import cfg_graph, feature_cfg
from support.networks import CfgWriter, yolov3, yolov3_tiny, yolov4, yolov4_tiny
from support.random_graph import random_graph

from hls_export.config import AcceleratorConfig
from hls_export.plan import AcceleratorPlan, CommandOp, make_plan
from hls_export.plan.arena import Lifetime, lower_bound, pack_arena
from hls_export.plan.cycles import plan_cycles
from yolo_hw.errors import ExportError
from yolo_hw.intgraph import INPUT, IntGraph
from yolo_hw.intgraph import nodes as N

MIB = 1 << 20
TILES = [(16, 16), (8, 32), (32, 8), (12, 20), (4, 4)]
SEEDS = range(12)


def random_plan(seed: int, graph: IntGraph | None = None) -> AcceleratorPlan:
    tm, tn = TILES[seed % len(TILES)]
    return make_plan(graph or random_graph(seed), AcceleratorConfig(tm=tm, tn=tn))


def uses(plan: AcceleratorPlan) -> dict[str, list[int]]:
    """Return for every tensor the times it is written or read; the image comes first, outputs are read last."""
    times: dict[str, list[int]] = {name: [] for name in plan.graph.tensors}
    times[INPUT].append(-1)
    for i, command in enumerate(plan.program):
        for name in (*command.inputs, command.output):
            times[name].append(i)
    for output in plan.graph.outputs:
        times[output.tensor].append(len(plan.program))
    return times


def owners(plan: AcceleratorPlan) -> dict[str, str]:
    """Join tensors that share memory by intention: the parts of a concat by address, the slices of a tensor."""
    owner = {name: name for name in plan.graph.tensors}

    def find(name: str) -> str:
        return name if owner[name] == name else find(owner[name])

    for node in plan.graph.nodes:
        if isinstance(node, (N.Concat, N.Slice)):
            copied = {c.inputs[0] for c in plan.program if c.node == node.name}
            for name in node.inputs:
                if name not in copied:
                    owner[find(name)] = find(node.name)
    return {name: find(name) for name in owner}


def live_spans(plan: AcceleratorPlan) -> dict[str, tuple[int, int, int, int]]:
    """Return (first time, last time, first byte, end byte) of every group of tensors."""
    spans: dict[str, tuple[int, int, int, int]] = {}
    times, group = uses(plan), owners(plan)
    for name, location in plan.memory.locations.items():
        old = spans.get(group[name], (1 << 30, -1, 1 << 40, 0))
        use = times[name] or [old[0]]
        end = location.offset + location.bytes
        spans[group[name]] = (
            min(old[0], *use), max(old[1], *use), min(old[2], location.offset), max(old[3], end)
        )  # fmt: skip
    return spans


@pytest.mark.parametrize("network", [*SEEDS, yolov3_tiny, yolov3, yolov4, yolov4_tiny])
def test_no_two_live_buffers_share_a_byte(network: int | Callable[[int], str]):
    """Quadratic comparison; a command may write onto an input that dies with it only where it streams in place."""
    plan = random_plan(network) if isinstance(network, int) else random_plan(0, cfg_graph(network(64), empty=True))
    spans = live_spans(plan)
    assert len(spans) > 10
    for (a, x), (b, y) in itertools.combinations(spans.items(), 2):
        together = x[0] <= y[1] and y[0] <= x[1]
        if not (together and x[2] < y[3] and y[2] < x[3]):
            continue
        dying, born = ((a, x), (b, y)) if x[0] < y[0] else ((b, y), (a, x))
        assert dying[1][1] == born[1][0], f"{a} and {b} are both alive"
        command = plan.program[born[1][0]]
        assert dying[0] in command.inputs
        assert command.output == born[0]
        assert command.op in (CommandOp.ADD, CommandOp.MUL, CommandOp.MAXPOOL)
        assert born[1][2] <= dying[1][2], "it must write at or below what it reads"


@pytest.mark.parametrize("seed", SEEDS)
def test_every_tensor_is_aligned_sized_and_inside(seed: int):
    plan = random_plan(seed)
    config, memory = plan.config, plan.memory
    for name, location in memory.locations.items():
        info = plan.graph.tensors[name]
        lanes = 4 if name == INPUT else config.lanes
        assert location.lanes == lanes
        assert (
            location.bytes == -(-info.shape.c // lanes) * lanes * info.shape.h * info.shape.w * info.fmt.storage_bytes
        )
        assert location.offset % config.lanes == 0
        assert location.offset + location.bytes <= memory.io_bytes + memory.arena_bytes
        if location.root == name:
            assert location.offset % config.align == 0
    for output in plan.graph.outputs:
        root = memory.locations[memory.locations[output.tensor].root]
        assert root.offset + root.bytes <= memory.io_bytes, "results must lie in the io region"


@pytest.mark.parametrize("seed", SEEDS)
def test_concat_inputs_lie_where_the_concat_reads(seed: int):
    plan = random_plan(seed)
    for node in (node for node in plan.graph.nodes if isinstance(node, N.Concat)):
        place = plan.memory.locations[node.name]
        shape = plan.graph.tensors[node.name].shape
        copies = {(c.inputs[0], c.out_channel): c for c in plan.program if c.node == node.name}
        channel = 0
        for name in node.inputs:
            part = plan.graph.tensors[name].shape
            copy = copies.get((name, channel))
            if copy is None:
                assert channel % place.lanes == 0
                block = shape.h * shape.w * place.lanes * place.element_bytes
                assert plan.memory.locations[name].offset == place.offset + channel // place.lanes * block
            else:
                assert (copy.op, copy.in_channel, copy.channels) == (CommandOp.COPY, 0, part.c)
            channel += part.c
        assert channel == shape.c


def test_a_concat_at_whole_words_needs_no_command():
    cfg = CfgWriter(16, 16)
    cfg.conv(16, 3)
    cfg.conv(16, 3)
    cfg.route(0)
    cfg.conv(16, 3)
    cfg.route(-1, 1, 0)
    cfg.yolo([0], 1, "4,4, 8,8")
    plan = make_plan(cfg_graph(cfg.text()), AcceleratorConfig())
    assert [command.op for command in plan.program] == [CommandOp.CONV] * 4
    places, node = plan.memory.locations, next(n for n in plan.graph.nodes if isinstance(n, N.Concat))
    assert [places[name].offset - places[node.name].offset for name in node.inputs] == [0, 4096, 8192]


@pytest.mark.parametrize("seed", SEEDS)
def test_every_node_is_computed_once_and_in_order(seed: int):
    plan = random_plan(seed)
    order = [command.node for command in plan.program]
    position = {node.name: i for i, node in enumerate(plan.graph.nodes)}
    assert [position[name] for name in order] == sorted(position[name] for name in order)
    for node in plan.graph.nodes:
        if not isinstance(node, (N.Concat, N.Slice)):
            assert order.count(node.name) == 1


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("ifm_words", "acc_words"), [(4096, 1024), (512, 64), (256, 16)])
def test_tiles_cover_each_output_once_and_fit_the_buffers(seed: int, ifm_words: int, acc_words: int):
    graph = random_graph(seed, size=(23, 37))
    plan = make_plan(graph, AcceleratorConfig(ifm_words=ifm_words, acc_words=acc_words))
    for command in plan.program:
        if command.op not in (CommandOp.CONV, CommandOp.DWCONV, CommandOp.MAXPOOL):
            continue
        node = graph.node(command.node)
        out = graph.tensors[command.output].shape
        rows = [r for y in range(0, out.h, command.tile.h) for r in range(y, min(y + command.tile.h, out.h))]
        columns = [c for x in range(0, out.w, command.tile.w) for c in range(x, min(x + command.tile.w, out.w))]
        assert rows == list(range(out.h))
        assert columns == list(range(out.w))
        assert command.tile.h * command.tile.w <= acc_words
        high, wide = (
            (command.tile[a] - 1) * node.window.stride[a] + node.window.dilation[a] * (node.window.size[a] - 1) + 1
            for a in (0, 1)
        )
        banks = [len([r for r in range(high) if r % 8 == bank]) * wide for bank in range(8)]
        assert max(banks) <= ifm_words // 8


@pytest.mark.parametrize(
    ("text", "limit"), [(yolov3(416), 8.0 * MIB), (yolov3_tiny(416), 3.3 * MIB)], ids=["yolov3", "yolov3-tiny"]
)
def test_the_arena_of_a_published_network_is_small_and_optimal(text: str, limit: float):
    plan = make_plan(cfg_graph(text, empty=True), AcceleratorConfig())
    assert plan.memory.arena_bytes <= limit
    assert plan.memory.arena_bytes == plan.memory.arena_bound
    assert plan.memory.arena_bytes == needed_bytes(plan)
    assert plan.memory.unshared_bytes > 2 * plan.memory.arena_bytes


def needed_bytes(plan: AcceleratorPlan) -> int:
    """Return the most bytes alive at any command, an output counted only beyond the inputs it may replace."""
    spans = [s for s in live_spans(plan).values() if s[2] >= plan.memory.io_bytes]
    most = 0
    for i in range(len(plan.program)):
        alive = sum(s[3] - s[2] for s in spans if s[0] <= i <= s[1])
        born = next((s for s in spans if s[0] == i), None)
        dying = sum(
            s[3] - s[2] for s in spans if s[1] == i and born and s[2] < born[3] and born[2] < s[3] and s != born
        )
        most = max(most, alive - (min(dying, born[3] - born[2]) if born else 0))
    return most


def test_yolov4_reaches_the_bound_too():
    memory = make_plan(cfg_graph(yolov4(416), empty=True), AcceleratorConfig()).memory
    assert memory.arena_bytes == memory.arena_bound


@pytest.mark.parametrize("seed", SEEDS)
def test_the_arena_lies_between_bound_and_sum(seed: int):
    memory = random_plan(seed).memory
    assert memory.arena_bound <= memory.arena_bytes <= memory.unshared_bytes


def test_the_bound_of_hand_made_lifetimes():
    buffers = [Lifetime("a", 64, 0, 2), Lifetime("b", 128, 1, 3), Lifetime("c", 64, 3, 4), Lifetime("d", 192, 5, 6)]
    assert lower_bound(buffers) == 192  # a + b, b + c, d
    offsets, size = pack_arena(buffers)
    assert size == 192
    assert abs(offsets["a"] - offsets["b"]) >= 64


def test_a_buffer_may_replace_the_one_its_command_consumes():
    buffers = [Lifetime("a", 64, 0, 1), Lifetime("b", 64, 1, 2, reuses=("a",))]
    assert lower_bound(buffers) == 64
    assert pack_arena(buffers) == ({"a": 0, "b": 0}, 64)
    assert pack_arena([Lifetime("a", 64, 0, 1), Lifetime("b", 64, 1, 2)])[1] == 128


def total_cycles(graph: IntGraph, tm: int, tn: int) -> int:
    return sum(entry.cycles for entry in plan_cycles(make_plan(graph, AcceleratorConfig(tm=tm, tn=tn))))


def test_a_larger_tile_needs_no_more_cycles():
    graph = cfg_graph(yolov3_tiny(416), empty=True)
    cycles = [total_cycles(graph, side, side) for side in (4, 8, 16, 32, 64)]
    assert cycles == sorted(cycles, reverse=True)
    assert cycles[0] > 8 * cycles[2]  # 16 times the multipliers


@pytest.mark.parametrize("tile", TILES)
def test_no_convolution_is_faster_than_its_multipliers(tile: tuple[int, int]):
    plan = make_plan(cfg_graph(feature_cfg()), AcceleratorConfig(tm=tile[0], tn=tile[1]))
    entries = [e for e in plan_cycles(plan) if e.command.op in (CommandOp.CONV, CommandOp.DWCONV)]
    assert len(entries) == 6
    for entry in entries:
        assert entry.cycles * tile[0] * tile[1] >= entry.macs > 0
        assert entry.utilisation == entry.macs / (entry.cycles * tile[0] * tile[1])


def test_a_window_that_does_not_fit_is_refused_with_a_way_out():
    graph = random_graph(3, size=(23, 23))
    with pytest.raises(ExportError, match="export with a larger max_taps"):
        make_plan(graph, AcceleratorConfig(max_taps=4))


@pytest.mark.parametrize(
    "options", [{"tm": 6}, {"tn": 0}, {"tm": 132}, {"ifm_words": 100}, {"acc_words": 8}, {"align": 48}, {"align": 8}]
)
def test_an_impossible_accelerator_is_refused(options: dict):
    with pytest.raises(ExportError, match="must be"):
        AcceleratorConfig(**options)
