# SPDX-License-Identifier: Apache-2.0
"""How much each output channel of one layer matters: named criteria, or any callable of the same signature.

A criterion sees one layer at a time; `yolo_hw.prune.reduce` brings the layers of a group together.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from yolo_hw.errors import PruneError, nearest
from yolo_hw.prune.fpgm import distance_sums
from yolo_hw.prune.reduce import Normalisation, normalise


@dataclass(frozen=True)
class MemberTensors:
    """What a criterion may look at: one layer whose output channels are candidates.

    Attributes:
        name: Of the layer, for messages.
        weight: [K, ...], output channels first.
        gamma: [K], scale of the batch norm behind it.
        beta: [K], its shift.
        gradient: Like `weight`, see `statistics.collect_gradients`.
        taylor: [K] of the layer, see `statistics.collect_taylor`.
        gate: [K] of its batch norm, from the same function.
        activation_mean: [K], see `statistics.collect_activations`.
    """

    name: str
    weight: Tensor
    gamma: Tensor | None = None
    beta: Tensor | None = None
    gradient: Tensor | None = None
    taylor: Tensor | None = None
    gate: Tensor | None = None
    activation_mean: Tensor | None = None

    def __post_init__(self) -> None:
        """Check the shapes.

        Raises:
            PruneError: A tensor does not fit the weight.
        """
        if self.weight.ndim < 2 or not self.weight.numel():
            raise PruneError(f"{self.name}: the weight must be [K, C, ...], it is {list(self.weight.shape)}")
        if self.gradient is not None and self.gradient.shape != self.weight.shape:
            raise PruneError(
                f"{self.name}: the gradient must be {list(self.weight.shape)} as the weight, "
                f"it is {list(self.gradient.shape)}"
            )
        for field in ("gamma", "beta", "taylor", "gate", "activation_mean"):
            tensor = getattr(self, field)
            if tensor is not None and tensor.shape != self.weight.shape[:1]:
                raise PruneError(f"{self.name}: {field} must be [{len(self.weight)}], it is {list(tensor.shape)}")


Importance = Callable[[MemberTensors], Tensor]
"""Layer -> scores [K]; the channels with the highest scores stay."""


def score_member(importance: Importance, member: MemberTensors) -> Tensor:
    """Return the scores of a layer's output channels.

    Args:
        importance: One of `IMPORTANCES` or a callable.
        member: The layer.

    Returns:
        float64 [K] on the CPU.

    Raises:
        PruneError: The criterion needs what the member does not have, or does not return [K] finite numbers.
    """
    with torch.no_grad():
        scores = importance(member)
    name = getattr(importance, "__name__", "callable")
    found = list(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
    if found != [len(member.weight)]:
        raise PruneError(f"importance '{name}': must return [{len(member.weight)}] for {member.name}, returned {found}")
    scores = scores.detach().double().cpu()
    if not scores.isfinite().all():
        at = int(scores.isfinite().logical_not().nonzero()[0])
        raise PruneError(f"importance '{name}': scores must be finite, channel {at} of {member.name} has {scores[at]}")
    return scores


def find_importance(name: str, seed: int = 0) -> Importance:
    """Return the criterion of that name.

    Args:
        name: One of `IMPORTANCES`.
        seed: Of `random`; no other criterion draws.

    Raises:
        PruneError: There is no such criterion.
    """
    if name not in IMPORTANCES:
        raise PruneError(f"importance '{name}': must be one of {', '.join(IMPORTANCES)}{nearest(name, IMPORTANCES)}")
    return random_scores(seed) if name == "random" else IMPORTANCES[name]


def _filters(member: MemberTensors) -> Tensor:
    """Return the weights as float64 [K, weights of one filter]."""
    return member.weight.detach().double().flatten(1)


def _needed(tensor: Tensor | None, member: MemberTensors, what: str) -> Tensor:
    if tensor is None:
        raise PruneError(f"{member.name}: has no {what}; choose another importance or exclude the layer")
    return tensor.detach().double()


def batch_norm_scale(member: MemberTensors) -> Tensor:
    """``|gamma|`` of the batch norm.

    Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017.
    """
    return _needed(member.gamma, member, "batch norm, which importance 'bn' takes its scale from").abs()


def l1_norm(member: MemberTensors) -> Tensor:
    """``sum |w|`` of the filter. Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017."""
    return _filters(member).abs().sum(1)


def l2_norm(member: MemberTensors) -> Tensor:
    """``sqrt(sum w^2)`` of the filter."""
    return _filters(member).square().sum(1).sqrt()


def mean_square(member: MemberTensors) -> Tensor:
    """``sum w^2 / number of weights`` of the filter.

    With `Normalisation.MAX` per layer it is the variant of `l2_normalised` that divides by the layer's largest score.
    """
    return _filters(member).square().mean(1)


def l2_normalised(member: MemberTensors) -> Tensor:
    """`mean_square` divided by the L2 norm of the layer's scores, which makes layers comparable; a zero layer gets 0.

    Molchanov et al., "Pruning Convolutional Neural Networks for Resource Efficient Inference", ICLR 2017, section 2.2.
    """
    return torch.from_numpy(normalise(mean_square(member).cpu(), Normalisation.L2))


def geometric_median(member: MemberTensors) -> Tensor:
    """Sum of the distances to all other filters, see `fpgm.distance_sums`."""
    return distance_sums(member.weight)


def lamp(member: MemberTensors) -> Tensor:
    """LAMP over the squared filter norms: the share of a filter among those that are no smaller.

    With ``n`` the squared norms in ascending order, ``score[k] = n[k] / sum_{j >= k} n[j]``; of equal norms the later
    filter counts as the larger one. The largest filter of a layer gets 1, so a global ranking empties no layer before
    it has taken all others of every layer. A zero filter gets 0.

    Lee et al., "Layer-adaptive Sparsity for the Magnitude-based Pruning", ICLR 2021, equation 2, there for weights.
    """
    norms = _filters(member).square().sum(1)
    order = norms.argsort(stable=True)
    tails = norms[order].flip(0).cumsum(0).flip(0)
    scores = torch.zeros_like(norms)
    scores[order] = norms[order] / tails.clamp_min(torch.finfo(tails.dtype).tiny)
    return scores


def taylor(member: MemberTensors) -> Tensor:
    """First-order estimate of the loss's change without the filter, see `statistics.collect_taylor`."""
    return _needed(member.taylor, member, "collected 'taylor' statistics")


