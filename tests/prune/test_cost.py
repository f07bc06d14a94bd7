# SPDX-License-Identifier: Apache-2.0
"""Prices of choices are those of the networks that the choices build."""

import numpy as np
import pytest
from support.acceptance import NETWORKS
from support.meta import scale_subject
from support.networks import build
from support.pruned import random_plan
from support.random_net import random_net

from yolo_hw.assets import PARTS_CFG, PARTS_WEIGHTS
from yolo_hw.darknet import layers as L
from yolo_hw.errors import PruneError
from yolo_hw.nn import account
from yolo_hw.nn.darknet import Darknet, load_darknet
from yolo_hw.prune.config import PruneConfig
from yolo_hw.prune.cost import CostKind, CostModel
from yolo_hw.prune.darknet_prune import prune_model
from yolo_hw.prune.darknet_surgery import darknet_groups, smaller_network
from yolo_hw.prune.methods import plan_channels
from yolo_hw.prune.plan import DeadBias
from yolo_hw.prune.select import Budget


def model_of(network, weight_bits=8):
    groups = darknet_groups(network)
    shapes = {key: tuple(p.shape) for key, p in Darknet(network).named_parameters()}
    return groups, CostModel(groups, shapes, weight_bits=weight_bits, cycles=lambda rows: sum(r.height for r in rows))


def real_cost(network):
    """Learned numbers, products per image, bytes at 8 bits, by counting the network's own tensors."""
    found = account(Darknet(network), network.input)
    return found.params, found.macs, found.packed_bytes(8)


@pytest.mark.parametrize("seed", range(16))
def test_random_networks_cost_what_is_built(seed):
    network = random_net(seed).network
    groups, cost = model_of(network)
    plan = random_plan(groups, seed, multiple=1 + 3 * (seed % 2)).with_followers()
    params, macs, _ = real_cost(smaller_network(network, plan))
    assert cost.price(CostKind.PARAMS, plan.counts) == params
    assert cost.price(CostKind.MACS, plan.counts) == macs
    assert cost.price(CostKind.PARAMS, {}) == real_cost(network)[0]


@pytest.mark.parametrize("name", ["yolov2_tiny", "yolov3_tiny", "yolov4_tiny", "yolov3_mobilenet", "yolo_fastest"])
def test_published_networks_cost_what_is_built(name):
    network = build(NETWORKS[name](64))
    groups, cost = model_of(network)
    plan = random_plan(groups, 1).with_followers()
    small = smaller_network(network, plan)
    params, macs, size = real_cost(small)
    assert cost.price(CostKind.PARAMS, plan.counts) == params
    assert cost.price("macs", plan.counts) == cost.of("macs")(plan.counts) == macs
    assert cost.price("bytes", plan.counts) == cost.of("bytes")(plan.counts) == size
    convolutions = [layer for layer in small.layers if isinstance(layer, L.Convolutional)]
    gates = [n for layer in small.layers if isinstance(layer, L.SqueezeExcite) for n in (layer.squeezed, layer.shape.c)]
    assert cost.price(CostKind.CHANNELS, plan.counts) == sum(layer.shape.c for layer in convolutions) + sum(gates)


@pytest.mark.parametrize("name", ["yolov4_tiny", "yolo_fastest"])
def test_shapes_of_layers_are_those_that_are_built(name):
    network = build(NETWORKS[name](64))
    groups, cost = model_of(network)
    plan = random_plan(groups, 2).with_followers()
    small = {layer.name: layer for layer in smaller_network(network, plan).layers}
    for row in cost.layers(plan.counts):
        layer = small[row.name]
        found = (row.out_channels, row.in_channels, row.groups, row.height, row.width, row.kernel)
        shape = layer.shape
        assert found == (shape.c, layer.in_shapes[0].c, layer.groups, shape.h, shape.w, (layer.size, layer.size))


@pytest.mark.parametrize("kind", ["params", "macs", "bytes", "channels", "cycles"])
def test_budgets_are_met_by_the_built_network(kind):
    network = build(NETWORKS["yolov3_tiny"](64))
    subject = scale_subject(network)

    def cycles(rows):
        return float(sum(-(-r.out_channels // 16) * -(-r.in_channels // 8) * r.height * r.width for r in rows))

    config = PruneConfig(method="regular", budget=Budget(kind, 0.4, relative=True), multiple_of=4)
    plan = plan_channels(subject, config, cycles=cycles)
    shapes = {key: tuple(subject.state[key].shape) for key in subject.params}
    cost = CostModel(subject.groups, shapes, cycles=cycles).of(kind)
    whole, found = cost({}), cost(plan.counts)
    assert 0.3 * whole < found <= 0.4 * whole


@pytest.mark.parametrize("kind", [CostKind.PARAMS, CostKind.BYTES, CostKind.CHANNELS])
def test_carriers_of_constants_stay_within_the_budget(kind):
    """At a quarter some groups of the embedded network come down to their last unit."""
    model = load_darknet(PARTS_CFG, PARTS_WEIGHTS)
    budget = Budget(kind.value, 0.25, relative=True)
    pruned = prune_model(model, PruneConfig(budget=budget, multiple_of=1, dead_bias=DeadBias.CARRY))
    assert pruned.surgery.plan.carriers
    cost = pruned.plan.cost_model()
    assert cost.price(kind, pruned.surgery.plan.counts) <= 0.25 * cost.price(kind, {})


def test_cycles_need_a_function_and_weights_their_bits():
    network = random_net(1).network
    groups, cost = model_of(network)
    assert cost.price(CostKind.CYCLES, {}) == sum(row.height for row in cost.layers({}))
    bare = CostModel(groups, {key: tuple(p.shape) for key, p in Darknet(network).named_parameters()}, weight_bits=4)
    with pytest.raises(PruneError, match="budget of cycles: needs a function of the layers' shapes, got none"):
        bare.price(CostKind.CYCLES, {})
    assert bare.price(CostKind.BYTES, {}) < cost.price(CostKind.BYTES, {})
    assert np.isfinite(bare.price(CostKind.BYTES, {}))
