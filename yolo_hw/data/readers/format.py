# SPDX-License-Identifier: Apache-2.0
"""What a reader is given and what it offers; reading files from outside within bounds."""

from __future__ import annotations

import json
import mmap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from yolo_hw.data.image import IMAGE_SUFFIXES, image_size
from yolo_hw.data.items import DetectionDataset, Findings, Flaw, Item, Row, make_item
from yolo_hw.errors import DataError

MAX_JSON_BYTES = 2 << 30
MAX_TEXT_BYTES = 64 << 20


@dataclass(frozen=True)
class Request:
    """What to read.

    Attributes:
        path: File or folder.
        names: Class names for labels that are mere numbers.
        split: Name of the part to read; None reads all parts.
        findings: Takes what was dropped or changed.
    """

    path: Path
    names: tuple[str, ...] | None = None
    split: str | None = None
    findings: Findings = field(default_factory=Findings)


@dataclass(frozen=True)
class Format:
    """A format that data sets come in.

    Attributes:
        name: For ``open_dataset(format=...)``.
        recognises: Whether a file or folder looks like this format; reads no more than it must.
        splits: Names of the parts that a file or folder has; empty where it is one whole.
        read: Reads it.
    """

    name: str
    recognises: Callable[[Path], bool]
    splits: Callable[[Path], tuple[str, ...]]
    read: Callable[[Request], DetectionDataset]


def inside(folder: Path, name: str) -> Path:
    """Return ``folder / name``.

    Raises:
        DataError: A name from an annotation file leaves the folder.
    """
    path = Path(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise DataError(f"file name {name!r} leaves the folder {folder}")
    return folder / path


def read_bytes(path: Path, limit: int = MAX_TEXT_BYTES) -> bytes:
    """Return the content of a file of bounded size.

    Raises:
        DataError: It cannot be read, or is larger than `limit` bytes.
    """
    try:
        if path.stat().st_size > limit:
            raise DataError(f"{path}: must have at most {limit} bytes, has {path.stat().st_size}")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot read: {error.strerror}") from None


def read_lines(path: Path, what: str = "text") -> list[str]:
    """Return the lines of a text file of bounded size.

    Raises:
        DataError: It cannot be read or is not UTF-8; the message says `what` it should be.
    """
    try:
        return read_bytes(path).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: cannot read the {what}: {error}") from None


def read_json(path: Path, what: str) -> Any:  # noqa: ANN401
    """Return a JSON document of bounded size.

    Raises:
        DataError: It cannot be read or is no JSON; the message says `what` it should be.
    """
    try:
        return json.loads(read_bytes(path, MAX_JSON_BYTES))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not {what}: {type(error).__name__} {error}") from None


def mentions(path: Path, *words: bytes) -> bool:
    """Return whether a file holds all of `words`, without loading it."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return all(content.find(word) >= 0 for word in words)
    except (OSError, ValueError):  # unreadable or empty
        return False


def known_size(image: Path, findings: Findings) -> tuple[int, int] | None:
    """Return (height, width) of an image file, or None, with a finding, where it cannot be read."""
    try:
        return image_size(image)
    except DataError as error:
        reason = str(error).removeprefix(f"{image}: ")
        findings.add(Flaw.BAD_IMAGE, str(image), f"{reason}; its labels are not used")
        return None


def read_item(image: Path, classes: int, findings: Findings, rows: Callable[[tuple[int, int]], Sequence[Row]]) -> Item:
    """Return an image with the entries that `rows` gives for its (height, width).

    An image that cannot be read has no entries, with a finding, and `rows` is not asked.
    """
    size = known_size(image, findings)
    if size is None:
        return make_item(image, (0, 0), [], 0, findings)
    return make_item(image, size, rows(size), classes, findings)


def rows_of_lines(labels: Path, what: str, row_of: Callable[[str, str], Row | None]) -> list[Row]:
    """Return the entries of a text file with one in a line.

    Args:
        labels: The file.
        what: What it holds, for messages.
        row_of: (place, line) to the entry, or None where it has none.
    """
    rows = [
        row_of(f"{labels}:{number}", line)
        for number, line in enumerate(read_lines(labels, what), start=1)
        if line.strip()
    ]
    return [row for row in rows if row is not None]


def annotated_images(request: Request, parts: Mapping[str, Path], suffix: str) -> Iterator[tuple[Path, Path]]:
    """Yield (image, annotation) of the parts that are asked for: folders with ``images`` and ``annotations``.

    Args:
        request: Its split is the name of a part.
        parts: Folders by name.
        suffix: Of an annotation.

    Raises:
        DataError: There is no annotation.
    """
    found = False
    for name, folder in parts.items():
        if request.split in (None, name):
            images = images_by_stem(folder / "images")
            for annotation in sorted((folder / "annotations").glob(f"*{suffix}")):
                found = True
                yield images.get(annotation.stem, folder / "images" / f"{annotation.stem}.jpg"), annotation
    if not found:
        raise DataError(f"{request.path}: no annotation to read")


def images_by_stem(folder: Path) -> dict[str, Path]:
    """Return the images that lie in a folder by their name without suffix; nothing where there is no folder."""
    if not folder.is_dir():
        return {}
    return {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in IMAGE_SUFFIXES}


def listed_stems(path: Path) -> Iterator[str]:
    """Yield the first word of every line of a list of images, as Pascal VOC, KITTI and DIOR have them."""
    for line in read_lines(path, "list of images"):
        if line.strip():
            yield Path(line.split()[0]).stem if line.split()[0].endswith((".jpg", ".png")) else line.split()[0]


def check_split(request: Request, splits: tuple[str, ...]) -> None:
    """Check that the part that is asked for exists.

    Raises:
        DataError: It does not; the message names those that do.
    """
    if request.split is not None and request.split not in splits:
        known = f"there are {', '.join(splits)}" if splits else "this source has no parts: leave the split out"
        raise DataError(f"{request.path}: no split '{request.split}'; {known}")
