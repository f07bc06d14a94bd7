# SPDX-License-Identifier: Apache-2.0
"""Figures, lists, pictures and text of a pruning say what is true."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from support.networks import CfgWriter, build, random_weights, yolov3

from yolo_hw.errors import YoloHwError
from yolo_hw.evaluate import DetectorConfig
from yolo_hw.nn.accounting import account
from yolo_hw.nn.darknet import Darknet
from yolo_hw.prune.compare import compare_outputs
from yolo_hw.prune.config import PruneConfig
from yolo_hw.prune.darknet_prune import Pruned, plan_pruning, prune_model
from yolo_hw.prune.figures import (
    Accelerator,
    Figure,
    accuracy_figures,
    count_figures,
    cycle_figures,
    medians_in_turn,
    recorded,
    speed_figures,
)
from yolo_hw.prune.layer_shapes import layer_macs, layer_shapes
from yolo_hw.prune.multiples import Narrow
from yolo_hw.prune.pictures import LAYERS_PER_COLUMN, costs_figure, layers_figure, write_pictures
from yolo_hw.prune.plan import DeadBias
from yolo_hw.prune.record import layers_before_and_after
from yolo_hw.prune.regularity import irregular_layers
from yolo_hw.prune.report import constant_words, figure_table, group_table, report_text


def network() -> str:
    """A narrow layer, a depthwise one, a residual block, a concatenation and a head."""
    cfg = CfgWriter(24, 24)
    cfg.conv(6, 3)
    cfg.conv(16, 3)
    cfg.conv(16, 3, groups=16)
    cfg.conv(32)
    cfg.conv(16, 3)
    cfg.section("shortcut", from_=-3, activation="linear")
    cfg.route(-1, 0)
    cfg.conv(40, 3)
    cfg.yolo([0], 2, "4,4, 8,8")
    return cfg.text()


CONFIG = PruneConfig(ratio=0.4, multiple_of=8, input_multiple_of=4, narrow=Narrow.KEEP)


def model_of(text: str) -> Darknet:
    made = build(text)
    model = Darknet(made).eval()
    model.load_weights(random_weights(made))
    return model


@pytest.fixture(scope="module")
def models() -> tuple[Darknet, Pruned]:
    model = model_of(network())
    return model, prune_model(model, CONFIG)


def test_counted_figures_are_those_of_the_two_models(models):
    model, pruned = models
    found = {figure.key: figure for figure in count_figures((model, pruned.model), "darknet")}
    for side, counted in (("before", model), ("after", pruned.model)):
        expected = account(counted, counted.network.input, "darknet")
        assert getattr(found["params"], side) == expected.params
        assert getattr(found["macs"], side) == expected.macs == sum(map(layer_macs, layer_shapes(counted)))
        assert getattr(found["flops"], side) == expected.flops
        assert getattr(found["bytes_int8"], side) == expected.packed_bytes(8)
        assert getattr(found["bytes_float32"], side) == sum(
            4 * t.numel() for t in counted.state_dict().values() if t.is_floating_point()
        )
    assert 0 < found["params"].left < 1


def test_cycles_and_utilisation_come_from_the_estimate(models):
    model, pruned = models
    accelerator = Accelerator((4, 4), lambda network: lambda shapes: 100.0 * len(network.layers))
    cycles, used = cycle_figures((model, pruned.model), accelerator)
    assert (cycles.before, cycles.after) == (1000, 1000)
    assert used.after == sum(map(layer_macs, layer_shapes(pruned.model))) / (1000 * 16)


def test_what_cannot_be_had_says_why(models):
    model, pruned = models
    figures = accuracy_figures((model, pruned.model), None, (), DetectorConfig())
    figures += cycle_figures((model, pruned.model), None)
    figures += speed_figures((model, pruned.model), 0, None, "no images")

    def refuse(_: Darknet):
        raise YoloHwError("no integer form")

    figures += speed_figures((model, pruned.model), 1, refuse, "")[1:]
    absent = [row[3] for row in figure_table(figures).rows if row[1] == "-"]
    reasons = ["no data set is given"] * 2 + ["no tile is given"] * 2 + ["no runs are wanted"] * 2
    assert absent == [*reasons, "no integer form"]
    assert recorded(figures) == {}


def test_times_are_medians_of_runs_in_turn(monkeypatch):
    order = []
    clock = iter(float(t) for t in range(100))
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    calls = [lambda: order.append("a"), lambda: (order.append("b"), next(clock))]
    assert medians_in_turn(calls, 3) == [1.0, 2.0]
    assert order == ["a", "b"] * 4


def test_shares_differ_by_points_and_counts_by_what_is_left():
    assert Figure("ap", "AP", 0.5, 0.475, "%").shown() == ("50.00 %", "47.50 %", "-2.50 points")
    assert Figure("params", "parameters", 1000.0, 250.0).shown() == ("1,000", "250", "25.0 %")
    assert Figure("s", "time", 0.002, 0.001, "ms").shown() == ("2.00 ms", "1.00 ms", "50.0 %")
    assert recorded([Figure("params", "parameters", 1000.0, 250.5)]) == {"params": {"before": 1000, "after": 250.5}}


def test_every_number_that_is_no_multiple_is_listed_with_its_reason(models):
    pruned = models[1]
    found = {(f.layer, f.side): f for f in irregular_layers(pruned)}
    expected = {}
    for shape in layer_shapes(pruned.model):
        if shape.out_channels % 8:
            expected[shape.name, "outputs"] = shape.out_channels
        if shape.in_channels % 4 and shape.groups == 1:
            expected[shape.name, "inputs"] = shape.in_channels
    assert {key: f.channels for key, f in found.items()} == expected
    assert found["conv_0", "inputs"].why == "input of the network"
    assert found["conv_0", "outputs"].why == "narrower than the multiple 8: all 6 channels stay"
    assert "narrower than the multiple 8" in found["conv_7", "inputs"].why
    assert found["conv_8", "outputs"].why == "detection head yolo_9"


def test_without_a_multiple_nothing_is_listed(models):
    config = replace(CONFIG, multiple_of=1, input_multiple_of=1)
    pruned = prune_model(models[0], config)
    assert irregular_layers(pruned) == []
    assert "No multiple was asked for." in report_text(pruned, [])


def test_the_report_names_every_group_layer_and_figure(models):
    model, pruned = models
    figures = count_figures((model, pruned.model)) + cycle_figures((model, pruned.model), None)
    text = report_text(pruned, figures)
    for figure in figures:
        assert f"| {figure.title} | {' | '.join(figure.shown())} |" in text
    for row in group_table(pruned).rows:
        assert re.search(rf"^\| {re.escape(str(row[0]))} \|.*\| {row[3]} \| {row[4]} \|", text, re.MULTILINE)
    for old, new in layers_before_and_after(pruned):
        assert f"| {old.name} | {old.out_channels} | {new.out_channels} |" in text
    assert text.count("| ---") >= 4


def test_exactness_is_stated_and_true(models):
    model = models[0]
    image = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    for dead_bias in DeadBias:
        plan = plan_pruning(model, replace(CONFIG, dead_bias=dead_bias))
        pruned = prune_model(model, replace(CONFIG, dead_bias=dead_bias))
        exact = all(difference.is_exact for difference in compare_outputs(plan, [image]))
        assert exact == ("but for the borders" not in constant_words(pruned)) == (not pruned.surgery.inexact)
        assert exact or dead_bias is DeadBias.TRANSFER


def test_a_wrong_compact_model_is_found(models, monkeypatch):
    """A bias that is off by 1e-6 in one channel."""
    from yolo_hw.prune import compare

    plain = compare.carry_out

    def spoilt(plan):
        pruned = plain(plan)
        with torch.no_grad():
            pruned.model.blocks["conv_8"].conv.bias[0] += 1e-6
        return pruned

    monkeypatch.setattr(compare, "carry_out", spoilt)
    plan = plan_pruning(models[0], replace(CONFIG, dead_bias=DeadBias.ZERO))
    (difference,) = compare_outputs(plan, [torch.rand(1, 3, 24, 24)])
    assert not difference.is_exact
    assert difference.interior == pytest.approx(1e-6)
    assert difference.border == pytest.approx(1e-6)


def test_pictures_show_every_layer_and_are_equal_for_equal_prunings(models, tmp_path):
    pruned = models[1]
    changes = layers_before_and_after(pruned)
    figures = count_figures((models[0], pruned.model))
    for folder in ("a", "b"):
        write_pictures(tmp_path / folder, changes, figures, "net")
    for name in ("channels.png", "costs.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
        assert np.asarray(Image.open(tmp_path / "a" / name).convert("L")).std() > 10
    names = [tick.get_text() for axes in layers_figure(changes, "net").axes for tick in axes.get_yticklabels()]
    assert names == [old.name for old, _ in changes]
    shown = [tick.get_text() for tick in costs_figure(figures, "net").axes[0].get_yticklabels()]
    assert shown == [figure.title for figure in figures]


def test_the_picture_of_a_hundred_layers_has_columns_of_bounded_height():
    shapes = layer_shapes(Darknet(build(yolov3(32))))
    drawing = layers_figure([(shape, shape) for shape in shapes * 2], "net")
    assert len(drawing.axes) == -(-2 * len(shapes) // LAYERS_PER_COLUMN)
    assert drawing.get_size_inches()[1] < 12
