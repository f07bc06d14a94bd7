# SPDX-License-Identifier: Apache-2.0
"""What dead channels still emit, followed through the network.

A channel whose batch norm has gamma = 0 emits activation(beta), a constant map. Sums add constants, concatenation,
pooling and enlargement pass them on, and a convolution that reads the constant a_c of dead channels c adds
``sum_c a_c * sum_rs W[k, c, r, s]`` to its output k, which its bias can take over. Only where the convolution pads its
input with zeros is the border different, because a bias has no border.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from yolo_hw.prune.channels import BoolArray, ChannelGraph, FloatArray, Op
from yolo_hw.prune.groups import ChannelGroups
from yolo_hw.prune.plan import PrunePlan

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Constants:
    """Constants of dead channels.

    Attributes:
        reads: Layer of filters -> [C] what it reads from each channel: a constant, NaN where the channel is alive.
        lost: Groups whose constants are not known after some layer, for example a gate -> that layer.
    """

    reads: Mapping[str, FloatArray]
    lost: dict[str, str]


def dead_units(plan: PrunePlan) -> BoolArray:
    """Return [units of the graph] which emit constants: the pruned ones and the carriers."""
    dead = ~plan.alive
    for name, unit in plan.carriers.items():
        dead[plan.groups[name].units[unit]] = True
    return dead


def find_constants(plan: PrunePlan, state: State) -> Constants:
    """Follow the constants of the dead channels of a masked model.

    Args:
        plan: The choice.
        state: State dict of the masked model: dead channels have gamma = 0 and their own beta or bias.

    Returns:
        The constants where they are read.
    """
    return _follow(plan.groups, dead_units(plan), state)


def _follow(groups: ChannelGroups, dead: BoolArray, state: State | None) -> Constants:
    """See `find_constants`; without a state all betas and biases are zero."""
    graph = groups.graph
    values: dict[int, FloatArray] = {}
    reads: dict[str, FloatArray] = {}
    lost: dict[str, str] = {}
    for op in graph.ops:
        inputs = [values.get(v.index, np.full(v.channels, np.nan)) for v in op.inputs]
        mine = dead[graph.unit_of[op.output.labels]]
        out = np.where(mine, _transfer(op, inputs, state), np.nan)
        values[op.output.index] = out
        index, _ = groups.at(op.output.labels[mine & np.isnan(out)])
        lost.update((groups.name_of(number), op.layer) for number in np.unique(index).tolist())
        if op.filters is not None and not op.whole_groups:
            reads[op.filters.name] = inputs[0]
    return Constants(reads, lost)


def _transfer(op: Op, inputs: list[FloatArray], state: State | None) -> FloatArray:
    """Return the constants an operation emits for dead channels; NaN where it is not known."""
    channels = op.output.channels
    if op.filters is not None or op.norm is not None:
        key = op.filters.bias if op.filters is not None else op.norm.bias if op.norm is not None else None
        return (
            np.zeros(channels)
            if key is None or state is None
            else np.asarray(state[key].detach().double().cpu().numpy())
        )
    if op.kind == "elementwise":
        assert op.function is not None
        return np.where(np.isnan(inputs[0]), np.nan, op.function(inputs[0]))
    if op.kind == "zeros":
        return np.zeros(channels)
    if op.kind == "sum":
        total: FloatArray = inputs[0].copy()
        for other in inputs[1:]:
            shared = min(len(other), channels)
            total[:shared] += other[:shared]
        return total
    if op.kind == "product":
        zero = np.any([x == 0 for x in inputs], axis=0)
        return np.where(zero, 0.0, np.prod(inputs, axis=0))
    if op.kind == "scaled":
        return np.where(inputs[0] == 0, 0.0, np.nan)
    if op.kind == "move":
        joined = np.concatenate(inputs)
        moved = joined if op.sources is None else joined[op.sources]
        if moved.ndim == 2:
            moved = np.where((moved == moved[:, :1]).all(1), moved[:, 0], np.nan)
        return np.where(moved == 0, 0.0, np.nan) if op.needs_zero else moved
    return np.full(channels, np.nan)


def offsets(op: Op, reads: FloatArray, weight: Tensor) -> FloatArray:
    """Return what the constants that filters read add to their outputs.

    Args:
        op: The filters.
        reads: [C] constants, NaN where a channel is alive.
        weight: [K, C / groups, ...].

    Returns:
        [K] ``sum_c a_c sum_rs W[k, c, r, s]``.
    """
    assert op.filters is not None
    per_group = torch.from_numpy(np.nan_to_num(reads)).reshape(op.filters.groups, -1)
    sums = weight.detach().double().cpu().reshape(*weight.shape[:2], -1).sum(2)
    by_group = sums.reshape(op.filters.groups, -1, sums.shape[1])
    return np.asarray(torch.einsum("gkc,gc->gk", by_group, per_group).reshape(-1).numpy())


def find_groups(graph: ChannelGraph) -> ChannelGroups:
    """Return the groups of a graph; those whose dead channels could not be told to be constant are protected.

    A sigmoid turns zero into one half, which after a gate of unknown size is no constant that anything could take up.
    """
    groups = ChannelGroups(graph)
    lost = _follow(groups, np.ones(graph.num_units, bool), None).lost
    return groups.veto(
        {
            name: f"what its channels emit without weights is not known after {layer}"
            for name, layer in lost.items()
            if groups[name].prunable
        }
    )
