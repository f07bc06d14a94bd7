# SPDX-License-Identifier: Apache-2.0
"""The zoo by name: float64 models of published shapes in evaluation mode, with statistics that hide no mistake."""

from __future__ import annotations

from collections.abc import Callable

import torch
from support import zoo_classifiers, zoo_detectors, zoo_mobile
from torch import Tensor, nn

ZOO: dict[str, Callable[[int], nn.Module]] = {
    "resnet_basic": zoo_classifiers.ResNet,
    "resnet_bottleneck": lambda width: zoo_classifiers.ResNet(width, bottleneck=True),
    "resnext": lambda width: zoo_classifiers.ResNet(width, bottleneck=True, groups=4),
    "densenet": zoo_classifiers.DenseNet,
    "shufflenet_v2": zoo_classifiers.ShuffleNet,
    "shuffle_literal": zoo_classifiers.LiteralShuffle,
    "flattened_prelu": zoo_classifiers.Flattened,
    "layer_scale": zoo_classifiers.Scaled,
    "mobilenet_v2": zoo_mobile.mobilenet_v2,
    "mobilenet_v3": zoo_mobile.mobilenet_v3,
    "mobilenet_v3_linear": zoo_mobile.mobilenet_v3_linear,
    "efficientnet": zoo_mobile.efficientnet,
    "ghostnet": zoo_mobile.GhostNet,
    "yolov5": zoo_detectors.yolov5,
    "yolov8": zoo_detectors.yolov8,
    "yolov8_split": zoo_detectors.yolov8_split,
    "yolov8_decoded": zoo_detectors.Decoded,
    "cspnet": zoo_detectors.CSPNet,
}
"""Name -> model of a width (the channels of its stem)."""

INPUT_SIZE = 32
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def make(name: str, width: int = 8, seed: int = 0) -> nn.Module:
    """Return a model of the zoo, see `settle`."""
    torch.manual_seed(seed)
    return settle(ZOO[name](width))


def settle(model: nn.Module) -> nn.Module:
    """Put a model into evaluation mode and float64, with random statistics.

    Scales and shifts of batch norms are of both signs, means far from 0, variances in [0.5, 1.5): a channel that is
    dropped without its constant, or taken for its neighbour, shows.
    """
    for module in model.double().modules():
        if isinstance(module, NORMS):
            if module.affine:
                nn.init.normal_(module.weight, 1.0, 0.5)
                nn.init.normal_(module.bias, 0.0, 0.5)
            nn.init.normal_(module.running_mean, 0.0, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
        elif isinstance(module, nn.PReLU):
            nn.init.uniform_(module.weight, -0.5, 0.5)
    return model.eval()


def example_input(batch: int = 2, seed: int = 0) -> Tensor:
    """Return images [N, 3, 32, 32] in float64."""
    return torch.rand(batch, 3, INPUT_SIZE, INPUT_SIZE, dtype=torch.float64, generator=torch.manual_seed(seed))


def flat_outputs(outputs: Tensor | list[Tensor]) -> Tensor:
    """Return all outputs of a model in one row."""
    return torch.cat([y.flatten() for y in ([outputs] if isinstance(outputs, Tensor) else outputs)])
