# SPDX-License-Identifier: Apache-2.0
"""Files and folders appear complete or not at all: written under a temporary name, then renamed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from yolo_hw.errors import OutputError


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` on success, remove it on failure."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_folder(path: str | Path, *, marker: str, is_own: Callable[[Path], bool] | None = None) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success it takes the place of `path`.

    Args:
        path: The folder to write.
        marker: A file that every such folder holds (see `check_replaceable`).
        is_own: Whether a file may be replaced with it.

    Raises:
        OutputError: `path` holds something else.
    """
    path = Path(path)
    check_replaceable(path, marker, is_own)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        if path.exists():
            _exchange(temporary, path)
        else:
            temporary.replace(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _exchange(new: Path, path: Path) -> None:
    """Put the folder `new` in the place of the folder `path`; if that fails, the old one stays."""
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
    try:
        path.replace(aside / path.name)
        try:
            new.replace(path)
        except BaseException:
            (aside / path.name).replace(path)
            raise
    except BaseException:
        with suppress(OSError):
            aside.rmdir()  # only if it is empty: what could not be put back is kept
        raise
    shutil.rmtree(aside)


def check_replaceable(path: Path, marker: str, is_own: Callable[[Path], bool] | None = None) -> None:
    """Check that a folder can be written to `path` and that this destroys nothing but an older folder of its kind.

    Args:
        path: Missing, an empty folder, or a folder that holds `marker`; no folder that others share.
        marker: File name that tells the kind.
        is_own: Whether an entry of an older folder belongs to it; None trusts the marker.

    Raises:
        OutputError: `path` is something else, or no folder can be made there.
    """
    _check_writable(path)
    if path.resolve() in (Path.cwd(), *Path.cwd().parents):
        raise OutputError(f"{path}: the output must be a folder of its own, not one that the current folder lies in")
    if path.resolve() in (Path(tempfile.gettempdir()).resolve(), Path.home().resolve()) or os.path.ismount(path):
        raise OutputError(f"{path}: the output must be a folder of its own, not one that holds everybody's files")
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise OutputError(f"{path}: the output must be a folder")
    if path.is_dir() and any(path.iterdir()) and not (path / marker).is_file():
        raise OutputError(
            f"{path}: the folder is not empty and holds no {marker} of an earlier run; choose another one"
        )
    if is_own is not None and path.is_dir():
        foreign = sorted(entry.name for entry in path.iterdir() if not is_own(entry))
        if foreign:
            raise OutputError(
                f"{path}: the folder holds {foreign[0]}, which is no result of this command; choose another"
            )


def _check_writable(path: Path) -> None:
    """Check that something can be made in the nearest folder above `path` that exists."""
    parent = path.absolute().parent
    while not parent.exists():
        parent = parent.parent
    try:
        Path(tempfile.mkdtemp(prefix=".yolo_hw.", dir=parent)).rmdir()
    except OSError as error:
        raise OutputError(f"{path}: cannot write to {parent}: {error.strerror}") from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
