# SPDX-License-Identifier: Apache-2.0
"""Random widths: within the band, regular, different, a function of the seed, and an end to the search."""

import numpy as np
import pytest
from support.networks import build, yolov3
from support.searches import residual_detector

from yolo_hw.errors import PruneError
from yolo_hw.prune.choose import make_candidate
from yolo_hw.prune.config import PruneConfig
from yolo_hw.prune.cost import CostKind, CostModel
from yolo_hw.prune.darknet_graph import darknet_channels
from yolo_hw.prune.darknet_surgery import darknet_groups
from yolo_hw.prune.groups import ChannelGroups
from yolo_hw.prune.multiples import Regular, Rounding
from yolo_hw.prune.random_widths import Band, RandomWidths


def widths_of(groups, shapes, multiple=1, rounding=Rounding.UP):
    config = PruneConfig(multiple_of=multiple)
    candidates = [make_candidate(groups, group, config, np.zeros(group.size)) for group in groups.prunable]
    return RandomWidths(CostModel(groups, shapes), [c.width for c in candidates], Regular(rounding))


@pytest.fixture
def small():
    model = residual_detector()
    shapes = {key: tuple(p.shape) for key, p in model.named_parameters()}
    return lambda *args: widths_of(darknet_groups(model), shapes, *args)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.75])
@pytest.mark.parametrize("multiple", [1, 4])
def test_draws_are_different_regular_and_within_the_band(small, share, multiple):
    widths = small(multiple)
    band = Band(share=share, delta=0.04)
    counts, shares = widths.draw(8, band, 0)
    assert counts.shape == (8, len(widths.widths))
    assert len(np.unique(counts, axis=0)) == 8
    assert (counts % [w.multiple for w in widths.widths] == 0).all()
    assert any(w.multiple == multiple for w in widths.widths)
    assert (counts >= 1).all()
    assert (counts <= [w.units for w in widths.widths]).all()
    for row, found in zip(counts.tolist(), shares.tolist(), strict=True):
        choice = {w.name: n for w, n in zip(widths.widths, row, strict=True)}
        exact = widths.cost.price(CostKind.MACS, choice) / widths.cost.price(CostKind.MACS, {})
        assert found == exact
        assert abs(exact - share) <= band.delta


def test_a_band_that_even_ratios_never_meet_is_met_in_a_deep_network():
    network = build(yolov3(416))
    groups = ChannelGroups(darknet_channels(network))
    shapes = {}
    for layer in network.layers:
        for param in layer.params:
            key = {"weight": "conv.weight", "scale": "bn.weight"}.get(param.role)
            if key:
                shapes[f"blocks.{layer.name}.{key}"] = param.shape
    widths = widths_of(groups, shapes, 8)
    assert widths.full == network.macs
    counts, _ = widths.draw(10, Band(share=0.7, delta=0.02), 3)
    assert len(counts) == 10
    with pytest.raises(PruneError, match=r"10 different ones with 68.0% to 72.0% .* 512 draws gave 0; the draws had"):
        widths.draw(10, Band(share=0.7, delta=0.02, max_ratio=1.0, max_draws=512), 3)


def test_draws_follow_from_the_seed_and_not_from_their_number(small):
    widths, band = small(), Band(share=0.4)
    twelve, _ = widths.draw(12, band, 5)
    assert np.array_equal(widths.draw(12, band, 5)[0], twelve)
    assert np.array_equal(widths.draw(5, band, 5)[0], twelve[:5])
    assert not np.array_equal(widths.draw(12, band, 6)[0], twelve)


def test_a_fixed_range_of_ratios_is_kept(small):
    widths = small()
    counts, _ = widths.draw(10, Band(share=0.8, delta=0.1, max_ratio=0.25), 0)
    assert (counts >= [w.units - w.units // 4 for w in widths.widths]).all()


def test_what_cannot_be_reached_ends_with_what_can(small):
    widths = small(8)
    low, high = widths.reachable
    assert 0 < low < high == 1.0
    with pytest.raises(PruneError, match=rf"0.0% to 2.0% .* are wanted, these groups reach {low:.1%} to 100.0%"):
        widths.draw(1, Band(share=0.01, delta=0.01), 0)
    with pytest.raises(PruneError, match=r"1000 different ones .* 3,000 draws gave \d+; .* ask for fewer"):
        widths.draw(1000, Band(max_draws=3000), 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 1.0}, r"share .* must be in \(0, 1\), got 1.0"),
        ({"delta": 0.0}, "delta must be in"),
        ({"max_ratio": 0.0}, "max_ratio must be in"),
        ({"max_draws": 0}, "max_draws must be at least 1"),
    ],
)
def test_ranges(options, message):
    with pytest.raises(PruneError, match=message):
        Band(**options)
