# SPDX-License-Identifier: Apache-2.0
"""Pre-flight: what share of the scales is safe to prune, by a stated rule, ties and zeros included."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support.data import REPOSITORY, data_path
from support.searches import residual_detector

from yolo_hw.data import load_batches
from yolo_hw.errors import PruneError
from yolo_hw.nn.darknet import load_darknet
from yolo_hw.prune.config import PruneConfig
from yolo_hw.prune.darknet_prune import prune_model
from yolo_hw.prune.darknet_surgery import darknet_groups
from yolo_hw.prune.preflight import ENERGY, check_scales, judge_scales
from yolo_hw.prune.preflight_plot import plot_preflight, preflight_figure
from yolo_hw.prune.ranking import Candidate, Scope, rank_units
from yolo_hw.prune.search_data import ImageBatches
from yolo_hw.prune.select import select_ratio
from yolo_hw.prune.sensitivity import OutputError


def sparse_scales(layers=10, units=64, share=0.65, seed=0):
    """Return layers of which a share of the scales is about zero."""
    rng = np.random.default_rng(seed)
    gone = rng.random((layers, units)) < share
    values = np.where(gone, np.abs(rng.normal(0, 1e-3, gone.shape)), rng.uniform(0.5, 1.5, gone.shape))
    return {f"conv_{i}": row for i, row in enumerate(values)}


tied = st.lists(st.lists(st.sampled_from([0.0, 0.01, 0.5, 1.0]), min_size=1, max_size=6), min_size=1, max_size=5)


@given(tied)
def test_at_the_ceiling_every_layer_lives_and_one_unit_further_one_does_not(layers):
    scales = {f"conv_{i}": np.array(values) for i, values in enumerate(layers)}
    if not any(map(any, layers)):
        with pytest.raises(PruneError, match=r"all \d+ scales are zero"):
            judge_scales(scales)
        return
    found = judge_scales(scales)
    ranking = rank_units([Candidate(name, values) for name, values in scales.items()], Scope.GLOBAL)
    gone = found.units(found.ceiling)
    assert gone == round(found.ceiling * len(found.scales))
    assert ranking.left(slice(gone)).min() >= 1
    assert ranking.left(slice(gone + 1)).min() == 0
    assert list(scales)[int(np.argmin(ranking.left(slice(gone + 1))))] == found.first_to_vanish


@given(tied.filter(lambda layers: any(map(any, layers))))
def test_the_safe_share_is_the_largest_within_both_limits(layers):
    found = judge_scales({f"conv_{i}": np.array(values) for i, values in enumerate(layers)})
    one_more = found.safe + 1 / len(found.scales)
    assert found.safe <= found.ceiling
    assert found.energy(found.safe) <= ENERGY
    assert found.energy(one_more + 1e-9) > ENERGY or found.safe == found.ceiling
    assert (found.scales[: found.units(found.safe)] <= found.threshold).all()


def test_a_ratio_removes_as_many_units_as_the_selection_does():
    scales = sparse_scales()
    found = judge_scales(scales)
    candidates = [Candidate(name, values) for name, values in scales.items()]
    for ratio in (0.0, 0.1, 0.3, 0.57, found.safe):
        assert found.units(ratio) == 640 - sum(select_ratio(candidates, ratio).counts.values())


def test_a_model_trained_for_sparsity_is_safe_up_to_its_zeros():
    found = judge_scales(sparse_scales())
    zeros = float(np.mean(found.scales < 0.1))
    assert 0.6 < zeros < 0.7
    assert found.sparse
    assert found.near_zero == found.knee == zeros
    assert zeros <= found.safe < zeros + 0.01
    assert found.threshold > 0.1
    assert found.verdict().startswith(f"safe up to {found.safe:.1%}, beyond it more than 0.1% of the squares")
    assert found.verdict().endswith(f"{zeros:.1%} of the scales are near zero; the widest gap is at {zeros:.1%}")
    assert found.warning(found.safe) is None
    more = found.safe + 0.01
    assert f"a ratio of {more:.1%} is not safe: the scales that go hold {found.energy(more):.1%}" in found.warning(more)


def test_an_ordinary_model_is_told_to_train_with_sparsity_first():
    rng = np.random.default_rng(0)
    found = judge_scales({f"conv_{i}": rng.uniform(0.3, 1.7, 32) for i in range(4)})
    assert not found.sparse
    assert found.knee is None
    assert found.safe < 0.02
    assert found.verdict().startswith("not sparse enough: 100.0% of the scales are above 0.1 of their root mean square")
    assert found.verdict().endswith("train with sparsity first")
    assert f"a ratio of 50.0% is not safe: the scales that go hold {found.energy(0.5):.1%}" in found.warning(0.5)


def test_a_layer_of_small_scales_limits_all():
    scales = {"conv_0": np.full(50, 1e-4), "conv_1": np.linspace(1, 2, 50), "conv_2": np.full(50, 1e-6)}
    found = judge_scales(scales)
    assert found.first_to_vanish == "conv_2"
    assert found.safe == found.ceiling == 49 / 150
    assert found.sparse
    assert "safe up to 32.7%, beyond it conv_2 would lose all its channels" in found.verdict()
    assert "the sum of squares, conv_2 would lose all its channels" in found.warning(0.4)


def test_equal_scales_do_not_disturb_it():
    found = judge_scales({"conv_0": np.ones(8), "conv_1": np.ones(8)})
    assert found.ceiling == 7 / 16
    assert found.safe == 0
    assert found.near_zero == 0


def test_the_rule_of_the_method_says_which_scales_count():
    model = residual_detector()
    groups, state = darknet_groups(model), model.state_dict()
    everything = check_scales(groups, state, PruneConfig(method="regular"))
    plain = check_scales(groups, state, PruneConfig(method="normal"))
    assert len(plain.scales) == len(everything.scales) - 16
    without = check_scales(groups, state, PruneConfig(method="regular", exclude=("conv_1",)))
    assert len(without.scales) == len(everything.scales) - 16
    joined = next(group for group in groups.prunable if group.joined)
    largest = torch.stack([state[m.norm.weight].abs() for m in joined.members if m.norm]).amax(0)
    assert set(largest.double().tolist()) <= set(everything.scales.tolist())


def test_what_has_no_scales_is_refused():
    model = residual_detector()
    groups, state = darknet_groups(model), model.state_dict()
    state["blocks.conv_1.bn.weight"] = torch.full((16,), float("nan"))
    with pytest.raises(PruneError, match="finite"):
        check_scales(groups, state)
    with pytest.raises(PruneError, match="all 4 scales are zero"):
        judge_scales({"conv_0": np.zeros(4)})
    with pytest.raises(PruneError, match="method must be one of"):
        check_scales(groups, state, PruneConfig(method="gamma"))


def test_pruning_what_is_safe_hardly_changes_the_outputs_and_more_does():
    folder = REPOSITORY / "examples/bccd"
    model = load_darknet(folder / "bccd-tiny.cfg", folder / "bccd-tiny.weights")
    config = PruneConfig(method="regular", multiple_of=1)
    found = check_scales(darknet_groups(model), model.state_dict(), config)
    batches = load_batches(data_path("bccd/train.txt"), model.network.input, limit=2)
    error = OutputError(model, ImageBatches(list(batches[0]), 2))
    errors = [
        error(prune_model(model, PruneConfig(method="regular", multiple_of=1, ratio=ratio)).model)
        for ratio in (found.safe, 0.3)
    ]
    assert 0 < found.safe < 0.3
    assert errors[0] < 0.1 < errors[1]


def test_a_picture_with_every_limit(tmp_path):
    found = judge_scales(sparse_scales())
    histogram, cumulative = preflight_figure(found).axes
    assert sum(patch.get_height() for patch in histogram.patches) == 640
    labels = [text.get_text() for text in cumulative.get_legend().get_texts()]
    assert f"safe up to {found.safe:.1%}" in labels
    assert f"{found.first_to_vanish} would vanish beyond {found.ceiling:.1%}" in labels
    assert f"widest gap at {found.knee:.1%}" in labels
    plot_preflight(tmp_path / "scales.png", found)
    with Image.open(tmp_path / "scales.png") as image:
        assert image.width > 1000
    equal = judge_scales({"conv_0": np.ones(8), "conv_1": np.ones(8)})
    plot_preflight(tmp_path / "equal.png", equal)
    assert (tmp_path / "equal.png").stat().st_size > 1000
