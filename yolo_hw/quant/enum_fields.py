# SPDX-License-Identifier: Apache-2.0
"""Options that are one of a few words."""

from __future__ import annotations

from dataclasses import fields
from enum import Enum
from typing import Any, get_type_hints

from yolo_hw.errors import QuantError, nearest


def convert_enum_fields(config: Any) -> None:  # noqa: ANN401 - any dataclass
    """Turn the plain strings in the enum fields of a frozen dataclass into members.

    ``"weights"`` equals ``EqualiseBy.WEIGHTS`` but is not that object; converted once, ``is`` can be trusted.

    Args:
        config: Changed in place; called from its ``__post_init__``.

    Raises:
        QuantError: A value is no member and no member's word; names the field and the words.
    """
    types = get_type_hints(type(config))
    for field in fields(config):
        kind = types[field.name]
        if isinstance(kind, type) and issubclass(kind, Enum):
            object.__setattr__(config, field.name, _member(kind, getattr(config, field.name), field.name))


def _member(kind: type[Enum], value: object, name: str) -> Enum:
    try:
        return kind(value)
    except ValueError:
        words = [str(member.value) for member in kind]
        raise QuantError(
            f"{name} must be one of {', '.join(words)}, got '{value}'{nearest(str(value), words)}"
        ) from None
