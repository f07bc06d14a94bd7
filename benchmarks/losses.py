# SPDX-License-Identifier: Apache-2.0
"""The loss beside the network it trains: forward and backward of YOLOv3-tiny, 8 images of 416x416, and of its loss."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.measure import Candidate, Case, Function
from benchmarks.networks import yolov3_tiny_model
from yolo_hw.nn import Darknet
from yolo_hw.train import Batch, LossConfig, YoloLoss

IMAGES = 8
OBJECTS = (7, 60)
"""Per image: the mean of COCO, and a crowd."""


def cases() -> list[Case]:
    """Return one case per number of objects."""
    return [_case(count) for count in OBJECTS]


def _case(objects: int) -> Case:
    model = yolov3_tiny_model()
    size = model.network.input
    elements = IMAGES * sum(head.shape.numel for head in model.network.heads)
    candidates = (
        Candidate("network, forward and backward", lambda threads: _network(model), {"baseline": True}),
        Candidate("YoloLoss, CIoU", lambda threads: _loss(model, objects, "ciou")),
        Candidate("YoloLoss, squared error", lambda threads: _loss(model, objects, "mse")),
    )
    facts = {"network": model.network.name, "images": IMAGES, "objects": objects}
    return Case(f"{size.h}x{size.w}x{IMAGES} {objects} objects per image", candidates, 2 * 4 * elements, facts=facts)


def _images(model: Darknet) -> Tensor:
    images = torch.rand(IMAGES, *model.network.input, generator=torch.Generator().manual_seed(0))
    return images.contiguous(memory_format=torch.channels_last)


def _network(model: Darknet) -> Function:
    model = model.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images, parameters = _images(model), list(model.parameters())
    with torch.no_grad():
        grads = [torch.randn(raw.shape, generator=torch.Generator().manual_seed(1)) for raw in model(images)]
    return lambda: torch.autograd.grad(model(images), parameters, grads)


def _loss(model: Darknet, objects: int, box_loss: str) -> Function:
    generator = torch.Generator().manual_seed(2)
    count = IMAGES * objects
    sizes = torch.rand(count, 2, generator=generator) * 0.3 + 0.02
    centres = sizes / 2 + torch.rand(count, 2, generator=generator) * (1 - sizes)
    image = torch.arange(IMAGES).repeat_interleave(objects)[:, None]
    label = torch.randint(model.network.heads[0].spec.classes, (count, 1), generator=generator)
    batch = Batch(_images(model), torch.cat([image, label, centres, sizes], 1))
    loss = YoloLoss.of_network(model.network, LossConfig(), box_loss=box_loss)
    with torch.no_grad():
        maps = [raw.requires_grad_() for raw in model.train()(batch.images)]

    def step() -> object:
        return torch.autograd.grad(torch.stack(list(loss(maps, batch).values())).sum(), maps)

    return step
