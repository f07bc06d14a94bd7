# SPDX-License-Identifier: Apache-2.0
"""What a search has measured so far, on disk, so that it can be interrupted and go on."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from yolo_hw.atomic import atomic_file
from yolo_hw.errors import SearchError

Row = dict[str, Any]
"""One measurement, of what JSON can hold."""


@dataclass(frozen=True)
class Progress:
    """How far a search is.

    Attributes:
        done: Measurements there are, those of earlier runs included.
        total: Measurements there will be.
        seconds_left: Expected from the mean time of this run's measurements.
        row: The last measurement.
    """

    done: int
    total: int
    seconds_left: float
    row: Row


Report = Callable[[Progress], None]


def no_report(progress: Progress) -> None:
    """Report to nobody."""


class SearchLog:
    """Rows of a search in a JSON file, written after each; a search with the same fingerprint goes on behind them.

    Attributes:
        rows: All measurements in order.
    """

    def __init__(self, path: str | Path | None, fingerprint: str, kind: str) -> None:
        """Read what an earlier run has left.

        Args:
            path: The file; None keeps the rows in memory.
            fingerprint: Of everything the rows depend on.
            kind: Name of the search.

        Raises:
            SearchError: The file is no log, or that of another search.
        """
        self.path = None if path is None else Path(path)
        self.head = {"search": kind, "fingerprint": fingerprint}
        self.rows: list[Row] = []
        if self.path is not None and self.path.exists():
            self.rows = self._read(self.path)

    def _read(self, path: Path) -> list[Row]:
        try:
            document = json.loads(path.read_text("utf-8"))
            rows, head = document["rows"], {key: document[key] for key in self.head}
            if not (isinstance(rows, list) and all(isinstance(row, dict) for row in rows)):
                raise TypeError
        except (ValueError, KeyError, TypeError, UnicodeDecodeError):
            raise SearchError(f"{path}: not the log of a search; choose another file") from None
        if head != self.head:
            raise SearchError(
                f"{path}: is of a search '{head['search']}' of another model, other images or other options; go on "
                "with the same ones, or choose another file"
            )
        return rows

    def append(self, row: Row) -> None:
        """Add a row and write the file."""
        self.rows.append(row)
        if self.path is not None:
            with atomic_file(self.path) as temporary:
                temporary.write_text(json.dumps({**self.head, "rows": self.rows}, indent=1) + "\n", "utf-8")

    def fill(self, total: int, measure: Callable[[int], Row], report: Report = no_report) -> list[Row]:
        """Measure rows ``len(self.rows)`` to ``total - 1``.

        Args:
            total: Rows wanted.
            measure: Number of a row -> the row.
            report: Called after each.

        Returns:
            All `total` rows.
        """
        start, first = time.perf_counter(), len(self.rows)
        for index in range(first, total):
            self.append(measure(index))
            mean = (time.perf_counter() - start) / (index + 1 - first)
            report(Progress(index + 1, total, mean * (total - index - 1), self.rows[-1]))
        return self.rows[:total]


def fingerprint(state: Mapping[str, Tensor], *options: object) -> str:
    """Return a hash of a model's tensors and of options by their `repr`."""
    digest = hashlib.sha256(repr(options).encode())
    for key, tensor in state.items():
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def identity_of(score: object) -> str:
    """Return what a score depends on beside the model: its attribute `identity`, or nothing where it has none."""
    return str(getattr(score, "identity", ""))


def finite(value: float, what: str) -> float:
    """Return a measured figure as a Python number.

    Raises:
        SearchError: It is no finite number.
    """
    number = float(value)
    if not -float("inf") < number < float("inf"):
        raise SearchError(f"{what}: must be a finite number, got {number}")
    return number
