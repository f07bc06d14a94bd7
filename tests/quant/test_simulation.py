# SPDX-License-Identifier: Apache-2.0
"""First rungs of the ladder: the torch float64 simulation = numpy reference = compiled engine, code by code."""

import pytest
from support.ladder import assert_ladder
from support.random_net import BLOCKS, make_net, net_cfg, random_net

from yolo_hw.darknet.layers import ACTIVATIONS
from yolo_hw.fixedpoint import Overflow, Rounding
from yolo_hw.quant import AdaRoundConfig, CorrectBy, EqualiseBy, LeakySlope, Observer, QuantConfig


@pytest.mark.parametrize("block", sorted(BLOCKS))
def test_every_layer_kind_and_activation(block):
    graph = assert_ladder(make_net(net_cfg([block])), QuantConfig())
    if block in ACTIVATIONS:
        functions = {node.act.function for node in graph.nodes if node.op == "conv2d"}
        assert block in functions


@pytest.mark.parametrize("rounding", list(Rounding))
@pytest.mark.parametrize("overflow", list(Overflow))
def test_every_rounding_and_overflow(rounding, overflow):
    seed = 10 * list(Rounding).index(rounding) + list(Overflow).index(overflow)
    assert_ladder(random_net(seed), QuantConfig(rounding=rounding, overflow=overflow))


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8, 16])
def test_every_word_length(bits):
    assert_ladder(random_net(100 + bits), QuantConfig(w_bits=bits, a_bits=bits))
    assert_ladder(random_net(200 + bits), QuantConfig(w_bits=8, a_bits=bits))


@pytest.mark.parametrize("observer", list(Observer))
@pytest.mark.parametrize("per_channel", [True, False])
def test_every_observer(observer, per_channel):
    seed = 300 + list(Observer).index(observer) + 10 * per_channel
    assert_ladder(random_net(seed), QuantConfig(w_observer=observer, a_observer=observer, per_channel=per_channel))


@pytest.mark.parametrize(("mul", "shift"), [(1, 3), (26, 8), (3276, 15)])
def test_slopes_of_leaky(mul, shift):
    graph = assert_ladder(
        make_net(net_cfg(["leaky", "shortcut", "leaky"])), QuantConfig(leaky=LeakySlope(mul, shift), unsigned=False)
    )
    slopes = {(node.act.slope_mul, node.act.slope_shift) for node in graph.nodes if node.op == "conv2d"}
    assert (mul, shift) in slopes


def test_corrections_off():
    assert_ladder(random_net(400), QuantConfig(equalise=None, bias_correction=False, unsigned=False))


@pytest.mark.parametrize(
    "options",
    [
        {"equalise_by": EqualiseBy.WEIGHTS},
        {"equalise_by": EqualiseBy.WEIGHTS, "per_channel": False, "w_bits": 4},
        {"absorb_biases": True},
        {"bias_correction_by": CorrectBy.BATCH_NORM, "absorb_biases": True},
        {"adaround": AdaRoundConfig(iterations=20)},
        {"adaround": AdaRoundConfig(iterations=20), "w_bits": 4, "bias_correction": False},
        {"adaround": AdaRoundConfig(iterations=20), "bias_correction_by": CorrectBy.BATCH_NORM, "w_bits": 4},
        {"adaround": AdaRoundConfig(iterations=20), "w_bits": 16, "a_bits": 16},
        {"adaround": AdaRoundConfig(iterations=20), "overflow": Overflow.WRAP, "rounding": Rounding.FLOOR},
    ],
)
@pytest.mark.parametrize("seed", [500, 501])
def test_every_correction(options, seed):
    assert_ladder(random_net(seed), QuantConfig(**options))


def test_a_net_of_all_blocks():
    structure = [block for block in BLOCKS if block not in ACTIVATIONS]
    graph = assert_ladder(make_net(net_cfg(structure)), QuantConfig())
    assert {node.op for node in graph.nodes} == {
        "conv2d", "add", "mul", "avgpool", "maxpool", "concat", "slice", "upsample", "reorg",
    }  # fmt: skip
