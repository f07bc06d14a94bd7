# SPDX-License-Identifier: Apache-2.0
"""Small networks under all options: float64 = integer graph = engine, after calibration and after training."""

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.ladder import assert_calibrated, assert_ladder, assert_qat_ladder
from support.qat import trained_qat
from support.random_net import COMMON_BLOCKS, calibrate_net, make_images, make_net, net_cfg
from support.random_options import POST_TRAINING, build_net, nets, qat_configs, quant_configs

from yolo_hw.intgraph.target_profiles import TARGETS
from yolo_hw.intgraph.violations import violations
from yolo_hw.quant import QuantConfig
from yolo_hw.quant.qat import QatConfig, ScaleMethod

EXAMPLES = min(settings().max_examples, 20) if settings().derandomize else settings().max_examples
"""A few of the repeatable ones; HYPOTHESIS_PROFILE=explore draws its own number."""

FIXED = QatConfig(w_scale=ScaleMethod.FIXED, a_scale=ScaleMethod.FIXED)
"""Steps that calibration has made legal for the target stay so while weights move."""


def products():
    """Every word length of weights and of maps with every rounding, as far as a target has them."""
    return [
        pytest.param(target, w_bits, a_bits, rounding, id=f"{target}-w{w_bits}a{a_bits}-{rounding.value}")
        for target, profile in TARGETS.items()
        for w_bits, a_bits, rounding in itertools.product((4, 8, 16), (4, 8, 16), profile.roundings)
        if w_bits in profile.w_bits and a_bits in profile.a_bits
    ]


@pytest.mark.parametrize("trained", [False, True], ids=["calibrated", "trained"])
@pytest.mark.parametrize(("target", "w_bits", "a_bits", "rounding"), products())
def test_every_target_word_length_and_rounding(target, w_bits, a_bits, rounding, trained):
    config = QuantConfig(target=target, w_bits=w_bits, a_bits=a_bits, rounding=rounding)
    rng = random.Random(f"{target} {w_bits} {a_bits} {rounding.value}")
    model = make_net(net_cfg(["leaky", *rng.choices(COMMON_BLOCKS, k=2)], (8, 8)), rng.randrange(100))
    if trained:
        graph = assert_qat_ladder(trained_qat(model, config, FIXED, steps=2), make_images(model, 1, seed=9)[0])
    else:
        graph = assert_ladder(model, config)
    assert violations(graph, TARGETS[target]) == []


@settings(max_examples=EXAMPLES)
@given(st.data())
def test_any_calibration_of_any_net(data):
    config = data.draw(quant_configs(**POST_TRAINING), label="config")
    model = build_net(data.draw(nets(config), label="net"))
    assert_calibrated(calibrate_net(model, config), make_images(model, 1, seed=9)[0], may_be_dead=True)


@settings(max_examples=EXAMPLES)
@given(st.data())
def test_any_training_of_any_net(data):
    config = data.draw(quant_configs(), label="config")
    qat = data.draw(qat_configs(config), label="qat")
    model = build_net(data.draw(nets(config, most=3), label="net"))
    assert_qat_ladder(trained_qat(model, config, qat, steps=2), make_images(model, 1, seed=9)[0], may_be_dead=True)
