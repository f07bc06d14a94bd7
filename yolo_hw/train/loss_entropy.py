# SPDX-License-Identifier: Apache-2.0
"""Cross entropies of the detection losses, element by element."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from yolo_hw.train.errors import TrainError


@dataclass(frozen=True, kw_only=True)
class Focal:
    """The focal loss's two parameters (Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, section 3)."""

    gamma: float = 2.0
    """How much easy examples count less, at least 0."""
    alpha: float | None = 0.25
    """Weight of what is present, in [0, 1]; what is absent has ``1 - alpha``. None weighs neither."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.gamma < 0:
            raise TrainError(f"Focal: gamma must be at least 0, got {self.gamma}")
        if self.alpha is not None and not 0 <= self.alpha <= 1:
            raise TrainError(f"Focal: alpha must be in [0, 1] or None, got {self.alpha}")


def binary_entropy(logits: Tensor, goals: Tensor, focal: Focal | None = None) -> Tensor:
    r"""Binary cross entropy of logits with goals in [0, 1], focal if asked to.

    .. math:: -y \, \alpha (1 - p)^\gamma \log p - (1 - y) (1 - \alpha) \, p^\gamma \log (1 - p), \quad p = \sigma(x)

    which is eq. (5) of Lin et al. (ICCV 2017) for y = 0 and y = 1, and linear in y between, as smoothed labels need it.
    Powers are taken of the logarithms, so no logit, however large, gives NaN.

    Args:
        logits: Any shape, float32 or float64; differentiable.
        goals: Same shape.
        focal: None for the plain cross entropy.

    Returns:
        Same shape.
    """
    if focal is None:
        return F.binary_cross_entropy_with_logits(logits, goals, reduction="none")
    present, absent = F.logsigmoid(logits), F.logsigmoid(-logits)  # log p, log(1 - p)
    alpha, beta = (1.0, 1.0) if focal.alpha is None else (focal.alpha, 1 - focal.alpha)
    missed = -alpha * (focal.gamma * absent).exp() * present
    false = -beta * (focal.gamma * present).exp() * absent
    return goals * missed + (1 - goals) * false


def one_hot(labels: Tensor, classes: int, smoothing: float, outcomes: int, like: Tensor) -> Tensor:
    """Return goals of a classification, smoothed: ``(1 - eps) * one_hot + eps / outcomes``.

    Args:
        labels: [P] int64.
        classes: Number of classes.
        smoothing: The share eps in [0, 1) of the uniform distribution.
        outcomes: What that distribution is over: 2 for a sigmoid per class, `classes` for a softmax.
        like: Gives dtype and device.

    Returns:
        [P, classes].

    Reference:
        Szegedy et al., "Rethinking the Inception Architecture", CVPR 2016, section 7.
    """
    goals = torch.full((len(labels), classes), smoothing / outcomes, dtype=like.dtype, device=like.device)
    return goals.scatter_(1, labels[:, None], 1 - smoothing + smoothing / outcomes)


def as_logits(probabilities: Tensor) -> Tensor:
    """Return ``log(p / (1 - p))``, for heads whose map is sigmoided already (new_coords).

    A probability is first moved into [eps, 1 - eps] with the eps of its dtype; outside it has gradient zero, as the
    sigmoid before it has.
    """
    eps = torch.finfo(probabilities.dtype).eps
    return torch.logit(probabilities.clamp(eps, 1 - eps))


def at_least_float32(values: Tensor) -> Tensor:
    """Return float16 and bfloat16 as float32, and wider values as they are."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