def taylor_gate(member: MemberTensors) -> Tensor:
    """The same for a gate behind the batch norm."""
    return _needed(member.gate, member, "collected 'gate' statistics of a batch norm")


def nuclear_norm(member: MemberTensors) -> Tensor:
    """Sum of the singular values of the filter as a matrix [C, R*S]."""
    weight = member.weight.detach().double()
    matrices = weight.reshape(*weight.shape[:2], -1)
    values: Tensor = torch.linalg.svdvals(matrices)
    return values.sum(1)


def activation_mean(member: MemberTensors) -> Tensor:
    """Mean ``|activation|`` of the channel over the collected images."""
    return _needed(member.activation_mean, member, "collected activations")


def random_scores(seed: int) -> Importance:
    """Return a criterion of uniform random scores that depend on the seed and the member's name only."""

    def random(member: MemberTensors) -> Tensor:
        """Uniform in [0, 1)."""
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {member.name}".encode()))
        return torch.rand(len(member.weight), generator=generator, dtype=torch.float64)

    return random


IMPORTANCES: dict[str, Importance] = {
    "bn": batch_norm_scale,
    "l1": l1_norm,
    "l2": l2_norm,
    "mean-square": mean_square,
    "l2-normalised": l2_normalised,
    "fpgm": geometric_median,
    "lamp": lamp,
    "taylor": taylor,
    "taylor-gate": taylor_gate,
    "nuclear": nuclear_norm,
    "activation": activation_mean,
    "random": random_scores(0),
}
"""Every criterion by its name."""
