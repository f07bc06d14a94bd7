# SPDX-License-Identifier: Apache-2.0
"""Steps by cosine similarity: every calibration batch votes for the one that turns its values least."""

from __future__ import annotations

import torch
from torch import Tensor

from yolo_hw.fixedpoint import MAX_ABS_FRAC
from yolo_hw.quant.config import Observer
from yolo_hw.quant.observers import CandidateStatistics, RangeStatistics
from yolo_hw.quant.qat.quantiser import FixedQuantiser, Grid


def most_similar(x: Tensor, grid: Grid, channels: int) -> Tensor:
    r"""Return the fraction bits with the largest :math:`\cos(x, Q(x))`.

    Candidates are those that clip nothing and finer ones, see `CandidateStatistics`; of equals the coarsest.

    Args:
        x: [...], with `channels` rows if that is not 1.
        grid: Word length, sign, rounding, overflow.
        channels: 1 for one choice, else the size of dimension 0.

    Returns:
        [channels] int32, on the CPU; bits - 1 where there are only zeros.
    """
    rows = x.detach().reshape(channels, -1)
    if not grid.signed:  # what a relu will remove may still be there
        rows = rows.clamp_min(0)
    return torch.tensor([_of_row(row, grid) for row in rows], dtype=torch.int32)


def _of_row(row: Tensor, grid: Grid) -> int:
    seen = RangeStatistics()
    seen.update(row)
    candidates = CandidateStatistics.around(seen, grid.bits, grid.signed, grid.rounding, grid.overflow)
    candidates.update(row, Observer.COSINE)
    return candidates.choose(Observer.COSINE, 100.0).frac


class CosineQuantiser(FixedQuantiser):
    """The choice most batches agree on, the coarsest of a tie; weights decide for themselves. Training leaves it."""

    observes = True
    votes: Tensor

    def __init__(self, grid: Grid, channels: int = 1) -> None:
        """See `Quantiser`."""
        super().__init__(grid, channels)
        self.register_buffer("votes", torch.zeros(channels, 2 * MAX_ABS_FRAC + 1, dtype=torch.int32), persistent=False)

    def observe(self, x: Tensor, first: bool) -> None:
        """See `Quantiser.observe`."""
        if first:
            self.votes.zero_()
        choice = most_similar(x, self.grid, self.channels).to(self.votes.device).long() + MAX_ABS_FRAC
        self.votes[torch.arange(self.channels, device=choice.device), choice] += 1
        self.set_frac(self.votes.argmax(1) - MAX_ABS_FRAC)
