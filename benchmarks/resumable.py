# SPDX-License-Identifier: Apache-2.0
"""Studies of hours that go on where they broke off: a folder keeps a file for every row, and the settings of all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import click

from benchmarks.record import Row
from yolo_hw.atomic import atomic_file


def once(path: Path, work: Callable[[], Row]) -> Row:
    """Return what `path` holds, or do the work and keep what comes of it there."""
    if not path.exists():
        row = work()
        with atomic_file(path) as temporary:
            temporary.write_text(json.dumps(row, indent=1) + "\n", "utf-8")
    text = path.read_text("utf-8")
    click.echo(text)
    row = json.loads(text)
    assert isinstance(row, dict)
    return row


def check_settings(work: Path, settings: dict[str, object]) -> None:
    """Refuse to mix runs of different settings in one folder."""
    path = work / "settings.json"
    if not path.exists():
        with atomic_file(path) as temporary:
            temporary.write_text(json.dumps(settings) + "\n", "utf-8")
    found = json.loads(path.read_text("utf-8"))
    if found != settings:
        raise click.UsageError(f"{work} holds runs with {found}, now it is {settings}; give another folder")
