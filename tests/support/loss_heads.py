# SPDX-License-Identifier: Apache-2.0
"""Detection heads and batches for the tests of the losses."""

from __future__ import annotations

import torch

from yolo_hw.darknet.head_training import RegionTraining, YoloTraining
from yolo_hw.darknet.layers import DetectionHead, HeadSpec, Place, Shape
from yolo_hw.train import Batch

SIZE = 64
NET = Shape(3, SIZE, SIZE)


def yolo_spec(*anchors, classes=3, **options):
    return HeadSpec(kind="yolo", classes=classes, anchors=anchors, **options)


def region_spec(*anchors, classes=3, softmax=True):
    return HeadSpec(kind="region", classes=classes, anchors=anchors, softmax=softmax)


def head(spec, grid, **training):
    """Return a head on a (rows, columns) map; `training` are keys of its section."""
    shape = Shape(spec.channels, *grid)
    keys = (YoloTraining if spec.kind == "yolo" else RegionTraining)(**training)
    return DetectionHead(place=Place(0, 7, (-1,), (shape,)), shape=shape, spec=spec, training=keys)


def batch(rows, images=2, dtype=torch.float32, size=(SIZE, SIZE)):
    """Return a batch of black images with targets (image, class, x, y, w, h)."""
    return Batch(torch.zeros(images, 3, *size), torch.tensor(rows, dtype=dtype).reshape(-1, 6))


def random_batch(count, images, classes, seed, size=(SIZE, SIZE)):
    """Return `count` objects inside of their images, float64."""
    generator = torch.Generator().manual_seed(seed)
    wh = torch.rand(count, 2, generator=generator, dtype=torch.float64) * 0.4 + 0.1
    xy = wh / 2 + torch.rand(count, 2, generator=generator, dtype=torch.float64) * (1 - wh)
    image = torch.randint(images, (count, 1), generator=generator)
    label = torch.randint(classes, (count, 1), generator=generator)
    return Batch(torch.zeros(images, 3, *size), torch.cat([image, label, xy, wh], 1))


def random_maps(heads, images, seed, dtype=torch.float64):
    """Return raw maps of the heads with gradients; probabilities where new_coords wants them."""
    generator = torch.Generator().manual_seed(seed)
    maps = [torch.randn(images, *h.shape, dtype=torch.float64, generator=generator) for h in heads]
    maps = [raw.sigmoid() if h.spec.new_coords else raw for raw, h in zip(maps, heads, strict=True)]
    return [raw.to(dtype).requires_grad_() for raw in maps]


def total(terms):
    return torch.stack(list(terms.values())).sum()
