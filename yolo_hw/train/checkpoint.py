# SPDX-License-Identifier: Apache-2.0
"""Saving a run and going on with it exactly: the same weights, bit for bit, as if it had never stopped."""

from __future__ import annotations

import dataclasses
import pickle
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from yolo_hw.atomic import atomic_file
from yolo_hw.darknet.network import Network
from yolo_hw.train.config import TrainConfig
from yolo_hw.train.errors import TrainError
from yolo_hw.train.state import Callback, Measured, TrainState

FORMAT = "yolo_hw.checkpoint"
VERSION = 2
FREE_OPTIONS = frozenset({"device", "workers", "channels_last"})
"""Options that may differ between the run that saved and the one that resumes."""


_DAMAGE = (
    OSError, RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError, zipfile.BadZipFile, AttributeError,
    TypeError, IndexError,
)  # fmt: skip
"""What torch raises of files that are no checkpoints."""


@dataclass(frozen=True)
class Checkpoint:
    """A saved run.

    Attributes:
        step: Steps made.
        images: Number of training images.
        config: The options as plain values.
        description: What the model is: see `describe`.
        model: State dict of the model.
        averaged: State dict of the moving average, or None.
        averaged_updates: Updates the average has seen.
        optimizer: State dict of the optimiser.
        scaler: State dict of the loss scaler.
        random_states: State of torch's generator in every process, [bytes] uint8 each.
        history: Measurements so far, each epoch, fitness and figures.
        callbacks: State dicts of the callbacks, by class name and number.
        stop: Why the run ended before its last epoch, or None.
    """

    step: int
    images: int
    config: dict[str, Any]
    description: dict[str, Any]
    model: dict[str, Tensor]
    averaged: dict[str, Tensor] | None
    averaged_updates: int
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    random_states: list[Tensor]
    history: list[dict[str, Any]]
    callbacks: dict[str, dict[str, Any]]
    stop: str | None

    @property
    def best_weights(self) -> dict[str, Tensor]:
        """State dict of the model to keep: the moving average's, or the model's own where there is none."""
        return self.model if self.averaged is None else self.averaged


def describe(model: nn.Module, names: Sequence[str] = ()) -> dict[str, Any]:
    """Return what is needed to build a model again: the cfg of a darknet network, and the names of its classes."""
    network = getattr(model, "network", None)
    cfg = network.cfg if isinstance(network, Network) else ""
    return {"kind": type(model).__name__, "cfg": cfg, "names": list(names)}


