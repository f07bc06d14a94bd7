# SPDX-License-Identifier: Apache-2.0
"""Which layers a list of patterns means.

| pattern | means |
|---|---|
| `conv_12` | the layer of that name; a full name wins over every other reading |
| `conv_1*` | a glob: `*`, `?`, `[abc]` |
| `re:conv_(1|2)` | a regular expression for the whole name |
| `type:conv` | every layer of that type, in upper or lower case |
| `a ~ b` | from layer a to layer b in graph order, both included |
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

from yolo_hw.errors import PruneError, nearest

_REGEX, _TYPE, _RANGE = "re:", "type:", "~"


def match_layers(names: Sequence[str], types: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """Return the layers that at least one pattern means.

    Args:
        names: Of all layers in graph order, each once.
        types: Of the same layers.
        patterns: See the table of this module.

    Returns:
        Names in graph order, each once.

    Raises:
        PruneError: A pattern means no layer, is no regular expression, or is a range that runs backwards.
    """
    if len(set(names)) != len(names):
        raise PruneError("layers: every name must be there once")
    types_of = dict(zip(names, types, strict=True))
    wanted = {name for pattern in patterns for name in _match(types_of, pattern)}
    return [name for name in names if name in wanted]


def select_layers(
    names: Sequence[str], types: Sequence[str], include: Sequence[str] | None = None, exclude: Sequence[str] = ()
) -> list[str]:
    """Return the layers that `include` means (None: all) without those that `exclude` means, in graph order.

    Raises:
        PruneError: See `match_layers`; or no layer is left.
    """
    included = list(names) if include is None else match_layers(names, types, include)
    excluded = set(match_layers(names, types, exclude))
    left = [name for name in included if name not in excluded]
    if not left:
        raise PruneError(f"layers: at least one must be left, exclude takes all {len(included)} that include names")
    return left


def _match(types_of: dict[str, str], pattern: str) -> list[str]:
    """Return the names one pattern means; `types_of` is in graph order."""
    if pattern in types_of:
        return [pattern]
    if pattern.startswith(_REGEX):
        found = _match_regex(types_of, pattern)
    elif pattern.startswith(_TYPE):
        wanted = pattern.removeprefix(_TYPE).strip().lower()
        found = [name for name, kind in types_of.items() if kind.lower() == wanted]
        if not found:
            kinds = sorted({kind.lower() for kind in types_of.values()})
            raise PruneError(f"layers '{pattern}': the types are {', '.join(kinds)}{nearest(wanted, kinds)}")
    elif _RANGE in pattern:
        found = _match_range(list(types_of), pattern)
    else:
        found = [name for name in types_of if fnmatchcase(name, pattern)]
    if not found:
        raise PruneError(f"layers '{pattern}': no layer has such a name{nearest(pattern, types_of)}")
    return found


def _match_regex(types_of: dict[str, str], pattern: str) -> list[str]:
    try:
        regex = re.compile(pattern.removeprefix(_REGEX))
    except re.error as error:
        raise PruneError(f"layers '{pattern}': not a regular expression: {error}") from None
    return [name for name in types_of if regex.fullmatch(name)]


def _match_range(names: list[str], pattern: str) -> list[str]:
    ends = [end.strip() for end in pattern.split(_RANGE)]
    if len(ends) != 2:
        raise PruneError(f"layers '{pattern}': a range is 'first {_RANGE} last', this has {len(ends)} ends")
    for end in ends:
        if end not in names:
            raise PruneError(
                f"layers '{pattern}': a range goes between two layers, none is '{end}'{nearest(end, names)}"
            )
    first, last = (names.index(end) for end in ends)
    if first > last:
        raise PruneError(
            f"layers '{pattern}': runs backwards, {ends[1]} is layer {last} and {ends[0]} layer {first} of the graph; "
            f"did you mean '{ends[1]} {_RANGE} {ends[0]}'?"
        )
    return names[first : last + 1]
