# SPDX-License-Identifier: Apache-2.0
"""The learning rate as a function of the step: linear warm-up, then one of several ways down."""

from __future__ import annotations

import math
from typing import NamedTuple

from yolo_hw.train.config import Schedule, TrainConfig


def learning_rate(step: int, steps_per_epoch: int, config: TrainConfig) -> float:
    r"""Return the learning rate of a step.

    Before step W, the end of the warm-up, it is :math:`\eta_{max} (t + 1) / W` (Goyal et al., "Accurate, Large
    Minibatch SGD", 2017, section 2.2). Then, with p from 0 to 1 over the rest of the run,

    * cosine: :math:`\eta_{min} + \tfrac12 (\eta_{max} - \eta_{min}) (1 + \cos \pi p)` (Loshchilov & Hutter, "SGDR",
      ICLR 2017, eq. (5) without restarts)
    * linear: :math:`\eta_{max} + (\eta_{min} - \eta_{max}) p`
    * multi_step: :math:`\eta_{max}` times `step_ratio` for every milestone that the share of steps made has reached
    * constant: :math:`\eta_{max}`

    Args:
        step: Number of steps made before, from 0.
        steps_per_epoch: Steps of one pass over the data.
        config: Rates, lengths and the schedule.

    Returns:
        The learning rate.
    """
    warmup, total = round(config.warmup_epochs * steps_per_epoch), config.epochs * steps_per_epoch
    highest = config.learning_rate
    if config.schedule is Schedule.MULTI_STEP and step >= warmup:
        passed = sum(step >= round(part * total) for part in config.milestones)
        return highest * config.step_ratio**passed
    return annealed(step, Span(warmup, total), config.schedule, highest, highest * config.final_lr_ratio)


class Span(NamedTuple):
    """Steps of a run: those in which a value rises, and all."""

    warmup: int
    total: int


def annealed(step: int, span: Span, schedule: Schedule, highest: float, lowest: float) -> float:
    """Return a value that rises to `highest` and falls to `lowest` by the cosine or the line, or else stays."""
    if step < span.warmup:
        return highest * (step + 1) / span.warmup
    phase = min((step - span.warmup) / max(span.total - span.warmup - 1, 1), 1.0)
    if schedule is Schedule.COSINE:
        return lowest + 0.5 * (highest - lowest) * (1 + math.cos(math.pi * phase))
    return highest + (lowest - highest) * phase if schedule is Schedule.LINEAR else highest
