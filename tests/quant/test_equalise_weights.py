# SPDX-License-Identifier: Apache-2.0
"""Cross-layer equalisation by weights, and the absorption of high biases."""

import numpy as np
import pytest
import torch
from support.data import REAL_NETWORKS, real_network
from support.networks import CfgWriter
from support.random_net import BLOCKS, make_images, make_net, make_uneven, net_cfg, random_net, run_float64

from yolo_hw import assets
from yolo_hw.nn.darknet import load_darknet
from yolo_hw.quant import EqualiseBy, QuantConfig, calibrate, fold_model
from yolo_hw.quant.absorb_bias import absorb_biases
from yolo_hw.quant.equalise import powers_of_two, scale_channels, scale_groups, weight_exponents
from yolo_hw.quant.execute import image_tensor, run_folded


def pair(activation="leaky", groups=1, size=3):
    cfg = CfgWriter(8, 8)
    cfg.conv(6, 3, activation=activation)
    cfg.conv(6, size, groups=groups, activation="linear")
    cfg.yolo([0], 1, "1,2")
    return make_net(cfg.text())


def precisions(graph, name, axis):
    (node,) = (node for node in graph.nodes if node.name == name)
    ranges = np.abs(np.moveaxis(node.weight, axis, 0).reshape(node.weight.shape[axis], -1)).max(1)
    return ranges / ranges.max()


def unmoved(graph):
    """Whether equalising again changes nothing: what convergence means."""
    return not any(exponents.any() for exponents in weight_exponents(graph).values())


@pytest.mark.parametrize("block", sorted(BLOCKS))
def test_the_function_stays_the_same_bit_by_bit(block):
    model = make_uneven(make_net(net_cfg([block])), 4.0, 7)
    graph, images = fold_model(model), make_images(model)
    other = scale_channels(graph, powers_of_two(weight_exponents(graph)))
    before, after = run_float64(graph, images), run_float64(other, images)
    for name, _ in graph.outputs:
        assert torch.equal(before[name], after[name])
    assert unmoved(other)


@pytest.mark.parametrize("name", [*REAL_NETWORKS, "parts"])
def test_trained_networks_keep_their_function_and_converge(name):
    files = (assets.PARTS_CFG, assets.PARTS_WEIGHTS) if name == "parts" else real_network(name)
    model = load_darknet(*files)
    graph, images = fold_model(model), make_images(model, 1)
    exponents = weight_exponents(graph)
    other = scale_channels(graph, powers_of_two(exponents))
    before, after = run_float64(graph, images), run_float64(other, images)
    for output, _ in graph.outputs:
        assert torch.equal(before[output], after[output])
    assert unmoved(other)
    assert not scale_groups(graph) or any(e.any() for e in exponents.values())


@pytest.mark.parametrize("groups", [1, 6])
@pytest.mark.parametrize("activation", ["leaky", "relu", "linear"])
def test_both_sides_end_within_a_factor_of_two(activation, groups):
    graph = fold_model(make_uneven(pair(activation, groups), 4.0, 7))
    axis = 0 if groups == 6 else 1
    gap = np.log2(precisions(graph, "conv_0", 0) / precisions(graph, "conv_1", axis))
    assert np.abs(gap).max() > 3
    graph = scale_channels(graph, powers_of_two(weight_exponents(graph)))
    gap = np.log2(precisions(graph, "conv_0", 0) / precisions(graph, "conv_1", axis))
    assert np.abs(gap).max() <= 1


def test_the_factors_are_those_of_the_paper_rounded():
    """Eq. 11: s = sqrt(r1 r2) / r2 divides the first layer; here 2**-e, short of a common factor and rounding."""
    cfg = CfgWriter(8, 8)
    cfg.conv(6, 3)
    cfg.conv(6, 3)
    graph = fold_model(make_uneven(make_net(cfg.text()), 4.0, 7))
    first, second = graph.nodes[0].weight, graph.nodes[1].weight
    r1, r2 = np.abs(first).max((1, 2, 3)), np.abs(second).max((0, 2, 3))
    exact = -np.log2(np.sqrt(r1 * r2) / r2)
    found = weight_exponents(graph)["conv_0"]
    offset = np.median(found - exact)
    assert np.abs(found - exact - offset).max() <= 1
    assert found.max() - found.min() >= 3


