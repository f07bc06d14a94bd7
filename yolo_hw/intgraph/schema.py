# SPDX-License-Identifier: Apache-2.0
"""Validation against JSON Schema (draft 2020-12), with one rule more: an integer is written as one, 64.0 is none."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import jsonschema


def _is_integer(_: object, value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _pattern(_: object, pattern: str, instance: object, __: object) -> Iterator[jsonschema.ValidationError]:
    # Python's $ also matches before a final newline, that of JSON Schema does not.
    if isinstance(instance, str) and not re.search(re.sub(r"\$$", r"\\Z", pattern), instance):
        yield jsonschema.ValidationError(f"{instance!r} does not match {pattern!r}")


_Validator = jsonschema.validators.extend(  # type: ignore[no-untyped-call]
    jsonschema.Draft202012Validator,
    {"pattern": _pattern},
    type_checker=jsonschema.Draft202012Validator.TYPE_CHECKER.redefine("integer", _is_integer),
)


def first_violation(document: object, schema: dict[str, Any]) -> str | None:
    """Return ``place: what must hold`` for the most telling violation, None if the document follows the schema."""
    error = jsonschema.exceptions.best_match(_Validator(schema).iter_errors(document))
    return None if error is None else f"{error.json_path}: {error.message[:200]}"
