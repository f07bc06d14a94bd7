# SPDX-License-Identifier: Apache-2.0
"""From groups and options to a plan: eligible groups, their scores, a selection."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from yolo_hw.errors import PruneError
from yolo_hw.prune.channels import BoolArray, FloatArray, IntArray
from yolo_hw.prune.config import PruneConfig
from yolo_hw.prune.cost import CostModel
from yolo_hw.prune.groups import ChannelGroups, Group
from yolo_hw.prune.importance import IMPORTANCES
from yolo_hw.prune.match import match_layers
from yolo_hw.prune.multiples import Regular
from yolo_hw.prune.plan import DeadBias, PrunePlan
from yolo_hw.prune.ranking import Candidate, Scope, Selection
from yolo_hw.prune.reduce import Reduction
from yolo_hw.prune.scoring import Scorer, State, shape_key
from yolo_hw.prune.select import select_budget, select_ratio, select_votes

Eligible = Callable[[Group], str | None]
"""Group -> why a method leaves it alone, or None."""


@dataclass(frozen=True)
class Choice:
    """Everything a selection needs.

    Attributes:
        groups: All groups.
        scorer: Scores of layers.
        cost: Prices of choices.
        config: Options, with nothing left to the method.
    """

    groups: ChannelGroups
    scorer: Scorer
    cost: CostModel
    config: PruneConfig


def eligible_groups(groups: ChannelGroups, config: PruneConfig, rule: Eligible) -> tuple[ChannelGroups, list[Group]]:
    """Apply include, exclude and a method's own rule.

    Args:
        groups: All groups.
        config: Options.
        rule: The method's.

    Returns:
        The groups with those that must stay protected, and the rest.

    Raises:
        PruneError: A pattern means no layer; a layer is asked for by its name that cannot be pruned; nothing is left.
    """
    layers = groups.graph.layers
    makers = {m.name: group for group in groups.values() for m in group.members}
    names, types = list(layers), list(layers.values())
    included = set(names if config.include is None else match_layers(names, types, config.include))
    excluded = set(match_layers(names, types, config.exclude))
    for name in config.include or ():
        if name in makers and not any(g.prunable for g in groups.values() if name in _members(g)):
            group = makers[name]
            raise PruneError(f"prune: {name} cannot be pruned: {group.why_protected or group.why_follows}")
    reasons = {}
    for group in groups.prunable:
        members = _members(group)
        if members & excluded:
            reasons[group.name] = f"excluded: {', '.join(sorted(members & excluded))}"
        elif not members & included:
            reasons[group.name] = "not included"
        elif why := rule(group):
            reasons[group.name] = why
    vetoed = groups.veto(reasons)
    left = list(vetoed.prunable)
    if not left:
        why = next(iter(reasons.values()), "every group is protected")
        raise PruneError(f"prune: at least one group must be left to prune, the last reason against one is: {why}")
    return vetoed, left


def choose(choice: Choice, eligible: Sequence[Group], *, silence: bool = False) -> PrunePlan:
    """Select units by ratio, budget or votes.

    Args:
        choice: Groups, scores, prices and options.
        eligible: The groups to choose from.
        silence: Under a vote, kill the filters of the layers that voted against a unit the others keep.

    Returns:
        The plan.
    """
    config = choice.config
    reduction = config.reduction or Reduction.MEAN
    candidates = [
        make_candidate(choice.groups, group, config, choice.scorer.group(group, reduction)) for group in eligible
    ]
    scope, regular = config.scope or Scope.GLOBAL, Regular(config.rounding, config.narrow)
    silent: dict[str, dict[str, BoolArray]] = {}
    if config.budget is not None:
        if config.policy is not None:
            raise PruneError("prune: a policy votes at a ratio, a budget needs reduced scores; give one of them")
        selection = select_budget(candidates, config.budget, choice.cost.of(config.budget.kind), scope, regular)
    elif config.policy is None:
        selection = select_ratio(candidates, _ratio(config), scope, regular)
    else:
        ballots = _vote(choice, eligible, scope)
        selection = select_votes(
            candidates,
            {name: np.array(list(votes.values())) for name, votes in ballots.items()},
            config.policy,
            regular,
        )
        if silence:
            silent = _silent(selection, ballots)
    scores = {c.name: np.asarray(c.scores, np.float64) for c in candidates}
    scores |= follower_scores(choice.groups, choice.scorer.state)
    return PrunePlan(choice.groups, selection.kept, silent, scores, selection.reasons)


def _members(group: Group) -> set[str]:
    return {member.name for member in group.members}


def _ratio(config: PruneConfig) -> float:
    if config.ratio is None:
        raise PruneError(f"prune: method '{config.method}' needs a ratio or a budget, got neither")
    return config.ratio


def follower_scores(groups: ChannelGroups, state: State) -> dict[str, FloatArray]:
    """Return the scores of the groups whose number of units follows from others: the L2 norms of their filters."""
    by_norm = Scorer(state, IMPORTANCES["l2"])
    return {group.name: by_norm.group(group, Reduction.MEAN) for group in groups.values() if group.why_follows}


def make_candidate(groups: ChannelGroups, group: Group, config: PruneConfig, scores: FloatArray) -> Candidate:
    """Return a group with its scores [units], and what its number of units may become by the config.

    Where a carrier of constants may take the place of a kept unit, two stay: so no count grows after it was priced.
    """
    fewest = 2 if config.dead_bias is DeadBias.CARRY else 1
    minimum = max(config.min_channels, math.ceil(group.size * (config.min_share or 0)), fewest)
    return Candidate(
        group.name, scores, unit_multiple(groups, group, config), min(minimum, group.size), shape_key(group)
    )


def unit_multiple(groups: ChannelGroups, group: Group, config: PruneConfig) -> int:
    """Return what the units of a group must be a multiple of so that channels are.

    A unit may be several channels of a tensor: n channels per unit meet a multiple m if the units meet m / gcd(m, n).
    """
    copies = groups.slot_copies[:, groups.number_of(group.name)]
    wanted = 1
    for slot, count in zip(groups.graph.slots, copies.tolist(), strict=True):
        if count and slot.dim < 2:
            multiple = (config.multiple_of or 1) if slot.produces else config.input_multiple_of
            wanted = math.lcm(wanted, multiple // math.gcd(multiple, count))
    return wanted


def _vote(choice: Choice, eligible: Sequence[Group], scope: Scope) -> dict[str, dict[str, BoolArray]]:
    """Return group -> layer -> [units] whether that layer alone would keep each unit."""
    ballots: dict[str, dict[str, BoolArray]] = {}
    voters: list[Candidate] = []
    for group in eligible:
        for member, scores, units in choice.scorer.members(group):
            best = np.full(group.size, -np.inf)
            np.maximum.at(best, units, scores)
            floor = np.min(scores)
            voter = make_candidate(choice.groups, group, choice.config, np.maximum(best, floor))
            voters.append(replace(voter, name=f"{group.name}\0{member.name}"))
    minimums = [replace(voter, multiple=1) for voter in voters]
    for name, kept in select_ratio(minimums, _ratio(choice.config), scope, Regular()).kept.items():
        group_name, member_name = name.split("\0")
        vote = np.zeros(choice.groups[group_name].size, bool)
        vote[kept] = True
        ballots.setdefault(group_name, {})[member_name] = vote
    return ballots


def _silent(selection: Selection, ballots: dict[str, dict[str, BoolArray]]) -> dict[str, dict[str, BoolArray]]:
    """Return what each layer voted against although somebody voted for it and it is kept."""
    silent: dict[str, dict[str, BoolArray]] = {}
    for name, votes in ballots.items():
        kept = np.zeros(len(next(iter(votes.values()))), bool)
        kept[_real(selection.kept[name])] = True
        wanted = kept & np.any(list(votes.values()), axis=0)
        silent[name] = {member: wanted & ~vote for member, vote in votes.items()}
    return silent


def _real(kept: IntArray) -> IntArray:
    return kept[kept >= 0]
