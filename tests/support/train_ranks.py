# SPDX-License-Identifier: Apache-2.0
"""One process of a run that torchrun starts: trains a tiny network in float64 and writes what came out of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from support.tiny_training import PerObject, detector, pictures
from torch import nn

from yolo_hw.train import CountedLoss, SaveCheckpoint, TrainConfig, fit, join_world


class Exact(nn.Module):
    """A network in float64."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner.double()

    def forward(self, x):
        return self.inner(x.double())


def mean_loss(maps, batch):
    return {"mean": maps[0].abs().mean()}


def weight_sum(model):
    return {"weights": 1e-3 * torch.stack([p.square().sum() for p in model.parameters()]).sum()}


def replace_norms(model: nn.Module) -> None:
    """Take the batch norms out: their statistics are each part's own."""
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.Identity())


def gloo_threads() -> list[str]:
    """Return the names of this process's threads that talk to others."""
    names = (task.read_text().strip() for task in Path("/proc/self/task").glob("*/comm"))
    return [name for name in names if "gloo" in name]


def train(folder: Path, accumulate: int, norms: bool) -> None:
    """Train alone or as one of several; process 0 writes ``last.pt`` and ``result.pt``."""
    loss = [PerObject(), mean_loss]
    assert isinstance(loss[0], CountedLoss)
    assert not isinstance(loss[1], CountedLoss)
    config = TrainConfig(epochs=2, batch=4, warmup_epochs=0.5, sync_batch_norm=norms, accumulate=accumulate)
    with join_world("cpu") as world:
        model = Exact(detector(seed=world.rank))  # process 0's weights count
        if not norms:
            replace_norms(model)
        data = pictures()
        callbacks = [SaveCheckpoint(folder / "last.pt", 1)]
        state = fit(model, data, config, loss=loss, regularisers=[weight_sum], callbacks=callbacks, world=world)
        seen, talking = world.gather(world.rank), gloo_threads()
        if world.leads:
            torch.save({"model": state.model.state_dict(), "ranks": seen}, folder / "result.pt")
    threads = {"inside": talking, "after": gloo_threads()}
    (folder / f"threads_{world.rank}.json").write_text(json.dumps(threads))


if __name__ == "__main__":
    torch.set_num_threads(1)
    train(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "norms")
