# SPDX-License-Identifier: Apache-2.0
"""Factors for whole tensors: the same function, and less noise at steps that are powers of two."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.networks import CfgWriter
from support.parts import head_errors, parts_images, parts_model
from support.random_net import BLOCKS, make_images, make_net, net_cfg

from yolo_hw.fixedpoint import FixedPoint, Overflow
from yolo_hw.ops import fake_quant_pow2
from yolo_hw.quant import Observer, QuantConfig, calibrate, fold_model
from yolo_hw.quant.equalise import scale_channels, scale_groups
from yolo_hw.quant.execute import float_parameters, image_tensor, run_folded
from yolo_hw.quant.fit_ranges import FACTORS, Magnitudes, Peaks, range_factors

PLAIN = QuantConfig(equalise=None, bias_correction=False)


def run(graph, images, dtype=torch.float32):
    x = image_tensor(images, dtype)
    return list(run_folded(graph, x, float_parameters(graph, dtype)))


def factors_of(graph, images, config=PLAIN):
    return range_factors(graph, run(graph, images), config)


@pytest.mark.parametrize("block", sorted(BLOCKS))
def test_the_function_stays_the_same(block):
    graph = fold_model(make_net(net_cfg([block])))
    images = make_images(make_net(net_cfg([block])))
    factors = factors_of(graph, images)
    assert set(factors) == {name for group in scale_groups(graph) for name in group.members}
    before, after = (run(g, images, torch.float64) for g in (graph, scale_channels(graph, factors)))
    for (node, _, x), (_, _, y) in zip(before, after, strict=True):
        factor = torch.from_numpy(factors.get(node.name, np.ones(1))).reshape(1, -1, 1, 1)
        torch.testing.assert_close(x * factor, y, rtol=1e-10, atol=1e-12)


def chain(activation="leaky"):
    """Return two convolutions before a head, folded, and images."""
    cfg = CfgWriter(16, 16)
    cfg.conv(8, 3, activation=activation)
    cfg.conv(18, activation="linear")
    cfg.yolo([0], 1, "1,2")
    model = make_net(cfg.text())
    return fold_model(model), make_images(model, 4)


def random_images(count, seed):
    return np.random.default_rng(seed).integers(0, 256, (count, 16, 16, 3)).astype(np.uint8)


@pytest.mark.parametrize("activation", ["leaky", "relu"])
@pytest.mark.parametrize("size", [1.0, 1.1, 1.3, 1.7])
@pytest.mark.parametrize(
    ("observer", "overflow"),
    [*((observer, Overflow.SATURATE) for observer in Observer), (Observer.MSE, Overflow.WRAP)],
)
def test_the_factor_is_next_to_the_best_of_all_on_other_images(activation, size, observer, overflow):
    """Brute force: every factor, the observer's own choice of format, the noise of rounding to it."""
    graph, _ = chain(activation)
    graph = scale_channels(graph, {"conv_0": np.full(8, size)})
    config = replace(PLAIN, a_observer=observer, percentile=99.0, overflow=overflow)
    images, others = random_images(24, seed=1), random_images(200, seed=2)
    noise = []
    for j in range(FACTORS):
        factor = 2.0 ** (j / FACTORS)
        scaled = scale_channels(graph, {"conv_0": np.full(8, factor)})
        fmt = calibrate(scaled, [images], config).plan.formats["conv_0"]
        x = run(scaled, others)[0].out
        noise.append(float(((fake_quant_pow2(x, fmt, overflow=overflow) - x) ** 2).mean()) / factor**2)
    chosen = factors_of(graph, images, config)["conv_0"]
    assert (chosen == chosen[0]).all()
    found = noise[round(FACTORS * np.log2(chosen[0]))]
    if observer is Observer.KL:  # compares distributions, and takes what noise comes of it
        assert found < max(noise)
    elif observer is not Observer.COSINE:
        cautious = overflow is Overflow.WRAP  # one value that wraps costs more than the finer step saves
        assert found < (2 if cautious else 1.25) * min(noise)
    assert max(noise) > 1.3 * min(noise)


def room(images, config):
    """Return what is left between the largest value seen and the end of the range, the mean over several sizes."""
    graph, _ = chain()
    found = []
    for size in 2.0 ** np.arange(0, 1, 0.23):
        uneven = scale_channels(graph, {"conv_0": np.full(8, size)})
        fitted = scale_channels(uneven, factors_of(uneven, images, config))
        largest = float(run(fitted, images)[0].out.abs().max())
        fmt = calibrate(fitted, [images], config).plan.formats["conv_0"]
        found.append(fmt.hi * fmt.step / largest)
    return np.mean(found)


