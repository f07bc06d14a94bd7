# SPDX-License-Identifier: Apache-2.0
"""Cycles from shapes are those of the plan, convolution by convolution."""

from functools import cache

import numpy as np
import pytest
from support.data import real_network
from support.networks import CfgWriter, build, random_weights, tiny_detector, yolov3_tiny, yolov4_tiny

from hls_export.config import AcceleratorConfig
from hls_export.plan import CommandOp, make_plan
from hls_export.plan.cycles import plan_cycles
from hls_export.plan.estimate import conv_windows, estimate_cycles, estimate_layers
from yolo_hw.errors import ExportError
from yolo_hw.intgraph import IntGraph
from yolo_hw.nn.darknet import Darknet
from yolo_hw.prune.config import PruneConfig
from yolo_hw.prune.cost import CostKind, CostModel, LayerShape
from yolo_hw.prune.darknet_prune import plan_pruning
from yolo_hw.prune.darknet_surgery import darknet_groups
from yolo_hw.prune.select import Budget
from yolo_hw.quant.config import Observer, QuantConfig
from yolo_hw.quant.post_training import quantise_model


def grouped() -> str:
    """Grouped convolutions, a depthwise one too large for its mode, squeeze-excitation, a linear layer."""
    cfg = CfgWriter(20, 28)
    cfg.conv(24, 3)
    cfg.conv(48, 3, 2, groups=3)
    cfg.conv(48, 3, groups=48)
    cfg.conv(48, 9, groups=48)
    cfg.section("se", reduction=4)
    cfg.conv(20, 1, 2)
    cfg.section("connected", output=30, activation="leaky")
    return cfg.text()


def cost_model(model: Darknet, **options: object) -> CostModel:
    shapes = {key: tuple(p.shape) for key, p in model.named_parameters()}
    return CostModel(darknet_groups(model), shapes, **options)


@cache
def quantised(text: str) -> tuple[Darknet, IntGraph]:
    """A model of random weights, and its integer graph."""
    network = build(text)
    model = Darknet(network).eval()
    model.load_weights(random_weights(network))
    images = np.random.default_rng(0).integers(0, 256, (1, *network.input[1:], 3)).astype(np.uint8)
    return model, quantise_model(model, [images], QuantConfig(a_observer=Observer.MAX, w_observer=Observer.MAX))


def check(text: str, config: AcceleratorConfig) -> set[CommandOp]:
    """Compare all convolutions; return the modes they run in."""
    model, graph = quantised(text)
    plan = make_plan(graph, config)
    planned = {e.command.node: e for e in plan_cycles(plan) if e.command.op in (CommandOp.CONV, CommandOp.DWCONV)}
    shapes = cost_model(model).layers({})
    windows = conv_windows(model.network)
    found = estimate_layers(shapes, windows, config)
    expected = {name: (e.cycles, e.macs, e.utilisation) for name, e in planned.items()}
    assert {e.name: (e.cycles, e.macs, e.utilisation) for e in found} == expected
    assert estimate_cycles(config, windows)(shapes) == sum(e.cycles for e in planned.values())
    return {entry.command.op for entry in planned.values()}


@pytest.mark.parametrize("tile", [(16, 16), (16, 8), (8, 32), (12, 20)], ids=str)
@pytest.mark.parametrize("make", [tiny_detector, yolov3_tiny, yolov4_tiny, grouped], ids=lambda make: make.__name__)
def test_every_convolution_takes_the_cycles_of_the_plan(make, tile):
    modes = check(
        make(64) if make in (yolov3_tiny, yolov4_tiny) else make(),
        AcceleratorConfig(tm=tile[0], tn=tile[1], max_taps=81 * 32),
    )
    assert modes == {CommandOp.CONV} if make is not grouped else {CommandOp.CONV, CommandOp.DWCONV}


def test_small_buffers_make_small_tiles():
    check(grouped(), AcceleratorConfig(tm=8, tn=8, ifm_words=128 * 8, acc_words=16, max_taps=81))


@pytest.mark.parametrize("name", ["yolo-fastest-1.1", "mobilenetv2-voc", "yoloface-500k"])
def test_real_networks_with_depthwise_convolutions(name):
    cfg, _ = real_network(name)
    assert check(cfg.read_text("utf-8"), AcceleratorConfig()) == {CommandOp.CONV, CommandOp.DWCONV}


def test_a_budget_of_cycles_is_met():
    network = build(yolov3_tiny(64))
    model = Darknet(network).eval()
    cycles = estimate_cycles(AcceleratorConfig(tm=16, tn=8), conv_windows(network))
    config = PruneConfig(budget=Budget("cycles", 0.5, relative=True), multiple_of=16, input_multiple_of=8)
    plan = plan_pruning(model, config, cycles=cycles)
    prices = cost_model(model, cycles=cycles)
    whole, pruned = (prices.price(CostKind.CYCLES, counts) for counts in ({}, plan.channels.counts))
    assert 0.3 * whole < pruned <= 0.5 * whole


def test_a_window_that_is_missing_is_named():
    shape = LayerShape("conv_7", 8, 8, 1, (3, 3), 4, 4)
    with pytest.raises(ExportError, match="conv_7: its window must be given; did you mean 'conv_"):
        estimate_layers([shape], conv_windows(build(yolov3_tiny())), AcceleratorConfig())
