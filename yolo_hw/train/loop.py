# SPDX-License-Identifier: Apache-2.0
"""The training loop: it knows steps, batches and gradients, and nothing of what is trained or why."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, closing

import torch
from torch import nn

from yolo_hw.train.batches import Batch, ImageSource, run_batches, steps_per_epoch
from yolo_hw.train.config import Optimizer, Precision, TrainConfig
from yolo_hw.train.distributed import World
from yolo_hw.train.ema import AveragedModel
from yolo_hw.train.errors import TrainError
from yolo_hw.train.freeze import freeze
from yolo_hw.train.state import Callback, TrainState
from yolo_hw.train.step import AnyLoss, Regulariser, Stepper, shared_momentum
from yolo_hw.train.sync_batch_norm import synchronise_batch_norms


def fit(
    model: nn.Module,
    data: ImageSource,
    config: TrainConfig,
    *,
    loss: AnyLoss,
    regularisers: Sequence[Regulariser] = (),
    callbacks: Sequence[Callback] = (),
    world: World | None = None,
) -> TrainState:
    """Train a model in place.

    Args:
        model: Any module from images [N, C, H, W] to what `loss` takes.
        data: Labelled images, all of the size the model takes.
        config: The options.
        loss: Named terms of a batch, or several such losses; the sum is reduced.
        regularisers: Named terms of the model, added once per step.
        callbacks: Called in order; progress, evaluation, checkpoints and resuming are callbacks.
        world: The processes that train together (`join_world`); None is this one alone.

    Returns:
        The final state; `TrainState.best_model` is the model to keep.

    Raises:
        TrainError: The loss or a gradient is not finite; names the layer.
    """
    state = begin(model, data, config, callbacks, world or World())
    for callback in callbacks:
        callback.restore(state)
    with ExitStack() as ends:
        for callback in reversed(callbacks):
            ends.callback(callback.on_end, state)
        for callback in callbacks:
            callback.on_start(state)
        stepper = Stepper(state, loss, regularisers)
        parts = min(config.accumulate, max(min(config.batch, len(data)) // state.world.size, 1))
        with shared_momentum(state.model, parts):
            _run(state, data, stepper)
    return state


def begin(
    model: nn.Module, data: ImageSource, config: TrainConfig, callbacks: Sequence[Callback], world: World
) -> TrainState:
    """Bring the model to its device and make the state of step 0."""
    shares = world.size * config.accumulate
    if config.batch % shares:
        raise TrainError(
            f"fit: batch must be a multiple of processes x accumulate = {world.size} x {config.accumulate}, "
            f"got {config.batch}"
        )
    device = world.device(config.device)
    model.to(device)
    model.to(memory_format=memory_format_of(config))  # type: ignore[call-overload]
    if config.sync_batch_norm and world.size > 1:
        model = synchronise_batch_norms(model, device)
    frozen = freeze(model, config.freeze)
    world.share_state(model)
    torch.manual_seed(config.seed + world.rank)
    return TrainState(
        model,
        make_optimizer(model, config),
        torch.amp.GradScaler(device.type, enabled=config.precision is Precision.FLOAT16),
        AveragedModel(model, config.ema_decay) if config.ema_decay else None,
        config,
        len(data),
        steps_per_epoch(data, config),
        device,
        world,
        frozen,
        tuple(callbacks),
    )


def memory_format_of(config: TrainConfig) -> torch.memory_format:
    """Return how images and convolution weights lie in memory."""
    return torch.channels_last if config.channels_last else torch.contiguous_format


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


def _run(state: TrainState, data: ImageSource, stepper: Stepper) -> None:
    """Make the rest of the steps."""
    if state.ends:
        return
    with closing(run_batches(data, state.config, state.step, state.world)) as batches:
        for batch in batches:
            _step(state, batch, stepper)
            if state.ends and state.step % state.steps_per_epoch == 0:
                return


def _step(state: TrainState, batch: Batch, stepper: Stepper) -> None:
    """Make a step; the last one of an epoch ends it."""
    images = batch.images.contiguous(memory_format=memory_format_of(state.config))
    terms = stepper(Batch(images, batch.targets))
    for callback in state.callbacks:
        callback.on_step(state, terms)
    if state.step % state.steps_per_epoch == 0:
        for callback in state.callbacks:
            callback.on_epoch(state)
