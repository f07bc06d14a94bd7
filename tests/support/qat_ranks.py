# SPDX-License-Identifier: Apache-2.0
"""One process of a quantised training that torchrun starts: its steps are frozen halfway."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from support.random_net import make_images, make_net, net_cfg
from support.scenes import Scenes, mimic

from yolo_hw.quant.qat import FreezeQat, prepare_qat
from yolo_hw.train import TrainConfig, fit, join_world


def train(folder: Path) -> None:
    """Train alone or as one of several; process 0 writes ``result.pt``."""
    teacher = make_net(net_cfg(["leaky", "shortcut"]))
    config = TrainConfig(epochs=4, batch=4, learning_rate=1e-4, ema_decay=0, workers=0)
    with join_world("cpu") as world:
        qat = prepare_qat(teacher, batches=[make_images(teacher)])
        freeze = FreezeQat(norms_at=0, scales_at=0.5)
        fit(qat, Scenes(teacher, 8), config, loss=mimic(teacher), callbacks=[freeze], world=world)
        if world.leads:
            torch.save(qat.state_dict(), folder / "result.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    train(Path(sys.argv[1]))