def test_per_tensor_weights_gain():
    """A network whose channels were pulled apart without changing its function gets its accuracy back."""
    model = pair()
    apart = scale_channels(fold_model(model), powers_of_two({"conv_0": -np.arange(6)}))
    images, held_out = make_images(model), make_images(model, seed=5)
    wanted = run_float64(apart, held_out)["conv_2"]
    errors = []
    for equalise in (None, 0.5):
        config = QuantConfig(w_bits=4, a_bits=16, per_channel=False, bias_correction=False, equalise=equalise,
                             equalise_by=EqualiseBy.WEIGHTS)  # fmt: skip
        found = rounded_head(calibrate(apart, [images], config), held_out)
        errors.append(float(((found - wanted) ** 2).sum()))
    assert errors[1] < 0.5 * errors[0]


def rounded_head(calibrated, images):
    from yolo_hw.quant.simulate import Simulation

    simulation = Simulation(calibrated.graph, calibrated.plan)
    x = image_tensor(images, torch.float64)
    runs = run_folded(calibrated.graph, x, simulation.parameters, simulation.finish)
    return {r.node.name: r.out for r in runs}["conv_2"]


def floors_of(maps):
    return {name: x.amin((0, 2, 3)).numpy() for name, x in maps.items()}


def lifted(activation="relu", size=1):
    """A pair whose first layer's channels lie far above zero."""
    model = pair(activation, size=size)
    with torch.no_grad():
        model.block("conv_0").bn.bias.add_(torch.tensor([50.0, 0, 60, 0, 70, -80]))
    return model


@pytest.mark.parametrize("activation", ["relu", "leaky", "linear"])
def test_absorbed_biases_leave_the_function(activation):
    model = lifted(activation)
    graph, images = fold_model(model), make_images(model)
    before = run_float64(graph, images)
    other, absorbed = absorb_biases(graph, floors_of(before))
    after = run_float64(other, images)
    assert "conv_0" in absorbed
    assert (absorbed["conv_0"][[0, 2, 4]] > 10).all()
    assert after["conv_0"].max() < before["conv_0"].max() - 10
    assert after["conv_0"][:, [0, 2, 4]].amin() == pytest.approx(0, abs=1e-9)
    torch.testing.assert_close(after["conv_2"], before["conv_2"], rtol=1e-12, atol=1e-9)  # sums in another order


@pytest.mark.parametrize("model", [lifted("relu", size=3), lifted("mish"), lifted("logistic")])
def test_what_would_change_the_function_is_not_absorbed(model):
    """A padding convolution behind, activations that are no identity above zero, and outputs."""
    graph = fold_model(model)
    other, absorbed = absorb_biases(graph, floors_of(run_float64(graph, make_images(model))))
    assert "conv_0" not in absorbed
    assert "conv_2" not in absorbed
    np.testing.assert_array_equal(other.nodes[0].bias, graph.nodes[0].bias)


@pytest.mark.parametrize("seed", range(6))
def test_absorption_in_random_networks(seed):
    model = random_net(700 + seed)
    with torch.no_grad():
        for layer in model.network.layers:
            norm = getattr(model.block(layer.name), "bn", None)
            if norm is not None:
                norm.bias.add_(8.0)
    graph, images = fold_model(model), make_images(model)
    before = run_float64(graph, images)
    after = run_float64(absorb_biases(graph, floors_of(before))[0], images)
    for name, _ in graph.outputs:
        torch.testing.assert_close(after[name], before[name], rtol=1e-9, atol=1e-9)
