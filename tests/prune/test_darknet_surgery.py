# SPDX-License-Identifier: Apache-2.0
"""Surgery of darknet models: random networks, random choices, every policy of dead channels; texts and followers."""

import random
import re

import numpy as np
import pytest
import torch
from support.networks import CfgWriter, build, random_cfg
from support.pruned import RELATIVE, image, outputs, pruning_error, random_plan, relative_error
from support.random_net import BLOCKS, make_net, net_cfg, random_net

from yolo_hw.darknet import parse_cfg
from yolo_hw.errors import PruneError
from yolo_hw.prune.darknet_surgery import darknet_groups, masked_darknet, prune_darknet, smaller_network
from yolo_hw.prune.plan import PAD, DeadBias, PrunePlan, keep_all

EXACT = (DeadBias.ZERO, DeadBias.CARRY)


def one_block(name):
    """A network of one block twice, with a padded convolution after it, so that constants meet borders."""
    text = net_cfg([name, "mish", name]).replace("[yolo]", "[convolutional]\nfilters=12\nsize=3\npad=1\n\n[yolo]")
    return make_net(text, 3).double()


@pytest.mark.parametrize("multiple", [1, 4])
@pytest.mark.parametrize("name", BLOCKS)
def test_every_section_kind(name, multiple):
    model = one_block(name)
    groups = darknet_groups(model)
    for dead_bias in DeadBias:
        plan = random_plan(groups, 5, multiple=multiple, vote=True)
        pruned = prune_darknet(model, plan, dead_bias)
        borders = dead_bias in EXACT or not pruned.surgery.inexact
        assert pruning_error(model, pruned, borders=borders) <= RELATIVE
        assert dead_bias not in EXACT or not pruned.surgery.inexact


@pytest.mark.parametrize("seed", range(12))
def test_random_networks(seed):
    model = random_net(seed).double()
    groups = darknet_groups(model)
    plan = random_plan(groups, seed, multiple=random.Random(seed).choice([1, 3, 4]), vote=seed % 2 == 0)
    for dead_bias in DeadBias:
        pruned = prune_darknet(model, plan, dead_bias)
        borders = dead_bias in EXACT or not pruned.surgery.inexact
        assert pruning_error(model, pruned, borders=borders) <= RELATIVE
        assert pruned.model.network.num_params == sum(
            v.numel() for k, v in pruned.model.state_dict().items() if "num_batches" not in k
        )


@pytest.mark.parametrize("seed", range(12))
def test_random_cfgs(seed):
    model = make_net(random_cfg(random.Random(seed), 8), seed).double()
    groups = darknet_groups(model)
    pruned = prune_darknet(model, random_plan(groups, seed), DeadBias.CARRY)
    assert pruning_error(model, pruned) <= RELATIVE


def test_constants_at_borders():
    """A bias stands for a constant inside; at the border of zeros only a carrier does."""
    cfg = CfgWriter(12, 12)
    cfg.conv(8, 3, activation="leaky")
    cfg.conv(8, 3, activation="leaky")
    cfg.conv(5, 1, activation="linear", batch_normalize=0)
    model = make_net(cfg.text()).double()
    groups = darknet_groups(model)
    plan = PrunePlan(groups, {"conv_0": np.array([1, 4, 6])})
    moved = prune_darknet(model, plan, DeadBias.TRANSFER)
    assert moved.surgery.inexact == {"conv_0": "conv_1"}
    x = image(model)
    found, wanted = (outputs(m, x)[0] for m in (moved.model, masked_darknet(model, moved.surgery)))
    difference = (found - wanted).abs().amax((0, 1))
    assert difference[1:-1, 1:-1].max() <= RELATIVE * wanted.abs().max()
    assert difference[0].max() > 1e-3
    carried = prune_darknet(model, plan, DeadBias.CARRY)
    assert carried.surgery.plan.counts["conv_0"] == 3
    assert relative_error(outputs(carried.model, x), outputs(masked_darknet(model, carried.surgery), x)) <= RELATIVE
    # what was transferred is nearer to the unpruned network than what was dropped
    dropped = prune_darknet(model, plan, DeadBias.ZERO)
    whole = outputs(model, x)[0][..., 1:-1, 1:-1]
    near, far = ((outputs(m.model, x)[0][..., 1:-1, 1:-1] - whole).square().mean() for m in (moved, dropped))
    assert near < far


