# SPDX-License-Identifier: Apache-2.0
"""Channel equalisation: the function stays the same bit by bit, the channels' ranges come closer."""

import numpy as np
import pytest
import torch
from support.networks import CfgWriter
from support.random_net import BLOCKS, make_images, make_net, make_uneven, net_cfg, run_float64

from yolo_hw.quant import fold_model
from yolo_hw.quant.equalise import activation_exponents, activation_factors, powers_of_two, scale_channels
from yolo_hw.quant.folded import FoldedConv


def channel_ranges(maps):
    return {name: x.abs().amax((0, 2, 3)).numpy() for name, x in maps.items()}


def equalised(model, strength):
    """Return the graph before and after, and the maps of both."""
    graph, images = fold_model(model), make_images(model)
    before = run_float64(graph, images)
    other = scale_channels(graph, powers_of_two(activation_exponents(graph, channel_ranges(before), strength)))
    return graph, other, before, run_float64(other, images)


@pytest.mark.parametrize("block", sorted(BLOCKS))
def test_the_function_stays_the_same(block):
    graph, other, before, after = equalised(make_uneven(make_net(net_cfg([block]))), 0.5)
    for name, _ in graph.outputs:
        assert torch.equal(before[name], after[name])
    assert [node.name for node in graph.nodes] == [node.name for node in other.nodes]


def changed_convs(graph, other):
    pairs = zip(graph.nodes, other.nodes, strict=True)
    return {a.name for a, b in pairs if isinstance(a, FoldedConv) and not np.array_equal(a.weight, b.weight)}


def test_channels_before_a_depthwise_convolution_end_within_a_factor_of_two():
    cfg = CfgWriter(8, 8)
    cfg.conv(6, 3)
    cfg.conv(6, 3, groups=6, activation="linear")
    cfg.yolo([0], 1, "1,2")
    graph, other, before, after = equalised(make_uneven(make_net(cfg.text())), 0.0)
    spread = channel_ranges(before)["conv_0"]
    assert spread.max() / spread.min() > 8
    spread = channel_ranges(after)["conv_0"]
    assert spread.max() / spread.min() < 2
    assert "conv_0" in changed_convs(graph, other)
    assert torch.equal(before["conv_2"], after["conv_2"])


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_channels_before_a_dense_convolution_move_by_the_strength(strength):
    cfg = CfgWriter(8, 8)
    cfg.conv(6, 3)
    cfg.conv(6, activation="linear")
    cfg.yolo([0], 1, "1,2")
    graph, other, before, after = equalised(make_uneven(make_net(cfg.text())), strength)
    largest = channel_ranges(before)["conv_0"]
    grown = np.log2(channel_ranges(after)["conv_0"] / largest)
    np.testing.assert_array_equal(grown, np.clip(np.floor(np.log2(largest.max() / largest) * strength), 0, 4))
    assert ("conv_0" in changed_convs(graph, other)) == (strength > 0)


@pytest.mark.parametrize("activation", ["mish", "relu6", "logistic", "h_swish"])
def test_activations_that_do_not_scale_are_left_alone(activation):
    cfg = CfgWriter(8, 8)
    cfg.conv(6, 3, activation=activation)
    cfg.conv(6, 3, groups=6, activation="linear")
    graph, other, _, _ = equalised(make_uneven(make_net(cfg.text())), 1.0)
    assert "conv_0" not in changed_convs(graph, other)


def test_outputs_and_dead_channels_are_left_alone():
    cfg = CfgWriter(8, 8)
    cfg.conv(6, 3, activation="linear")
    graph, other, _, _ = equalised(make_uneven(make_net(cfg.text())), 1.0)
    assert not changed_convs(graph, other)
    cfg.conv(6, 3, groups=6, activation="linear")
    model = make_uneven(make_net(cfg.text()))
    with torch.no_grad():
        model.block("conv_0").bn.weight.zero_()
        model.block("conv_0").bn.bias.zero_()
    graph, other, _, _ = equalised(model, 1.0)
    assert not changed_convs(graph, other)


@pytest.mark.parametrize("depthwise", [True, False])
def test_factors_of_any_size_close_the_distance_exactly(depthwise):
    cfg = CfgWriter(8, 8)
    cfg.conv(6, 3)
    cfg.conv(6, 3, groups=6 if depthwise else 1, activation="linear")
    cfg.yolo([0], 1, "1,2")
    model = make_uneven(make_net(cfg.text()))
    graph, images = fold_model(model), make_images(model)
    before = run_float64(graph, images)
    ranges = channel_ranges(before)
    other = scale_channels(graph, activation_factors(graph, ranges, 0.5))
    after = run_float64(other, images)
    largest = ranges["conv_0"]
    wanted = np.full(6, largest.max()) if depthwise else np.sqrt(largest * largest.max())
    np.testing.assert_allclose(channel_ranges(after)["conv_0"], wanted, rtol=1e-6)
    torch.testing.assert_close(before["conv_2"], after["conv_2"], rtol=1e-10, atol=1e-12)
