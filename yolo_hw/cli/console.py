# SPDX-License-Identifier: Apache-2.0
"""What all verbs print with: tables and JSON on stdout, progress and remarks on stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from yolo_hw import pipeline

ERR = Console(stderr=True, highlight=False)
LINE_SECONDS = 10
"""Without a terminal, a line of progress at most this often."""


def note(message: str) -> None:
    """Print a remark to stderr."""
    click.echo(message, err=True)


def print_json(document: dict[str, Any]) -> None:
    """Print a JSON document to stdout."""
    click.echo(json.dumps(document, indent=1, ensure_ascii=False))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], footer: str = "") -> None:
    """Print a table to stdout; columns after the first are right-aligned unless their name starts with '<'."""
    table = Table(title=title, title_justify="left", caption=footer or None, caption_justify="left")
    for i, column in enumerate(columns):
        left = i == 0 or column.startswith("<")
        table.add_column(column.lstrip("<"), justify="left" if left else "right", overflow="fold")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    width = None if sys.stdout.isatty() else 160
    Console(width=width, highlight=False).print(table)


@contextmanager
def progress_bar(title: str, total: int) -> Iterator[Progress]:
    """Yield a progress display with one task of `total` units and an ETA; advance it with `advance_all`."""
    with Progress(*_columns(), console=ERR, transient=True, disable=not ERR.is_terminal) as progress:
        progress.add_task(title, total=total, lines=_Lines())
        yield progress


def advance_all(progress: Progress) -> None:
    """Advance the only task of a `progress_bar` by one."""
    task = progress.tasks[0]
    progress.advance(task.id)
    task.fields["lines"].write(f"{task.description} {task.completed:.0f}/{task.total:.0f}")


class _Lines:
    """Where stderr is no terminal, what takes long leaves a line every `LINE_SECONDS`."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def write(self, text: str) -> None:
        now = time.monotonic()
        if not ERR.is_terminal and now - self._last >= LINE_SECONDS:
            self._last = now
            note(text)


class StepProgress(pipeline.Progress):
    """Shows the pipeline's steps and, within a step, a bar with an ETA."""

    def __init__(self, progress: Progress) -> None:
        """Draw into `progress`."""
        self._progress = progress
        self._task: TaskID | None = None
        self._name = ""
        self._what = ""
        self._lines = _Lines()

    def step(self, name: str) -> None:
        """Start the bar of a new step."""
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._name, self._what = name, ""
        self._lines.write(name)
        self._task = self._progress.add_task(name, total=None)

    def advance(self, what: str, done: int, total: int) -> None:
        """Move the bar; a new `what` starts a new bar, so that the ETA fits it."""
        if what != self._what or self._task is None:
            name = self._name
            self.step(name)
            self._what = what
            assert self._task is not None
            self._progress.update(self._task, description=f"{name}: {what}")
        self._progress.update(self._task, completed=done, total=total)
        self._lines.write(f"{self._name}: {what} {done}/{total}")

    def warn(self, message: str) -> None:
        """Print a warning above the bar."""
        self._progress.console.print(message, markup=False, soft_wrap=True)


@contextmanager
def step_progress() -> Iterator[StepProgress]:
    """Yield a display for the pipeline's steps."""
    with Progress(*_columns(), console=ERR, transient=True, disable=not ERR.is_terminal) as progress:
        yield StepProgress(progress)


def _columns() -> list[Any]:
    return [
        TextColumn("{task.description}"),
        BarColumn(),
        _Count(),
        _Eta(),
    ]


class _Count(MofNCompleteColumn):
    """Units done, nothing where the number of units is not known."""

    def render(self, task: Task) -> Text:
        return Text() if task.total is None else super().render(task)


class _Eta(TimeRemainingColumn):
    """Time left, nothing where it cannot be known."""

    def render(self, task: Task) -> Text:
        return Text() if task.total is None else Text("ETA ") + super().render(task)


def compact(value: int) -> str:
    """Format a count with three digits and k, M or G."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if value >= size:
            return f"{value / size:.3g} {unit}" if value < 999.5 * size else f"{value / size:.0f} {unit}"
    return str(value)


def millions(value: int) -> str:
    """Format a count in millions."""
    return f"{value / 1e6:.3f} M"


def mebibytes(value: int) -> str:
    """Format bytes in MiB."""
    return f"{value / (1 << 20):.3f} MiB"
