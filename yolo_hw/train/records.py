# SPDX-License-Identifier: Apache-2.0
"""What a run writes down after every epoch: a table, its curves, TensorBoard events."""

from __future__ import annotations

import csv
import time
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from yolo_hw.atomic import atomic_file
from yolo_hw.train.schedule import learning_rate
from yolo_hw.train.state import Callback, TrainState

try:
    from torch.utils.tensorboard import SummaryWriter
except ImportError:
    SummaryWriter = None  # type: ignore[assignment, misc]

HAS_TENSORBOARD = SummaryWriter is not None

Row = dict[str, float]


class RecordResults(Callback):
    """Writes ``results.csv``, ``results.png`` and TensorBoard events: losses, figures, learning rate, by epoch.

    The rows are part of the checkpoint: a resumed run writes the table of an uninterrupted one but for the seconds.
    """

    def __init__(self, folder: str | Path) -> None:
        """Remember where."""
        self.folder = Path(folder)
        self.rows: list[Row] = []
        self._sums: Row = {}
        self._steps = 0
        self._seconds = 0.0
        self._events: Any = None

    def on_start(self, state: TrainState) -> None:
        """Start the clock, and open the events."""
        self._began = time.perf_counter() - self._seconds
        self._events = open_events(self.folder, state)

    def on_step(self, state: TrainState, terms: dict[str, float]) -> None:
        """Add the losses of a step."""
        for name, value in terms.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._steps += 1

    def on_epoch(self, state: TrainState) -> None:
        """Write a row."""
        row: Row = {"epoch": state.epoch, "seconds": round(time.perf_counter() - self._began, 1)}
        row["learning_rate"] = learning_rate(state.step - 1, state.steps_per_epoch, state.config)
        row |= {f"loss/{name}": value / self._steps for name, value in self._sums.items()}
        if state.history and state.history[-1].epoch == state.epoch:
            row |= state.history[-1].figures
        self.rows.append(row)
        self._sums, self._steps = {}, 0
        if state.world.leads:
            write_table(self.folder / "results.csv", self.rows)
            with atomic_file(self.folder / "results.png") as temporary:
                results_figure(self.rows).savefig(temporary, format="png")
            if self._events is not None:
                for name, value in row.items():
                    self._events.add_scalar(name, value, state.epoch)

    def on_end(self, state: TrainState) -> None:
        """Close the events."""
        if self._events is not None:
            self._events.close()

    def state_dict(self) -> dict[str, Any]:
        """Return the rows, and what belongs to the current epoch."""
        self._seconds = time.perf_counter() - self._began
        return {"rows": self.rows, "sums": self._sums, "steps": self._steps, "seconds": self._seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the rows."""
        self.rows, self._sums = list(state["rows"]), dict(state["sums"])
        self._steps, self._seconds = state["steps"], state["seconds"]


def open_events(folder: Path, state: TrainState) -> Any:  # noqa: ANN401 - torch's writer has no types
    """Return a writer of TensorBoard events from the next epoch on; None without TensorBoard or if others lead."""
    if not (state.world.leads and HAS_TENSORBOARD):
        return None
    return SummaryWriter(str(folder), purge_step=state.epoch + 1)


def write_table(path: Path, rows: list[Row]) -> None:
    """Write rows as CSV; a figure that a row lacks is an empty field."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with atomic_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows({name: f"{value:.6g}" for name, value in row.items()} for row in rows)


def results_figure(rows: list[Row]) -> Figure:
    """Draw losses, average precision and the learning rate over the epochs."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    panels: dict[str, list[str]] = {
        "loss": [name for name in names if name.startswith("loss/")],
        "average precision": [name for name in ("ap50", "ap", "top1") if name in names],
        "AP50 by class": [name for name in names if name.startswith("ap50/")][:12],
        "learning rate": ["learning_rate"],
    }
    shown = {title: lines for title, lines in panels.items() if lines}
    figure = Figure((4.2 * len(shown), 3.4), dpi=110, layout="constrained")
    for axes, (title, lines) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown.items(), strict=True):
        for name in lines:
            points = [(row["epoch"], row[name]) for row in rows if name in row]
            axes.plot(*zip(*points, strict=True), label=name.rpartition("/")[2], linewidth=1.5, marker=_marker(points))
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        if len(lines) > 1:
            axes.legend(fontsize=8, frameon=False)
    return figure


def _marker(points: list[tuple[float, float]]) -> str:
    return "." if len(points) < 30 else ""
