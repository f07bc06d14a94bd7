# SPDX-License-Identifier: Apache-2.0
"""The first rungs of the ladder: a network in torch float64 = numpy reference = compiled engine, code by code."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import numpy as np
import torch
from support.random_graph import adversarial_inputs, random_input
from support.random_net import calibrate_net, make_images

from yolo_hw.fixedpoint import IntArray
from yolo_hw.intgraph import IntGraph, check_graph, execute, image_codes
from yolo_hw.intgraph.engine import Engine
from yolo_hw.nn.darknet import Darknet
from yolo_hw.quant import Calibrated, QuantConfig, lower_graph
from yolo_hw.quant.qat import QatModel, lower_model
from yolo_hw.quant.simulate import Simulation

Image = np.ndarray
"""[H, W, C] uint8."""

Rung = Callable[[IntArray], Mapping[str, np.ndarray]]
"""From input codes [N, C, H, W] to those of every tensor by name, [N, K, h, w]."""


def assert_rungs(graph: IntGraph, image: Image, name: str, rung: Rung, *, may_be_dead: bool = False) -> IntGraph:
    """Compare all codes of all tensors on an image, a random input and extreme ones.

    Some head must see the pixels, unless the network `may_be_dead`: with few bits a random one can round all to zero.
    """
    check_graph(graph)
    engine = Engine(graph, threads=1, keep_all=True)
    inputs = np.stack([image_codes(image), random_input(graph, 3), *adversarial_inputs(graph).values()])
    found = rung(inputs)
    heads = {output.tensor for output in graph.outputs}
    varied = 0
    for index, codes in enumerate(inputs):
        compiled = engine.run_all(codes)
        for tensor, expected in execute(graph, codes):
            np.testing.assert_array_equal(found[tensor][index], expected.codes, err_msg=f"{name}: {tensor}")
            np.testing.assert_array_equal(compiled[tensor], expected.codes, err_msg=f"engine: {tensor}")
            varied += tensor in heads and len(np.unique(expected.codes)) > 1
    assert varied or may_be_dead, "all codes of all heads are one: equality proves nothing"
    return graph


def assert_ladder(model: Darknet, config: QuantConfig, calibrated: Calibrated | None = None) -> IntGraph:
    """Quantise a network, unless that is done, and compare its simulation."""
    calibrated = calibrated or calibrate_net(model, config)
    return assert_calibrated(calibrated, make_images(model, 1, seed=9)[0])


def assert_calibrated(calibrated: Calibrated, image: Image, *, may_be_dead: bool = False) -> IntGraph:
    """Compare the simulation of a plan."""
    graph = lower_graph(calibrated.graph, calibrated.plan)
    simulation = Simulation(calibrated.graph, calibrated.plan)

    def simulated(inputs: IntArray) -> dict[str, np.ndarray]:
        runs = [dict(simulation.codes(codes)) for codes in inputs]
        return {name: np.stack([run[name] for run in runs]) for name in runs[0]}

    return assert_rungs(graph, image, "simulation", simulated, may_be_dead=may_be_dead)


def assert_qat_ladder(qat: QatModel, image: Image, *, may_be_dead: bool = False) -> IntGraph:
    """Compare the values of a trained model in float64."""
    graph = lower_model(qat)
    exact = copy.deepcopy(qat).double()

    @torch.inference_mode()
    def evaluated(inputs: IntArray) -> dict[str, np.ndarray]:
        values = exact.run(torch.from_numpy(inputs.astype(np.float64)) / 255)
        return {name: np.ldexp(found.numpy(), graph.tensors[name].fmt.frac) for name, found in values}

    return assert_rungs(graph, image, "model", evaluated, may_be_dead=may_be_dead)
