# SPDX-License-Identifier: Apache-2.0
"""Trained networks with other options than the default ones, which the end-to-end tests have, on small images."""

import pytest
from support.data import REAL_NETWORKS, real_network
from support.ladder import assert_calibrated, assert_qat_ladder
from support.qat import trained_qat
from support.random_net import calibrate_net, make_images

from yolo_hw.errors import QuantError
from yolo_hw.fixedpoint import Rounding
from yolo_hw.nn.darknet import load_darknet
from yolo_hw.quant import QuantConfig
from yolo_hw.quant.qat import QatConfig

SIZE = (64, 64)
WORDS = {
    "4/4": QuantConfig(w_bits=4, a_bits=4, rounding=Rounding.HALF_EVEN),
    "4/8": QuantConfig(w_bits=4, a_bits=8, rounding=Rounding.HALF_AWAY),
    "8/16": QuantConfig(w_bits=8, a_bits=16, per_channel=False),
    "16/16": QuantConfig(w_bits=16, a_bits=16, rounding=Rounding.FLOOR),
}
TARGETS = ("dpu-like", "dhm-int16", "hls4ml-like", "nngen-like")
TOO_LARGE = {("mobilenetv2-voc", "dhm-int16"), ("yoloface-500k", "dhm-int16")}
"""Maps and weights so large that 16-bit codes of both leave an accumulator fewer fraction bits than 19."""


def network(name):
    return load_darknet(*real_network(name), size=SIZE)


@pytest.mark.parametrize("words", WORDS)
@pytest.mark.parametrize("name", REAL_NETWORKS)
def test_words(name, words):
    model = network(name)
    assert_calibrated(calibrate_net(model, WORDS[words]), make_images(model, 1, seed=9)[0])


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", REAL_NETWORKS)
def test_targets(name, target):
    model, config = network(name), QuantConfig(target=target)
    if (name, target) in TOO_LARGE:
        with pytest.raises(QuantError, match=r"acc_frac must be in \[19, 30\]"):
            calibrate_net(model, config)
        return
    assert_calibrated(calibrate_net(model, config), make_images(model, 1, seed=9)[0])


@pytest.mark.parametrize("name", REAL_NETWORKS)
def test_training(name):
    model = network(name)
    qat = trained_qat(model, QuantConfig(w_bits=4), QatConfig(), steps=2)
    assert_qat_ladder(qat, make_images(model, 1, seed=9)[0])
