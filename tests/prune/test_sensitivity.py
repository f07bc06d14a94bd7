# SPDX-License-Identifier: Apache-2.0
"""Sensitivity: every point is the model with one group pruned and all else as it was."""

import json

import pytest
import torch
from PIL import Image
from support.data import real_network
from support.searches import AgreesWith, image_batches, residual_detector

from yolo_hw.errors import PruneError, SearchError
from yolo_hw.nn.darknet import load_darknet
from yolo_hw.prune.config import PruneConfig
from yolo_hw.prune.darknet_surgery import prune_darknet
from yolo_hw.prune.plan import DeadBias
from yolo_hw.prune.search_space import SearchSpace
from yolo_hw.prune.sensitivity import OutputError, SensitivityConfig, random_images, scan_sensitivity
from yolo_hw.prune.sensitivity_plot import plot_sensitivity, sensitivity_figure


def config(ratios=(0.25, 0.5), **channels):
    return SensitivityConfig(ratios=ratios, channels=PruneConfig(**{"method": "sensitivity", **channels}))


def test_every_point_is_the_compact_model_without_these_units():
    model = residual_detector().double()
    channels = PruneConfig(method="sensitivity", dead_bias=DeadBias.ZERO)
    metric = OutputError(model, image_batches(1))
    result = scan_sensitivity(model, metric, SensitivityConfig(ratios=(0.25, 0.6), channels=channels))
    space = SearchSpace(model, channels)
    assert list(result.curves) == [candidate.name for candidate in space.ranked]
    assert result.baseline == 0
    for row in result.rows[1:]:
        assert row["kept"] == row["units"] - int(row["units"] * row["ratio"])
        small = prune_darknet(model, space.plan({row["group"]: row["kept"]}), DeadBias.ZERO).model
        assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
        assert metric(small) == pytest.approx(row["value"], rel=1e-9)
        assert row["value"] > 1e-3
    assert [row["value"] for row in result.rows[1:]] == [v for curve in result.curves.values() for v in curve]


def test_constants_of_pruned_channels_count_by_default():
    model = residual_detector()
    metric = OutputError(model, image_batches(1))
    moved = scan_sensitivity(model, metric, config())
    dropped = scan_sensitivity(model, metric, config(dead_bias=DeadBias.ZERO))
    assert moved.curves != dropped.curves


def test_the_model_stays_as_it_is_and_each_point_starts_from_it():
    model = residual_detector().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    result = scan_sensitivity(model, OutputError(model, image_batches(1)), config((0.5,)))
    assert model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    last = list(result.curves)[-1]
    alone = scan_sensitivity(model, OutputError(model, image_batches(1)), config((0.5,), include=(last,)))
    assert alone.curves == {last: result.curves[last]}


def test_an_interrupted_scan_goes_on(tmp_path):
    model, log = residual_detector(), tmp_path / "scan.json"
    whole = scan_sensitivity(model, AgreesWith(model), config())
    score = AgreesWith(model)

    def interrupted(probe):
        if score.calls == 4:
            raise KeyboardInterrupt
        return score(probe)

    with pytest.raises(KeyboardInterrupt):
        scan_sensitivity(model, interrupted, config(), log=log)
    rest, seen = AgreesWith(model), []
    resumed = scan_sensitivity(model, rest, config(), log=log, report=seen.append)
    assert resumed == whole
    assert rest.calls == len(whole.rows) - 4 == len(seen)
    assert seen[-1].done == seen[-1].total == len(whole.rows)
    assert tuple(json.loads(log.read_text())["rows"]) == whole.rows
    with pytest.raises(SearchError, match="of a search 'sensitivity' of another model"):
        scan_sensitivity(model, rest, config((0.25,)), log=log)


def test_a_log_of_other_images_is_refused(tmp_path):
    model, log = residual_detector(), tmp_path / "scan.json"
    for _ in range(2):
        scan_sensitivity(model, OutputError(model, image_batches(1)), config((0.5,)), log=log)
    with pytest.raises(SearchError, match="of another model, other images"):
        scan_sensitivity(model, OutputError(model, image_batches(1, seed=1)), config((0.5,)), log=log)


def test_the_fewest_units_and_the_safe_ratio():
    model = residual_detector()
    result = scan_sensitivity(model, OutputError(model, image_batches(1)), config((0.1, 0.5, 0.9), min_channels=12))
    assert min(row["kept"] for row in result.rows[1:]) == 12
    name = max(result.curves, key=lambda name: result.curves[name][1])
    first, second, _ = result.curves[name]
    assert first < second
    assert result.safe_ratio(name, first) == 0.1
    assert result.safe_ratio(name, first / 2) == 0
    assert result.safe_ratio(name, max(result.curves[name])) == 0.9


def test_a_picture_shows_every_group(tmp_path):
    model = residual_detector()
    result = scan_sensitivity(model, OutputError(model, image_batches(1)), config())
    axes = sensitivity_figure(result).axes[0]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["as it is", "25%", "50%"]
    shown = [t.get_text() for t in axes.get_yticklabels()]
    assert [label.split(" ")[0] for label in shown] == list(result.curves)
    plot_sensitivity(tmp_path / "scan.png", result)
    with Image.open(tmp_path / "scan.png") as image:
        assert image.width > 500


def test_a_real_network_without_a_data_set():
    model = load_darknet(*real_network("yolo-fastest-1.1"), size=(64, 64))
    result = scan_sensitivity(model, OutputError(model, [random_images(model, 1)]), config((0.5,)))
    assert len(result.curves) > 20
    assert len({round(v, 6) for (v,) in result.curves.values()}) > 20


def test_random_images_are_of_the_networks_size_and_follow_from_the_seed():
    model = residual_detector()
    images = random_images(model, 3)
    assert images.shape == (3, 3, 32, 32)
    assert 0 <= images.min() < images.max() < 1
    assert torch.equal(images, random_images(model, 3))
    assert not torch.equal(images, random_images(model, 3, seed=1))


def test_requests_that_make_no_sense():
    model = residual_detector()
    for ratios in ((), (0.5, 0.5), (0.0, 0.5), (0.5, 1.0)):
        with pytest.raises(PruneError, match=r"ratios must rise and lie in \(0, 1\)"):
            config(ratios)
    with pytest.raises(PruneError, match="sensitivity: multiple_of has no meaning, every group loses"):
        config(multiple_of=8)
    values = iter([1.0, float("inf")])
    with pytest.raises(SearchError, match="metric without 25% of conv_0: must be a finite number, got inf"):
        scan_sensitivity(model, lambda probe: next(values), config())
    with pytest.raises(PruneError, match="there must be images"):
        OutputError(model, [])
    with pytest.raises(PruneError, match="conv_99"):
        scan_sensitivity(model, AgreesWith(model), config(include=("conv_99",)))
