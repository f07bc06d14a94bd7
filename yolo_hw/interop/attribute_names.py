# SPDX-License-Identifier: Apache-2.0
"""Names that parts of a `torch.fx.GraphModule` can have."""

from __future__ import annotations

import keyword
import re

from torch import fx

_TAKEN = frozenset(dir(fx.GraphModule({}, fx.Graph())))
"""Methods and attributes that the module has itself, those of an instance included."""


def attribute_name(text: str) -> str:
    """Return `text` as the name of a submodule: generated code writes ``self.<name>``.

    What is no letter, digit or underscore becomes an underscore; names that are the module's own, or words of Python,
    get one more at the end.
    """
    name = re.sub(r"\W", "_", text)
    return f"{name}_" if name in _TAKEN or keyword.iskeyword(name) else name