def test_masked_model_keeps_what_is_kept():
    model = random_net(4).double()
    groups = darknet_groups(model)
    state = model.state_dict()
    pruned = prune_darknet(model, random_plan(groups, 1), DeadBias.TRANSFER)
    dead = ~pruned.surgery.plan.alive
    for slot in groups.graph.slots:
        if slot.produces and not slot.path.endswith(("bias", "mean", "var")):
            rows = torch.from_numpy(~dead[groups.graph.unit_of[slot.labels]])
            kept = rows.nonzero().flatten()
            masked, before = (s[slot.path].index_select(slot.dim, kept) for s in (pruned.surgery.masked, state))
            assert torch.equal(masked, before)
            gone = (~rows).nonzero().flatten()
            assert not pruned.surgery.masked[slot.path].index_select(slot.dim, gone).any()


def test_nothing_pruned_is_the_same_model():
    model = random_net(7)
    pruned = prune_darknet(model, keep_all(darknet_groups(model)))
    assert pruned.model.network.cfg == model.network.cfg
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in pruned.model.state_dict().items())


# --- the text of the smaller cfg


def numbers_changed(before, after):
    """Return the lines that differ, as (before, after)."""
    old, new = before.splitlines(), after.splitlines()
    assert len(old) == len(new)
    return [(a, b) for a, b in zip(old, new, strict=True) if a != b]


def test_only_changed_numbers_differ_in_the_text():
    text = net_cfg(["shortcut", "grouped_route", "spp", "depthwise", "down_and_up"])
    text = text.replace("filters=8\n", "filters = 8   # eight\n").replace("[route]", "; a route\n[route]")
    model = make_net(text)
    pruned = prune_darknet(model, random_plan(darknet_groups(model), 2))
    changed = numbers_changed(model.network.cfg, pruned.model.network.cfg)
    assert changed
    for old, new in changed:
        assert re.fullmatch(r"(filters|groups)\s*=\s*\d+(\s*# eight)?", old.strip())
        assert re.sub(r"\d+", "N", old) == re.sub(r"\d+", "N", new)
    assert parse_cfg(pruned.model.network.cfg).text() == pruned.model.network.cfg
    assert pruned.model.network.cfg.count("; a route") == text.count("; a route")


def test_the_text_alone_builds_the_network():
    model = random_net(11)
    pruned = prune_darknet(model, random_plan(darknet_groups(model), 3))
    again = build(pruned.model.network.cfg)
    assert [layer.shape for layer in again.layers] == [layer.shape for layer in pruned.model.network.layers]
    fresh = make_net(pruned.model.network.cfg)
    fresh.load_weights(pruned.model.to_weights())
    x = image(model).float()
    assert all(torch.equal(a, b) for a, b in zip(outputs(fresh, x), outputs(pruned.model, x), strict=True))


