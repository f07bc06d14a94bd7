# SPDX-License-Identifier: Apache-2.0
"""Parts of a model that training leaves as they are, by name."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from yolo_hw.train.errors import TrainError


def freeze(model: nn.Module, patterns: Sequence[str]) -> tuple[nn.Module, ...]:
    """Switch the gradients of the matching modules off.

    Args:
        model: The model.
        patterns: Names of modules as in ``model.named_modules()`` or glob patterns of them; ``blocks.conv_0``,
            ``blocks.conv_*``. A module is frozen with all that is inside.

    Returns:
        The frozen modules; kept in evaluation mode, their batch norms keep their statistics, too.

    Raises:
        TrainError: A pattern matches nothing, or nothing is left to train.
    """
    names = {name: module for name, module in model.named_modules() if name}
    frozen: list[nn.Module] = []
    for pattern in patterns:
        found = [module for name, module in names.items() if fnmatchcase(name, pattern)]
        if not found:
            nearest = difflib.get_close_matches(pattern, names, n=1)
            hint = f"; the nearest name is '{nearest[0]}'" if nearest else ""
            raise TrainError(f"freeze: '{pattern}' must name a module of the model, none is called so{hint}")
        frozen += found
    for module in frozen:
        module.requires_grad_(False)
    if patterns and not any(p.requires_grad for p in model.parameters()):
        raise TrainError(f"freeze: {', '.join(patterns)} leaves nothing to train")
    return tuple(frozen)
