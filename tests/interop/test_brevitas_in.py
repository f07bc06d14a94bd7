# SPDX-License-Identifier: Apache-2.0
"""Models of Brevitas as integer graphs: 0 codes differ from what Brevitas itself computes in float64."""

import pytest
import torch

from yolo_hw.fixedpoint import Rounding
from yolo_hw.intgraph import INPUT

pytest.importorskip("brevitas", reason="needs brevitas")

from support.brevitas_models import (
    Int32Bias,
    OwnBias,
    PerChannel,
    PerTensor,
    ResNet,
    SmallNet,
    YoloLike,
    assert_equal_codes,
    trained,
)


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
