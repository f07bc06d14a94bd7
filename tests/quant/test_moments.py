# SPDX-License-Identifier: Apache-2.0
"""What batch norms tell of the maps behind them, and the bias correction that rests on it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.networks import CfgWriter
from support.parts import head_errors, parts_images, parts_model
from support.random_net import make_images, make_net, net_cfg

from yolo_hw.darknet.layers import ACTIVATIONS
from yolo_hw.errors import QuantError
from yolo_hw.nn.activations import activate
from yolo_hw.quant import CorrectBy, QuantConfig, batch_norm_moments, calibrate, fold_model, quantise_model
from yolo_hw.quant.bias_correction import correct_biases_analytically
from yolo_hw.quant.fold import trace_darknet
from yolo_hw.quant.moments import Moments, activated_mean, changed_moments, expected_maps

BY_NORM = QuantConfig(bias_correction_by=CorrectBy.BATCH_NORM)


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_the_mean_behind_an_activation_is_that_of_a_sample(activation):
    rng = np.random.default_rng(0)
    mean, std = rng.standard_normal(8) * 2, rng.random(8) * 3
    std[0] = 0.0
    x = torch.from_numpy(mean[:, None] + std[:, None] * rng.standard_normal((8, 400_000)))
    sample = activate(activation, x)
    allowed = 5 * sample.std(1).numpy() / np.sqrt(400_000) + 2e-2 * (activation in ("stair", "relu6"))
    assert (np.abs(activated_mean(activation, Moments(mean, std)) - sample.mean(1).numpy()) <= allowed + 1e-2).all()


def test_relu_and_leaky_are_exact():
    """E max(x, 0) of a standard normal is 1 / sqrt(2 pi); leaky with slope 0.1 has 0.9 of it."""
    moments = Moments(np.zeros(1), np.ones(1))
    assert activated_mean("relu", moments)[0] == pytest.approx(1 / np.sqrt(2 * np.pi), rel=1e-12)
    assert activated_mean("leaky", moments)[0] == pytest.approx(0.9 / np.sqrt(2 * np.pi), rel=1e-12)


def test_moments_follow_the_graph():
    """Channels behind a batch norm have its mean; sums, slices and concats move it; pools and the image are unknown."""
    cfg = CfgWriter(8, 8)
    cfg.conv(4, activation="linear")
    cfg.conv(4, activation="linear")
    cfg.section("shortcut", from_=-2, activation="linear")
    cfg.route(-1, -3)
    cfg.route(-1, groups=2, group_id=1)
    cfg.section("maxpool", size=2, stride=2)
    cfg.conv(4, activation="leaky", batch_normalize=0)
    model = make_net(cfg.text())
    means = expected_maps(fold_model(model), batch_norm_moments(trace_darknet(model)))
    first, second = (model.block(f"conv_{i}").bn.bias.detach().double().numpy() for i in (0, 1))
    np.testing.assert_allclose(means["shortcut_2"], first + second)
    assert np.isnan(means["input"]).all()
    assert np.isnan(means["maxpool_5"]).all()
    assert np.isnan(means["conv_6"]).all()
    np.testing.assert_allclose(means["route_4"], first)


def test_equalised_and_shifted_channels_have_other_moments():
    moments = {"a": Moments(np.array([1.0, 2.0]), np.array([3.0, 4.0])), "b": Moments(np.zeros(1), np.ones(1))}
    found = changed_moments(moments, {"a": np.array([2.0, 0.5])}, {"a": np.array([0.5, 0.0])})
    assert found["a"].mean.tolist() == [1.5, 1.0]
    assert found["a"].std.tolist() == [6.0, 2.0]
    assert found["b"] == moments["b"]


def test_the_correction_is_the_weights_error_times_the_mean():
    cfg = CfgWriter(8, 8)
    cfg.conv(6, 3)
    cfg.conv(4, 3, groups=2, activation="linear")
    model = make_net(cfg.text())
    graph, config = fold_model(model), QuantConfig(w_bits=4, equalise=None, bias_correction=False)
    calibrated = calibrate(graph, [make_images(model)], config)
    moments = batch_norm_moments(trace_darknet(model))
    corrected, unknown = correct_biases_analytically(graph, calibrated.plan, moments)
    assert unknown == ["conv_0"]
    codes, node = calibrated.plan.convs["conv_1"], graph.nodes[1]
    mean = activated_mean("leaky", moments["conv_0"])
    for k in range(4):
        error = codes.weight[k] * 2.0 ** -codes.w_frac[k] - node.weight[k]
        inputs = mean[:3] if k < 2 else mean[3:]
        shift = sum(error[c].sum() * inputs[c] for c in range(3))
        assert corrected.nodes[1].bias[k] == pytest.approx(node.bias[k] - shift, rel=1e-12)
    np.testing.assert_array_equal(corrected.nodes[0].bias, graph.nodes[0].bias)


@pytest.mark.parametrize("equalise", [None, 0.5])
def test_means_of_a_trained_network_come_back_without_images(equalise):
    """Only the weights are rounded, so that the mean error is all theirs."""
    model = parts_model()
    images = parts_images(model, 4)
    drifts = {}
    for corrected in (False, True):
        config = replace(BY_NORM, w_bits=5, a_bits=16, equalise=equalise, bias_correction=corrected)
        calibrated = calibrate(fold_model(model), [images], config, None, batch_norm_moments(trace_darknet(model)))
        drifts[corrected] = head_drift(model, calibrated)
    assert drifts[True] < 0.75 * drifts[False]


def head_drift(model, calibrated):
    """The batch norms know of images of the kind the network was trained on, and of no others."""
    errors = head_errors(model, calibrated, parts_images(model, 3, seed=1))
    return sum(float(error.mean((0, 2, 3)).abs().mean()) for error in errors)


def test_batch_norms_must_be_given():
    model = make_net(net_cfg(["leaky"]))
    with pytest.raises(QuantError, match="pass moments=batch_norm_moments"):
        calibrate(fold_model(model), [make_images(model)], BY_NORM)
    quantise_model(model, [make_images(model)], BY_NORM)


def test_layers_of_which_nothing_is_known_are_named():
    model = make_net(net_cfg(["spp", "leaky"]))
    calibrated = calibrate(
        fold_model(model), [make_images(model)], BY_NORM, None, batch_norm_moments(trace_darknet(model))
    )
    (note,) = (note for note in calibrated.plan.notes if note.startswith("bias correction by batch_norm"))
    assert "conv_0" in note
    readers = {node.name for node in calibrated.graph.nodes if any("route" in name for name in node.inputs)}
    assert readers
    assert all(name in note for name in readers)