def save_checkpoint(path: str | Path, state: TrainState, names: Sequence[str] = ()) -> None:
    """Write the state of a run; an existing file is replaced only when the new one is complete.

    Every process must call this; process 0 writes.
    """
    random_states = state.world.gather(torch.get_rng_state())
    if not state.world.leads:
        return
    document = {
        "format": FORMAT,
        "version": VERSION,
        "step": state.step,
        "images": state.images,
        "config": _plain_options(state.config),
        "description": describe(state.model, names),
        "model": state.model.state_dict(),
        "averaged": None if state.averaged is None else state.averaged.model.state_dict(),
        "averaged_updates": 0 if state.averaged is None else state.averaged.updates,
        "optimizer": state.optimizer.state_dict(),
        "scaler": state.scaler.state_dict(),
        "random_states": random_states,
        "history": [dataclasses.asdict(measured) for measured in state.history],
        "callbacks": {name: callback.state_dict() for name, callback in _named(state.callbacks).items()},
        "stop": state.stop,
    }
    with atomic_file(path) as temporary:
        torch.save(document, temporary)


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint; nothing in the file is executed.

    Raises:
        TrainError: The file is missing, damaged, or no checkpoint of this library.
    """
    try:
        document = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise TrainError(f"{path}: no such checkpoint") from None
    except PermissionError as error:
        raise TrainError(f"{path}: cannot read the checkpoint: {error.strerror}") from None
    except _DAMAGE as error:
        raise TrainError(
            f"{path}: not a readable checkpoint ({type(error).__name__}); damaged, or written by another program"
        ) from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise TrainError(f"{path}: must be a file of format '{FORMAT}' as written by save_checkpoint")
    if document.get("version") != VERSION:
        raise TrainError(f"{path}: version must be {VERSION}, got {document.get('version')}")
    try:
        return Checkpoint(**{field.name: document[field.name] for field in dataclasses.fields(Checkpoint)})
    except KeyError as error:
        raise TrainError(f"{path}: the entry {error} is missing; the file is damaged") from None


def restore(state: TrainState, checkpoint: Checkpoint) -> None:
    """Bring a fresh state to where a checkpoint was saved.

    Raises:
        TrainError: The options, the data or the model are not those of the saved run; names the first difference.
    """
    config = _plain_options(state.config)
    for name, value in config.items():
        if name not in FREE_OPTIONS and checkpoint.config.get(name) != value:
            raise TrainError(
                f"resume: {name} must be {checkpoint.config.get(name)} as in the saved run, got {value}; "
                "resume with the saved options, or start a new run"
            )
    if checkpoint.description["cfg"] != describe(state.model)["cfg"]:
        raise TrainError("resume: the network's cfg must be the saved run's, it has changed")
    if checkpoint.images != state.images:
        raise TrainError(f"resume: the saved run had {checkpoint.images} training images, this one has {state.images}")
    if len(checkpoint.random_states) != state.world.size:
        raise TrainError(
            f"resume: the saved run had {len(checkpoint.random_states)} processes, this one has {state.world.size}"
        )
    try:
        state.model.load_state_dict(checkpoint.model)
        if state.averaged is not None and checkpoint.averaged is not None:
            state.averaged.model.load_state_dict(checkpoint.averaged)
            state.averaged.updates = checkpoint.averaged_updates
        state.optimizer.load_state_dict(checkpoint.optimizer)
        state.scaler.load_state_dict(checkpoint.scaler)
        state.history = [Measured(**measured) for measured in checkpoint.history]
        for name, callback in _named(state.callbacks).items():
            if name in checkpoint.callbacks:  # one that is new has nothing to go on with
                callback.load_state_dict(checkpoint.callbacks[name])
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise TrainError(f"resume: the checkpoint belongs to another model: {error}") from None
    torch.set_rng_state(checkpoint.random_states[state.world.rank])
    state.step, state.stop = checkpoint.step, checkpoint.stop


class SaveCheckpoint(Callback):
    """Saves a run every so many steps and after every epoch, and goes on with what is there."""

    def __init__(self, path: str | Path, every_steps: int, *, resume: bool = True, names: Sequence[str] = ()) -> None:
        """Remember where.

        Args:
            path: The checkpoint file.
            every_steps: Steps between saves.
            resume: Start from `path` if it exists.
            names: Class names, which the file keeps.
        """
        self.path = Path(path)
        self.every_steps = every_steps
        self.resume = resume
        self.names = tuple(names)

    def restore(self, state: TrainState) -> None:
        """Go on with the run if there is one."""
        for left_over in self.path.parent.glob(f".{self.path.name}.*"):  # of a save that was killed
            if state.world.leads:
                left_over.unlink(missing_ok=True)
        found = load_checkpoint(self.path) if self.resume and self.path.exists() else None
        steps = state.world.gather(-1 if found is None else found.step)
        if len(set(steps)) > 1:
            raise TrainError(f"resume: all processes must see the same {self.path}, it is at the steps {steps}")
        if found is not None:
            restore(state, found)

    def on_step(self, state: TrainState, terms: dict[str, float]) -> None:
        """Save now and then; the last step of an epoch is saved after what else is done with it."""
        if state.step % self.every_steps == 0 and state.step % state.steps_per_epoch:
            save_checkpoint(self.path, state, self.names)

    def on_epoch(self, state: TrainState) -> None:
        """Save."""
        save_checkpoint(self.path, state, self.names)


def _named(callbacks: Sequence[Callback]) -> dict[str, Callback]:
    """Name callbacks by class, and by number where there are several of one."""
    named: dict[str, Callback] = {}
    for callback in callbacks:
        name = type(callback).__name__
        count = sum(key.partition(" ")[0] == name for key in named)
        named[f"{name} {count}" if count else name] = callback
    return named


def _plain_options(config: TrainConfig) -> dict[str, Any]:
    """Return the options as plain types, enums as their values."""

    def plain(items: list[tuple[str, Any]]) -> dict[str, Any]:
        return {key: value.value if isinstance(value, Enum) else value for key, value in items}

    return dataclasses.asdict(config, dict_factory=plain)
