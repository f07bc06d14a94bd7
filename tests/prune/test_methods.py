# SPDX-License-Identifier: Apache-2.0
"""Methods by name: what each leaves alone and how it decides; requests that cannot be met, in words."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.networks import CfgWriter, build
from support.random_net import make_net

from yolo_hw.errors import PruneError
from yolo_hw.prune.config import PruneConfig
from yolo_hw.prune.darknet_prune import plan_pruning, prune_model
from yolo_hw.prune.darknet_surgery import darknet_groups
from yolo_hw.prune.methods import METHODS, complete
from yolo_hw.prune.multiples import Narrow
from yolo_hw.prune.plan import PAD, PrunePlan
from yolo_hw.prune.select import Budget, Policy

CHANNEL_METHODS = [name for name, method in METHODS.items() if not method.removes_blocks]


def detector():
    """conv_0 and conv_2 form a chain, conv_1 and conv_4 are plain, conv_5 has no batch norm, conv_6 is the head."""
    cfg = CfgWriter(8, 8)
    cfg.conv(8, 3)
    cfg.conv(4)
    cfg.conv(8, 3)
    cfg.section("shortcut", from_=-3, activation="linear")
    cfg.conv(16)
    cfg.conv(12, batch_normalize=0)
    cfg.yolo([0], 1, "8,8")
    return make_net(cfg.text())


def gammas(model, **values):
    with torch.no_grad():
        for name, gamma in values.items():
            model.block(name).bn.weight.copy_(torch.tensor(gamma))
    return model


def graded():
    return gammas(
        detector(),
        conv_0=[0.8, 0.7, 0.6, 0.5, 0.04, 0.03, 0.02, 0.01],
        conv_1=[0.9, 0.1, 0.11, 0.12],
        conv_2=[0.01, 0.9, 0.9, 0.9, 0.01, 0.9, 0.01, 0.01],
        conv_4=np.linspace(0.2, 0.35, 16).tolist(),
    )


def kept(plan, group):
    return plan.channels.kept_units(plan.channels.groups[group]).tolist()


@pytest.mark.parametrize("method", CHANNEL_METHODS)
def test_every_method_prunes_and_its_model_runs(method):
    model = detector()
    pruned = prune_model(model, PruneConfig(method=method, ratio=0.5, narrow=Narrow.KEEP))
    assert pruned.model.network.num_params < model.network.num_params
    assert pruned.model.network.heads == pruned.model.network.heads
    with torch.no_grad():
        assert pruned.model.eval()(torch.zeros(1, 3, 8, 8))[0].shape == (1, 6, 8, 8)


def test_normal_leaves_chains_alone_and_ranks_the_rest_together():
    plan = plan_pruning(graded(), PruneConfig(method="normal", ratio=0.5))
    assert kept(plan, "conv_0") == list(range(8))
    assert plan.channels.groups["conv_0"].why_protected == "made by several layers: conv_0, conv_2"
    assert plan.channels.groups["conv_5"].why_protected == "has no batch norm to judge by"
    # of the 20 scales of conv_1 and conv_4 the ten smallest go
    assert kept(plan, "conv_1") == [0]
    assert kept(plan, "conv_4") == list(range(7, 16))


def test_shortcut_asks_the_first_layer_and_regular_the_largest_scale():
    first = plan_pruning(graded(), PruneConfig(method="shortcut", ratio=0.3))
    largest = plan_pruning(graded(), PruneConfig(method="regular", ratio=0.3, multiple_of=1))
    assert kept(first, "conv_0") == [0, 1, 2, 3]
    assert kept(largest, "conv_0") == [0, 1, 2, 3, 5]


def test_slim_keeps_what_any_layer_votes_for():
    plan = plan_pruning(graded(), PruneConfig(method="slim", ratio=0.3))
    assert kept(plan, "conv_0") == [0, 1, 2, 3, 5]


def test_reconstruct_methods_take_the_ratio_of_every_layer():
    plan = plan_pruning(detector(), PruneConfig(method="l1-reconstruct", ratio=0.5))
    for group in plan.channels.groups.prunable:
        votes = plan.channels.silent.get(group.name, {})
        for member, against in votes.items():
            assert len(kept(plan, group.name)) - against.sum() == group.size // 2, member
        assert len(group.members) > 1 or len(kept(plan, group.name)) == group.size // 2


def test_a_budget_takes_the_place_of_a_vote():
    config = complete(PruneConfig(method="slim", budget=Budget("params", 0.5, relative=True)))
    assert config.policy is None
    plan = plan_pruning(detector(), config)
    assert plan.cost_model().price("params", plan.channels.counts) <= 0.5 * plan.cost_model().price("params", {})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"ratio": 1.0}, "ratio must be at least 0 and below 1 (1 would leave nothing), got 1.0"),
        ({"ratio": -0.1}, "ratio must be at least 0 and below 1"),
        ({"ratio": float("nan")}, "ratio must be at least 0 and below 1"),
        ({"ratio": 0.5, "budget": Budget("macs", 10)}, "either ratio or budget must be given, got both"),
        ({}, "method 'regular' needs a ratio or a budget, got neither"),
        ({"ratio": 0.5, "method": "regullar"}, "got 'regullar'; did you mean 'regular'"),
        ({"ratio": 0.5, "multiple_of": 0}, "multiple_of must be at least 1, got 0"),
        ({"ratio": 0.5, "min_share": 1.5}, "min_share must be in [0, 1], got 1.5"),
        ({"ratio": 0.5, "importance": "l3"}, "importance 'l3': must be one of"),
        ({"ratio": 0.5, "include": ("conv_11",)}, "layers 'conv_11': no layer has such a name; did you mean"),
        ({"ratio": 0.5, "exclude": ("cnv_1",)}, "layers 'cnv_1': no layer has such a name; did you mean 'conv_1'"),
        ({"ratio": 0.5, "include": ("conv_6",)}, "conv_6 cannot be pruned: detection head yolo_7"),
        ({"ratio": 0.5, "exclude": ("conv_*",)}, "at least one group must be left to prune"),
        ({"ratio": 0.5, "multiple_of": 32}, "channels are fewer than the multiple 32; exclude it"),
        ({"multiple_of": 1, "budget": Budget("params", 1)}, "at most 1 is wanted, the least these groups can"),
        ({"multiple_of": 1, "budget": Budget("cycles", 5)}, "budget of cycles: needs a function of the"),
        ({"budget": Budget("parms", 5)}, "cycles, got 'parms'; did you mean 'params'"),
        (
            {"method": "slim", "budget": Budget("params", 0.5, relative=True), "policy": Policy.UNION},
            "a policy votes at a ratio, a budget needs reduced scores",
        ),
    ],
)  # fmt: skip
def test_requests_that_cannot_be_met(config, message):
    with pytest.raises(PruneError, match=re.escape(message)):
        plan_pruning(detector(), PruneConfig(**config))


def test_included_and_excluded_layers():
    base = PruneConfig(method="regular", ratio=0.5, multiple_of=1)
    only = plan_pruning(detector(), replace(base, include=("conv_1",)))
    assert [g.name for g in only.channels.groups.prunable] == ["conv_1"]
    without = plan_pruning(detector(), replace(base, exclude=("conv_2",)))  # a member keeps the whole chain
    assert without.channels.groups["conv_0"].why_protected == "excluded: conv_2"
    assert kept(without, "conv_0") == list(range(8))


def test_scores_are_kept_for_the_report():
    plan = plan_pruning(graded(), PruneConfig(method="regular", ratio=0.3, multiple_of=4))
    assert np.allclose(plan.channels.scores["conv_1"], [0.9, 0.1, 0.11, 0.12])
    assert plan.channels.reasons["conv_0"].startswith("rounded up from 5 to 8 (multiple of 4")


@pytest.mark.parametrize(
    ("kept_units", "message"),
    [
        ([], "conv_1: at least 1 of 4 units must stay"),
        ([4], "conv_1: kept units must be different indices below 4, got [4]"),
        ([1, 1], "conv_1: kept units must be different indices below 4, got [1, 1]"),
        ([-2, 1], "conv_1: kept units must be different indices below 4"),
    ],
)
def test_plans_check_their_units(kept_units, message):
    groups = darknet_groups(build(detector().network.cfg))
    with pytest.raises(PruneError, match=re.escape(message)):
        PrunePlan(groups, {"conv_1": np.array(kept_units, np.int64)})


def test_plans_count_added_channels():
    groups = darknet_groups(detector())
    plan = PrunePlan(groups, {"conv_1": np.array([0, 3, PAD, PAD])})
    assert plan.counts["conv_1"] == 4
    assert plan.added(groups["conv_1"]) == 2
    assert plan.kept_units(groups["conv_1"]).tolist() == [0, 3]
    assert plan.alive.sum() == groups.graph.num_units - 2
