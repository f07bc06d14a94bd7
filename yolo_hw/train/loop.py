# SPDX-License-Identifier: Apache-2.0
"""The training loop: it knows steps, batches and gradients, and nothing of what is trained or why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from yolo_hw.train.anomaly import explain_gradient, explain_loss
from yolo_hw.train.batches import Batch, ImageSource, steps_per_epoch, train_batches
from yolo_hw.train.config import Optimizer, TrainConfig
from yolo_hw.train.ema import AveragedModel
from yolo_hw.train.errors import TrainError
from yolo_hw.train.schedule import learning_rate

Loss = Callable[[Any, Batch], dict[str, Tensor]]
"""(outputs of the model, batch) to named scalars whose sum is reduced."""


@dataclass
class TrainState:
    """Everything that changes during a run.

    Attributes:
        model: The model in training.
        optimizer: Its optimiser.
        averaged: The moving average, or None.
        config: The options.
        images: Number of training images.
        steps_per_epoch: Steps of one pass.
        step: Steps made.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    averaged: AveragedModel | None
    config: TrainConfig
    images: int
    steps_per_epoch: int
    step: int = 0

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.config.epochs * self.steps_per_epoch

    @property
    def epoch(self) -> int:
        """Passes completed."""
        return self.step // self.steps_per_epoch

    @property
    def best_model(self) -> nn.Module:
        """The averaged model if there is one, else the model itself."""
        return self.model if self.averaged is None else self.averaged.model


class Callback:
    """Something to do during a run; override what is needed."""

    def on_start(self, state: TrainState) -> None:
        """Before the first step; may change the state, as resuming does."""

    def on_step(self, state: TrainState, terms: dict[str, float]) -> None:
        """After every step, with its loss terms."""

    def on_epoch(self, state: TrainState) -> None:
        """After every pass over the data."""

    def on_end(self, state: TrainState) -> None:
        """After the last step, and when the run breaks off."""


def fit(
    model: nn.Module,
    data: ImageSource,
    config: TrainConfig,
    *,
    loss: Loss,
    callbacks: Sequence[Callback] = (),
) -> TrainState:
    """Train a model in place.

    Args:
        model: Any module from images [N, C, H, W] to what `loss` takes.
        data: Labelled images, all of the size the model takes.
        config: The options.
        loss: Named terms of a batch; their sum is reduced.
        callbacks: Called in order; progress, evaluation, checkpoints and resuming are callbacks.

    Returns:
        The final state; `TrainState.best_model` is the model to keep.

    Raises:
        TrainError: The loss or a gradient is not finite; names the layer.
    """
    torch.manual_seed(config.seed)
    memory_format = torch.channels_last if config.channels_last else torch.contiguous_format
    model.to(config.device)
    model.to(memory_format=memory_format)  # type: ignore[call-overload]
    state = TrainState(
        model,
        make_optimizer(model, config),
        AveragedModel(model, config.ema_decay) if config.ema_decay else None,
        config,
        len(data),
        steps_per_epoch(data, config),
    )
    for callback in callbacks:
        callback.on_start(state)
    try:
        while state.step < state.total_steps:
            for batch in train_batches(data, config, state.step):
                images = batch.images.to(device=config.device, memory_format=memory_format)
                terms = _step(state, Batch(images, batch.targets.to(config.device)), loss)
                for callback in callbacks:
                    callback.on_step(state, terms)
            for callback in callbacks:
                callback.on_epoch(state)
    finally:
        for callback in callbacks:
            callback.on_end(state)
    return state


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Return the optimiser; weight decay acts on tensors of two or more dimensions only."""
    decayed = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    plain = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    if config.optimizer is Optimizer.ADAMW:
        return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.momentum, 0.999))
    nesterov = config.momentum > 0
    return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum, nesterov=nesterov)


def _step(state: TrainState, batch: Batch, loss: Loss) -> dict[str, float]:
    """Make one step and return the loss terms."""
    model, optimizer, config = state.model, state.optimizer, state.config
    rate = learning_rate(state.step, state.steps_per_epoch, config)
    for group in optimizer.param_groups:
        group["lr"] = rate
    model.train()
    terms = loss(model(batch.images), batch)
    total = torch.stack(list(terms.values())).sum()
    if not torch.isfinite(total):
        raise TrainError(f"step {state.step}: {explain_loss(model, batch.images, terms)}; {_ADVICE}")
    optimizer.zero_grad(set_to_none=True)
    total.backward()  # type: ignore[no-untyped-call]
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm or float("inf"))
    if not torch.isfinite(norm):
        raise TrainError(f"step {state.step}: {explain_gradient(model)}; {_ADVICE}")
    optimizer.step()
    if state.averaged is not None:
        state.averaged.update(model)
    state.step += 1
    return {name: float(term.detach()) for name, term in terms.items()}


_ADVICE = "lower learning_rate, lengthen warmup_epochs or set clip_norm, and resume from the last checkpoint"
