# SPDX-License-Identifier: Apache-2.0
"""Pruned weights stay zero through quantised training, and are zeros in the integer graph."""

import pytest
import torch
from support import zoo
from support.ladder import assert_qat_ladder
from support.random_net import make_images, make_net, net_cfg
from support.scenes import Scenes, mimic

from yolo_hw.darknet.layers import Shape
from yolo_hw.errors import QuantError
from yolo_hw.prune.magnitude import darknet_filters, filter_masks, weight_masks
from yolo_hw.prune.masked_training import MaskedTraining
from yolo_hw.prune.masks import apply_masks, mask_report
from yolo_hw.prune.patterns import group_masks
from yolo_hw.quant import QuantConfig
from yolo_hw.quant.qat import FreezeQat, NormFold, QatConfig, ScaleMethod, float_model, prepare_qat, qat_masks
from yolo_hw.train import Optimizer, TrainConfig, fit

CONFIG = TrainConfig(epochs=3, batch=8, optimizer=Optimizer.ADAMW, learning_rate=5e-3, ema_decay=0.9, workers=0)
MASKS = {
    "weights": lambda model: weight_masks(model, 0.6, ["*conv.weight"]),
    "2:4": lambda model: group_masks(model, "2:4", ["blocks.conv_1.conv", "blocks.conv_2.conv"]),
    "filters": lambda model: filter_masks(model, 0.3, darknet_filters(model)),
}


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("qat", [QatConfig(), QatConfig(w_scale=ScaleMethod.RANGE, norm_fold=NormFold.TWO_PASS)],
                         ids=["tqt", "range"])  # fmt: skip
def test_zeros_stay_zeros_down_to_the_codes(kind, qat):
    model = make_net(net_cfg(["leaky", "shortcut", "relu"]))
    masks = MASKS[kind](model)
    apply_masks(model, masks)
    prepared = prepare_qat(model, QuantConfig(w_bits=4), qat=qat, batches=[make_images(model)])
    mine = qat_masks(prepared, model, masks)
    count = sum(int((~mask).sum()) for mask in masks.values())
    assert sum(int((~mask).sum()) for mask in mine.values()) == count > 0
    state = fit(prepared, Scenes(model), CONFIG, loss=mimic(make_net(net_cfg(["leaky", "shortcut", "relu"]), 1)),
                callbacks=[MaskedTraining(mine), FreezeQat(0.5, 0.9)])  # fmt: skip
    assert mask_report(state.best_model, mine).is_consistent
    graph = assert_qat_ladder(state.best_model, make_images(model, 1, seed=9)[0])
    trained = float_model(state.best_model, model)
    assert mask_report(trained, masks).is_consistent
    assert any(not torch.equal(p, q) for p, q in zip(trained.parameters(), model.parameters(), strict=True))
    checked = 0
    for node in graph.nodes:
        mask = masks.get(f"blocks.{node.name}.conv.weight")
        if mask is not None:
            assert not node.weight[~mask.numpy()].any(), node.name
            assert node.weight.any(), node.name
            checked += int((~mask).sum())
    assert checked > 0


def test_without_masks_the_zeros_are_lost():
    model = make_net(net_cfg(["leaky"]))
    masks = MASKS["2:4"](make_net(net_cfg(["leaky", "relu"])))
    masks = {"blocks.conv_1.conv.weight": masks["blocks.conv_1.conv.weight"]}
    apply_masks(model, masks)
    prepared = prepare_qat(model, QuantConfig(w_bits=4), batches=[make_images(model)])
    fit(prepared, Scenes(model), CONFIG, loss=mimic(make_net(net_cfg(["leaky"]), 1)), callbacks=[FreezeQat(0.5, 0.9)])
    assert not mask_report(float_model(prepared, model), masks).is_consistent


@pytest.mark.parametrize("name", ["resnet_basic", "mobilenet_v3_linear", "densenet"])
def test_masks_of_traced_modules_arrive_where_their_weights_do(name):
    model = zoo.make(name).float()
    masks = weight_masks(model, 0.5, ["*"])
    apply_masks(model, masks)
    qat = prepare_qat(model, QuantConfig(), input_shape=Shape(3, zoo.INPUT_SIZE, zoo.INPUT_SIZE))
    mine = qat_masks(qat, model, masks)
    assert mine
    parameters = dict(qat.named_parameters())
    for key, mask in mine.items():
        assert torch.equal(parameters[key] != 0, mask), key


def test_masks_that_do_not_fit_are_named():
    model = make_net(net_cfg(["weighted_shortcut"]))
    qat = prepare_qat(model, QuantConfig())
    with pytest.raises(QuantError, match=r"mask 'blocks.conv_0.conv.wight' .*blocks.conv_0.conv.weight"):
        qat_masks(qat, model, {"blocks.conv_0.conv.wight": torch.ones(8, 3, 3, 3, dtype=torch.bool)})
    with pytest.raises(QuantError, match=r"must have the shape of its parameter, \[8, 3, 3, 3\]"):
        qat_masks(qat, model, {"blocks.conv_0.conv.weight": torch.ones(8, 3, dtype=torch.bool)})
    (derived,) = [name for name, _ in model.named_parameters() if "shortcut" in name]
    mask = torch.zeros_like(model.get_parameter(derived), dtype=torch.bool)
    with pytest.raises(QuantError, match="its weights are derived"):
        qat_masks(qat, model, {derived: mask})
    assert qat_masks(qat, model, {derived: ~mask}) == {}
