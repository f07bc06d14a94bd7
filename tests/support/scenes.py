# SPDX-License-Identifier: Apache-2.0
"""A training without labels: images, and the outputs of another network as the goal. Needs torch."""

from __future__ import annotations

import numpy as np
import torch
from support.random_net import make_images

from yolo_hw.data.labelled import LabelledImage
from yolo_hw.train.batches import Batch


class Scenes:
    """Training images without labels."""

    def __init__(self, model, count=16):
        self.images = make_images(model, count)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return LabelledImage(self.images[index], np.zeros((0, 4)), np.zeros(0, np.int64))


def mimic(teacher):
    """Mean squared distance to the teacher's outputs."""

    def loss(outputs, batch: Batch):
        with torch.no_grad():
            wanted = teacher(batch.images)
        return {"mimic": torch.stack([((y - w) ** 2).mean() for y, w in zip(outputs, wanted, strict=True)]).mean()}

    return loss
