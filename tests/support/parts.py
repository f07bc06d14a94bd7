# SPDX-License-Identifier: Apache-2.0
"""The embedded trained network, generated images for it, and its heads in float and in rounded form."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from yolo_hw import assets
from yolo_hw.data.preprocess import Resize, fit_image
from yolo_hw.data.synthetic import generate_scene
from yolo_hw.nn.darknet import Darknet, load_darknet
from yolo_hw.quant import Calibrated, fold_model
from yolo_hw.quant.execute import float_parameters, image_tensor, run_folded
from yolo_hw.quant.simulate import Simulation


def parts_model() -> Darknet:
    """Return the embedded network."""
    return load_darknet(assets.PARTS_CFG, assets.PARTS_WEIGHTS)


def parts_images(model: Darknet, count: int, seed: int = assets.CALIBRATION_SEED) -> npt.NDArray[np.uint8]:
    """Return generated images [N, H, W, C] of the network's size."""
    scenes = (generate_scene(seed, i).image for i in range(count))
    return np.stack([fit_image(image, model.network.input, Resize.STRETCH)[0] for image in scenes])


def head_errors(model: Darknet, calibrated: Calibrated, images: npt.NDArray[np.uint8]) -> list[Tensor]:
    """Return what the rounded network's heads differ from the float ones by, [N, K, h, w] float64 each."""
    x = image_tensor(images, torch.float64)
    graph = fold_model(model)
    heads = [name for name, _ in graph.outputs]
    simulation = Simulation(calibrated.graph, calibrated.plan)
    runs = (
        run_folded(graph, x, float_parameters(graph, torch.float64)),
        run_folded(calibrated.graph, x, simulation.parameters, simulation.finish),
    )
    wanted, found = ({r.node.name: r.out for r in run if r.node.name in heads} for run in runs)
    return [(found[name] - wanted[name]).detach() for name in heads]
