# SPDX-License-Identifier: Apache-2.0
"""Quantised models of any torch module: exact at every word length, they return and give back what the module has."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support import zoo, zoo_odd
from support.ladder import assert_calibrated, assert_qat_ladder
from support.qat import images_of, trained_qat
from support.random_net import make_images
from support.traced import WIDTH, coded
from torch import nn

from yolo_hw.darknet.layers import Shape
from yolo_hw.errors import QuantError
from yolo_hw.nn import resnet20
from yolo_hw.quant import QuantConfig, calibrate, fold_model
from yolo_hw.quant.qat import QatConfig, float_model, lower_model, prepare_qat

NETWORKS = sorted(set(zoo.ZOO) - {"yolov8_decoded", "flattened_prelu"})


def make(name):
    torch.manual_seed(0)
    return (zoo.settle(resnet20()) if name == "resnet20" else zoo.make(name)).float()


def bits_of(bits):
    return QuantConfig(w_bits=bits, a_bits=bits)


WORD_LENGTHS = [pytest.param(4, marks=pytest.mark.slow), 8, pytest.param(16, marks=pytest.mark.slow)]


@pytest.mark.parametrize("bits", WORD_LENGTHS)
@pytest.mark.parametrize("name", NETWORKS)
def test_training_ladder(name, bits):
    model = make(name)
    qat = trained_qat(model, bits_of(bits), QatConfig(), steps=2)
    assert_qat_ladder(qat, make_images(model, 1, seed=9)[0])


@pytest.mark.parametrize("bits", WORD_LENGTHS)
@pytest.mark.parametrize("name", NETWORKS)
def test_calibration_ladder(name, bits):
    model = make(name)
    images = make_images(model)
    found = calibrate(fold_model(model, Shape(3, *images.shape[1:3])), [images], bits_of(bits))
    assert_calibrated(found, make_images(model, 1, seed=9)[0])


@pytest.mark.parametrize("name", ["resnet_basic", "mobilenet_v3_linear", "yolov8", "densenet", "layer_scale"])
def test_weights_go_back_into_the_module(name):
    model = make(name)
    untouched = float_model(prepare_qat(model, input_shape=Shape(3, 32, 32)), model)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in untouched.state_dict().items())
    qat = trained_qat(model, QuantConfig(), QatConfig())
    trained = float_model(qat, model)
    for key, value in trained.named_parameters():
        assert not torch.equal(value, model.state_dict()[key]), key
    for one, two in zip(fold_model(trained, qat.graph.input_shape).nodes, qat.folded_graph().nodes, strict=True):
        if hasattr(one, "weight"):
            np.testing.assert_array_equal(one.weight, two.weight)
            np.testing.assert_array_equal(one.bias, two.bias)


def test_constants_of_the_code_are_not_trained():
    model = make("resnet20")
    qat = trained_qat(model, QuantConfig(), QatConfig())
    convs = {name: conv for name, conv in qat.convs.items() if name.startswith(("standardise", "layer2/0/downsample"))}
    assert len(convs) == 2
    assert not any(isinstance(p, nn.Parameter) for conv in convs.values() for p in (conv.weight, conv.bias))
    np.testing.assert_array_equal(fold_model(model, Shape(3, 32, 32)).nodes[0].bias, qat.folded_graph().nodes[0].bias)


def test_outputs_have_the_modules_structure():
    module = coded(lambda m, x: {"maps": [x, F.relu(x)], "logits": m.a(x.mean((2, 3)))}, a=nn.Linear(WIDTH, 5)).float()
    images = [make_images(module)]
    found = prepare_qat(module, QuantConfig(w_bits=16, a_bits=16), batches=images)(images_of(module))
    wanted = module(images_of(module))
    assert list(found) == ["maps", "logits"]
    for one, other in zip([*found["maps"], found["logits"]], [*wanted["maps"], wanted["logits"]], strict=True):
        torch.testing.assert_close(one, other, rtol=0.01, atol=0.01)


def tinted_images(count):
    """Return noise [N, 3, 32, 32] in [0, 1] and labels [N]: which of red and blue is brighter."""
    generator = torch.manual_seed(0)
    images, labels = torch.rand(count, 3, 32, 32, generator=generator) * 0.6, torch.arange(count) % 2
    images[torch.arange(count), 2 * labels] += 0.4
    return images, labels


def descend(model, images, labels, steps):
    """Train a classifier; return the loss of every step."""
    optimizer = torch.optim.Adam(model.train().parameters(), lr=3e-3)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def test_an_ordinary_loss_trains_logits():
    torch.manual_seed(0)
    images, labels = tinted_images(32)
    model = zoo.ZOO["mobilenet_v3"](8)
    descend(model, images, labels, 40)
    qat = prepare_qat(model.eval(), bits_of(4), input_shape=Shape(3, 32, 32))
    losses = descend(qat, images, labels, 25)
    assert losses[-1] < 0.5 * losses[0]


def test_shared_parameters_stay_one():
    """A head on two maps: trained as one, given back as one."""
    torch.manual_seed(0)
    model = zoo.settle(zoo_odd.PRUNABLE["shared"]()).float()
    qat = prepare_qat(model, batches=[make_images(model)])
    assert qat.conv("conv").weight is qat.conv("conv_1").weight is qat.conv("conv_2").weight
    assert len([p for p in qat.parameters() if p.shape == model.conv.weight.shape]) == 1
    trained = trained_qat(model, QuantConfig(), QatConfig())
    assert_qat_ladder(trained, make_images(model, 1, seed=9)[0])
    copied = copy.deepcopy(trained)
    assert copied.conv("conv").weight is copied.conv("conv_2").weight
    restored = float_model(trained, model)
    torch.testing.assert_close(restored.conv.weight, trained.conv("conv").weight, rtol=0, atol=0)
    assert not torch.equal(restored.conv.weight, model.conv.weight)


@pytest.mark.parametrize("other", [lambda w: w.reshape(24, 6), lambda w: w.flatten(1).t()])
def test_parameters_shared_in_two_forms_are_refused(other):
    def code(m, x):
        vector = x.mean((2, 3))
        weight = other(m.a.weight)
        return m.a(x), F.linear(vector[:, : weight.shape[1]], weight)

    module = coded(code, a=nn.Conv2d(WIDTH, WIDTH, 1))
    with pytest.raises(QuantError, match="linear: its weight is the weight of a, too, in another form"):
        prepare_qat(module, input_shape=Shape(3, 16, 24))


def test_what_only_darknet_models_have():
    qat = prepare_qat(make("resnet20"), input_shape=Shape(3, 32, 32))
    assert qat.network is None
    with pytest.raises(QuantError, match="ResNet: the size of the images is not known: give input_shape"):
        prepare_qat(make("resnet20"))


def test_a_state_is_loaded_into_a_new_model():
    model = make("mobilenet_v3")
    qat = trained_qat(model, QuantConfig(), QatConfig())
    other = prepare_qat(model, input_shape=qat.graph.input_shape)
    other.load_state_dict(qat.state_dict())
    assert torch.equal(qat(images_of(model)), other(images_of(model)))
    assert lower_model(other).tensors == lower_model(qat).tensors
