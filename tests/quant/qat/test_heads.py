# SPDX-License-Identifier: Apache-2.0
"""Heads of 16 bits, in training or only afterwards, are as exact as all others."""

import copy

import numpy as np
import pytest
import torch
from support import zoo
from support.ladder import assert_qat_ladder
from support.networks import CfgWriter
from support.qat import images_of, trained_qat
from support.random_net import make_images, make_net, random_net
from torch import nn

from yolo_hw.errors import QuantError
from yolo_hw.quant import Override, QuantConfig, fold_model
from yolo_hw.quant.qat import HeadForm, NormFold, QatConfig, ScaleMethod, prepare_qat
from yolo_hw.quant.qat.heads import head_nodes

FOUR_BITS = QuantConfig(w_bits=4, a_bits=4)
WIDE_FORMS = [HeadForm.WIDE, HeadForm.FLOAT]


def two_heads():
    """A network whose second head reads what the first one does, upsampled."""
    cfg = CfgWriter(12, 16)
    cfg.conv(8, 3)
    cfg.conv(8, 3, 2)
    cfg.yolo([0], 1, "8,8, 16,16")
    cfg.route(-3)
    cfg.section("upsample", stride=2)
    cfg.route(-1, 0)
    cfg.yolo([1], 1, "8,8, 16,16")
    return make_net(cfg.text())


@pytest.mark.parametrize("heads", WIDE_FORMS)
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("scale", [ScaleMethod.TQT, ScaleMethod.LSQ, ScaleMethod.RANGE])
def test_ladder(heads, per_channel, scale):
    config = QuantConfig(w_bits=4, a_bits=8, per_channel=per_channel)
    model = two_heads()
    graph = check(model, config, QatConfig(heads=heads, w_scale=scale, a_scale=scale))
    assert [node.w_bits for node in graph.nodes if node.op == "conv2d"] == [4, 4, 16, 16]
    assert {graph.tensors[output.tensor].fmt.bits for output in graph.outputs} == {16}
    assert {graph.tensors[name].fmt.bits for name in ("conv_0", "conv_1")} == {8}


def check(model, config, qat):
    return assert_qat_ladder(trained_qat(model, config, qat), make_images(model, 1, seed=9)[0])


@pytest.mark.parametrize("heads", WIDE_FORMS)
@pytest.mark.parametrize("seed", range(4))
def test_ladder_of_random_networks(heads, seed):
    norm_fold = [fold for fold in NormFold if fold.folds][seed % 3]
    check(random_net(300 + seed), QuantConfig(), QatConfig(heads=heads, norm_fold=norm_fold))


@pytest.mark.parametrize("heads", WIDE_FORMS)
@pytest.mark.parametrize("name", ["resnet_basic", "densenet", "yolov8"])
def test_ladder_of_traced_modules(heads, name):
    check(zoo.make(name).float(), QuantConfig(), QatConfig(heads=heads))


class SumHead(nn.Module):
    """A network that ends with an addition."""

    def __init__(self):
        super().__init__()
        self.stem, self.branch = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        return x + self.branch(x)


@pytest.mark.parametrize("heads", WIDE_FORMS)
def test_heads_without_weights_have_wide_outputs(heads):
    torch.manual_seed(0)
    config = QuantConfig(w_bits=4, a_bits=8)
    images = [np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)).astype(np.uint8)]
    qat = prepare_qat(SumHead().eval(), config, qat=QatConfig(heads=heads), batches=images)
    graph = assert_qat_ladder(qat, images[0][0])
    assert {node.w_bits for node in graph.nodes if node.op == "conv2d"} == {4}
    assert {graph.tensors[output.tensor].fmt.bits for output in graph.outputs} == {16}


def test_heads_are_what_computes_the_outputs():
    model = two_heads()
    assert head_nodes(fold_model(model)) == ("conv_2", "conv_7")


def test_float_heads_are_not_rounded_until_scales_rest():
    model = two_heads()
    qat = prepare_qat(model, FOUR_BITS, qat=QatConfig(heads=HeadForm.FLOAT), batches=[make_images(model)])
    images = images_of(model)
    for frozen in (False, True):
        if frozen:
            qat.freeze_scales()
        maps = copy.deepcopy(qat).train().double()(images.double())
        for (tensor, _), y in zip(qat.graph.outputs, maps, strict=True):
            codes = torch.ldexp(y, qat._format(tensor).frac())
            assert torch.equal(codes, codes.round()) == frozen
    weight = qat.conv("conv_2").quantiser
    qat.conv("conv_2").weight.data.mul_(64)
    other = copy.deepcopy(qat)
    other.conv("conv_2").quantiser.frozen.fill_(False)
    other.train()(images)
    assert other.conv("conv_2").quantiser.frac().tolist() == [frac - 6 for frac in weight.frac().tolist()]


def test_wide_heads_are_closer_to_the_float_model():
    model = random_net(7)
    images = images_of(model, 5)
    errors = []
    for heads in HeadForm:
        qat = prepare_qat(model, FOUR_BITS, qat=QatConfig(heads=heads), batches=[make_images(model)])
        with torch.no_grad():
            errors.append(float(sum((a - b).square().mean() for a, b in zip(qat(images), model(images), strict=True))))
    assert max(errors[1:]) < 0.8 * errors[0]


def test_heads_share_a_format_with_what_they_are_joined_with():
    cfg = CfgWriter(12, 16)
    cfg.conv(8, 3)
    cfg.conv(10)
    cfg.route(-1, -2)
    cfg.section("yolo", mask="0", anchors="8,8", classes=13, num=1)
    model = make_net(cfg.text())
    qat = QatConfig(heads=HeadForm.FLOAT)
    graph = check(model, QuantConfig(w_bits=4), qat)
    assert {graph.tensors[name].fmt.bits for name in ("conv_0", "conv_1")} == {16}


def test_a_target_without_wide_words_refuses():
    with pytest.raises(QuantError, match=r"conv_2:w=16 is not possible on target 'dpu-like'"):
        prepare_qat(two_heads(), QuantConfig(target="dpu-like"), qat=QatConfig(heads=HeadForm.WIDE))


def test_an_override_of_a_head_is_overruled():
    config = QuantConfig(overrides=(Override("conv_2", w_bits=2),))
    qat = prepare_qat(two_heads(), config, qat=QatConfig(heads=HeadForm.WIDE))
    assert qat.conv("conv_2").quantiser.grid.bits == 16
