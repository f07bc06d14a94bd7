# SPDX-License-Identifier: Apache-2.0
"""Calibration as a whole: formats of tensors, overrides, noise against word length, errors."""

import numpy as np
import pytest
import torch
from support.networks import CfgWriter
from support.random_net import calibrate_net, make_images, make_net, net_cfg, random_net

from yolo_hw.errors import QuantError
from yolo_hw.fixedpoint import FixedPoint, Rounding
from yolo_hw.intgraph import INPUT, INPUT_FORMAT, image_codes, run_outputs
from yolo_hw.quant import Observer, Override, QuantConfig, calibrate, fold_model, lower_graph, quantise_model
from yolo_hw.quant.execute import float_parameters, image_tensor, run_folded
from yolo_hw.quant.simulate import relu6_cap

BITS = (4, 5, 6, 7, 8, 16)


def signal_to_noise(model, config):
    """Return power of the head's float map over the power of the integer graph's error, in decibels."""
    graph, images = quantise_model(model, [make_images(model)], config), make_images(model, seed=1)
    with torch.inference_mode():
        (wanted,) = model(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255)
    step = graph.tensors[graph.outputs[0].tensor].fmt.step
    found = np.stack([run_outputs(graph, image_codes(image))[0] for image in images]) * step
    return 10 * np.log10((wanted.numpy() ** 2).sum() / ((found - wanted.numpy()) ** 2).sum())


@pytest.mark.parametrize("seed", range(4))
def test_noise_falls_as_bits_rise(seed):
    model = random_net(seed)
    ratios = [signal_to_noise(model, QuantConfig(w_bits=bits, a_bits=bits)) for bits in BITS]
    assert ratios == sorted(ratios), ratios
    assert ratios[-1] > ratios[0] + 30  # twelve bits more; 6 dB each if nothing else limited it


def test_weights_of_uneven_channels_need_fraction_bits_per_channel():
    model = make_net(net_cfg(["leaky", "relu"]))
    with torch.no_grad():
        for name in ("conv_0", "conv_1"):
            model.block(name).bn.weight.mul_(2.0 ** -torch.arange(8.0))
    config = {"w_bits": 6, "a_bits": 16, "equalise": None}
    assert signal_to_noise(model, QuantConfig(**config)) > signal_to_noise(
        model, QuantConfig(**config, per_channel=False)
    )


def test_tensors_joined_by_moving_layers_share_a_format():
    calibrated = calibrate_net(make_net(net_cfg(["spp", "down_and_up", "reorg"])))
    formats = calibrated.plan.formats
    joined = 0
    for node in calibrated.graph.nodes:
        if node.moves:
            assert {formats[name] for name in node.inputs} == {formats[node.name]}
            joined += 1
    assert joined >= 7


def test_unsigned_codes_only_where_nothing_is_negative():
    calibrated = calibrate_net(make_net(net_cfg(["relu", "leaky", "relu6", "mish", "logistic"])))
    formats = calibrated.plan.formats
    assert formats[INPUT] == INPUT_FORMAT
    signed = [formats[node.name].signed for node in calibrated.graph.nodes]
    assert signed == [True, False, True, False, True, False, True]
    plain = calibrate_net(make_net(net_cfg(["relu", "relu6"])), QuantConfig(unsigned=False))
    assert all(plain.plan.formats[node.name].signed for node in plain.graph.nodes)


def test_overrides_reach_weights_maps_and_tables():
    model = make_net(net_cfg(["leaky", "mish", "relu"]))
    config = QuantConfig(
        overrides=(Override("conv_1", w_bits=4), Override("conv_2", a_bits=5), Override("conv_3", 16, 16))
    )
    calibrated = calibrate_net(model, config)
    graph = lower_graph(calibrated.graph, calibrated.plan)
    assert [node.w_bits for node in graph.nodes] == [8, 4, 8, 16, 8]
    assert [graph.tensors[node.name].fmt.bits for node in graph.nodes] == [8, 8, 5, 16, 8]
    assert len(graph.node("conv_2").act.table) == 1 << 5
    assert graph.contract.acc_bits == 48


def test_an_override_reaches_all_tensors_of_a_group():
    """A concat's inputs have one format, so the longest word wins."""
    cfg = CfgWriter(8, 8)
    cfg.conv(4)
    cfg.conv(4)
    cfg.route(-1, -2)
    cfg.conv(4)
    config = QuantConfig(overrides=(Override("conv_0", a_bits=16),))
    formats = calibrate_net(make_net(cfg.text()), config).plan.formats
    assert [formats[name].bits for name in ("conv_0", "conv_1", "route_2", "conv_3")] == [16, 16, 16, 8]


def test_the_range_observer_clips_no_calibration_value():
    model = random_net(12)
    config = QuantConfig(a_observer=Observer.MAX, equalise=None, bias_correction=False)
    graph, images = fold_model(model), make_images(model)
    plan = calibrate(graph, [images], config).plan
    x = image_tensor(images)
    for node, _, out in run_folded(graph, x, float_parameters(graph)):
        fmt = plan.formats[node.name]
        assert out.max() < (fmt.hi + 0.5) * fmt.step
        assert out.min() >= (fmt.lo - 0.5) * fmt.step


def test_results_do_not_depend_on_the_batches():
    model = random_net(13)
    images = make_images(model, 6)
    whole = calibrate(fold_model(model), [images], QuantConfig(a_observer=Observer.MAX)).plan
    parts = calibrate(
        fold_model(model), [images[:1], images[1:4], images[4:]], QuantConfig(a_observer=Observer.MAX)
    ).plan
    assert whole.formats == parts.formats


@pytest.mark.parametrize(
    ("fmt", "rounding", "code"),
    [
        (FixedPoint(8, 4), Rounding.HALF_UP, 96),
        (FixedPoint(8, 5, False), Rounding.HALF_UP, 192),
        (FixedPoint(8, 5), Rounding.HALF_UP, 127),
        (FixedPoint(8, -2), Rounding.HALF_UP, 2),
        (FixedPoint(8, -2), Rounding.FLOOR, 1),
        (FixedPoint(8, -4), Rounding.HALF_UP, 0),
    ],
)
def test_the_cap_of_relu6(fmt, rounding, code):
    """6 * 2**-2 is the tie 1.5."""
    assert relu6_cap(fmt, rounding) == code


def test_calibration_needs_images():
    with pytest.raises(QuantError, match="at least one image"):
        calibrate(fold_model(random_net(1)), [], QuantConfig())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("equalise", [None, 0.5])
def test_values_that_are_not_finite_are_named(value, equalise):
    model = random_net(1)
    with torch.no_grad():
        model.block("conv_0").conv.weight[0, 0, 0, 0] = value
    with pytest.raises(QuantError, match="conv_0: values must be finite"):
        calibrate_net(model, QuantConfig(equalise=equalise))


def test_progress_is_reported_batch_by_batch():
    model = random_net(1)
    seen = []
    images = make_images(model, 4)
    calibrate(fold_model(model), [images[:2], images[2:]], QuantConfig(), lambda *call: seen.append(call))
    assert {call[1:] for call in seen if call[0] != "biases"} == {(1, 2), (2, 2)}
    assert {call[0] for call in seen} == {"channels", "steps", "ranges", "candidates", "biases"}
    nodes = len(fold_model(model).nodes)
    assert [call[1:] for call in seen if call[0] == "biases"] == [(i, nodes) for i in range(1, nodes + 1)]
