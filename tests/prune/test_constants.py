# SPDX-License-Identifier: Apache-2.0
"""Constants of dead channels by hand: what each operation makes of them, where they go, what carries them."""

import numpy as np
import pytest
import torch
from support.networks import CfgWriter
from support.pruned import image, outputs
from support.random_net import make_net

from yolo_hw.prune.constants import find_constants, offsets
from yolo_hw.prune.darknet_surgery import darknet_groups, masked_darknet, prune_darknet
from yolo_hw.prune.plan import DeadBias, PrunePlan
from yolo_hw.prune.surgery import mask

BETA = (2.0, -4.0)


def network(middle=lambda cfg: None, *, size=1, last=5):
    """Two channels whose batch norm leaves 2 and -4, leaky; something in between; a convolution."""
    cfg = CfgWriter(8, 8)
    cfg.conv(3, 3)
    middle(cfg)
    cfg.conv(last, size, activation="linear", batch_normalize=0)
    model = make_net(cfg.text()).double()
    with torch.no_grad():
        model.block("conv_0").bn.bias[:2] = torch.tensor(BETA, dtype=torch.float64)
    return model


def reads(model, layer, kept=(2,)):
    groups = darknet_groups(model)
    plan = PrunePlan(groups, {"conv_0": np.array(kept)})
    state = mask(plan, dict(model.state_dict()), set())
    return find_constants(plan, state).reads[layer]


@pytest.mark.parametrize(
    ("middle", "layer", "wanted"),
    [
        (lambda cfg: None, "conv_1", [2, -0.4, np.nan]),
        (lambda cfg: cfg.section("maxpool", size=3, stride=1), "conv_2", [2, -0.4, np.nan]),
        (lambda cfg: cfg.section("upsample", stride=2, scale=3), "conv_2", [6, -1.2, np.nan]),
        (lambda cfg: cfg.section("shortcut", from_=-1, activation="leaky"), "conv_2", [4, -0.08, np.nan]),
        (lambda cfg: cfg.section("activation", activation="relu"), "conv_2", [2, 0, np.nan]),
        (lambda cfg: cfg.route(-1, -1), "conv_2", [2, -0.4, np.nan, 2, -0.4, np.nan]),
        (lambda cfg: cfg.section("reorg3d", stride=2), "conv_2", [2, -0.4, np.nan] * 4),
        (lambda cfg: cfg.section("dropout", probability=0.5), "conv_2", [2, -0.4, np.nan]),
        (lambda cfg: cfg.section("sam", from_=-1, activation="linear"), "conv_2", [4, 0.16, np.nan]),
    ],
    ids="plain pool upsample shortcut relu route reorg3d dropout sam".split(),
)
def test_what_becomes_of_a_constant(middle, layer, wanted):
    assert np.allclose(reads(network(middle), layer), wanted, rtol=1e-15, atol=0, equal_nan=True)


def test_offsets_are_sums_of_taps():
    model = network(size=3)
    groups = darknet_groups(model)
    op = next(op for op in groups.graph.ops if op.layer == "conv_1" and op.kind == "filters")
    weight = model.block("conv_1").conv.weight.detach()
    found = offsets(op, reads(model, "conv_1"), weight)
    wanted = 2 * weight[:, 0].sum((1, 2)) - 0.4 * weight[:, 1].sum((1, 2))
    assert np.allclose(found, wanted.numpy(), rtol=1e-14, atol=1e-14)


def test_a_bias_takes_the_constant_of_a_1x1_convolution():
    model = network()
    groups = darknet_groups(model)
    pruned = prune_darknet(model, PrunePlan(groups, {"conv_0": np.array([2])}), DeadBias.TRANSFER)
    assert not pruned.surgery.inexact
    weight, before = model.block("conv_1").conv.weight.detach()[..., 0, 0], model.block("conv_1").conv.bias
    wanted = before + 2 * weight[:, 0] - 0.4 * weight[:, 1]
    assert torch.allclose(pruned.model.block("conv_1").conv.bias, wanted, rtol=1e-14, atol=1e-14)


def test_a_running_mean_takes_it_where_a_norm_follows():
    model = network(lambda cfg: cfg.conv(4))
    pruned = prune_darknet(
        model, PrunePlan(darknet_groups(model), {"conv_0": np.array([2])}), DeadBias.TRANSFER
    )  # fmt: skip
    weight, before = model.block("conv_1").conv.weight.detach()[..., 0, 0], model.block("conv_1").bn.running_mean
    wanted = before - (2 * weight[:, 0] - 0.4 * weight[:, 1])
    assert torch.allclose(pruned.model.block("conv_1").bn.running_mean, wanted, rtol=1e-14, atol=1e-14)


def test_a_carrier_is_one_dead_channel_with_everybodys_taps():
    model = network(size=3)
    groups = darknet_groups(model)
    plan = PrunePlan(groups, {"conv_0": np.array([1, 2])}, scores={"conv_0": np.array([0.1, 0.2, 0.9])})
    pruned = prune_darknet(model, plan, DeadBias.CARRY)
    assert pruned.surgery.plan.carriers == {"conv_0": 0}
    assert pruned.surgery.plan.kept["conv_0"].tolist() == [0, 2]  # in the place of the lowest kept score
    small, weight = pruned.model.block("conv_1").conv.weight, model.block("conv_1").conv.weight
    wanted = 2 * weight[:, 0] - 0.4 * weight[:, 1]
    assert torch.allclose(small[:, 0], wanted, rtol=1e-14, atol=1e-14)
    assert torch.equal(small[:, 1], weight[:, 2])
    x = image(model)
    found, masked = (outputs(m, x)[0] for m in (pruned.model, masked_darknet(model, pruned.surgery)))
    assert torch.allclose(found, masked, rtol=1e-12, atol=1e-12)


def test_a_carrier_takes_the_place_of_an_added_channel():
    model = network(size=3)
    plan = PrunePlan(darknet_groups(model), {"conv_0": np.array([1, 2, -1])})
    pruned = prune_darknet(model, plan, DeadBias.CARRY)
    assert pruned.surgery.plan.kept["conv_0"].tolist() == [0, 1, 2]


def test_zero_drops_the_constant():
    model = network()
    pruned = prune_darknet(model, PrunePlan(darknet_groups(model), {"conv_0": np.array([2])}), DeadBias.ZERO)
    assert torch.equal(pruned.model.block("conv_1").conv.bias, model.block("conv_1").conv.bias)
    assert not pruned.surgery.masked["blocks.conv_0.bn.bias"][:2].any()


def test_gates_without_bias_get_a_carrier_or_are_told():
    """The linear maps of [se] have no bias, so a constant needs a channel of its own."""
    model = network(lambda cfg: cfg.section("se", reduction=1))
    plan = PrunePlan(darknet_groups(model), {"conv_0": np.array([1, 2])})
    pruned = prune_darknet(model, plan, DeadBias.TRANSFER)
    told = {**pruned.surgery.plan.carriers, **pruned.surgery.dropped}
    assert set(told) == {"conv_0"}
