# SPDX-License-Identifier: Apache-2.0
"""What is to be pruned, before anything is: the kept units of every group, and why."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cached_property

import numpy as np

from yolo_hw.errors import PruneError
from yolo_hw.prune.channels import BoolArray, FloatArray, IntArray
from yolo_hw.prune.groups import ChannelGroups, Group

PAD = -1
"""In a list of kept units: a zero channel that is added so that the count is a multiple."""


class DeadBias(str, Enum):
    """What becomes of the constant a pruned channel still emits: activation(beta), since only its gamma was small."""

    ZERO = "zero"
    """It is dropped with the channel; the masked model has gamma = beta = 0."""
    TRANSFER = "transfer"
    """It moves into the biases of the layers that read it: exact but for the border of maps padded with zeros."""
    CARRY = "carry"
    """One channel per group stays as a carrier of the constants: exact at borders, too."""


@dataclass(frozen=True)
class PrunePlan:
    """A choice of channels.

    Attributes:
        groups: All groups of the model.
        kept: Group -> kept units in rising order, then `PAD` entries; groups that are not named keep everything.
        silent: Group -> member -> [units] whether this member's filter is dead although the unit is kept for the sake
            of others (policy union).
        scores: Group -> [units] what the choice was based on.
        reasons: Group -> why its count is not what the scores alone would keep.
        carriers: Group -> a kept unit that is dead and carries constants (`DeadBias.CARRY`).
    """

    groups: ChannelGroups
    kept: Mapping[str, IntArray]
    silent: Mapping[str, Mapping[str, BoolArray]] = field(default_factory=dict)
    scores: Mapping[str, FloatArray] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    carriers: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that every choice is one."""
        for name, kept in self.kept.items():
            group = self.groups[name]
            units = kept[kept != PAD]
            if not len(kept):
                raise PruneError(f"{name}: at least 1 of {group.size} units must stay")
            if len(np.unique(units)) != len(units) or (len(units) and not 0 <= units.min() <= units.max() < group.size):
                raise PruneError(
                    f"{name}: kept units must be different indices below {group.size}, got {kept.tolist()}"
                )
            if group.why_protected is not None and len(units) != group.size:
                raise PruneError(f"{name}: cannot be pruned: {group.why_protected}")

    def kept_units(self, group: Group) -> IntArray:
        """Return the kept units of a group without added ones."""
        kept = self.kept.get(group.name)
        return np.arange(group.size) if kept is None else kept[kept != PAD]

    def added(self, group: Group) -> int:
        """Return how many zero channels are added to a group for each unit."""
        kept = self.kept.get(group.name)
        return 0 if kept is None else int((kept == PAD).sum())

    @property
    def counts(self) -> dict[str, int]:
        """Group -> number of units after pruning, added ones included."""
        return {name: len(self.kept[name]) if name in self.kept else group.size for name, group in self.groups.items()}

    @cached_property
    def alive(self) -> BoolArray:
        """[units of the graph] Whether each unit is kept."""
        alive = np.zeros(self.groups.graph.num_units, bool)
        for group in self.groups.values():
            alive[group.units[self.kept_units(group)]] = True
        return alive

    def with_followers(self) -> PrunePlan:
        """Return the plan with the channels whose number follows from others, for example those of ``[se]``."""
        kept = dict(self.kept)
        counts = self.groups.completed(np.array([list(self.counts.values())], np.int64))[0]
        for follower in self.groups.graph.followers:
            number = int(self.groups.at(follower.labels[:1])[0][0])
            name, wanted = self.groups.name_of(number), int(counts[number])
            group = self.groups[name]
            if group.why_protected is not None and wanted != group.size:
                raise PruneError(f"{name}: must have {wanted} units ({follower.why}), but it is {group.why_protected}")
            scores = self.scores.get(name, np.zeros(group.size))
            best = np.sort(np.argsort(-scores, kind="stable")[:wanted])
            kept[name] = np.concatenate([best, np.full(max(wanted - group.size, 0), PAD, np.int64)]).astype(np.int64)
        return replace(self, kept=kept)

    def with_carriers(self, names: Collection[str]) -> PrunePlan:
        """Return the plan with one dead channel kept in each of some groups.

        It takes the place of an added zero channel if there is one, else of the kept unit of the lowest score, unless
        that is the only one.

        Args:
            names: Groups that have dead channels.
        """
        kept, carriers = dict(self.kept), dict(self.carriers)
        for name in sorted(set(names) - set(carriers)):
            group, units = self.groups[name], self.kept[name]
            real = units[units != PAD]
            dead = np.setdiff1d(np.arange(group.size), real)
            scores = self.scores.get(name, np.zeros(group.size))
            pads = len(units) - len(real)
            if pads == 0 and len(real) > 1:
                real = np.delete(real, np.argmin(scores[real]))
            carrier = int(dead[np.argmax(scores[dead])])
            kept[name] = np.concatenate([np.sort(np.append(real, carrier)), np.full(max(pads - 1, 0), PAD, np.int64)])
            carriers[name] = carrier
        return replace(self, kept=kept, carriers=carriers)


def keep_all(groups: ChannelGroups) -> PrunePlan:
    """Return the plan that prunes nothing."""
    return PrunePlan(groups, {})
