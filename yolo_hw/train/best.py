# SPDX-License-Identifier: Apache-2.0
"""Keeping the fittest model of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from yolo_hw.atomic import atomic_file
from yolo_hw.darknet.weights import Header, write_weights
from yolo_hw.nn.darknet import Darknet
from yolo_hw.train.checkpoint import save_checkpoint
from yolo_hw.train.state import Callback, TrainState


class SaveBest(Callback):
    """Writes ``best.pt`` whenever the last measurement is the best so far, and ``best.cfg``, ``.weights``, ``.names``.

    Comes after what measures; the files hold the model to keep, the moving average where there is one.
    """

    def __init__(self, folder: str | Path, names: Sequence[str] = ()) -> None:
        """Remember where, and the class names."""
        self.folder = Path(folder)
        self.names = tuple(names)

    def on_epoch(self, state: TrainState) -> None:
        """Save if the model has just been measured and is the fittest."""
        best = state.best
        if best is None or best.epoch != state.epoch or state.history[-1] is not best:
            return
        save_checkpoint(self.folder / "best.pt", state, self.names)
        model = state.best_model
        if state.world.leads and isinstance(model, Darknet):
            write_detector(self.folder / "best", model, self.names, seen=state.step * state.config.batch)


def write_detector(stem: Path, model: Darknet, names: Sequence[str] = (), seen: int = 0) -> None:
    """Write ``<stem>.cfg``, ``<stem>.weights`` and, where there are names, ``<stem>.names``.

    `seen` is the number of training images that the header of the weights tells.
    """
    cfg, weights, listed = (stem.with_name(f"{stem.name}{end}") for end in (".cfg", ".weights", ".names"))
    if names:
        with atomic_file(listed) as temporary:
            temporary.write_text("".join(f"{name}\n" for name in names), "utf-8")
    with atomic_file(cfg) as temporary:
        temporary.write_text(model.network.cfg, "utf-8")
    write_weights(weights, model.network, model.to_weights(Header(seen=seen)))