@pytest.mark.parametrize(("observer", "overflow"), [(Observer.MAX, Overflow.SATURATE), (Observer.MSE, Overflow.WRAP)])
def test_the_room_for_larger_values_is_what_images_and_bits_allow(observer, overflow):
    config = replace(PLAIN, a_observer=observer, overflow=overflow, unsigned=False)
    by_images = [room(random_images(count, seed=1), config) for count in (1, 4, 24)]
    assert 2 > by_images[0] > by_images[1] > by_images[2] > 1
    assert room(random_images(24, seed=1), replace(config, a_bits=16)) > 1.3 * by_images[2]


@pytest.mark.parametrize("overflow", list(Overflow))
def test_peaks_are_expected_as_often_as_they_come(overflow):
    """Channels with exponential tails: the expected error of a new image against a thousand of them."""
    rng = np.random.default_rng(0)
    size = np.array([1.0, 1.5, 0.7])

    def images(count):
        return torch.from_numpy(size[:, None, None] * (3 + rng.exponential(0.5, (count, 3, 1, 1))))

    peaks = Peaks()
    for _ in range(4):
        peaks.update(images(50))
    assert peaks.images == 200
    seen, limits = peaks.largest, np.array([7.0, 8.0, 9.0])
    x = images(200_000).numpy()[:, :, 0, 0]
    found = []
    for limit in limits:
        error = 2 * limit if overflow is Overflow.WRAP else x - limit
        found.append((np.where(x > np.maximum(limit, seen), error, 0) ** 2).sum(1).mean())
    ratios = peaks.energy(limits, overflow) / found
    assert (ratios > 0.3).all()
    assert (ratios < 3).all()


def test_a_chain_of_additions_has_one_factor_and_outputs_have_none():
    graph = fold_model(make_net(net_cfg(["shortcut", "leaky"])))
    images = make_images(make_net(net_cfg(["shortcut", "leaky"])))
    factors = factors_of(graph, images)
    chains = [group.members for group in scale_groups(graph) if any("shortcut" in name for name in group.members)]
    assert chains
    assert all(len({tuple(factors[name]) for name in members}) == 1 for members in chains)
    assert not set(factors) & {name for name, _ in graph.outputs}


def test_magnitudes_are_counted_whatever_their_size():
    values = Magnitudes()
    for batch in ([0.0, 1.0, -1.0, 1e-30], [3e8, -1e-42, 1.0, 0.0]):
        values.update(torch.tensor(batch).reshape(1, 2, 2, 1))
    middles, shares = values.summary()
    np.testing.assert_allclose(middles, [1e-30, 1.0, 3e8], rtol=0.02)
    np.testing.assert_allclose(shares, np.array([1, 3, 1]) / 8)
    assert values.largest == 3e8
    empty = Magnitudes()
    empty.update(torch.zeros(1, 2, 3, 3))
    assert not len(empty.summary()[0])


def test_a_cell_is_three_percent_wide():
    x = torch.rand(10_000) * 10
    values = Magnitudes()
    values.update(x)
    middles, shares = values.summary()
    assert shares.sum() == pytest.approx(1)
    assert (middles * shares).sum() == pytest.approx(float(x.mean()), rel=0.01)
    assert (middles[1:] / middles[:-1]).min() > 1.0
    assert middles[-1] == pytest.approx(float(x.max()), rel=0.03)


def test_dead_tensors_keep_their_size():
    graph, images = chain()
    nodes = tuple(replace(node, weight=0 * node.weight, bias=0 * node.bias) for node in graph.nodes)
    assert (factors_of(replace(graph, nodes=nodes), images)["conv_0"] == 1).all()
    assert (factors_of(graph, np.zeros_like(images))["conv_0"] >= 1).all()


def test_heads_of_a_trained_network_come_closer_on_other_images(monkeypatch):
    model = parts_model()
    images, others = parts_images(model, 24), parts_images(model, 8, seed=1)
    noise = {}
    for fitted in (True, False):
        if not fitted:
            monkeypatch.setattr(sys.modules["yolo_hw.quant.calibrate"], "range_factors", lambda *_: {})
        calibrated = calibrate(fold_model(model), [images], QuantConfig())
        noise[fitted] = sum(float((e**2).mean()) for e in head_errors(model, calibrated, others))
    assert noise[True] < 0.9 * noise[False]


def test_without_equalisation_nothing_is_scaled():
    graph, images = chain()
    assert calibrate(graph, [images], PLAIN).graph is graph


def test_formats_are_the_observers():
    """Scaling only prepares: what it expects is not what decides."""
    graph, images = chain()
    found = calibrate(graph, [images], replace(PLAIN, equalise=0.5))
    again = calibrate(found.reference, [images], PLAIN)
    assert found.plan.formats == again.plan.formats
    assert isinstance(found.plan.formats["conv_0"], FixedPoint)
