# SPDX-License-Identifier: Apache-2.0
"""Folding: the folded graph computes what the model computes, batch norms and all."""

import numpy as np
import pytest
import torch
from support.networks import CfgWriter
from support.random_net import BLOCKS, make_images, make_net, net_cfg

from yolo_hw.errors import QuantError
from yolo_hw.quant.execute import float_parameters, image_tensor, run_folded
from yolo_hw.quant.fold import fold_model
from yolo_hw.quant.folding import PIXEL_GAIN, plain_name
from yolo_hw.quant.source import ConvSource


def folded_outputs(graph, images):
    """Run a folded graph in float64 on image bytes; return its outputs."""
    x = image_tensor(images, torch.float64)
    found = {r.node.name: r.out for r in run_folded(graph, x, float_parameters(graph, torch.float64))}
    return [found[name] for name, _ in graph.outputs]


def assert_folded_equals_model(model):
    model.double()
    images = make_images(model)
    with torch.inference_mode():
        expected = model(torch.from_numpy(images).permute(0, 3, 1, 2).double() / 255)
    for one, other in zip(folded_outputs(fold_model(model), images), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("block", sorted(BLOCKS))
def test_every_layer_kind(block):
    assert_folded_equals_model(make_net(net_cfg([block])))


def test_connected_layers():
    cfg = CfgWriter(6, 10)
    cfg.conv(4, 3, 2)
    cfg.section("connected", output=7, activation="leaky", batch_normalize=1)
    cfg.section("connected", output=3, activation="linear")
    cfg.section("softmax")
    model = make_net(cfg.text())
    model.double()
    images = make_images(model)
    with torch.inference_mode():
        (expected,) = model(torch.from_numpy(images).permute(0, 3, 1, 2).double() / 255)
    (found,) = folded_outputs(fold_model(model), images)
    torch.testing.assert_close(found.softmax(1), expected, rtol=1e-9, atol=1e-9)  # the host computes the softmax


def test_a_batch_norm_by_hand():
    """gamma / sqrt(var + eps) is 2 / sqrt(4) = 1 and -3 / sqrt(0.25) = -6; a negative variance counts as 0."""
    cfg = CfgWriter(4, 4)
    cfg.conv(3, 1)
    model = make_net(cfg.text())
    block = model.block("conv_0")
    block.bn.eps = 0.01
    with torch.no_grad():
        block.conv.weight.copy_(torch.tensor([[1.0, 2.0, 3.0]] * 3).reshape(3, 3, 1, 1))
        block.bn.weight.copy_(torch.tensor([2.0, -3.0, 0.5]))
        block.bn.bias.copy_(torch.tensor([0.5, 0.25, -1.0]))
        block.bn.running_mean.copy_(torch.tensor([4.0, 1.0, 2.0]))
        block.bn.running_var.copy_(torch.tensor([3.99, 0.24, -0.005]))
    weight, bias = ConvSource(block.conv.weight, block.bn).folded()
    np.testing.assert_allclose(weight[:, :, 0, 0], [[1, 2, 3], [-6, -12, -18], [5, 10, 15]], rtol=1e-6)
    np.testing.assert_allclose(bias, [-3.5, 6.25, -11.0], rtol=1e-6)


def test_only_the_first_weights_hold_the_pixels_factor():
    cfg = CfgWriter(4, 4)
    cfg.conv(2, batch_normalize=0)
    cfg.conv(2, batch_normalize=0)
    model = make_net(cfg.text())
    first, second = fold_model(model).nodes
    np.testing.assert_array_equal(first.weight, model.block("conv_0").conv.weight.detach().double() * PIXEL_GAIN)
    np.testing.assert_array_equal(second.weight, model.block("conv_1").conv.weight.detach().double())


def test_layers_no_head_depends_on_are_left_out():
    cfg = CfgWriter(8, 8)
    first = cfg.conv(4)
    cfg.conv(5)
    cfg.route(first)
    cfg.yolo([0], 1, "1,2")
    assert [node.name for node in fold_model(make_net(cfg.text())).nodes] == ["conv_0", "conv_3"]


def local_average(cfg):
    cfg.section("local_avgpool", size=2, stride=2)


def narrow_shortcut(cfg):
    cfg.conv(6)
    cfg.section("shortcut", from_=-2, activation="linear")


def softmax_in_the_middle(cfg):
    cfg.section("softmax", groups=1)
    cfg.conv(4)


def softmax_before_a_head(cfg):
    cfg.conv(6)
    cfg.section("softmax", groups=1)
    cfg.section("yolo", mask="0", anchors="1,2", classes=1, num=1)


@pytest.mark.parametrize(
    ("add", "message"),
    [
        (local_average, "local_avgpool_1: local average"),
        (softmax_in_the_middle, "softmax_1: a softmax has no integer form, except at the end"),
        (softmax_before_a_head, "softmax_2: a softmax has no integer form, except at the end"),
        (narrow_shortcut, "shortcut_2: an input with 4 of 6 channels"),
        (lambda cfg: cfg.section("upsample", stride=2, scale=0.5), "upsample_1: scale must be 1"),
    ],
)
def test_layers_without_an_integer_form_are_named(add, message):
    cfg = CfgWriter(8, 8)
    cfg.conv(4)
    add(cfg)
    with pytest.raises(QuantError, match=message):
        fold_model(make_net(cfg.text()))


def test_a_softmax_at_the_end_is_left_to_the_host():
    cfg = CfgWriter(8, 8)
    cfg.conv(4)
    cfg.section("softmax", groups=1)
    assert [node.name for node in fold_model(make_net(cfg.text())).nodes] == ["conv_0"]


@pytest.mark.parametrize(("name", "plain"), [("my net", "my_net"), (".x", "_x"), ("Ünet+1", "_net+1"), ("", "_")])
def test_names_become_file_names(name, plain):
    assert plain_name(name) == plain


def test_only_convolutions_read_the_image():
    cfg = CfgWriter(8, 8)
    cfg.section("maxpool", size=2, stride=2)
    cfg.conv(4)
    with pytest.raises(QuantError, match="maxpool_0: only convolutions can read the image"):
        fold_model(make_net(cfg.text()))
