# SPDX-License-Identifier: Apache-2.0
"""The learning rate as a function of the step: linear warm-up, then half a cosine."""

from __future__ import annotations

import math

from yolo_hw.train.config import TrainConfig


def learning_rate(step: int, steps_per_epoch: int, config: TrainConfig) -> float:
    r"""Return the learning rate of a step.

    .. math:: \eta_t = \eta_{min} + \tfrac12 (\eta_{max} - \eta_{min}) (1 + \cos(\pi t / T))

    for t steps after the warm-up of T in all (Loshchilov & Hutter, "SGDR", ICLR 2017, eq. (5) without restarts), and
    ``(step + 1) / warm-up steps`` of the highest rate before (Goyal et al., "Accurate, Large Minibatch SGD", 2017,
    section 2.2).

    Args:
        step: Number of steps made before, from 0.
        steps_per_epoch: Steps of one pass over the data.
        config: Highest and last rate, lengths.

    Returns:
        The learning rate.
    """
    warmup = round(config.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    total = config.epochs * steps_per_epoch - warmup
    lowest = config.learning_rate * config.final_lr_ratio
    phase = min((step - warmup) / max(total - 1, 1), 1.0)
    return lowest + 0.5 * (config.learning_rate - lowest) * (1 + math.cos(math.pi * phase))
