# SPDX-License-Identifier: Apache-2.0
"""The random graphs that other tests rely on are valid, reproducible and hold every case they promise."""

import numpy as np
from support.random_graph import adversarial_inputs, random_graph, random_input

from yolo_hw.intgraph import INPUT, check_graph, execute
from yolo_hw.intgraph import nodes as N
from yolo_hw.intgraph.bounds import accumulator_bound
from yolo_hw.intgraph.codec import encode_graph
from yolo_hw.intgraph.io import json_bytes
from yolo_hw.intgraph.nodes import NODE_TYPES


def cases_of(graph):
    """Yield a word for every special case a graph holds."""
    for node in graph.nodes:
        inputs, out = graph.inputs_of(node), graph.output_of(node)
        yield node.op
        yield f"bits {out.fmt.bits} {'signed' if out.fmt.signed else 'unsigned'}"
        if isinstance(node, N.Conv2d):
            yield "depthwise" if node.depthwise else "grouped" if node.groups > 1 else "dense"
            yield f"kernel {node.window.size[0]}x{node.window.size[1]}"
            yield from ["dilated"] * (node.window.dilation != (1, 1)) + ["strided"] * (node.window.stride != (1, 1))
            after = [node.window.trailing_pad(axis, inputs[0].shape[1 + axis], out.shape[1 + axis]) for axis in (0, 1)]
            yield "asymmetric" if tuple(after) != node.window.pad else "symmetric"
            shift = node.requant(inputs, out).shift
            yield from ["left shift"] * bool((shift < 0).any()) + ["mixed shifts"] * (len(set(shift.tolist())) > 1)
            yield f"accumulator {min(max(accumulator_bound(node, inputs).bits, 30), 33)}"
        if isinstance(node, (N.Conv2d, N.Add, N.Mul)):
            yield f"{node.op} {'table' if node.act.table is not None else node.act.function}"
        if isinstance(node, N.Add):
            yield f"add of {len(node.inputs)}"
            yield from ["aligned add"] * (max(node.alignment(inputs)) > 0)
        if isinstance(node, N.Mul) and inputs[0].shape != inputs[1].shape:
            yield "mul per pixel" if inputs[1].shape.c == 1 else "mul per channel"
        if isinstance(node, N.Reorg):
            yield f"reorg {node.mode} {node.reverse}"
        if len(set(node.inputs)) < len(node.inputs):
            yield f"{node.op} twice"


def test_every_graph_holds_every_node_kind():
    for seed in range(20):
        graph = random_graph(seed)
        check_graph(graph)
        assert {node.op for node in graph.nodes} == set(NODE_TYPES)
        readers = [node for node in graph.nodes if INPUT in node.inputs]
        assert all(isinstance(node, N.Conv2d) and node.groups == 1 for node in readers)


def test_all_special_cases_occur():
    found = {case for seed in range(40) for case in cases_of(random_graph(seed))}
    found |= {case for seed in range(20) for case in cases_of(random_graph(seed, bits=(8, 16)))}
    wanted = {f"{op} {act}" for op in ("conv2d", "add", "mul") for act in ("linear", "relu", "relu6", "leaky", "table")}
    wanted |= {f"bits {bits} {sign}" for bits in range(4, 9) for sign in ("signed", "unsigned")} | {"bits 16 signed"}
    wanted |= {f"kernel {size}x{size}" for size in (1, 2, 3, 5)} | {"kernel 3x1", "kernel 1x3"}
    wanted |= {f"reorg {mode} {back}" for mode in ("darknet", "space_to_depth") for back in (False, True)}
    wanted |= {f"add of {count}" for count in (1, 2, 3, 4)} | {"aligned add", "add twice", "mul twice", "concat twice"}
    wanted |= {"dense", "grouped", "depthwise", "dilated", "strided", "asymmetric", "symmetric"}
    wanted |= {"left shift", "mixed shifts", "mul per pixel", "mul per channel"}
    wanted |= {"accumulator 30", "accumulator 32", "accumulator 33"}
    assert wanted <= found, wanted - found


def test_graphs_are_reproducible():
    (document, arrays), (other, others) = (encode_graph(random_graph(3, bits=(8, 16))) for _ in range(2))
    assert json_bytes(document) == json_bytes(other)
    assert arrays.keys() == others.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, others[name])


def test_codes_are_not_all_saturated():
    """A graph whose codes all sit at the ends of their formats would hide differences."""
    inside = []
    for seed in range(10):
        graph = random_graph(seed)
        for name, result in execute(graph, random_input(graph, seed)):
            fmt = graph.tensors[name].fmt
            inside.append(((result.codes > fmt.lo) & (result.codes < fmt.hi)).mean())
    assert np.mean(inside) > 0.5


def test_inputs_use_the_whole_range():
    graph = random_graph(0)
    codes = random_input(graph, 0)
    assert (codes.min(), codes.max()) == (0, 255)
    assert len(np.unique(codes)) > 50
    ends = adversarial_inputs(graph)
    assert (ends["all_min"] == 0).all()
    assert (ends["all_max"] == 255).all()
    assert ends["checkerboard"][0, 0, :3].tolist() == [0, 255, 0]
