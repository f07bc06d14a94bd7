# SPDX-License-Identifier: Apache-2.0
"""Networks of published structure that are quantised whole: few channels, small images, statistics of images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from support import zoo
from support.acceptance import thinner
from support.networks import (
    darknet_tiny,
    yolov2,
    yolov2_tiny,
    yolov3,
    yolov3_mobilenet,
    yolov3_spp,
    yolov3_tiny,
    yolov4,
    yolov4_tiny,
)
from support.qat import images_of
from support.random_net import make_net
from support.yolo_fastest import yolo_fastest
from torch import nn

from yolo_hw.intgraph import IntGraph
from yolo_hw.intgraph.target import TargetProfile
from yolo_hw.intgraph.target_profiles import TARGETS
from yolo_hw.nn import resnet18, resnet20, resnet50

SIZE = 64
"""Height and width of the detectors' images; the maps of stride 32 have four pixels."""


def functions_of(profile: TargetProfile) -> set[str]:
    """Return the operators and activation functions of a target; ``*`` for any function."""
    return {*profile.ops, *(("*",) if profile.activations is None else profile.activations)}


COMMON = set.intersection(*(functions_of(p) for p in TARGETS.values() if p.activations is not None))
"""What every target has."""


@dataclass(frozen=True)
class Network:
    """How a network is made, and what it needs that not every target has."""

    make: Callable[[], nn.Module]
    needs: set[str] = field(default_factory=set)
    large: bool = False
    """Whether a ladder of it takes some seconds."""

    def model(self) -> nn.Module:
        """Return the network with statistics of images: with others, many layers of few bits round all to zero."""
        torch.manual_seed(0)
        model = self.make().float()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
        with torch.no_grad():
            model.train()(images_of(model))
        return model.eval()

    def runs_on(self, profile: TargetProfile) -> bool:
        """Return whether a target has what the network needs."""
        has = functions_of(profile)
        return all(need in has or ("*" in has and need not in TARGETS["generic"].ops) for need in self.needs)


def _darknet(write: Callable[..., str], factor: int = 16) -> Callable[[], nn.Module]:
    return lambda: make_net(thinner(write(SIZE, 4), factor))


def _residual(build: Callable[..., nn.Module]) -> Callable[[], nn.Module]:
    return lambda: zoo.settle(build())


QUANTISED: dict[str, Network] = {
    "yolov2": Network(_darknet(yolov2), {"reorg"}),
    "yolov2_tiny": Network(_darknet(yolov2_tiny, 8)),
    "yolov3": Network(_darknet(yolov3)),
    "yolov3_spp": Network(_darknet(yolov3_spp)),
    "yolov3_tiny": Network(_darknet(yolov3_tiny, 8)),
    "yolov4": Network(_darknet(yolov4), {"mish"}),
    "yolov4_tiny": Network(_darknet(yolov4_tiny, 8), {"slice"}),
    "yolov3_mobilenet": Network(_darknet(yolov3_mobilenet, 8), {"avgpool", "mul", "h_sigmoid", "h_swish"}),
    "yolo_fastest": Network(lambda: make_net(yolo_fastest(SIZE, 4))),
    "darknet_tiny": Network(_darknet(darknet_tiny, 8), {"avgpool"}),
    "resnet20": Network(_residual(resnet20), {"avgpool"}),
    "resnet18": Network(_residual(resnet18), {"avgpool"}, large=True),
    "resnet50": Network(_residual(resnet50), {"avgpool"}, large=True),
}
"""Name -> network."""


def special_needs(graph: IntGraph) -> set[str]:
    """Return the operators and functions of a graph that not every target has."""
    acts: list[Any] = [act for node in graph.nodes if (act := getattr(node, "act", None)) is not None]
    return ({node.op for node in graph.nodes} | {act.function for act in acts}) - COMMON
