# SPDX-License-Identifier: Apache-2.0
"""Models of Brevitas as integer graphs: 0 codes differ from what Brevitas itself computes in float64."""

import copy

import numpy as np
import pytest
import torch
from support.random_graph import adversarial_inputs
from torch import nn

from yolo_hw.errors import QuantError
from yolo_hw.fixedpoint import FixedPoint, Overflow, Rounding
from yolo_hw.intgraph import INPUT, run_outputs
from yolo_hw.intgraph.engine import Engine
from yolo_hw.quant import LeakySlope

qnn = pytest.importorskip("brevitas.nn", reason="needs brevitas")

import brevitas.quant as bq  # noqa: E402 - behind the check
from support.brevitas_models import (  # noqa: E402
    Int32Bias,
    OwnBias,
    PerChannel,
    PerTensor,
    ResNet,
    Signed,
    SmallNet,
    Unsigned,
    YoloLike,
    conv,
    identity,
    relu,
    trained,
)

from yolo_hw.interop.brevitas_in import from_brevitas, read_brevitas  # noqa: E402


def values_of(outputs):
    outputs = outputs if isinstance(outputs, (list, tuple)) and not hasattr(outputs, "value") else [outputs]
    return [getattr(y, "value", y).detach().numpy() for y in outputs]


def assert_equal_codes(model, size=(1, 3, 16, 16)):
    """Check that the integer graph and the engine have the codes of the model in float64; return the graph."""
    torch.manual_seed(5)
    graph = from_brevitas(model, torch.rand(size))
    exact = copy.deepcopy(model).double()
    engine, fmt = Engine(graph, threads=1), graph.tensors[INPUT].fmt
    images = [torch.rand(size[1:]).double().numpy() * 1.5 - 0.25 for _ in range(3)]
    cases = [np.clip(np.rint(np.ldexp(x, fmt.frac)), fmt.lo, fmt.hi).astype(np.int64) for x in images]
    for codes in (*cases, *adversarial_inputs(graph).values()):
        expected = run_outputs(graph, codes)
        wanted = values_of(exact(torch.from_numpy(np.ldexp(codes.astype(np.float64), -fmt.frac))[None]))
        assert len(wanted) == len(expected)
        for output, found, real in zip(graph.outputs, expected, wanted, strict=True):
            scaled = np.ldexp(real, graph.tensors[output.tensor].fmt.frac).reshape(found.shape)
            np.testing.assert_array_equal(found, scaled, err_msg=output.tensor)
        for found, compiled in zip(expected, engine.run(codes), strict=True):
            np.testing.assert_array_equal(compiled, found, err_msg="engine")
    assert any(found.std() > 0 for found in run_outputs(graph, cases[0])), "a constant output shows nothing"
    return graph


@pytest.mark.parametrize("weight", [PerTensor, PerChannel])
@pytest.mark.parametrize("bias", [Int32Bias, OwnBias])
@pytest.mark.parametrize(("w_bits", "a_bits"), [(8, 8), (4, 8), (4, 4), (8, 3), (2, 8)])
def test_a_classifier(w_bits, a_bits, weight, bias):
    torch.manual_seed(w_bits + 10 * a_bits)
    graph = assert_equal_codes(trained(SmallNet(w_bits, a_bits, weight, bias)))
    assert graph.contract.rounding is Rounding.HALF_EVEN
    assert {node.op for node in graph.nodes} == {"conv2d", "maxpool", "avgpool"}


@pytest.mark.parametrize("a_bits", [8, 4])
def test_a_residual_network_with_merged_batch_norms(a_bits):
    torch.manual_seed(1)
    graph = assert_equal_codes(trained(ResNet(a_bits)))
    assert graph.tensors[INPUT].fmt.signed is False
    assert sum(node.op == "add" for node in graph.nodes) >= 2


@pytest.mark.parametrize("bits", [8, 4])
def test_a_detector(bits):
    torch.manual_seed(2)
    graph = assert_equal_codes(trained(YoloLike(bits), (2, 3, 16, 24)), (1, 3, 16, 24))
    assert {"upsample", "concat", "maxpool"} <= {node.op for node in graph.nodes}
    assert (1, 3) in {(node.act.slope_mul, node.act.slope_shift) for node in graph.nodes if node.op == "conv2d"}
