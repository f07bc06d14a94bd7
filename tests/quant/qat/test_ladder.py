# SPDX-License-Identifier: Apache-2.0
"""What is trained is what the hardware computes: model in float64 = integer graph = engine, after training steps."""

import pytest
from support.ladder import assert_qat_ladder
from support.qat import trained_qat
from support.random_net import BLOCKS, make_images, make_net, net_cfg, random_net

from yolo_hw.fixedpoint import Overflow, Rounding
from yolo_hw.quant import LeakySlope, Override, QuantConfig
from yolo_hw.quant.qat import NormFold, QatConfig, ScaleMethod

POWERS = [method for method in ScaleMethod if method.power_of_two]


def check(model, config=None, qat=None):
    return assert_qat_ladder(
        trained_qat(model, config or QuantConfig(), qat or QatConfig()), make_images(model, 1, seed=9)[0]
    )


@pytest.mark.parametrize("block", sorted(BLOCKS))
def test_every_layer_kind_and_activation(block):
    check(make_net(net_cfg([block])))


@pytest.mark.parametrize("w_scale", POWERS)
@pytest.mark.parametrize("a_scale", POWERS)
def test_every_scale(w_scale, a_scale):
    seed = 10 * POWERS.index(w_scale) + POWERS.index(a_scale)
    check(random_net(seed), qat=QatConfig(w_scale=w_scale, a_scale=a_scale))


@pytest.mark.parametrize("norm_fold", [fold for fold in NormFold if fold.folds])
@pytest.mark.parametrize("per_channel", [True, False])
def test_every_fold_of_batch_norms(norm_fold, per_channel):
    check(random_net(50 + per_channel), QuantConfig(per_channel=per_channel), QatConfig(norm_fold=norm_fold))


@pytest.mark.parametrize("rounding", list(Rounding))
@pytest.mark.parametrize("overflow", list(Overflow))
def test_every_rounding_and_overflow(rounding, overflow):
    scale = ScaleMethod.RANGE if overflow is Overflow.WRAP else ScaleMethod.TQT
    seed = 60 + 10 * list(Rounding).index(rounding) + list(Overflow).index(overflow)
    config = QuantConfig(rounding=rounding, overflow=overflow)
    check(random_net(seed), config, QatConfig(w_scale=scale, a_scale=scale))


@pytest.mark.parametrize("bits", [4, 8, 16])
@pytest.mark.parametrize("scale", [*(method for method in ScaleMethod if method.learns), ScaleMethod.GOOGLE])
def test_word_lengths(bits, scale):
    qat = QatConfig(w_scale=scale, a_scale=scale)
    check(random_net(100 + bits), QuantConfig(w_bits=bits, a_bits=bits), qat)
    check(random_net(200 + bits), QuantConfig(w_bits=8, a_bits=bits), qat)


@pytest.mark.parametrize(("mul", "shift"), [(1, 3), (26, 8), (3276, 15)])
def test_slopes_of_leaky(mul, shift):
    config = QuantConfig(leaky=LeakySlope(mul, shift), unsigned=False)
    graph = check(make_net(net_cfg(["leaky", "shortcut", "leaky"])), config)
    slopes = {(node.act.slope_mul, node.act.slope_shift) for node in graph.nodes if node.op == "conv2d"}
    assert (mul, shift) in slopes


def test_overrides():
    overrides = (Override("conv_1", w_bits=4), Override("conv_2", a_bits=5), Override("conv_3", 16, 16))
    graph = check(make_net(net_cfg(["leaky", "mish", "relu"])), QuantConfig(overrides=overrides))
    assert [node.w_bits for node in graph.nodes] == [8, 4, 8, 16, 8]
    assert [graph.tensors[node.name].fmt.bits for node in graph.nodes] == [8, 8, 5, 16, 8]