def test_the_model_keeps_its_type_and_epsilon():
    model = make_net(net_cfg(["mish"]))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps = 1e-3
    model.train()
    pruned = prune_darknet(model.double(), random_plan(darknet_groups(model), 0))
    assert pruned.model.training
    assert next(pruned.model.parameters()).dtype == torch.float64
    assert {m.eps for m in pruned.model.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {1e-3}


# --- channels that follow others


@pytest.mark.parametrize(("kept", "squeezed"), [(1, 1), (5, 1), (8, 2), (13, 3), (16, 4)])
def test_squeezed_channels_follow(kept, squeezed):
    cfg = CfgWriter(8, 8)
    cfg.conv(16, 3)
    cfg.section("se", reduction=4)
    cfg.conv(5, activation="linear", batch_normalize=0)
    model = make_net(cfg.text()).double()
    groups = darknet_groups(model)
    assert groups["se_1.squeeze"].why_follows == "a cfg gives se_1 1/4 of its map"
    assert groups["se_1.squeeze"] not in groups.prunable
    plan = PrunePlan(groups, {"conv_0": np.arange(kept)})
    pruned = prune_darknet(model, plan, DeadBias.ZERO)
    assert pruned.model.block("se_1").squeeze.weight.shape == (squeezed, kept)
    assert pruned.model.block("se_1").excite.weight.shape == (kept, squeezed)
    assert pruning_error(model, pruned) <= RELATIVE


def test_reorg_couples_what_it_mixes():
    cfg = CfgWriter(8, 8)
    cfg.conv(12, 3)
    cfg.section("reorg", stride=2)
    cfg.conv(6)
    model = make_net(cfg.text()).double()
    group = darknet_groups(model)["conv_0"]
    assert group.size == 3
    assert np.array_equal(group.members[0].units, np.repeat(np.arange(3), 4))
    pruned = prune_darknet(model, PrunePlan(darknet_groups(model), {"conv_0": np.array([0, 2])}), DeadBias.ZERO)
    assert pruned.model.network.layers[0].shape.c == 8
    assert pruning_error(model, pruned) <= RELATIVE


def test_grouped_routes_couple_their_halves():
    cfg = CfgWriter(8, 8)
    cfg.conv(12, 3)
    cfg.route(-1, groups=2, group_id=1)
    cfg.conv(5)
    model = make_net(cfg.text()).double()
    groups = darknet_groups(model)
    assert np.array_equal(groups["conv_0"].members[0].units, np.tile(np.arange(6), 2))
    pruned = prune_darknet(model, PrunePlan(groups, {"conv_0": np.array([1, 4, 5, PAD])}), DeadBias.ZERO)
    assert [layer.shape.c for layer in pruned.model.network.layers[:2]] == [8, 4]
    assert pruning_error(model, pruned) <= RELATIVE


def test_a_depthwise_layer_of_one_channel_widens_with_its_input():
    cfg = CfgWriter(8, 8)
    cfg.conv(1, 3)
    cfg.section("depthwise", batch_normalize=1, size=3, pad=1, activation="relu")
    cfg.conv(1, 3)
    cfg.conv(5)
    model = make_net(cfg.text()).double()
    groups = darknet_groups(model)
    assert list(groups) == ["value_0", "conv_0", "conv_3"]
    pruned = prune_darknet(model, PrunePlan(groups, {"conv_0": np.array([0, PAD, PAD])}), DeadBias.ZERO)
    assert [layer.groups for layer in pruned.model.network.layers] == [1, 3, 3, 1]
    assert pruning_error(model, pruned) <= RELATIVE


def test_weights_of_shortcuts_follow_their_channels():
    cfg = CfgWriter(8, 8)
    cfg.conv(8, 3)
    cfg.conv(8, 3)
    cfg.section(
        "shortcut", from_=-2, activation="leaky", weights_type="per_channel", weights_normalization="relu"
    )  # fmt: skip
    cfg.conv(5)
    model = make_net(cfg.text()).double()
    groups = darknet_groups(model)
    assert [m.name for m in groups["conv_0"].members] == ["conv_0", "conv_1"]
    kept = np.array([0, 3, 7])
    for dead_bias in EXACT:
        pruned = prune_darknet(model, PrunePlan(groups, {"conv_0": kept}), dead_bias)
        assert pruned.model.block("shortcut_2").weight.shape == (2, 3)
        assert pruning_error(model, pruned) <= RELATIVE


def test_vetoed_groups_stay():
    model = make_net(net_cfg(["shortcut", "mish"]))
    groups = darknet_groups(model)
    vetoed = groups.veto({"conv_0": "the user said so"})
    assert vetoed["conv_0"].why_protected == "the user said so"
    assert groups["conv_0"].prunable
    with pytest.raises(PruneError, match="conv_0: cannot be pruned: the user said so"):
        PrunePlan(vetoed, {"conv_0": np.array([0])})


def test_smaller_network_needs_no_weights():
    network = build(net_cfg(["depthwise", "se", "shortcut"]))
    groups = darknet_groups(network)
    plan = random_plan(groups, 1).with_followers()
    assert smaller_network(network, plan).num_params < network.num_params
