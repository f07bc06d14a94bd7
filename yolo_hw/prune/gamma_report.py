# SPDX-License-Identifier: Apache-2.0
"""How the scales of batch norms spread during a run: histograms of every layer by epoch, in numbers and a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import nn

from yolo_hw.atomic import atomic_file
from yolo_hw.errors import PruneError
from yolo_hw.prune.gamma_sparsity import batch_norms
from yolo_hw.train.records import open_events
from yolo_hw.train.state import Callback, TrainState

EDGES: tuple[float, ...] = (0.0, *(float(10 ** (power / 8)) for power in range(-40, 9)))
"""Bounds of the bins: from 1e-5 to 10 with eight to a decade, what is smaller in a bin of its own."""
THRESHOLDS = (1e-3, 1e-2, 5e-2, 1e-1)

Scales = dict[str, npt.NDArray[np.float64]]
Entry = dict[str, Any]


def gamma_sizes(model: nn.Module, names: Sequence[str]) -> Scales:
    """Return the absolute scales [C] of batch norms; `names` as in `batch_norms`."""
    norms = batch_norms(model, names)
    return {name: norm.weight.detach().abs().double().cpu().numpy() for name, norm in norms.items()}


class GammaHistory(Callback):
    """Writes ``gammas.json``, ``gammas.png`` and TensorBoard histograms of the model to keep after every epoch.

    The entries are part of the checkpoint: a resumed run writes the files of an uninterrupted one.

    Attributes:
        entries: One per epoch: ``epoch``; ``below``, the share of all scales below each threshold; ``layers``, by name
            ``counts``, the scales in each bin (those above the last edge count in the last bin), and ``below``.
    """

    def __init__(
        self, folder: str | Path, names: Sequence[str] = ("*",), thresholds: Sequence[float] = THRESHOLDS
    ) -> None:
        """Remember what is written where.

        Args:
            folder: Must exist.
            names: See `batch_norms`.
            thresholds: Rising, positive.

        Raises:
            PruneError: The thresholds do not rise.
        """
        if not thresholds or not all(a < b for a, b in pairwise((0.0, *thresholds))):
            raise PruneError(f"GammaHistory: thresholds must be positive and rise, got {tuple(thresholds)}")
        self.folder, self.names, self.thresholds = Path(folder), tuple(names), tuple(thresholds)
        self.entries: list[Entry] = []
        self._events: Any = None

    def on_start(self, state: TrainState) -> None:
        """Check the names and open the events."""
        batch_norms(state.model, self.names)
        self._events = open_events(self.folder, state)

    def on_epoch(self, state: TrainState) -> None:
        """Count and write."""
        sizes = gamma_sizes(state.best_model, self.names)
        self.entries.append({"epoch": state.epoch, **count_gammas(sizes, self.thresholds)})
        if not state.world.leads:
            return
        document = {"edges": EDGES, "thresholds": self.thresholds, "epochs": self.entries}
        with atomic_file(self.folder / "gammas.json") as temporary:
            temporary.write_text(json.dumps(document), "utf-8")
        with atomic_file(self.folder / "gammas.png") as temporary:
            gamma_figure(self.entries, self.thresholds).savefig(temporary, format="png")
        if self._events is not None:
            for name, values in sizes.items():
                self._events.add_histogram(f"gamma/{name}", values, state.epoch)

    def on_end(self, state: TrainState) -> None:
        """Close the events."""
        if self._events is not None:
            self._events.close()

    def state_dict(self) -> dict[str, Any]:
        """Return the entries."""
        return {"entries": self.entries}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the entries."""
        self.entries = list(state["entries"])


def count_gammas(sizes: Scales, thresholds: Sequence[float]) -> Entry:
    """Return the ``below`` and the ``layers`` of an entry of `GammaHistory`."""
    layers = {
        name: {
            "counts": np.histogram(np.minimum(values, EDGES[-1]), EDGES)[0].tolist(),
            "below": _below(values, thresholds),
        }
        for name, values in sizes.items()
    }
    return {"below": _below(np.concatenate(list(sizes.values())), thresholds), "layers": layers}


def gamma_figure(entries: Sequence[Entry], thresholds: Sequence[float]) -> Figure:
    """Draw the sizes of all scales over the epochs, those of each layer now, and each layer's share of small ones.

    Args:
        entries: Of `GammaHistory`, at least one.
        thresholds: Those of the entries; the share is of the second, or of the only one.
    """
    names = list(entries[-1]["layers"])
    epochs = [entry["epoch"] for entry in entries]
    figure = Figure((15, max(4.0, 1.2 + 0.17 * len(names))), dpi=110, layout="constrained")
    over_time, by_layer, small = figure.subplots(1, 3)
    totals = [np.sum([layer["counts"] for layer in entry["layers"].values()], axis=0) for entry in entries]
    _heat(over_time, np.stack(totals, axis=1), epochs, "scales of all layers")
    over_time.set_xlabel("epoch")
    now = np.stack([entries[-1]["layers"][name]["counts"] for name in names], axis=1)
    _heat(by_layer, now, range(len(names)), f"scales at epoch {epochs[-1]}")
    by_layer.set_xticks(range(len(names)), names, rotation=90, fontsize=6)
    which = min(1, len(thresholds) - 1)
    shares = np.array([[entry["layers"][name]["below"][which] for entry in entries] for name in names])
    picture = small.pcolormesh(_bounds(epochs), _bounds(range(len(names))), shares, vmin=0, vmax=1, cmap="viridis")
    small.set_title(f"share of scales below {thresholds[which]:g}")
    small.set_yticks(range(len(names)), names, fontsize=6)
    small.set_xlabel("epoch")
    small.xaxis.set_major_locator(MaxNLocator(integer=True))
    small.invert_yaxis()
    figure.colorbar(picture, ax=small)
    return figure


def _heat(axes: Axes, counts: npt.NDArray[Any], columns: Sequence[int], title: str) -> None:
    """Draw counts [bins, columns] over a logarithmic axis; the first bin reaches one decade down."""
    edges = np.array(EDGES)
    edges[0] = edges[1] / 10
    shown = np.ma.masked_equal(counts, 0)
    picture = axes.pcolormesh(_bounds(columns), edges, shown, norm=LogNorm(1, max(counts.max(), 2)), cmap="viridis")
    axes.set_yscale("log")
    axes.set_ylabel("|gamma|")
    axes.set_title(title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    assert axes.figure is not None
    axes.figure.colorbar(picture, ax=axes)


def _bounds(centres: Sequence[int]) -> npt.NDArray[np.float64]:
    """Return the bounds of cells of width one round rising whole numbers."""
    return np.array([*(centre - 0.5 for centre in centres), centres[-1] + 0.5])


def _below(values: npt.NDArray[np.float64], thresholds: Sequence[float]) -> list[float]:
    return [float(np.mean(values < threshold)) for threshold in thresholds]
