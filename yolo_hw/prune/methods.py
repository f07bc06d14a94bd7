# SPDX-License-Identifier: Apache-2.0
"""The methods by name: each is a set of defaults, a rule which groups it touches, and whether layers go first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace

from torch import Tensor

from yolo_hw.errors import PruneError, nearest
from yolo_hw.prune.choose import Choice, Eligible, choose, eligible_groups
from yolo_hw.prune.config import PruneConfig
from yolo_hw.prune.cost import CostModel, CycleEstimate
from yolo_hw.prune.groups import ChannelGroups, Group
from yolo_hw.prune.importance import find_importance
from yolo_hw.prune.plan import DeadBias, PrunePlan
from yolo_hw.prune.ranking import Scope
from yolo_hw.prune.reduce import Normalisation, Reduction
from yolo_hw.prune.scoring import Scorer, Statistics, deciders
from yolo_hw.prune.select import Policy


def any_group(group: Group) -> str | None:
    """Leave no group alone."""
    return None


def plain_group(group: Group) -> str | None:
    """Leave groups alone whose channels several layers make."""
    makers = [m.name for m in group.members if m.filters is not None]
    return f"made by several layers: {', '.join(makers)}" if len(makers) > 1 else None


def scaled_group(group: Group) -> str | None:
    """Leave groups alone that have no batch norm."""
    return None if any(m.norm and m.norm.weight for m in group.members) else "has no batch norm to judge by"


def plain_scaled_group(group: Group) -> str | None:
    """Leave groups alone that several layers make or that have no batch norm."""
    return plain_group(group) or scaled_group(group)


@dataclass(frozen=True)
class Method:
    """A way of pruning channels.

    Attributes:
        summary: In one sentence.
        defaults: Its options; what a config gives goes before.
        rule: Which groups it leaves alone.
        removes_blocks: Whether whole residual blocks go before channels.
        removes_channels: Whether channels go.
        silence: Whether layers that voted against a kept unit have its filter killed.
    """

    summary: str
    defaults: PruneConfig = field(default_factory=PruneConfig)
    rule: Eligible = any_group
    removes_blocks: bool = False
    removes_channels: bool = True
    silence: bool = False


_GAMMA = PruneConfig(
    importance="bn",
    scope=Scope.GLOBAL,
    reduction=Reduction.MAX,
    multiple_of=1,
    min_share=0.0,
    dead_bias=DeadBias.TRANSFER,
)
_NORM = replace(_GAMMA, importance="l2", scope=Scope.LOCAL, policy=Policy.UNION, dead_bias=DeadBias.ZERO)

METHODS: dict[str, Method] = {
    "normal": Method(
        "batch-norm scales ranked over the network; layers that share channels with others stay",
        _GAMMA,
        plain_scaled_group,
    ),
    "regular": Method(
        "batch-norm scales ranked over the network, every count rounded to a multiple; shared channels go together",
        replace(_GAMMA, multiple_of=8),
        scaled_group,
    ),
    "shortcut": Method(
        "as normal with shared channels, for which the first layer of a residual chain decides",
        replace(_GAMMA, reduction=Reduction.FIRST),
        scaled_group,
    ),
    "slim": Method(
        "each layer votes by its batch-norm scales; what any layer of a residual chain wants stays, and at least 1 %",
        replace(_GAMMA, policy=Policy.UNION, min_share=0.01),
        scaled_group,
    ),
    "layer": Method(
        "the residual blocks whose last batch norm has the smallest mean scale go", _GAMMA, scaled_group, True, False
    ),
    "layer-channel": Method(
        "layer, then slim", replace(_GAMMA, policy=Policy.UNION, min_share=0.01), scaled_group, True
    ),
    "layer-channel-regular": Method("layer, then regular", replace(_GAMMA, multiple_of=8), scaled_group, True),
    "l2": Method(
        "filter norms as LAMP scores ranked over the network; layers that a sum joins share their mean score",
        replace(_GAMMA, importance="lamp", reduction=Reduction.MEAN, dead_bias=DeadBias.TRANSFER),
    ),
    "l1-reconstruct": Method(
        "each layer loses the same share of filters, by their L1 norm; joined layers keep the union",
        replace(_NORM, importance="l1"),
        silence=True,
    ),
    "l2-reconstruct": Method(
        "each layer loses the same share of filters, by their L2 norm; joined layers keep the union",
        _NORM,
        silence=True,
    ),
    "fpgm": Method(
        "each layer loses the same share of filters, those nearest to all others; joined layers keep the union",
        replace(_NORM, importance="fpgm"),
        silence=True,
    ),
    "filters": Method(
        "mean square of filters, each layer's scores of length 1, ranked over the network",
        replace(_GAMMA, importance="l2-normalised", reduction=Reduction.MEAN),
    ),
}
"""Every method that chooses channels by scores."""
SEARCHES = {"eagleeye": "the best of many random prunings of equal cost, scored with adapted batch norms"}
"""Every method that searches, with its summary; see `yolo_hw.prune.eagleeye`."""


def method_summary(name: str) -> str:
    """Return what a method does in one sentence."""
    return SEARCHES[name] if name in SEARCHES else find_method(name).summary


def find_method(name: str) -> Method:
    """Return a method by name.

    Raises:
        PruneError: There is none of that name.
    """
    if name not in METHODS:
        raise PruneError(f"prune: method must be one of {', '.join(METHODS)}, got '{name}'{nearest(name, METHODS)}")
    return METHODS[name]


COMPARABLE = ("bn", "lamp", "l2-normalised", "taylor", "taylor-gate", "random")
"""Criteria whose scores mean the same in every layer; the others are divided by the mean of their layer."""


def complete(config: PruneConfig) -> PruneConfig:
    """Return the config with what it leaves open filled in by its method.

    A budget ranks reduced scores, so it takes the place of a method's vote. Scores that differ in scale from layer to
    layer are made comparable.

    Raises:
        PruneError: There is no such method, or an option has no effect on it.
    """
    _refuse_unheeded(config)
    defaults = find_method(config.method).defaults
    open_fields = [f.name for f in fields(config) if getattr(config, f.name) is None]
    given = {name: getattr(defaults, name) for name in open_fields if name not in ("ratio", "budget", "include")}
    if config.budget is not None and config.policy is None:
        given["policy"] = None
    if config.normalisation is None:
        criterion = config.importance or defaults.importance
        given["normalisation"] = Normalisation.NONE if criterion in COMPARABLE else Normalisation.MEAN
    return replace(config, **given)


_OF_CHANNELS = ("ratio", "budget", "importance", "scope", "policy", "reduction", "normalisation", "include")
"""Options that say which channels go and nothing else."""


def _refuse_unheeded(config: PruneConfig) -> None:
    method = find_method(config.method)
    unheeded = [] if method.removes_blocks else ["blocks"]
    unheeded += [] if method.removes_channels else _OF_CHANNELS
    for name in unheeded:
        if getattr(config, name) not in (None, 0):
            raise PruneError(f"prune: {name} has no effect on method '{config.method}': leave it out")


@dataclass(frozen=True)
class Subject:
    """A model as far as a choice of channels sees it.

    Attributes:
        groups: Its channel groups.
        state: Its state dict.
        params: Keys of its learned tensors.
    """

    groups: ChannelGroups
    state: Mapping[str, Tensor]
    params: tuple[str, ...]


def plan_channels(
    subject: Subject,
    config: PruneConfig,
    *,
    statistics: Statistics | None = None,
    cycles: CycleEstimate | None = None,
) -> PrunePlan:
    """Choose channels by a method; nothing is changed.

    Args:
        subject: The model.
        config: The method and its options.
        statistics: What criteria beyond the weights need.
        cycles: Prices a budget of cycles.

    Returns:
        The plan.

    Raises:
        PruneError: An option names nothing or cannot be met.
    """
    method, full = find_method(config.method), complete(config)
    importance = full.importance
    assert importance is not None
    assert full.normalisation is not None
    criterion = find_importance(importance, full.seed) if isinstance(importance, str) else importance
    groups, eligible = eligible_groups(subject.groups, full, method.rule)
    cost = CostModel(groups, {key: tuple(subject.state[key].shape) for key in subject.params}, cycles=cycles)
    scorer = Scorer(subject.state, criterion, full.normalisation, statistics)
    return choose(Choice(groups, scorer, cost, full), eligible, silence=method.silence)


def find_scale_method(name: str) -> Method:
    """Return a method that judges by batch-norm scales.

    Raises:
        PruneError: There is none of that name, or it judges by something else.
    """
    method = find_method(name)
    if method.defaults.importance != "bn":
        raise PruneError(f"sparse training: method '{name}' does not judge by batch-norm scales")
    return method


def eligible_norms(groups: ChannelGroups, config: PruneConfig) -> list[str]:
    """Return the batch norms whose scales a method will judge by: those to train with a penalty before it.

    Args:
        groups: All groups of the model.
        config: The method, include and exclude.

    Returns:
        Names of modules in graph order.

    Raises:
        PruneError: See `eligible_groups` and `find_scale_method`.
    """
    method = find_scale_method(config.method)
    _, eligible = eligible_groups(groups, config, method.rule)
    norms = {m.norm.weight: None for group in eligible for m in deciders(group) if m.norm and m.norm.weight}
    return [key.removesuffix(".weight") for key in norms]
