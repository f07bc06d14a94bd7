# SPDX-License-Identifier: Apache-2.0
"""Bias correction moves the mean rounding error of every channel into the bias."""

from dataclasses import replace

import numpy as np
import torch
from support.networks import CfgWriter
from support.random_net import calibrate_net, make_images, make_net, random_net

from yolo_hw.intgraph import image_codes
from yolo_hw.quant import QuantConfig, calibrate, fold_model
from yolo_hw.quant.execute import float_parameters, image_tensor, run_folded
from yolo_hw.quant.folded import FoldedConv
from yolo_hw.quant.simulate import Simulation

CONFIG = QuantConfig(w_bits=4, a_bits=8, equalise=None, bias_correction=False)


def head_drift(model, calibrated, images):
    """Return |mean over images and pixels of (rounded - float)| of the head's channels."""
    graph = fold_model(model)
    head = graph.outputs[0][0]
    x = image_tensor(images, torch.float64)
    wanted = {r.node.name: r.out for r in run_folded(graph, x, float_parameters(graph, torch.float64))}[head]
    simulation = Simulation(calibrated.graph, calibrated.plan)
    found = torch.stack([dict(simulation.run(image_codes(image)))[head] for image in images])
    return (found - wanted).mean((0, 2, 3)).abs().numpy()


def test_the_mean_error_behind_the_head_falls():
    before, after = [], []
    for seed in range(6):
        model = random_net(500 + seed)
        images = make_images(model)
        before.append(head_drift(model, calibrate_net(model, CONFIG), images).mean())
        after.append(head_drift(model, calibrate_net(model, replace(CONFIG, bias_correction=True)), images).mean())
    assert np.mean(after) < 0.5 * np.mean(before)


def test_only_biases_change():
    model = random_net(42)
    plain, corrected = calibrate_net(model, CONFIG), calibrate_net(model, replace(CONFIG, bias_correction=True))
    assert plain.plan.formats == corrected.plan.formats
    moved = 0
    for one, other in zip(plain.graph.nodes, corrected.graph.nodes, strict=True):
        if isinstance(one, FoldedConv):
            np.testing.assert_array_equal(one.weight, other.weight)
            moved += int((one.bias != other.bias).any())
    assert moved > 0


def test_nothing_moves_where_rounding_costs_nothing():
    """A network whose weights and maps are exact in the chosen formats keeps its biases."""
    cfg = CfgWriter(4, 4)
    cfg.conv(2, activation="linear", batch_normalize=0)
    model = make_net(cfg.text())
    graph = fold_model(model)
    (conv,) = graph.nodes
    weight = np.array([1.0, -0.5, 0.25, 0.5, 0.5, -1.0]).reshape(2, 3, 1, 1)
    graph = replace(graph, nodes=(replace(conv, weight=weight, bias=np.array([0.5, 0.0])),))
    images = np.full((1, 4, 4, 3), 64, np.uint8)
    result = calibrate(graph, [images], QuantConfig(equalise=None))
    assert result.graph.nodes[0].bias.tolist() == [0.5, 0.0]
