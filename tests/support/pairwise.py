# SPDX-License-Identifier: Apache-2.0
"""Few rows of a table of options that hold every two values together (pairwise or all-pairs testing)."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Row = dict[str, Any]


def pairwise(options: Mapping[str, Sequence[Any]], possible: Callable[[Row], bool] = lambda row: True) -> list[Row]:
    """Return rows so that every two values of different options that some possible row holds are in one of them.

    Greedy: the next row is one that holds the most pairs still missing; of several a seeded choice decides, so
    that what pairs leave open varies.

    Args:
        options: The values of every option, by its name.
        possible: Whether a row of one value per option can be.
    """
    sizes = [range(len(values)) for values in options.values()]
    rows, codes = [], []
    for code in random.Random(0).sample([*itertools.product(*sizes)], math.prod(map(len, sizes))):
        row = {name: values[i] for (name, values), i in zip(options.items(), code, strict=True)}
        if possible(row):
            rows.append(row)
            codes.append(code)
    pairs: dict[tuple[tuple[int, int], tuple[int, int]], int] = {}
    table = np.array(
        [[pairs.setdefault(pair, len(pairs)) for pair in itertools.combinations(enumerate(c), 2)] for c in codes]
    )
    missing = np.ones(len(pairs), bool)
    chosen = []
    while missing.any():
        best = int(missing[table].sum(1).argmax())
        missing[table[best]] = False
        chosen.append(rows[best])
    return chosen
