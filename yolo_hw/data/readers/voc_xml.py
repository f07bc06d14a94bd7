# SPDX-License-Identifier: Apache-2.0
"""The annotation files of Pascal VOC, parsed without document types, entities or unbounded depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from yolo_hw.data.items import Findings, Flaw, Item, Row, make_item
from yolo_hw.data.readers.format import known_size, read_bytes
from yolo_hw.errors import DataError

MAX_XML_BYTES = 16 << 20
MAX_DEPTH = 32


@dataclass(frozen=True)
class VocObject:
    """One ``<object>``: class name, corners as they stand in the file, the flag ``difficult``."""

    place: str
    name: str
    corners: tuple[float, float, float, float]
    difficult: bool


def parse_xml(path: Path) -> Element:
    """Parse an XML file that comes from outside.

    Raises:
        DataError: It is malformed, too large, too deep, or has a document type, where entities are defined.
    """
    builder = TreeBuilder()
    parser = expat.ParserCreate()
    depth = 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > MAX_DEPTH:
            raise DataError(f"{path}: elements are nested more than {MAX_DEPTH} deep")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def refuse(*_: object) -> None:
        raise DataError(f"{path}: an annotation file may have no document type")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(read_bytes(path, MAX_XML_BYTES), True)
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise DataError(f"{path}: not an XML file: {error}") from None
    return builder.close()


def read_objects(path: Path) -> tuple[tuple[int, int] | None, list[VocObject]]:
    """Return (height, width), None where the file does not say, and the objects of an annotation file.

    Raises:
        DataError: It is malformed.
    """
    root = parse_xml(path)
    try:
        size = (int(float(root.findtext("size/height") or 0)), int(float(root.findtext("size/width") or 0)))
    except (ValueError, OverflowError):
        raise DataError(f"{path}: size must be two numbers") from None
    objects = [_object(f"{path}: object {i}", entry) for i, entry in enumerate(root.iterfind("object"), start=1)]
    return (size if min(size) > 0 else None), objects


def voc_item(image: Path, annotation: Path, names: Sequence[str], findings: Findings) -> Item:
    """Read the annotation file of an image.

    Corners count pixels from 1 and include the last one (VOC development kit), so ``x1 = xmin - 1``, ``x2 = xmax``.
    """
    rows: list[Row] = []
    try:
        size, objects = read_objects(annotation)
    except DataError as error:
        findings.refuse(Flaw.MALFORMED, str(annotation), str(error).removeprefix(f"{annotation}: "))
        size, objects = None, []
    size = size or known_size(image, findings)
    if size is None:
        return make_item(image, (0, 0), [], 0, findings)
    for entry in objects:
        if entry.name not in names:
            findings.refuse(Flaw.UNKNOWN_CLASS, entry.place, f"unknown class '{entry.name}'")
            continue
        x1, y1, x2, y2 = entry.corners
        is_point = x1 == x2 and y1 == y2  # a slip of the hand, not an object of one pixel
        box = (x1, y1, x2, y2) if is_point else (x1 - 1, y1 - 1, x2, y2)
        rows.append(Row(entry.place, names.index(entry.name), box, difficult=entry.difficult))
    return make_item(image, size, rows, len(names), findings)


def _object(place: str, entry: Element) -> VocObject:
    name = (entry.findtext("name") or "").strip()
    texts = [entry.findtext(f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax")]
    try:
        x1, y1, x2, y2 = (float(text or "") for text in texts)
    except ValueError:
        raise DataError(f"{place}: bndbox must have the numbers xmin, ymin, xmax and ymax, got {texts}") from None
    if not name:
        raise DataError(f"{place}: has no name")
    return VocObject(place, name, (x1, y1, x2, y2), (entry.findtext("difficult") or "0").strip() == "1")
