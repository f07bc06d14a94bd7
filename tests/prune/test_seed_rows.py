# SPDX-License-Identifier: Apache-2.0
"""Rows of ReconstructionPruning: the parameters and operations of its pruned KITTI networks, exactly."""

import numpy as np
import pytest
from support.kitti import KEPT, PARAMS, SHARES, kitti_yolov3

from benchmarks import seed_rows
from yolo_hw.prune.darknet_surgery import darknet_groups


@pytest.fixture(scope="module")
def network():
    return kitti_yolov3()


@pytest.fixture(scope="module")
def groups(network):
    return darknet_groups(network)


@pytest.mark.parametrize(("ratio", "gflops"), [(0.3, 7.184), (0.5, 4.776), (0.7, 3.228), (0.9, 0.913)])
def test_published_networks_have_their_published_size(network, groups, ratio, gflops):
    kept = dict(zip((group.name for group in groups.prunable), KEPT[ratio], strict=True))
    found = seed_rows.cost(seed_rows.shrink(network, groups, kept))
    assert found.params == PARAMS[ratio]
    assert found.flops == pytest.approx(1e9 * gflops, abs=1e6)  # the table cuts the digits off
    assert round(found.flops / seed_rows.cost(network).flops, 4) == SHARES[ratio]


@pytest.mark.parametrize("ratio", KEPT)
def test_no_layer_keeps_more_than_its_ratio_and_many_keep_less(groups, ratio):
    """A group of one layer keeps at most C - int(C r); a joined one at most as many from each of its layers."""
    alone, dead = seed_rows.by_ratio(groups, ratio), 0
    for group, kept in zip(groups.prunable, KEPT[ratio], strict=True):
        assert kept <= min(alone[group.name] * len(group.members), group.size)
        dead += max(alone[group.name] - kept, 0)
    assert dead > 0


def test_weights_with_the_same_dead_filters_give_the_published_row(network, groups):
    """FPGM by ratio, union of joined layers, dead filters dropped: 2,490,926 parameters at 0.9."""
    kept = dict(zip((group.name for group in groups.prunable), KEPT[0.9], strict=True))
    small = {g.name: g for g in groups.prunable}
    state = seed_rows.planted_state(network, groups, kept, 0.9)
    for name, group in small.items():  # the channels of a filter that matter for the choice: a sixteenth is enough
        for member in group.members:
            key = member.filters.weight
            state[key] = state[key][:, : max(state[key].shape[1] // 16, 3)]
        assert name in kept
    counts = seed_rows.fpgm_counts(network, groups, state, 0.9)
    assert counts == kept
    assert seed_rows.cost(seed_rows.shrink(network, groups, counts)).params == PARAMS[0.9]


def test_the_ratio_alone_leaves_more_than_was_published(network, groups):
    """At 0.3 about (1 - 0.3)^2 of the weights stay where nothing is joined: 12.1 M of 61.6 M are not the ratio's."""
    agreeing, apart = (
        seed_rows.cost(seed_rows.shrink(network, groups, counts)).params
        for counts in (seed_rows.by_ratio(groups, 0.3), seed_rows.independent(groups, 0.3))
    )
    assert 0.49 * PARAMS[0.0] < agreeing < apart
    assert agreeing > 2.5 * PARAMS[0.3]
    assert np.isclose(agreeing, 31_685_863)
