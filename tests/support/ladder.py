# SPDX-License-Identifier: Apache-2.0
"""The first rungs of the ladder: torch float64 simulation = numpy reference = compiled engine, code by code."""

from __future__ import annotations

import numpy as np
from support.random_graph import adversarial_inputs, random_input
from support.random_net import calibrate_net, make_images

from yolo_hw.intgraph import IntGraph, check_graph, execute, image_codes
from yolo_hw.intgraph.engine import Engine
from yolo_hw.nn.darknet import Darknet
from yolo_hw.quant import Calibrated, QuantConfig, lower_graph
from yolo_hw.quant.simulate import Simulation


def assert_ladder(model: Darknet, config: QuantConfig, calibrated: Calibrated | None = None) -> IntGraph:
    """Quantise a network (unless that is done) and compare all codes of all layers on images and extreme inputs."""
    calibrated = calibrated or calibrate_net(model, config)
    graph = lower_graph(calibrated.graph, calibrated.plan)
    check_graph(graph)
    simulation = Simulation(calibrated.graph, calibrated.plan)
    engine = Engine(graph, threads=1, keep_all=True)
    images = [image_codes(make_images(model, 1, seed=9)[0]), random_input(graph, 3)]
    for codes in [*images, *adversarial_inputs(graph).values()]:
        compiled = engine.run_all(codes)
        simulated = dict(simulation.codes(codes))
        for name, expected in execute(graph, codes):
            np.testing.assert_array_equal(simulated[name], expected.codes, err_msg=f"simulation: {name}")
            np.testing.assert_array_equal(compiled[name], expected.codes, err_msg=f"engine: {name}")
    return graph
