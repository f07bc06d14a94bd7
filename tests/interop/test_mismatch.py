# SPDX-License-Identifier: Apache-2.0
"""The expected shares of differing codes, against counting over whole periods of values."""

import itertools

import numpy as np
import pytest
from support.random_graph import random_graph

from yolo_hw.errors import ExportError
from yolo_hw.fixedpoint import Overflow, Rounding, round_shift
from yolo_hw.interop.mismatch import ExportReport, Mismatch, Reason, expected_mismatches, rounding_share
from yolo_hw.intgraph.nodes import AvgPool


@pytest.mark.parametrize(("ours", "theirs"), list(itertools.product(Rounding, repeat=2)))
@pytest.mark.parametrize("mul", [1, 3, 26, 51, 3276])
@pytest.mark.parametrize("sign", [1, -1])
def test_shares_equal_counting(ours, theirs, mul, sign):
    shifts = np.arange(-2, 9)
    values = sign * mul * np.arange(1, (1 << 10) + 1)
    counted = [(round_shift(values, s, ours) != round_shift(values, s, theirs)).mean() for s in shifts]
    np.testing.assert_array_equal(rounding_share(ours, theirs, shifts, mul, sign=sign), counted)


def test_half_up_against_half_even_is_the_published_rule():
    """``2**-(s + 1)``: 6.25 % for a shift of 3, 0.39 % for 7."""
    shares = rounding_share(Rounding.HALF_UP, Rounding.HALF_EVEN, np.array([3, 7]), sign=1)
    np.testing.assert_array_equal(shares, [0.0625, 0.00390625])


def test_no_reason_is_left_out():
    graph = random_graph(0, bits=(8, 16), rounding=Rounding.FLOOR, overflow=Overflow.WRAP)
    report = expected_mismatches(graph, "form", lambda requant: Rounding.HALF_EVEN)
    assert list(report.by_reason()) == list(Reason)
    computing = [node.name for node in graph.nodes if node.op in ("conv2d", "add", "mul", "avgpool")]
    assert [found.node for found in report.by_reason()[Reason.OVERFLOW]] == computing
    averages = {found.node for found in report.by_reason()[Reason.AVERAGE]}
    for node in graph.nodes:
        if isinstance(node, AvgPool):
            count = graph.inputs_of(node)[0].shape.h * graph.inputs_of(node)[0].shape.w
            assert (node.name in averages) == (count & (count - 1) != 0)


def test_strict_names_the_first_node_of_every_reason():
    found = [("a", Reason.ROUNDING), ("b", Reason.ROUNDING), ("c", Reason.FLOAT32)]
    report = ExportReport("net", "qdq", 9, tuple(Mismatch(name, reason, None) for name, reason in found))
    with pytest.raises(ExportError, match="rounding in 2 nodes, first a; float32 in 1 nodes, first c; leave strict"):
        report.require_exact()
    ExportReport("net", "qdq", 9, ()).require_exact()
