# SPDX-License-Identifier: Apache-2.0
"""Saving a run and going on with it exactly: the same weights, bit for bit, as if it had never stopped."""

from __future__ import annotations

import dataclasses
import pickle
import zipfile
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from yolo_hw.atomic import atomic_file
from yolo_hw.train.config import TrainConfig
from yolo_hw.train.errors import TrainError
from yolo_hw.train.loop import Callback, TrainState

FORMAT = "yolo_hw.checkpoint"
VERSION = 1
FREE_OPTIONS = frozenset({"device", "workers", "channels_last"})
"""Options that may differ between the run that saved and the one that resumes."""


@dataclass(frozen=True)
class Checkpoint:
    """A saved run.

    Attributes:
        step: Steps made.
        images: Number of training images.
        config: The options as plain values.
        model: State dict of the model.
        averaged: State dict of the moving average, or None.
        averaged_updates: Updates the average has seen.
        optimizer: State dict of the optimiser.
        random_state: State of torch's generator, [bytes] uint8.
    """

    step: int
    images: int
    config: dict[str, Any]
    model: dict[str, Tensor]
    averaged: dict[str, Tensor] | None
    averaged_updates: int
    optimizer: dict[str, Any]
    random_state: Tensor


def save_checkpoint(path: str | Path, state: TrainState) -> None:
    """Write the state of a run; an existing file is replaced only when the new one is complete."""
    document = {
        "format": FORMAT,
        "version": VERSION,
        "step": state.step,
        "images": state.images,
        "config": _plain_options(state.config),
        "model": state.model.state_dict(),
        "averaged": None if state.averaged is None else state.averaged.model.state_dict(),
        "averaged_updates": 0 if state.averaged is None else state.averaged.updates,
        "optimizer": state.optimizer.state_dict(),
        "random_state": torch.get_rng_state(),
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
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
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
    if checkpoint.images != state.images:
        raise TrainError(f"resume: the saved run had {checkpoint.images} training images, this one has {state.images}")
    try:
        state.model.load_state_dict(checkpoint.model)
        if state.averaged is not None and checkpoint.averaged is not None:
            state.averaged.model.load_state_dict(checkpoint.averaged)
            state.averaged.updates = checkpoint.averaged_updates
        state.optimizer.load_state_dict(checkpoint.optimizer)
    except (RuntimeError, ValueError, KeyError) as error:
        raise TrainError(f"resume: the checkpoint belongs to another model: {error}") from None
    torch.set_rng_state(checkpoint.random_state)
    state.step = checkpoint.step


class SaveCheckpoint(Callback):
    """Saves a run every so many steps and after every epoch, and goes on with what is there."""

    def __init__(self, path: str | Path, every_steps: int, *, resume: bool = True) -> None:
        """Remember where.

        Args:
            path: The checkpoint file.
            every_steps: Steps between saves.
            resume: Start from `path` if it exists.
        """
        self.path = Path(path)
        self.every_steps = every_steps
        self.resume = resume

    def on_start(self, state: TrainState) -> None:
        """Restore the run if there is one."""
        if self.resume and self.path.exists():
            restore(state, load_checkpoint(self.path))

    def on_step(self, state: TrainState, terms: dict[str, float]) -> None:
        """Save now and then."""
        if state.step % self.every_steps == 0:
            save_checkpoint(self.path, state)

    def on_epoch(self, state: TrainState) -> None:
        """Save."""
        save_checkpoint(self.path, state)


def _plain_options(config: TrainConfig) -> dict[str, Any]:
    """Return the options as plain types, enums as their values."""

    def plain(items: list[tuple[str, Any]]) -> dict[str, Any]:
        return {key: value.value if isinstance(value, Enum) else value for key, value in items}

    return dataclasses.asdict(config, dict_factory=plain)
