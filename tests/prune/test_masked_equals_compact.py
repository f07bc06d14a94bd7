# SPDX-License-Identifier: Apache-2.0
"""The compact model is the masked one: on the published networks bit for bit, in sums of one fixed order."""

import numpy as np
import pytest
import torch
from support.acceptance import NETWORKS, thinner
from support.networks import build
from support.ordered import ordered_forward
from support.pruned import RELATIVE, image, outputs, relative_error
from support.random_net import make_net

from yolo_hw.nn.darknet import Darknet
from yolo_hw.prune.config import PruneConfig
from yolo_hw.prune.darknet_prune import Pruned, carry_out, plan_pruning, prune_model
from yolo_hw.prune.plan import DeadBias
from yolo_hw.prune.select import Policy

THIN = {"yolov3": 8, "yolov3_spp": 8, "yolov4": 8, "yolov3_mobilenet": 4}
"""Networks whose full width takes long -> share of the filters; the full width is a slow test."""


def largest_difference(a: Darknet, b: Darknet, model: Darknet) -> float:
    """Return max |a - b| over all maps of one image, borders included."""
    x = image(model, 1)
    found, wanted = ordered_forward(a, x), ordered_forward(b, x)
    assert all(np.isfinite(w).all() and w.std() > 0 for w in wanted)
    return max(float(np.abs(f - w).max()) for f, w in zip(found, wanted, strict=True))


def check(pruned: Pruned, model: Darknet) -> None:
    """Assert that no bit of any output differs, and that there was something to prune."""
    assert pruned.model.network.num_params < 0.9 * model.network.num_params
    assert not pruned.surgery.dropped
    assert not pruned.surgery.inexact
    assert largest_difference(pruned.model, pruned.masked_model(), model) == 0.0


@pytest.mark.parametrize("name", NETWORKS)
def test_union_policy_is_exact_on_published_networks(name):
    model = make_net(thinner(NETWORKS[name](32), THIN.get(name, 1)))
    check(prune_model(model, PruneConfig(method="l1-reconstruct", ratio=0.5)), model)


@pytest.mark.slow
@pytest.mark.parametrize("name", THIN)
def test_union_policy_is_exact_at_full_width(name):
    model = make_net(NETWORKS[name](64))
    check(prune_model(model, PruneConfig(method="l1-reconstruct", ratio=0.5)), model)


def test_members_that_voted_against_a_kept_channel_are_dead():
    """The union keeps what any layer wants; a layer that did not want it adds nothing there."""
    model = make_net(thinner(NETWORKS["yolov3"](32), 8))
    pruned = prune_model(model, PruneConfig(method="l1-reconstruct", ratio=0.5))
    dead = 0
    for name, votes in pruned.plan.channels.silent.items():
        group = pruned.plan.channels.groups[name]
        kept = np.zeros(group.size, bool)
        kept[pruned.plan.channels.kept_units(group)] = True
        for member in group.members:
            rows = votes[member.name] & kept
            dead += rows.sum()
            for key in (member.filters.weight, member.norm.weight, member.norm.bias):
                assert not pruned.surgery.masked[key][torch.from_numpy(rows)].any()
            # each layer alone keeps half of its filters
            assert (kept & ~votes[member.name]).sum() == group.size - group.size // 2
    assert dead > 100


@pytest.mark.parametrize("name", NETWORKS)
def test_carried_constants_are_exact_at_borders(name):
    """Dead channels keep their constants; one channel of each group carries them through every padded map."""
    model = make_net(thinner(NETWORKS[name](32), 1 if name == "yolo_fastest" else 8)).double()
    pruned = prune_model(model, PruneConfig(method="regular", ratio=0.5, multiple_of=1, dead_bias=DeadBias.CARRY))
    # what Yolo-Fastest prunes is read by 1x1 and depthwise convolutions alone: no border, no carrier
    assert bool(pruned.surgery.plan.carriers) == (name != "yolo_fastest")
    assert not pruned.surgery.inexact
    x = image(model, 1)
    assert relative_error(outputs(pruned.model, x), outputs(pruned.masked_model(), x)) <= RELATIVE


@pytest.mark.parametrize("policy", [Policy.INTERSECTION, Policy.AVERAGE])
def test_other_policies_are_exact_to_their_masked_models_too(policy):
    model = make_net(thinner(NETWORKS["yolov3"](32), 8))
    check(prune_model(model, PruneConfig(method="l1-reconstruct", ratio=0.5, policy=policy)), model)


def test_what_the_intersection_drops_changes_the_network():
    """A filter some layer wanted is gone, so the network is not the one each layer's own choice makes."""
    model = make_net(thinner(NETWORKS["yolov3"](32), 8))
    union, both = (
        prune_model(model, PruneConfig(method="l1-reconstruct", ratio=0.5, policy=policy))
        for policy in (Policy.UNION, Policy.INTERSECTION)
    )
    assert largest_difference(union.model, both.model, model) > 1e-3


def test_a_planted_fault_is_seen():
    """One weight of a kept channel, changed in its last bit, changes the outputs."""
    model = make_net(thinner(NETWORKS["yolov3_tiny"](32), 4))
    pruned = prune_model(model, PruneConfig(method="l1-reconstruct", ratio=0.5))
    with torch.no_grad():
        weight = pruned.model.block(pruned.model.network.layers[0].name).conv.weight
        weight[0, 0, 1, 1] = torch.nextafter(weight[0, 0, 1, 1], torch.tensor(9.0))
    assert largest_difference(pruned.model, pruned.masked_model(), model) > 0


def test_the_ordered_forward_is_the_network():
    for name, factor in (("yolov4_tiny", 4), ("yolov3_mobilenet", 4), ("yolo_fastest", 1)):
        model = make_net(thinner(NETWORKS[name](64), factor)).double()
        x = image(model)
        found = [torch.from_numpy(m)[None] for m in ordered_forward(model, x)]
        assert relative_error(found, outputs(model, x)) <= RELATIVE


def test_planning_changes_nothing():
    model = make_net(thinner(NETWORKS["yolov4_tiny"](32), 4))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    plan = plan_pruning(model, PruneConfig(method="fpgm", ratio=0.4))
    carry_out(plan)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert model.network.cfg == build(thinner(NETWORKS["yolov4_tiny"](32), 4)).cfg
