# SPDX-License-Identifier: Apache-2.0
"""Rounding and overflow of the compiled arithmetic (csrc/core), on every accumulator of a small range."""

import numpy as np
import pytest
from support.exact import exact_requant

from yolo_hw.darknet.layers import Shape
from yolo_hw.fixedpoint import FixedPoint, Overflow, Rounding
from yolo_hw.geometry import Window
from yolo_hw.intgraph import INPUT, INPUT_FORMAT, IntGraph, NumericContract, Output, TensorInfo, check_graph
from yolo_hw.intgraph.engine import Engine, engine_paths
from yolo_hw.intgraph.nodes import LINEAR, Activation, Conv2d

SHIFTS = np.array([-3, 0, 1, 2, 3, 6, 8, 9, 20, 38])
BIAS = 1 << 24  # a product with the slope that needs more than 32 bits
ACTIVATIONS = {
    "linear": LINEAR,
    "leaky": Activation("leaky", slope_mul=51, slope_shift=9),
    "steep": Activation("leaky", slope_mul=3276, slope_shift=1),
    "relu6": Activation("relu6", cap=5),
    "table": Activation("mish", table=np.arange(16)[::-1] - 8, table_fmt=FixedPoint(4, 0)),
}


def sweep_graph(contract, bias, act):
    """Return accumulators -128..127 around `bias` in each of ten channels, every channel with its own shift."""
    k = len(SHIFTS)
    conv = Conv2d(
        name="sweep",
        inputs=(INPUT,),
        weight=np.ones((k, 1, 1, 1), np.int64),
        w_frac=SHIFTS - INPUT_FORMAT.frac,
        bias=np.full(k, bias - 128),
        w_bits=8,
        window=Window((1, 1)),
        act=act,
    )
    tensors = {
        INPUT: TensorInfo(Shape(1, 16, 16), INPUT_FORMAT),
        "sweep": TensorInfo(Shape(k, 16, 16), FixedPoint(4, 0)),
    }
    graph = IntGraph("sweep", contract, (conv,), tensors, (Output("sweep"),))
    check_graph(graph)
    return graph, conv


@pytest.mark.parametrize("path", engine_paths())
@pytest.mark.parametrize("function", list(ACTIVATIONS))
@pytest.mark.parametrize("rounding", list(Rounding))
def test_codes_equal_exact_arithmetic(rounding, function, path):
    image = np.arange(256).reshape(1, 16, 16)
    for mode in Overflow:
        for bias, acc_bits in ((0, 32), (-BIAS, 32), (BIAS, 48)):
            contract = NumericContract(rounding, mode, acc_bits)
            graph, conv = sweep_graph(contract, bias, ACTIVATIONS[function])
            requant = conv.requant([graph.tensors[INPUT]], graph.tensors["sweep"])
            found = Engine(graph, path=path, threads=1).run(image)[0].reshape(len(SHIFTS), -1)
            expected = [
                [exact_requant(acc, k, requant, contract) for acc in range(bias - 128, bias + 128)]
                for k in range(len(SHIFTS))
            ]
            np.testing.assert_array_equal(found, expected)
