# SPDX-License-Identifier: Apache-2.0
"""Scores of groups from the scores of the layers that make their channels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from yolo_hw.errors import PruneError
from yolo_hw.prune.channels import FloatArray, IntArray
from yolo_hw.prune.groups import Group, Member
from yolo_hw.prune.importance import Importance, MemberTensors, score_member
from yolo_hw.prune.reduce import Normalisation, Reduction, normalise, reduce_scores

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Statistics:
    """What criteria beyond the weights look at; layer -> [K] or the shape of its weight.

    See `yolo_hw.prune.statistics` for where they come from.
    """

    gradients: Mapping[str, Tensor] = field(default_factory=dict)
    taylor: Mapping[str, Tensor] = field(default_factory=dict)
    gates: Mapping[str, Tensor] = field(default_factory=dict)
    activations: Mapping[str, Tensor] = field(default_factory=dict)


class Scorer:
    """Scores layers once and groups from them."""

    def __init__(
        self,
        state: State,
        importance: Importance,
        normalisation: Normalisation = Normalisation.NONE,
        statistics: Statistics | None = None,
    ) -> None:
        """Remember what to score by.

        Args:
            state: The model's state dict.
            importance: Criterion.
            normalisation: Of each layer's scores.
            statistics: What the criterion needs beyond the weights.
        """
        self.state = state
        self.importance = importance
        self.normalisation = normalisation
        self.statistics = statistics or Statistics()
        self._scores: dict[str, FloatArray] = {}

    def layer(self, member: Member) -> FloatArray:
        """Return [K] the scores of all output channels of a layer."""
        if member.name not in self._scores:
            scores = score_member(self.importance, self.tensors(member))
            self._scores[member.name] = normalise(scores, self.normalisation)
        return self._scores[member.name]

    def members(self, group: Group) -> list[tuple[Member, FloatArray, IntArray]]:
        """Return (layer, scores of its channels in the group, their units) of every layer that decides."""
        return [(m, self.layer(m)[m.positions], m.units) for m in deciders(group)]

    def group(self, group: Group, reduction: Reduction) -> FloatArray:
        """Return [units] the scores of a group."""
        found = self.members(group)
        return reduce_scores([(scores, units) for _, scores, units in found], group.size, reduction)

    def tensors(self, member: Member) -> MemberTensors:
        """Return what a criterion sees of a layer."""
        gamma = self._get(member.norm.weight if member.norm else None)
        weight = self._get(member.filters.weight if member.filters else None)
        if weight is None:  # a batch norm alone: its scale is all the weight there is
            if gamma is None:
                raise PruneError(f"{member.name}: has neither weights nor a scale to score")
            weight = gamma.reshape(-1, 1)
        return MemberTensors(
            name=member.name,
            weight=weight,
            gamma=gamma,
            beta=self._get(member.norm.bias if member.norm else None),
            gradient=self.statistics.gradients.get(member.name),
            taylor=self.statistics.taylor.get(member.name),
            gate=self.statistics.gates.get(member.name),
            activation_mean=self.statistics.activations.get(member.name),
        )

    def _get(self, key: str | None) -> Tensor | None:
        return None if key is None else self.state[key].detach()


def deciders(group: Group) -> list[Member]:
    """Return the layers whose scores count: those with a batch norm, or all where none has one."""
    with_norm = [m for m in group.members if m.norm is not None and m.norm.weight is not None]
    return with_norm or [m for m in group.members if m.filters is not None] or list(group.members)


def shape_key(group: Group) -> tuple[object, ...]:
    """Return what groups have in common that are ranked together under `Scope.ISOMORPHIC`."""
    kinds = tuple(
        (m.kind, m.filters.kernel if m.filters else None, m.filters.height if m.filters else None)
        for m in group.members
    )
    return (kinds, len(np.unique(group.units)))
