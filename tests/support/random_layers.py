# SPDX-License-Identifier: Apache-2.0
"""Random integer layers by the thousand, run on every path of the engine and in numpy, compared code by code.

The 100,000 layers of ``make layers``::

    PYTHONPATH=tests:. python -m support.random_layers --layers 100000

A difference ends the run with the layer and the seed of its graph; ``--seed N --layers 1`` repeats that graph alone.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from os import cpu_count

import numpy as np
from support.graph_builder import GraphBuilder, append_conv
from support.graph_recipes import RECIPES
from support.random_graph import random_input

from yolo_hw.darknet.layers import Shape
from yolo_hw.fixedpoint import IntArray, Overflow, Rounding
from yolo_hw.intgraph import INPUT, IntGraph, NumericContract, Output, TensorInfo, check_graph, execute
from yolo_hw.intgraph import nodes as N
from yolo_hw.intgraph.engine import Engine, engine_paths
from yolo_hw.intgraph.kernels import Result
from yolo_hw.intgraph.nodes import Node

WORD_LENGTHS = (tuple(range(2, 9)), (8,), (8,), (7, 8, 9), tuple(range(2, 17)), (8, 16), (16,))
"""Word lengths that the weights and activations of a graph are drawn from."""
KINDS = ("dense", "dense", "depthwise", "grouped", "grouped")
LAYERS_OF_A_GRAPH = 50
MAX_CODES = 20000
"""Larger maps are not read again, so that no chain of layers grows without limit."""
GROUP = 20
"""Graphs between two lines of progress."""


class LayerDiffersError(Exception):
    """A path of the engine and numpy disagree; the message names the layer and how to repeat it."""


def random_layers(seed: int) -> IntGraph:
    """Return about `LAYERS_OF_A_GRAPH` layers of all kinds in one graph, most of them small.

    The seed alone determines it. Rounding, overflow and word lengths go through all their combinations with the seed.
    """
    rng = np.random.default_rng((seed, LAYERS_OF_A_GRAPH))
    modes = list(Rounding)[seed % 4], list(Overflow)[seed // 4 % 3]
    bits = WORD_LENGTHS[seed // 12 % len(WORD_LENGTHS)]
    contract = NumericContract(*modes, 32 if max(bits) <= 8 else 48)
    builder = GraphBuilder(rng, contract, int(rng.choice([4, 9, 21, 40, 70])), bits, unusual=True)
    channels = builder.number(1, 5) if builder.chance(0.5) else builder.number(1, builder.max_channels)
    large = builder.chance(0.05)
    height, width = (builder.number(1, 48 if large else 20) for _ in range(2))
    builder.tensors[INPUT] = TensorInfo(Shape(channels, height, width), builder.fmt())
    for kind in KINDS:
        append_conv(builder, INPUT, kind=kind)
    while len(builder.nodes) < LAYERS_OF_A_GRAPH:
        least = 1 if builder.chance(0.2) else 6  # pixels: strides make most maps tiny otherwise
        source = builder.pick(lambda i, least=least: least <= i.shape.h * i.shape.w <= MAX_CODES / i.shape.c)
        if builder.chance(0.5):
            append_conv(builder, source, kind=str(rng.choice(KINDS)))
        else:
            RECIPES[int(rng.integers(len(RECIPES)))](builder, source)
    nodes = tuple(builder.nodes)
    read = {source for node in nodes for source in node.inputs}
    outputs = tuple(Output(node.name) for node in nodes if node.name not in read or builder.chance(0.1))
    graph = IntGraph(f"layers_{seed}", contract, nodes, dict(builder.tensors), outputs)
    check_graph(graph)
    return graph


def check_layers(seed: int) -> int:
    """Compare every layer of a graph on every path with numpy; return their number.

    Each path runs twice: once keeping the codes of all layers, and once those of the outputs only, as a user does,
    where maps share memory and layers may be fused.

    Raises:
        LayerDiffersError: A code differs.
    """
    graph = random_layers(seed)
    codes = random_input(graph, seed)
    expected = dict(execute(graph, codes))
    for path in engine_paths():
        threads = 2 if seed % 8 == 0 else 1
        found = Engine(graph, path=path, threads=threads, keep_all=True).run_all(codes)
        assert_equal_layers(graph, expected, found, f"seed {seed}, path {path}, all layers kept")
        outputs = Engine(graph, path=path, threads=threads).run(codes)
        kept = {output.tensor: code for output, code in zip(graph.outputs, outputs, strict=True)}
        assert_equal_layers(graph, expected, kept, f"seed {seed}, path {path}, outputs kept")
    return len(graph.nodes)


def assert_equal_layers(graph: IntGraph, expected: dict[str, Result], found: dict[str, IntArray], what: str) -> None:
    """Raise `LayerDiffersError` for the first layer of `found` that is not as expected."""
    for node in graph.nodes:
        if node.name not in found or np.array_equal(found[node.name], expected[node.name].codes):
            continue
        want = expected[node.name]
        differs = np.argwhere(found[node.name] != want.codes)
        at = tuple(int(i) for i in differs[0])
        acc = "" if want.acc is None else f" of accumulator {want.acc[at]}"
        raise LayerDiffersError(
            f"{what}: {len(differs)} of {want.codes.size} codes differ, first at {at}: expected {want.codes[at]}{acc}, "
            f"got {found[node.name][at]}\n  {describe(graph, node)}\n"
            f"  repeat: PYTHONPATH=tests:. python -m support.random_layers --layers 1 --seed {graph.name[7:]}"
        )


def describe(graph: IntGraph, node: Node) -> str:
    """Return a layer in one line: kind, formats and shapes of its inputs and output, geometry, shifts."""
    inputs, out = graph.inputs_of(node), graph.output_of(node)
    parts = [f"{node.op} {node.name}:", ", ".join(f"{tuple(i.shape)} {i.fmt}" for i in inputs)]
    parts.append(f"-> {tuple(out.shape)} {out.fmt}, {graph.contract}")
    if isinstance(node, (N.Conv2d, N.MaxPool)):
        parts.append(f"{node.window}")
    if isinstance(node, N.Conv2d):
        parts.append(f"groups {node.groups}, weights of {node.w_bits} bits")
    requant = node.requant(inputs, out)
    if requant is not None:
        parts.append(f"shifts {requant.shift.tolist()}, factors {(requant.mul_pos, requant.mul_neg)}")
        parts.append(f"shift_neg {requant.shift_neg}, code {requant.code}" + ", table" * (requant.table is not None))
    return " ".join(parts)


def layer_cases(graph: IntGraph) -> Iterator[str]:
    """Yield a word for every property of a graph's layers that a fair sample has to hold."""
    yield f"{graph.contract.rounding.value} {graph.contract.overflow.value}"
    for node in graph.nodes:
        inputs, out = graph.inputs_of(node), graph.output_of(node)
        yield node.op
        yield f"in {inputs[0].fmt.bits} {'signed' if inputs[0].fmt.signed else 'unsigned'}"
        yield f"out {out.fmt.bits} {'signed' if out.fmt.signed else 'unsigned'}"
        yield f"channels {out.shape.c % 16} of 16"
        requant = node.requant(inputs, out)
        if requant is not None:
            yield from (f"shift {shift}" for shift in np.unique(np.maximum(requant.shift, -1)).tolist())
        if isinstance(node, (N.Conv2d, N.Add, N.Mul)):
            yield f"{node.op} {'table' if node.act.table is not None else node.act.function}"
        if isinstance(node, N.Conv2d):
            kind = "depthwise" if node.depthwise else "grouped" if node.groups > 1 else "dense"
            w = node.window
            yield from (f"{kind} {w.size[0]}x{w.size[1]}", f"stride {w.stride}", f"dilation {w.dilation}")
            yield f"weights {node.w_bits}"
            yield from ["pixels 1"] * (out.shape.h * out.shape.w == 1)


def _progress(first: int, wanted: int, jobs: int) -> int:
    start, done, group = time.monotonic(), 0, GROUP * jobs
    with ProcessPoolExecutor(jobs) as pool:
        while done < wanted:
            graphs = min(group, -(-(wanted - done) // LAYERS_OF_A_GRAPH))
            done += sum(pool.map(check_layers, range(first, first + graphs)))
            first += graphs
            print(f"\r{done} layers equal, {time.monotonic() - start:.0f} s", end="", flush=True)
    return done


def main() -> int:
    """Compare as many layers as asked for; the exit code is 1 at a difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=100_000, help="how many to compare at least")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first graph; the others follow")
    parser.add_argument("--jobs", type=int, default=cpu_count() or 1, help="processes")
    options = parser.parse_args()
    try:
        done = _progress(options.seed, options.layers, options.jobs)
    except LayerDiffersError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    print(f"\n{done} layers have equal codes in numpy and on {', '.join(engine_paths())}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
