# SPDX-License-Identifier: Apache-2.0
"""Every invariant of the integer graph catches its planted violations and names the node."""

import pytest
from support import planted
from support.planted import point_conv, sound_graph, tiny_graph

from yolo_hw.errors import GraphError
from yolo_hw.intgraph import NumericContract, check_graph
from yolo_hw.intgraph.check import CHECKS
from yolo_hw.intgraph.nodes import Activation


def test_a_sound_graph_passes():
    check_graph(sound_graph())


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_planted_violations_are_caught_and_named(check):
    plant = getattr(planted, check.__name__, None)
    assert plant is not None, f"support/planted.py must plant violations of {check.__name__}"
    graphs = list(plant(sound_graph()))
    assert graphs
    for graph, name in graphs:
        with pytest.raises(GraphError) as caught:
            check_graph(graph)
        assert str(caught.value).startswith(f"{check.__name__}: {graph.name}: {name}: ")


def test_accumulators_may_use_their_last_value():
    """255 * 1 + bias reaches exactly 2**31 - 1; 255 * -1 + bias exactly -2**31."""
    check_graph(tiny_graph(point_conv(weight=1, bias=(1 << 31) - 1 - 255)))
    check_graph(tiny_graph(point_conv(weight=-1, bias=-(1 << 31) + 255)))


def test_products_may_use_63_bits():
    """32-bit accumulators, a 15-bit slope and a left shift of 16 make 63 bits; one more bit is refused."""
    bias = (1 << 31) - 1 - 255
    for slope_mul, fits in ((0x7FFF, True), (0x8000, False)):
        act = Activation("leaky", slope_mul=slope_mul, slope_shift=0)
        graph = tiny_graph(point_conv(weight=1, bias=bias, w_frac=-24, act=act))
        if fits:
            check_graph(graph)
        else:
            with pytest.raises(GraphError, match="accumulators_fit"):
                check_graph(graph)


@pytest.mark.parametrize(("w_frac", "fits"), [(-25, False), (-24, True), (39, True), (40, False)])
def test_shifts_may_use_their_whole_range(w_frac, fits):
    """The image has 8 fraction bits and the output none, so the shift is w_frac + 8, legal in [-16, 47]."""
    graph = tiny_graph(point_conv(w_frac=w_frac), contract=NumericContract(acc_bits=48))
    if fits:
        check_graph(graph)
    else:
        with pytest.raises(GraphError, match="shifts_are_legal"):
            check_graph(graph)
