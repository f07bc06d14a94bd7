# SPDX-License-Identifier: Apache-2.0
"""Keeping the fittest model of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from yolo_hw.train.checkpoint import save_checkpoint
from yolo_hw.train.form import FLOAT, DetectorForm
from yolo_hw.train.state import Callback, TrainState


class SaveBest(Callback):
    """Writes ``best.pt`` whenever the last measurement is the best so far, and the detector itself.

    A float detector is ``best.cfg``, ``.weights`` and ``.names``. Comes after what measures; the files hold the model
    to keep, the moving average where there is one.
    """

    def __init__(self, folder: str | Path, names: Sequence[str] = (), form: DetectorForm = FLOAT) -> None:
        """Remember where, the class names, and what is trained."""
        self.folder = Path(folder)
        self.names = tuple(names)
        self.form = form

    def on_epoch(self, state: TrainState) -> None:
        """Save if the model has just been measured and is the fittest."""
        best = state.best
        if best is None or best.epoch != state.epoch or state.history[-1] is not best:
            return
        save_checkpoint(self.folder / "best.pt", state, self.names)
        if state.world.leads:
            seen = state.step * state.config.batch
            self.form.write(self.folder / "best", state.best_model, self.names, seen)
