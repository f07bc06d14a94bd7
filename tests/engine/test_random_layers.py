# SPDX-License-Identifier: Apache-2.0
"""Thousands of random layers have equal codes on every path of the engine and in numpy; ``make layers``: 100,000."""

from dataclasses import replace

import numpy as np
import pytest
from support import random_layers
from support.random_layers import WORD_LENGTHS, LayerDiffersError, check_layers, layer_cases

from yolo_hw.intgraph import execute

GRAPHS = 12 * len(WORD_LENGTHS)
"""Every rounding and overflow with every set of word lengths."""
BATCH = 12


@pytest.mark.parametrize("first", range(0, GRAPHS, BATCH))
def test_every_path_equals_numpy(first):
    assert sum(check_layers(seed) for seed in range(first, first + BATCH)) >= BATCH * random_layers.LAYERS_OF_A_GRAPH


def test_the_sample_holds_every_case():
    found = {case for seed in range(GRAPHS) for case in layer_cases(random_layers.random_layers(seed))}
    wanted = {
        f"{end} {bits} {sign}" for end in ("in", "out") for bits in range(2, 16) for sign in ("signed", "unsigned")
    }
    wanted |= {f"weights {bits}" for bits in range(2, 17)} | {f"channels {tail} of 16" for tail in range(16)}
    wanted |= {f"{kind} {side}x{side}" for kind in ("dense", "depthwise", "grouped") for side in (1, 2, 3, 5)}
    wanted |= {f"shift {shift}" for shift in (*range(-1, 32), 47)} | {f"stride {s}" for s in ((1, 1), (2, 2), (3, 2))}
    wanted |= {f"dilation {d}" for d in ((1, 1), (2, 2), (3, 3), (1, 3))} | {
        "pixels 1",
        "in 16 signed",
        "out 16 signed",
    }
    wanted |= {
        f"{op} {act}" for op in ("conv2d", "add", "mul") for act in ("linear", "relu", "relu6", "leaky", "table")
    }
    wanted |= {"maxpool", "avgpool", "concat", "slice", "upsample", "reorg"}
    assert wanted <= found, wanted - found


def test_codes_are_spread():
    """Saturated codes everywhere would hide differences."""
    inside, ends = 0.0, 0.0
    for seed in range(0, GRAPHS, 7):
        graph = random_layers.random_layers(seed)
        results = list(execute(graph, random_layers.random_input(graph, seed)))
        for name, result in results:
            fmt = graph.tensors[name].fmt
            share = ((result.codes > fmt.lo) & (result.codes < fmt.hi)).mean() / len(results)
            inside, ends = inside + share, ends + 1 / len(results) - share
    assert inside / (inside + ends) > 0.35
    assert ends / (inside + ends) > 0.1


def test_a_difference_names_the_layer_and_the_seed(monkeypatch):
    """One code of one layer of the reference is off by one."""
    graph = random_layers.random_layers(3)
    victim = graph.nodes[17].name

    def wrong(graph, codes):
        for name, result in execute(graph, codes):
            changed = result.codes.copy()
            changed[0, 0, 0] += name == victim
            yield name, replace(result, codes=changed)

    assert check_layers(3) == len(graph.nodes)
    monkeypatch.setattr(random_layers, "execute", wrong)
    with pytest.raises(LayerDiffersError, match=r"seed 3, path .* 1 of \d+ codes differ, first at \(0, 0, 0\)") as e:
        check_layers(3)
    assert f" {victim}: " in str(e.value)
    assert "python -m support.random_layers --layers 1 --seed 3" in str(e.value)


def test_graphs_are_reproducible():
    one, other = (random_layers.random_layers(11) for _ in range(2))
    assert [node.name for node in one.nodes] == [node.name for node in other.nodes]
    for a, b in zip(one.nodes, other.nodes, strict=True):
        assert a.arrays.keys() == b.arrays.keys()
        for role, array in a.arrays.items():
            np.testing.assert_array_equal(array, b.arrays[role])
