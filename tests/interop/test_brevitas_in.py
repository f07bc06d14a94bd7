# SPDX-License-Identifier: Apache-2.0
"""Models of Brevitas as integer graphs: 0 codes differ from what Brevitas itself computes in float64."""

import os
import subprocess
import sys

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


def test_where_brevitas_compiles_its_modules():
    """BREVITAS_JIT=1, read when Brevitas is imported, makes script modules of its activations."""
    code = (
        "import torch; from brevitas.config import JIT_ENABLED; assert JIT_ENABLED;"
        "from support.brevitas_models import *; torch.manual_seed(1); assert_equal_codes(trained(ResNet(8)));"
        "assert_equal_codes(trained(YoloLike(8), (2, 3, 16, 24)), (1, 3, 16, 24))"
    )
    path = os.pathsep.join(filter(None, sys.path))
    environment = {**os.environ, "BREVITAS_JIT": "1", "PYTHONPATH": path}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
