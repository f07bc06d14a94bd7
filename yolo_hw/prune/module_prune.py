# SPDX-License-Identifier: Apache-2.0
"""Pruning of any torch module that can be traced: plan without touching anything, then carry the plan out."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from yolo_hw.errors import PruneError
from yolo_hw.prune.config import PruneConfig
from yolo_hw.prune.cost import CostModel, CycleEstimate
from yolo_hw.prune.example_trace import Inputs
from yolo_hw.prune.methods import Subject, complete, find_method, plan_channels
from yolo_hw.prune.plan import PrunePlan
from yolo_hw.prune.scoring import Statistics
from yolo_hw.prune.torch_graph import TracedChannels, trace_model
from yolo_hw.prune.traced_surgery import PrunedModule, prune_traced, traced_groups


@dataclass(frozen=True, eq=False)
class ModulePlan:
    """What is to become of a module.

    Attributes:
        config: The options, with nothing left to the method.
        traced: The module, traced.
        channels: The choice of channels.
    """

    config: PruneConfig
    traced: TracedChannels
    channels: PrunePlan

    def cost_model(self, cycles: CycleEstimate | None = None) -> CostModel:
        """Return what prices the plan's choice, and any other of the same groups."""
        return CostModel.of_module(self.channels.groups, self.traced.traced.module, cycles)


def plan_module(
    module: nn.Module,
    example: Tensor | Inputs,
    config: PruneConfig,
    *,
    statistics: Statistics | None = None,
    cycles: CycleEstimate | None = None,
) -> ModulePlan:
    """Choose what to prune of any module; nothing is changed.

    Args:
        module: The trained module.
        example: What it takes: a tensor, or several.
        config: Method and options; methods that remove layers need a cfg and so a `Darknet`.
        statistics: Gradients or activations for the criteria that need them.
        cycles: Prices a budget of cycles.

    Returns:
        The plan, to look at or to pass to `prune_traced`.

    Raises:
        PruneError: The module cannot be traced, or an option names nothing or cannot be met.
    """
    if find_method(config.method).removes_blocks:
        raise PruneError(f"prune: method '{config.method}' removes layers of a cfg, got a {type(module).__name__}")
    traced = trace_model(module, example)
    params = tuple(key for key, _ in module.named_parameters())
    subject = Subject(traced_groups(traced), module.state_dict(), params)
    return ModulePlan(complete(config), traced, plan_channels(subject, config, statistics=statistics, cycles=cycles))


def prune_module(
    module: nn.Module,
    example: Tensor | Inputs,
    config: PruneConfig,
    *,
    statistics: Statistics | None = None,
    cycles: CycleEstimate | None = None,
) -> PrunedModule:
    """Prune any module that can be traced: `plan_module`, then `prune_traced`.

    Args:
        module: The trained module; it is not changed.
        example: What it takes: a tensor, or several.
        config: Method and options.
        statistics: Gradients or activations for the criteria that need them.
        cycles: Prices a budget of cycles.

    Returns:
        The compact module and its history.

    Raises:
        PruneError: See `plan_module` and `operate`.
    """
    plan = plan_module(module, example, config, statistics=statistics, cycles=cycles)
    assert plan.config.dead_bias is not None
    return prune_traced(plan.traced, plan.channels, plan.config.dead_bias)
