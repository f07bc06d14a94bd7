# SPDX-License-Identifier: Apache-2.0
"""One step of training a whole network: this library's loop against the same network in bare torch.

Bare is forward, a loss that costs nothing, backward and a step of SGD. The loop besides assigns objects, computes the
detection loss, checks that all numbers are finite, clips the gradients and moves the averaged weights.
"""

from __future__ import annotations

import torch

from benchmarks.measure import Candidate, Case, Function
from benchmarks.networks import yolov3_tiny_model
from yolo_hw.data.augment import LabelledImage
from yolo_hw.nn import Darknet
from yolo_hw.train import Batch, TrainConfig, YoloLoss
from yolo_hw.train.distributed import ALONE
from yolo_hw.train.loop import begin, make_optimizer
from yolo_hw.train.step import Stepper

BATCH = 8
OBJECTS = 12
"""Of an image."""
CONFIG = TrainConfig(batch=BATCH, learning_rate=1e-9)  # the weights stay what they are
PASSES = 3
"""Multiply-adds of forward and backward over those of forward."""


def cases() -> list[Case]:
    """Return one step of YOLOv3-tiny."""
    model = yolov3_tiny_model()
    candidates = (
        Candidate("bare torch", _bare, {"baseline": True}),
        Candidate("yolo_hw", _ours, {"ours": True}),
    )
    operations = 2 * PASSES * BATCH * model.network.macs
    return [Case("train yolov3-tiny 416", candidates, 0, operations, {"batch": BATCH})]


def _bare(threads: int) -> Function:
    model, batch = _prepared()
    optimizer = make_optimizer(model.train(), CONFIG)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        torch.stack([out.square().sum() for out in model(batch.images)]).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def _ours(threads: int) -> Function:
    model, batch = _prepared()
    state = begin(model, [_NoImage()] * BATCH, CONFIG, (), ALONE)
    stepper = Stepper(state, YoloLoss.of_network(model.network), ())
    return lambda: stepper(batch)


class _NoImage(LabelledImage):
    """Stands for the training set, which a step does not read."""

    def __init__(self) -> None:
        pass


def _prepared() -> tuple[Darknet, Batch]:
    """The network and a batch, channels last as the loop has them."""
    model = yolov3_tiny_model()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    draw = torch.Generator().manual_seed(0)
    shape = model.network.input
    images = torch.rand(BATCH, *shape, generator=draw).contiguous(memory_format=torch.channels_last)
    image = torch.arange(BATCH).repeat_interleave(OBJECTS)[:, None].float()
    label = torch.randint(0, 80, (BATCH * OBJECTS, 1), generator=draw).float()
    boxes = torch.rand(BATCH * OBJECTS, 4, generator=draw) * 0.4 + 0.05
    return model, Batch(images, torch.cat([image, label, boxes], 1))
