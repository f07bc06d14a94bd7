# SPDX-License-Identifier: Apache-2.0
"""A quantised model starts where post-training quantisation ends: equalised, with corrected biases."""

from dataclasses import replace

import pytest
import torch
from support.ladder import assert_qat_ladder
from support.qat import images_of
from support.random_net import BLOCKS, make_images, make_net, make_uneven, net_cfg

from yolo_hw.darknet.layers import ACTIVATIONS
from yolo_hw.quant import EqualiseBy, QuantConfig
from yolo_hw.quant.qat import float_model, prepare_qat

FOUR_BITS = QuantConfig(w_bits=4)


def distance(qat, model):
    images = images_of(model, 5)
    with torch.no_grad():
        return sum(float(((y - w) ** 2).mean()) for y, w in zip(qat(images), model(images), strict=True))


@pytest.mark.parametrize("block", sorted(set(BLOCKS) - set(ACTIVATIONS)))
@pytest.mark.parametrize("by", list(EqualiseBy))
def test_equalised_weights_are_the_same_float_function(block, by):
    model = make_uneven(make_net(net_cfg(["leaky", block, "leaky"])))
    config = QuantConfig(equalise_by=by, bias_correction=False)
    qat = prepare_qat(model, config, batches=[make_images(model)])
    images = images_of(model)
    with torch.no_grad():
        for one, two in zip(float_model(qat, model)(images), model(images), strict=True):
            torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)
    plain = prepare_qat(model, replace(config, equalise=None), batches=[make_images(model)])
    moved = [not torch.equal(a, b) for a, b in zip(qat.parameters(), plain.parameters(), strict=True)]
    assert any(moved)
    assert_qat_ladder(qat, make_images(model, 1, seed=9)[0])


def test_the_start_is_better_with_than_without():
    for seed in range(4):
        model = make_uneven(make_net(net_cfg(["leaky", "depthwise", "leaky", "shortcut"]), seed))
        options = {"batches": [make_images(model, 8)]}
        corrected = distance(prepare_qat(model, FOUR_BITS, **options), model)
        plain = distance(prepare_qat(model, replace(FOUR_BITS, equalise=None, bias_correction=False), **options), model)
        assert corrected < 0.8 * plain


def test_weights_that_are_constants_stay():
    """A weighted shortcut's factors are no weights of the model: what they touch is not scaled."""
    model = make_uneven(make_net(net_cfg(["weighted_shortcut"])))
    qat = prepare_qat(model, batches=[make_images(model)])
    fresh = prepare_qat(model)
    for name, conv in qat.convs.items():
        if "weighted" in name:
            assert torch.equal(conv.weight, fresh.convs[name].weight)
