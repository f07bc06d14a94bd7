# SPDX-License-Identifier: Apache-2.0
"""Pruning of darknet models: plan without touching anything, then carry the plan out."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from yolo_hw.nn.darknet import Darknet
from yolo_hw.prune.config import PruneConfig
from yolo_hw.prune.cost import CostModel, CycleEstimate
from yolo_hw.prune.darknet_surgery import darknet_groups, masked_darknet, prune_darknet
from yolo_hw.prune.layer_removal import RemovedBlock, remove_blocks
from yolo_hw.prune.match import match_layers
from yolo_hw.prune.methods import Subject, complete, find_method, plan_channels
from yolo_hw.prune.plan import PrunePlan, keep_all
from yolo_hw.prune.scoring import Statistics
from yolo_hw.prune.surgery import Surgery


@dataclass(frozen=True)
class DarknetPlan:
    """What is to become of a model.

    Attributes:
        config: The options, with nothing left to the method.
        model: The model the channels are chosen from: the given one, without the removed blocks.
        channels: The choice of channels.
        blocks: Residual blocks that are removed.
    """

    config: PruneConfig
    model: Darknet
    channels: PrunePlan
    blocks: tuple[RemovedBlock, ...] = ()

    def cost_model(self, cycles: CycleEstimate | None = None) -> CostModel:
        """Return what prices the plan's choice, and any other of the same groups."""
        return CostModel.of_module(self.channels.groups, self.model, cycles)


@dataclass(frozen=True)
class Pruned:
    """A pruned model and how it came about.

    Attributes:
        model: The compact model; its `network.cfg` is the text of the smaller cfg.
        plan: The plan it was made by.
        surgery: The plan as carried out, with the states of the masked and the compact model.
    """

    model: Darknet
    plan: DarknetPlan
    surgery: Surgery

    @property
    def is_adapted(self) -> bool:
        """Whether the model's batch norms have adapted to images since the surgery."""
        state = self.model.state_dict()
        return any(not torch.equal(state[key], value) for key, value in self.surgery.compact.items())

    def masked_model(self) -> Darknet:
        """Return the model of full size whose pruned channels are dead."""
        return masked_darknet(self.plan.model, self.surgery)


def plan_pruning(
    model: Darknet,
    config: PruneConfig,
    *,
    statistics: Statistics | None = None,
    cycles: CycleEstimate | None = None,
) -> DarknetPlan:
    """Choose what to prune; nothing is changed.

    Args:
        model: The trained model.
        config: Method and options.
        statistics: Gradients or activations for the criteria that need them, of the model without the blocks that go.
        cycles: Prices a budget of cycles, of the same model.

    Returns:
        The plan, to look at or to pass to `carry_out`.

    Raises:
        PruneError: An option names nothing, has no effect on the method, or cannot be met.
    """
    method, full = find_method(config.method), complete(config)
    whole = model
    model, blocks = without_blocks(model, config)
    if blocks:
        config = _renamed(config, whole, model, blocks)
    groups = darknet_groups(model)
    if not method.removes_channels:
        return DarknetPlan(full, model, keep_all(groups), blocks)
    subject = Subject(groups, model.state_dict(), tuple(key for key, _ in model.named_parameters()))
    return DarknetPlan(full, model, plan_channels(subject, config, statistics=statistics, cycles=cycles), blocks)


def without_blocks(model: Darknet, config: PruneConfig) -> tuple[Darknet, tuple[RemovedBlock, ...]]:
    """Remove the residual blocks that a config wants gone; the excluded layers stay.

    Args:
        model: The trained model; it is not changed.
        config: Method and options.

    Returns:
        The model the channels are chosen from, which is the given one where no block goes; and the blocks.

    Raises:
        PruneError: See `remove_blocks` and `match_layers`.
    """
    if not find_method(config.method).removes_blocks:
        return model, ()
    return remove_blocks(model, config.blocks, excluded_layers(model, config))


def excluded_layers(model: Darknet, config: PruneConfig) -> list[str]:
    """Return the names of the layers that `PruneConfig.exclude` means."""
    layers = darknet_groups(model).graph.layers
    return match_layers(list(layers), list(layers.values()), config.exclude)


def _renamed(config: PruneConfig, whole: Darknet, model: Darknet, blocks: tuple[RemovedBlock, ...]) -> PruneConfig:
    """Return the config with include and exclude in the names of the model without blocks, whose layers are renumbered.

    Of the layers that are gone no name is left.
    """
    layers = darknet_groups(whole).graph.layers
    gone = {name for block in blocks for name in block.layers}
    left = [layer.name for layer in whole.network.layers if layer.name not in gone]
    new = dict(zip(left, (layer.name for layer in model.network.layers), strict=True))

    def rename(patterns: tuple[str, ...]) -> tuple[str, ...]:
        found = [name.partition(".") for name in match_layers(list(layers), list(layers.values()), patterns)]
        return tuple(new[name] + dot + part for name, dot, part in found if name in new)

    include = None if config.include is None else rename(config.include)
    return replace(config, include=include, exclude=rename(config.exclude))


def carry_out(plan: DarknetPlan) -> Pruned:
    """Make the compact model of a plan.

    Args:
        plan: From `plan_pruning`.

    Returns:
        The model and its history; the plan's own model stays as it is.

    Raises:
        PruneError: See `operate`.
    """
    assert plan.config.dead_bias is not None
    pruned = prune_darknet(plan.model, plan.channels, plan.config.dead_bias)
    return Pruned(pruned.model, plan, pruned.surgery)


def prune_model(
    model: Darknet,
    config: PruneConfig,
    *,
    statistics: Statistics | None = None,
    cycles: CycleEstimate | None = None,
) -> Pruned:
    """Prune a darknet model: `plan_pruning`, then `carry_out`.

    Args:
        model: The trained model; it is not changed.
        config: Method and options.
        statistics: Gradients or activations for the criteria that need them.
        cycles: Prices a budget of cycles.

    Returns:
        The compact model and its history.

    Raises:
        PruneError: An option names nothing or cannot be met.
    """
    return carry_out(plan_pruning(model, config, statistics=statistics, cycles=cycles))
