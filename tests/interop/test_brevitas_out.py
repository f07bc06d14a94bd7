# SPDX-License-Identifier: Apache-2.0
"""Our quantised models as Brevitas models: equal codes on every output."""

import numpy as np
import pytest
import torch
from support.qat import trained_qat
from support.random_graph import adversarial_inputs, random_input
from support.random_net import BLOCKS, make_images, make_net, net_cfg, random_net

from yolo_hw.errors import QuantError
from yolo_hw.fixedpoint import Overflow, Rounding
from yolo_hw.intgraph import image_codes, run_outputs
from yolo_hw.quant import LeakySlope, Override, QuantConfig, lower_graph
from yolo_hw.quant.qat import QatConfig, ScaleMethod, lower_model

pytest.importorskip("brevitas", reason="needs brevitas")

from yolo_hw.interop.brevitas_out import to_brevitas  # noqa: E402 - behind the check


def assert_equal_codes(graph, brevitas, image):
    """Check that the Brevitas model in float64 returns the integer graph's codes."""
    exact = brevitas.double()
    for codes in (image_codes(image), random_input(graph, 3), *adversarial_inputs(graph).values()):
        with torch.inference_mode():
            outputs = exact(torch.from_numpy(np.asarray(codes, np.float64))[None] / 255)
        expected = run_outputs(graph, codes)
        assert len(outputs) == len(expected)
        for output, values, wanted in zip(graph.outputs, outputs, expected, strict=True):
            found = np.ldexp(values[0].numpy(), graph.tensors[output.tensor].fmt.frac)
            np.testing.assert_array_equal(found, wanted, err_msg=output.tensor)


def check(model, config, qat=None):
    trained = trained_qat(model, config, qat or QatConfig(), steps=2)
    assert_equal_codes(lower_model(trained), to_brevitas(trained), make_images(model, 1, seed=9)[0])


HALF_EVEN = QuantConfig(rounding=Rounding.HALF_EVEN)


@pytest.mark.parametrize("block", sorted(BLOCKS))
def test_every_layer_kind_and_activation(block):
    check(make_net(net_cfg([block])), HALF_EVEN)


@pytest.mark.parametrize("rounding", [Rounding.HALF_EVEN, Rounding.FLOOR])
@pytest.mark.parametrize("overflow", [Overflow.SATURATE, Overflow.SATURATE_SYMMETRIC])
@pytest.mark.parametrize("bits", [4, 8, 16])
def test_word_lengths_and_arithmetic(bits, rounding, overflow):
    config = QuantConfig(w_bits=bits, a_bits=bits, rounding=rounding, overflow=overflow, leaky=LeakySlope(1, 3))
    check(random_net(bits + 20 * rounding.number + 40 * overflow.number), config)
