# SPDX-License-Identifier: Apache-2.0
"""What changes during a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from yolo_hw.train.config import TrainConfig
from yolo_hw.train.distributed import World
from yolo_hw.train.ema import AveragedModel


@dataclass(frozen=True)
class Measured:
    """A measurement of the model to keep.

    Attributes:
        epoch: Passes completed.
        fitness: The one number that says which model is better.
        figures: All figures by name.
    """

    epoch: int
    fitness: float
    figures: dict[str, float]


@dataclass
class TrainState:
    """Everything that changes during a run.

    Attributes:
        model: The model in training.
        optimizer: Its optimiser.
        scaler: Scales the loss of a float16 run; does nothing in others.
        averaged: The moving average, or None.
        config: The options.
        images: Number of training images.
        steps_per_epoch: Steps of one pass.
        device: Where the model is.
        world: The processes of the run.
        frozen: Modules that stay in evaluation mode.
        callbacks: Those of the run.
        step: Steps made.
        history: Measurements so far.
        stop: Why the run is to end after this epoch, or None.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    averaged: AveragedModel | None
    config: TrainConfig
    images: int
    steps_per_epoch: int
    device: torch.device
    world: World
    frozen: tuple[nn.Module, ...] = ()
    callbacks: tuple[Callback, ...] = ()
    step: int = 0
    history: list[Measured] = field(default_factory=list)
    stop: str | None = None

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.config.epochs * self.steps_per_epoch

    @property
    def epoch(self) -> int:
        """Passes completed."""
        return self.step // self.steps_per_epoch

    @property
    def ends(self) -> bool:
        """Whether no step follows."""
        return self.step >= self.total_steps or self.stop is not None

    @property
    def best_model(self) -> nn.Module:
        """The averaged model if there is one, else the model itself."""
        return self.model if self.averaged is None else self.averaged.model

    @property
    def best(self) -> Measured | None:
        """The fittest measurement, the earliest of equals."""
        return max(self.history, key=lambda m: m.fitness, default=None)


class Callback:
    """Something to do during a run; override what is needed. Every process calls all of them."""

    def restore(self, state: TrainState) -> None:
        """Before all else; may bring the state to where an earlier run stopped."""

    def on_start(self, state: TrainState) -> None:
        """Before the first step."""

    def on_step(self, state: TrainState, terms: dict[str, float]) -> None:
        """After every step, with its loss terms."""

    def on_epoch(self, state: TrainState) -> None:
        """After every pass over the data."""

    def on_end(self, state: TrainState) -> None:
        """After the last step, and when the run breaks off."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs: plain values and tensors."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` has returned."""
