# SPDX-License-Identifier: Apache-2.0
"""The convolutions of support.random_layers by int_conv2d: CPU and emulated CUDA kernels give the codes of numpy."""

import numpy as np
import pytest
import torch
from support.cpu_paths import supported_paths
from support.cuda_emulation import call_emulated
from support.int_conv import Case
from support.random_layers import WORD_LENGTHS, random_input, random_layers

from yolo_hw.intgraph import INPUT, IntGraph, execute
from yolo_hw.intgraph.bounds import accumulator_bound
from yolo_hw.intgraph.nodes import Conv2d
from yolo_hw.ops import set_cpu_path
from yolo_hw.ops.int_conv2d import OutputCodes

GRAPHS = 12 * len(WORD_LENGTHS)
LARGEST = 60_000
"""Products of a layer: a thread of the emulation takes some 20 ns."""


def case_of(graph: IntGraph, conv: Conv2d, codes: np.ndarray) -> Case | None:
    """Return a graph's convolution as a call of the operator, None where that does not take its formats or shape."""
    (x,), out, window = graph.inputs_of(conv), graph.output_of(conv), conv.window
    requant, bound = conv.requant([x], out), accumulator_bound(conv, [x])
    two_bytes = x.fmt.bits > 8 or conv.w_bits > 8 or (out.fmt.bits > 8 and requant.table is None)
    after = {window.trailing_pad(axis, x.shape[1 + axis], out.shape[1 + axis]) - window.pad[axis] for axis in (0, 1)}
    if two_bytes or bound.bits > 32 or after != {0}:
        return None
    options = {"stride": window.stride, "padding": window.pad, "dilation": window.dilation, "groups": conv.groups}
    if requant.table is not None:
        options["table"] = torch.from_numpy(requant.table.astype(np.int16))
    modes = graph.contract.rounding, graph.contract.overflow
    factors = requant.mul_pos, requant.mul_neg, requant.shift_neg
    clamp = None if requant.table is not None else (requant.clamp_lo, requant.clamp_hi)
    return Case(
        torch.from_numpy(codes[None].astype(np.int8 if x.fmt.signed else np.uint8)),
        torch.from_numpy(conv.weight.astype(np.int8)),
        torch.from_numpy(conv.bias.astype(np.int32)),
        torch.from_numpy(np.broadcast_to(requant.shift, conv.bias.shape).astype(np.int32)),
        OutputCodes(requant.code, clamp, *factors, *modes),
        options,
    )


def convolutions(graph: IntGraph, seed: int):
    """Yield name, case and expected codes of a graph's convolutions that the operator takes."""
    maps = {INPUT: random_input(graph, seed)}
    for name, result in execute(graph, maps[INPUT]):
        maps[name] = result.codes
        node = graph.node(name)
        if isinstance(node, Conv2d) and (case := case_of(graph, node, maps[node.inputs[0]])):
            yield name, case, torch.from_numpy(result.codes)[None]


def emulate(case: Case, seed: int) -> torch.Tensor:
    o = case.options
    pairs = [list(o[name]) for name in ("stride", "padding", "dilation")]
    table = o.get("table", torch.empty(0, dtype=torch.int8))
    arguments = (case.x, case.weight, case.bias, case.shift, *pairs, o["groups"], case.output.numbers(), table)
    return call_emulated(torch.ops.yolo_hw.int_conv2d.default, arguments, seed=seed)


@pytest.mark.parametrize("first", range(4))
def test_random_layers_equal_numpy(first):
    emulated, on_cpu, paths = 0, 0, supported_paths()
    try:
        for seed in range(first, GRAPHS, 4):
            for name, case, want in convolutions(random_layers(seed), seed):
                set_cpu_path(paths[on_cpu % len(paths)])
                on_cpu += 1
                assert torch.equal(case.run().to(torch.int64), want), f"CPU: seed {seed}, layer {name}"
                if case.weight[0].numel() * want.numel() <= LARGEST:
                    assert torch.equal(emulate(case, seed).to(torch.int64), want), f"CUDA: seed {seed}, layer {name}"
                    emulated += 1
    finally:
        set_cpu_path("best")
    assert on_cpu > 150
    assert emulated > 100
