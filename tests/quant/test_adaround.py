# SPDX-License-Identifier: Apache-2.0
"""AdaRound: legal codes next to nearest, a smaller error on images it has not seen, the same result every time."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.networks import CfgWriter
from support.parts import head_errors, parts_images, parts_model
from support.random_net import calibrate_net, make_images, make_net, net_cfg

from yolo_hw.errors import QuantError
from yolo_hw.fixedpoint import FixedPoint, Overflow
from yolo_hw.intgraph.target_profiles import GENERIC
from yolo_hw.quant import AdaRoundConfig, Observer, QuantConfig, calibrate, fold_model
from yolo_hw.quant.adaround import Patches, round_layer, sample_patches
from yolo_hw.quant.bias_correction import mean_drift
from yolo_hw.quant.execute import ConvParameters, float_finish, raw_result
from yolo_hw.quant.folded import FoldedConv
from yolo_hw.quant.paired import Layer, adopt_codes, revise_layers
from yolo_hw.quant.simulate import Simulation

QUICK = AdaRoundConfig(iterations=60, patches=256, batch=64)
FOUR = QuantConfig(w_bits=4, a_bits=8)


def layers_of(model, config, images):
    """Return every convolution between the float and the rounded network, and the simulation."""
    calibrated = calibrate(fold_model(model), [images], replace(config, equalise=None, bias_correction=False))
    simulation, found = Simulation(calibrated.graph, calibrated.plan), []
    revise_layers(simulation, [images], lambda layer: found.append(layer) or layer)
    return found, simulation


@pytest.mark.parametrize("overflow", [Overflow.SATURATE, Overflow.SATURATE_SYMMETRIC])
@pytest.mark.parametrize("observer", [Observer.MAX, Observer.MSE])
def test_codes_are_the_two_next_to_the_weight(observer, overflow):
    model = make_net(net_cfg(["leaky", "mish", "depthwise", "grouped_route", "reorg", "se"]))
    config = replace(FOUR, w_observer=observer, overflow=overflow, adaround=QUICK)
    calibrated = calibrate_net(model, config)
    limit = FixedPoint(4, 0)
    lowest = -limit.hi if overflow is Overflow.SATURATE_SYMMETRIC else limit.lo
    moved = 0
    for node in calibrated.graph.nodes:
        if isinstance(node, FoldedConv):
            codes = calibrated.plan.convs[node.name]
            scaled = np.ldexp(node.weight, codes.w_frac.reshape(-1, 1, 1, 1))
            down, up = (np.clip(f(scaled), lowest, limit.hi) for f in (np.floor, np.ceil))
            assert ((codes.weight == down) | (codes.weight == up)).all()
            moved += int((codes.weight != np.clip(np.floor(scaled + 0.5), lowest, limit.hi)).sum())
    assert moved > 0


@pytest.mark.slow
def test_a_trained_network_in_four_bits_loses_a_quarter_of_its_error_on_other_images():
    model = parts_model()
    calibration, held_out = parts_images(model, 8), parts_images(model, 3, seed=99)
    errors = {}
    for options in (None, AdaRoundConfig(iterations=150)):
        calibrated = calibrate(fold_model(model), [calibration], replace(FOUR, adaround=options))
        errors[options is not None] = sum(float((e**2).mean()) for e in head_errors(model, calibrated, held_out))
    assert errors[True] < 0.75 * errors[False]


@pytest.mark.parametrize("activation", ["linear", "leaky", "relu6", "mish", "logistic", "h_swish"])
def test_each_layer_gains_on_other_images(activation):
    """The output error behind rounding, slope or table, on images that took no part."""
    cfg = CfgWriter(12, 16)
    cfg.conv(8, 3, activation=activation)
    cfg.conv(8, 3, activation=activation)
    model = make_net(cfg.text())
    (_, layer), simulation = layers_of(model, FOUR, make_images(model, 16))
    codes = simulation.plan.convs["conv_1"]
    _, found = round_layer(layer, simulation, codes, AdaRoundConfig(iterations=300, patches=2048))
    (_, other), _ = layers_of(model, FOUR, make_images(model, 6, seed=7))
    errors = [output_error(other, simulation, weight, codes.w_frac) for weight in (codes.weight, found)]
    assert errors[1] < 0.95 * errors[0]


@pytest.mark.parametrize("wrong", [False, True])
@pytest.mark.parametrize("correct_means", [False, True])
def test_no_channel_is_worse_on_the_images_that_judge(monkeypatch, wrong, correct_means):
    """Not where the search sees next to nothing or takes the farther code of all; the layer handed on has the codes."""
    if wrong:
        farther = lambda _problem, _patches, choice, _options: (choice[3] == choice[0]).float()  # noqa: E731
        monkeypatch.setattr("yolo_hw.quant.adaround._search", farther)
    model = make_net(net_cfg(["leaky", "mish", "depthwise"]))
    layers, simulation = layers_of(model, FOUR, make_images(model, 8))
    hasty = AdaRoundConfig(iterations=40, patches=4, batch=4)
    moved = kept = 0
    for given in layers:
        codes = simulation.plan.convs[given.node.name]
        layer = given.shifted(mean_drift(given)) if correct_means else given
        found, weight = round_layer(layer, simulation, codes, hasty, correct_means=correct_means)
        before, after = (held_out_errors(part, simulation) for part in (layer, found))
        changed = (weight != codes.weight).reshape(len(weight), -1).any(1)
        assert (after[changed] < before[changed]).all()
        assert (after[~changed] == before[~changed]).all()
        real = torch.from_numpy(np.ldexp(weight.astype(float), -codes.w_frac.reshape(-1, 1, 1, 1))).float()
        assert torch.equal(found.parameters.weight, real)
        torch.testing.assert_close(found.found, found.revised(found.parameters).found, rtol=1e-4, atol=1e-5)
        moved, kept = moved + int(changed.sum()), kept + int((~changed).sum())
    assert kept > moved if wrong else moved > 0


def held_out_errors(layer, simulation):
    """Mean squared errors of the channels on the last quarter of eight images."""
    error = simulation.finish(layer.node, layer.found[6:]) - float_finish(layer.node, layer.wanted[6:])
    return (error**2).mean((0, 2, 3)).numpy()


def output_error(layer, simulation, weight, w_frac):
    real = torch.from_numpy(np.ldexp(weight.astype(float), -w_frac.reshape(-1, 1, 1, 1))).float()
    found = raw_result(layer.node, [layer.inputs], {layer.node.name: ConvParameters(real, layer.parameters.bias)})
    return float(((simulation.finish(layer.node, found) - float_finish(layer.node, layer.wanted)) ** 2).mean())


def test_a_small_layer_comes_close_to_the_best_of_all_roundings():
    """Brute force over the 2**8 roundings of a channel, on the very positions that the search sees."""
    cfg = CfgWriter(8, 8)
    cfg.conv(8, 3)
    cfg.conv(4, activation="linear")
    model = make_net(cfg.text())
    (_, layer), simulation = layers_of(model, replace(FOUR, w_observer=Observer.MAX), make_images(model, 8))
    codes = simulation.plan.convs["conv_1"]
    _, found = round_layer(layer, simulation, codes, AdaRoundConfig(iterations=500, patches=512))
    scaled = np.ldexp(layer.node.weight, codes.w_frac.reshape(-1, 1, 1, 1))
    down, up = np.floor(scaled), np.minimum(np.ceil(scaled), 7)
    choices = np.array(np.meshgrid(*[[0, 1]] * 8)).reshape(8, -1).T
    candidates = [np.where(choice.reshape(1, 8, 1, 1), up, down) for choice in choices]
    every = np.array([channel_errors(layer, simulation, c, codes.w_frac) for c in candidates])
    nearest = channel_errors(layer, simulation, codes.weight, codes.w_frac)
    chosen = channel_errors(layer, simulation, found, codes.w_frac)
    assert (chosen <= nearest * 1.01).all()
    gained = (nearest - chosen).sum() / (nearest - every.min(0)).sum()
    assert gained > 0.8


def channel_errors(layer, simulation, weight, w_frac):
    real = torch.from_numpy(np.ldexp(weight.astype(float), -w_frac.reshape(-1, 1, 1, 1))).float()
    found = raw_result(layer.node, [layer.inputs], {layer.node.name: ConvParameters(real, layer.parameters.bias)})
    error = simulation.finish(layer.node, found) - float_finish(layer.node, layer.wanted)
    return (error**2).mean((0, 2, 3)).numpy()


@pytest.mark.parametrize("block", ["depthwise", "reorg", "leaky", "down_and_up"])
def test_patches_are_what_the_convolution_reads(block):
    """Weights times patches give the convolution's own values at the sampled positions."""
    model = make_net(net_cfg([block]))
    layers, _ = layers_of(model, FOUR, make_images(model, 3))
    for layer in layers:
        everywhere = layer._replace(wanted=layer.found)
        node, count = layer.node, 40
        patches = sample_patches(everywhere, range(1, 3), count, torch.Generator().manual_seed(1))
        weight = layer.parameters.weight.reshape(node.groups, node.weight.shape[0] // node.groups, -1)
        pre = patches.inputs @ weight.transpose(1, 2) + layer.parameters.bias.reshape(node.groups, 1, -1)
        torch.testing.assert_close(float_finish(node, pre), patches.wanted, rtol=1e-4, atol=1e-5)


def test_the_sample_is_bounded(monkeypatch):
    model = make_net(net_cfg(["leaky"]))
    (_, layer, _), _ = layers_of(model, FOUR, make_images(model, 3))
    monkeypatch.setattr("yolo_hw.quant.adaround.PATCH_BYTES", 50 * 4 * 8)
    patches = sample_patches(layer, range(3), 4096, torch.Generator())
    assert patches.inputs.shape[1] == 50
    assert patches.inputs.numel() * 4 <= 50 * 4 * 8


def test_batches_take_turns():
    patches = Patches(torch.arange(10.0).reshape(1, 10, 1), torch.arange(10.0).reshape(1, 10, 1))
    seen = [patches.batch(i, 4).inputs.flatten().tolist() for i in range(3)]
    assert seen == [[0, 1, 2, 3], [4, 5, 6, 7], [0, 1, 2, 3]]
    assert patches.batch(5, 99).inputs.numel() == 10


def weights_of(calibrated):
    return {name: codes.weight for name, codes in calibrated.plan.convs.items()}


def test_a_seed_gives_one_result():
    model = make_net(net_cfg(["leaky", "mish"]))
    one, two, other = (
        weights_of(calibrate_net(model, replace(FOUR, adaround=replace(QUICK, seed=seed, iterations=150, patches=32))))
        for seed in (0, 0, 1)
    )
    assert all(np.array_equal(one[name], two[name]) for name in one)
    assert any((one[name] != other[name]).any() for name in one)


def test_formats_stay_and_exact_weights_are_left_alone():
    model = make_net(net_cfg(["leaky"]))
    plain, rounded = calibrate_net(model, FOUR), calibrate_net(model, replace(FOUR, adaround=QUICK))
    assert plain.plan.formats == rounded.plan.formats
    for name, codes in plain.plan.convs.items():
        np.testing.assert_array_equal(codes.w_frac, rounded.plan.convs[name].w_frac)
    with torch.no_grad():
        conv = model.block("conv_2").conv.weight
        conv.copy_(torch.randint(-7, 8, conv.shape) / 8)
        conv[0, 0] = 7 / 8
    exact = calibrate_net(model, replace(FOUR, w_observer=Observer.MAX, adaround=QUICK, equalise=None))
    codes = exact.plan.convs["conv_2"]
    np.testing.assert_array_equal(codes.weight * 2.0 ** -codes.w_frac.reshape(-1, 1, 1, 1), conv.detach().numpy())


def test_dead_channels_and_one_image():
    model = make_net(net_cfg(["leaky"]))
    with torch.no_grad():
        model.block("conv_1").bn.weight[:4] = 0
    calibrated = calibrate(fold_model(model), [make_images(model, 1)], replace(FOUR, adaround=QUICK))
    assert not calibrated.plan.convs["conv_1"].weight[:4].any()


@pytest.mark.parametrize(("acc_bits", "excess"), [(48, 2**30), (20, 2**14)])
def test_codes_that_would_leave_the_accumulator_are_not_adopted(acc_bits, excess):
    """That of 32 bits, or a narrower one of the target."""
    model = make_net(net_cfg(["leaky"]))
    target = replace(GENERIC, name="board", acc_bits=acc_bits)
    calibrated = calibrate_net(model, replace(FOUR, target=target))
    plan, name = calibrated.plan, "conv_1"
    codes = plan.convs[name]
    wide = replace(codes, weight=codes.weight + (np.arange(8) == 3).reshape(-1, 1, 1, 1) * excess)
    moved = replace(codes, weight=codes.weight + 1, w_frac=codes.w_frac + (np.arange(8) == 5))
    for other, channel in ((wide, 3), (moved, 5)):
        found = adopt_codes(calibrated.graph, plan, {name: other})
        np.testing.assert_array_equal(found.convs[name].weight[channel], codes.weight[channel])
        assert found.notes[-1] == f"{name}: 1 of 8 channels rounded to nearest to keep sums legal"
    np.testing.assert_array_equal(found.convs[name].weight[4], codes.weight[4] + 1)


def test_a_progress_callback_can_stop_it():
    model, seen = make_net(net_cfg(["leaky"])), []

    def stop(stage, done, total):
        if stage == "rounding":
            seen.append((done, total))
            if done == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate(fold_model(model), [make_images(model)], replace(FOUR, adaround=QUICK), stop)
    assert seen == [(1, 3), (2, 3)]


@pytest.mark.parametrize("change", [{"iterations": 0}, {"patches": 0}, {"batch": 0}, {"learning_rate": 0.0}])
def test_options_out_of_range(change):
    with pytest.raises(QuantError, match=f"adaround {next(iter(change))} must be"):
        AdaRoundConfig(**change)


def test_layers_know_their_values():
    model = make_net(net_cfg(["leaky"]))
    (first, *_), _ = layers_of(model, FOUR, make_images(model))
    assert isinstance(first, Layer)
    drift = torch.arange(8.0)
    torch.testing.assert_close(first.shifted(drift).found, first.revised(first.shifted(drift).parameters).found)
