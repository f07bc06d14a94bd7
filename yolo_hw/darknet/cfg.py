# SPDX-License-Identifier: Apache-2.0
"""Darknet cfg text <-> sections, lossless: an unedited file is written back byte for byte.

Grammar, as darknet reads it: a line is empty, a comment (first character ``#`` or ``;``), a
``[section]`` header or ``key = value``. White space around keys, ``=`` and values means nothing. As
an extension that darknet's number parsing tolerates too, ``#`` after white space ends a value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from yolo_hw.errors import CfgError

MAX_CFG_BYTES = 8 << 20
"""Larger files are refused: the largest published darknet cfg has about 60 KB."""

BYTE_ORDER_MARK = "\ufeff"
"""What some editors put before UTF-8 text."""

_COMMENT = re.compile(r"\s[#;]")


@dataclass
class Option:
    """One ``key = value`` line; `value` may be replaced, the rest of the line is kept."""

    key: str
    value: str
    line: int
    head: str = ""
    mid: str = "="
    tail: str = "\n"

    def text(self) -> str:
        """Return the line as it is written."""
        return f"{self.head}{self.key}{self.mid}{self.value}{self.tail}"


@dataclass
class Section:
    """One ``[type]`` section: options in file order, comments and blank lines kept between them."""

    type: str
    line: int
    header: str
    items: list[Option | str] = field(default_factory=list)

    @property
    def options(self) -> list[Option]:
        """The ``key = value`` lines in file order."""
        return [item for item in self.items if isinstance(item, Option)]

    def get(self, key: str) -> Option | None:
        """Return the first option named `key` (darknet's rule for duplicates), or None."""
        return next((option for option in self.options if option.key == key), None)

    def set(self, key: str, value: str) -> None:
        """Replace the value of `key`, or add the option after the section's last one."""
        option = self.get(key)
        if option is not None:
            option.value = value
            return
        last = max((i for i, item in enumerate(self.items) if isinstance(item, Option)), default=-1)
        if last >= 0:
            previous = self.items[last]
            assert isinstance(previous, Option)
            if not previous.tail.endswith("\n"):
                previous.tail += "\n"
        elif not self.header.endswith("\n"):
            self.header += "\n"
        self.items.insert(last + 1, Option(key, value, self.line))


@dataclass
class Cfg:
    """A darknet cfg file: the ``[net]`` section first, then one section per layer.

    Attributes:
        name: Name used in messages, normally the file's name.
        preamble: Comment and blank lines before the first section.
        sections: The sections in file order.
    """

    name: str
    preamble: list[str]
    sections: list[Section]

    def text(self) -> str:
        """Return the file's text; equal to the text that was parsed unless a section was edited."""
        return "".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield from self.preamble
        for section in self.sections:
            yield section.header
            for item in section.items:
                yield item.text() if isinstance(item, Option) else item


def parse_cfg(text: str, name: str = "<cfg>") -> Cfg:
    """Parse cfg text.

    Args:
        text: The file's text.
        name: Name used in messages.

    Returns:
        The sections, types and keys not yet checked (see `yolo_hw.darknet.network`).

    Raises:
        CfgError: A line is neither comment, section nor option, or an option precedes all sections.
    """
    cfg = Cfg(name, [], [])
    if text.startswith(BYTE_ORDER_MARK):
        cfg.preamble.append(BYTE_ORDER_MARK)
        text = text[1:]
    for number, line in enumerate(text.splitlines(keepends=True), start=1):
        bare = line.strip()
        if not bare or bare[0] in "#;":
            (cfg.sections[-1].items if cfg.sections else cfg.preamble).append(line)
        elif bare[0] == "[":
            cfg.sections.append(Section(_section_type(bare, name, number), number, line))
        else:
            option = _option(line, name, number)
            if not cfg.sections:
                raise CfgError(f"{name}:{number}: an option must follow a [section], got '{shorten(bare)}'")
            cfg.sections[-1].items.append(option)
    return cfg


def read_cfg(path: str | Path) -> Cfg:
    """Read and parse a cfg file; see `parse_cfg`."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CFG_BYTES + 1)  # bounded: the path may be a device that never ends
    except OSError as error:
        raise CfgError(f"{path}: cannot read the cfg file: {error.strerror}") from None
    if len(data) > MAX_CFG_BYTES:
        raise CfgError(f"{path}: a cfg file has at most {MAX_CFG_BYTES} bytes, this one has more")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CfgError(
            f"{path}: a cfg file is UTF-8 text, got byte 0x{data[error.start]:02x} at {error.start}"
        ) from None
    return parse_cfg(text, path.name)


def _section_type(bare: str, name: str, number: int) -> str:
    match = re.match(r"^\[\s*([A-Za-z0-9_]+)\s*\]\s*([#;].*)?$", bare)
    if match is None:
        raise CfgError(f"{name}:{number}: a section header must be [name], got '{shorten(bare)}'")
    return match.group(1)


def _option(line: str, name: str, number: int) -> Option:
    left, equals, right = line.partition("=")
    key = left.strip()
    if not equals or not key or any(map(str.isspace, key)):
        raise CfgError(f"{name}:{number}: expected key=value, got '{shorten(line.strip())}'")
    comment = _COMMENT.search(right)
    body = right[: comment.start()] if comment else right
    value = body.strip()
    start = len(body) - len(body.lstrip()) if value else len(body)
    gap = left[left.index(key) + len(key) :]
    return Option(
        key=key,
        value=value,
        line=number,
        head=left[: left.index(key)],
        mid=f"{gap}={right[:start]}",
        tail=right[start + len(value) :],
    )


def shorten(text: str, limit: int = 60) -> str:
    """Return text of the file for a message, cut to `limit` characters."""
    return text if len(text) <= limit else text[: limit - 3] + "..."
