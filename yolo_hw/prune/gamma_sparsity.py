# SPDX-License-Identifier: Apache-2.0
"""Training that drives the scales of batch norms to zero, so that whole channels can go.

Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017, eq. (1).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from yolo_hw.errors import PruneError, nearest
from yolo_hw.prune.module_names import named
from yolo_hw.train.config import Schedule
from yolo_hw.train.schedule import Span, annealed
from yolo_hw.train.state import Callback, TrainState


class Decay(str, Enum):
    """How the strength falls after its warm-up."""

    CONSTANT = "constant"
    LINEAR = "linear"
    COSINE = "cosine"


class Penalty(str, Enum):
    r"""What is done to the scales :math:`\gamma` of a batch norm, by the gradient it adds."""

    L1 = "l1"
    r""":math:`\lambda w_c \operatorname{sign}(\gamma_c)`: network slimming.

    A factor common to the scales and shifts of a layer is undone by the next batch norm. So this penalty shrinks the
    useful scales of a layer, too, at no cost, and steps of the same size become ever larger beside them.
    """
    L1_OF_FIXED_NORM = "l1_of_fixed_norm"
    r"""Its part that leaves the Euclidean norm of a layer's scales: small ones fall, large ones rise.

    :math:`\lambda (w_c \operatorname{sign}(\gamma_c) - \gamma_c \sum_k w_k |\gamma_k| / \sum_k \gamma_k^2)`, the
    Euclidean norm times the gradient of the ratio of the norms (Hoyer, "Non-negative Matrix Factorization with
    Sparseness Constraints", JMLR 2004, section 3).
    """


@dataclass(frozen=True, kw_only=True)
class StrengthSchedule:
    """The strength of a penalty over the steps of a run, relative to its highest value."""

    decay: Decay = Decay.CONSTANT
    final_ratio: float = 0.0
    """Last strength relative to the highest, in [0, 1]; of the linear and the cosine decay."""
    warmup: float = 0.0
    """Share of the run in which the strength rises from zero, in [0, 1)."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0 <= self.final_ratio <= 1:
            raise PruneError(f"StrengthSchedule: final_ratio must be in [0, 1], got {self.final_ratio}")
        if not 0 <= self.warmup < 1:
            raise PruneError(f"StrengthSchedule: warmup must be in [0, 1), got {self.warmup}")

    def factor(self, step: int, total_steps: int) -> float:
        r"""Return the factor of a step.

        Before step W, the end of the warm-up, it is :math:`(t + 1) / W`. Then, with p from 0 to 1 over the rest of the
        run and r the final ratio, linear :math:`1 - (1 - r) p`, cosine :math:`r + \tfrac12 (1 - r)(1 + \cos \pi p)`.

        Args:
            step: Number of steps made before, from 0.
            total_steps: Steps of the run.
        """
        span = Span(round(self.warmup * total_steps), total_steps)
        return annealed(step, span, Schedule(self.decay.value), 1.0, self.final_ratio)


class GammaSparsity(Callback):
    r"""A penalty on the scales of batch norms that grows with :math:`\lambda(t) \sum_c w_c |\gamma_c|`.

    It is a regulariser and, as it must know the step, a callback: give it to `yolo_hw.train.fit` as both. The loop adds
    regularisers once per optimiser step, so each scale's gradient gains exactly what its `Penalty` says, such as
    :math:`\lambda(t) w_c \operatorname{sign}(\gamma_c)`, whatever the batch, the micro-batches, the precision and the
    processes; nothing at a scale of zero. `TrainConfig.clip_norm` scales it with the rest of the gradient. Adaptive
    optimisers divide by the size of the gradient and so weaken it where the loss is steep: SGD keeps scales comparable.
    """

    def __init__(
        self,
        names: Sequence[str],
        strength: float,
        schedule: StrengthSchedule | None = None,
        weights: Mapping[str, Tensor] | None = None,
        penalty: Penalty = Penalty.L1,
    ) -> None:
        r"""Remember what is made sparse.

        Args:
            names: See `batch_norms`.
            strength: The highest :math:`\lambda`.
            schedule: How it changes; None keeps it constant.
            weights: By full name of a batch norm, :math:`w` [C], float, at least 0, for instance what a channel costs;
                1 for the others.
            penalty: Which gradient is added.

        Raises:
            PruneError: The strength or a weight is negative or not finite.
        """
        if not (math.isfinite(strength) and strength >= 0):
            raise PruneError(f"GammaSparsity: strength must be finite and at least 0, got {strength}")
        self.names = tuple(names)
        self.strength = strength
        self.schedule = schedule or StrengthSchedule()
        self.penalty = penalty
        self.weights = {name: weight.detach().cpu().clone() for name, weight in (weights or {}).items()}
        for name, weight in self.weights.items():
            if weight.ndim != 1 or not bool((torch.isfinite(weight) & (weight >= 0)).all()):
                raise PruneError(f"GammaSparsity: the weights of {name} must be [C], finite and at least 0")
        self.steps: tuple[int, int] | None = None

    @property
    def current_strength(self) -> float:
        """The strength of the next step.

        Raises:
            PruneError: The run has not begun: the object is not among its callbacks.
        """
        if self.steps is None:
            raise PruneError("GammaSparsity: must be among the callbacks of the run, too: its strength needs the step")
        return self.strength * self.schedule.factor(*self.steps)

    def __call__(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the penalty as the term ``gamma``, a float32 scalar."""
        strength = self.current_strength
        terms = []
        for name, norm in batch_norms(model, self.names).items():
            size = norm.weight.abs()
            if name in self.weights:
                size = size * self.weights[name].to(size)
            total = size.sum()
            if self.penalty is Penalty.L1_OF_FIXED_NORM:
                length = torch.linalg.vector_norm(norm.weight)
                total = total * (length.detach() / length.clamp_min(torch.finfo(length.dtype).tiny))
            terms.append(total)
        return {"gamma": strength * torch.stack(terms).sum()}

    def on_start(self, state: TrainState) -> None:
        """Check the names and take over the step.

        Raises:
            PruneError: A scale does not train, or weights belong to no selected batch norm or have another size.
        """
        norms = batch_norms(state.model, self.names)
        for name, norm in norms.items():
            if not norm.weight.requires_grad:
                raise PruneError(f"GammaSparsity: the scales of {name} must train, they are frozen")
        for name, weight in self.weights.items():
            if name not in norms:
                raise PruneError(f"GammaSparsity: weights for '{name}', which is not selected{nearest(name, norms)}")
            if len(weight) != len(norms[name].weight):
                raise PruneError(
                    f"GammaSparsity: {name} needs {len(norms[name].weight)} weights, one per channel, got {len(weight)}"
                )
        self.steps = (state.step, state.total_steps)

    def on_step(self, state: TrainState, terms: dict[str, float]) -> None:
        """Go on to the next step."""
        self.steps = (state.step, state.total_steps)

    def state_dict(self) -> dict[str, Any]:
        """Return the options: a resumed run must have the same."""
        options = asdict(self.schedule) | {"decay": self.schedule.decay.value}
        options |= {"names": list(self.names), "strength": self.strength, "penalty": self.penalty.value}
        return {**options, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Check that a resumed run goes on with the same penalty.

        Raises:
            PruneError: It does not; names the first difference.
        """
        mine = self.state_dict()
        for name, value in state.items():
            same = _equal_weights(value, self.weights) if name == "weights" else value == mine[name]
            if not same:
                found = "others" if name == "weights" else f"{mine[name]}, not {value}"
                raise PruneError(f"GammaSparsity: a resumed run must keep its {name}, got {found}")


def batch_norms(model: nn.Module, names: Sequence[str]) -> dict[str, _BatchNorm]:
    """Return batch norms with scales by full name, in the order of the model.

    Args:
        model: The model.
        names: See `named`; ``*`` is all.

    Raises:
        PruneError: A name matches no batch norm.
    """
    every = {n: m for n, m in model.named_modules() if isinstance(m, _BatchNorm) and m.weight is not None}
    chosen = named(every, names, "batch norm")
    if not chosen:
        raise PruneError("at least one batch norm must be named, got none")
    return {name: every[name] for name in chosen}


def _equal_weights(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
