# SPDX-License-Identifier: Apache-2.0
"""One process of a run that torchrun starts: sparse scales and growing masks, and what became of them."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from support.tiny_training import detector, pictures

from yolo_hw.prune.gamma_sparsity import GammaSparsity, batch_norms
from yolo_hw.prune.magnitude import weight_masks
from yolo_hw.prune.masked_training import GradualMasks, MaskedTraining
from yolo_hw.train import Callback, TrainConfig, fit, join_world


class KeepGradients(Callback):
    """Keeps each step's gradients of the scales, and the scales they were taken at."""

    def __init__(self):
        self.steps = []
        self.scales = {}

    def on_start(self, state):
        self.remember(state)

    def on_step(self, state, terms):
        norms = batch_norms(state.model, ["*"])
        self.steps.append({name: (self.scales[name], norm.weight.grad.clone()) for name, norm in norms.items()})
        self.remember(state)

    def remember(self, state):
        norms = batch_norms(state.model, ["*"])
        self.scales = {name: norm.weight.detach().clone() for name, norm in norms.items()}


def no_loss(maps, batch):
    """A loss that depends on everything and has no gradient."""
    return {"nothing": 0.0 * maps[0].mean()}


def main() -> None:
    path, strength = Path(sys.argv[1]), float(sys.argv[2])
    torch.set_num_threads(1)
    sparsity, kept = GammaSparsity(["*"], strength), KeepGradients()
    masked = MaskedTraining(GradualMasks(find=weight_masks, final=0.5, every_steps=1))
    config = TrainConfig(epochs=2, batch=4, accumulate=2, warmup_epochs=0, ema_decay=0, clip_norm=0)
    callbacks = [sparsity, kept, masked]
    with join_world("cpu") as world:
        model = detector()
        fit(model, pictures(), config, loss=no_loss, regularisers=[sparsity], callbacks=callbacks, world=world)
        weights = {name: model.get_parameter(name).detach() for name in masked.masks}
        everywhere = world.gather((weights, masked.masks))
        if world.leads:
            torch.save({"steps": kept.steps, "everywhere": everywhere}, path)


if __name__ == "__main__":
    main()
