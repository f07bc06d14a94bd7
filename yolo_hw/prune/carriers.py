# SPDX-License-Identifier: Apache-2.0
"""Carriers: one dead channel of a group that stays, to carry the constants of all its dead channels.

A bias cannot express a constant map at the border of an input padded with zeros, and some layers have no bias at all.
There a channel of constant 1 does it: its weight in a reader is ``sum_c a_c W[k, c, r, s] / a`` over the dead
channels c, where a is what arrives of the 1, so every tap keeps its own share.
"""

from __future__ import annotations

from collections.abc import MutableMapping

import numpy as np
import torch
from torch import Tensor

from yolo_hw.prune.channels import FloatArray, Op
from yolo_hw.prune.constants import Constants, find_constants
from yolo_hw.prune.plan import PrunePlan


def stuck_reads(plan: PrunePlan, constants: Constants, *, padded: bool) -> dict[str, str]:
    """Return the groups without carrier whose constants are read where a bias cannot take them up.

    Args:
        plan: The choice.
        constants: Of its dead channels.
        padded: Whether convolutions that pad with zeros count, beside the layers that cannot have a bias.

    Returns:
        Group -> layer that reads it.
    """
    found: dict[str, str] = {}
    for op in plan.groups.graph.ops:
        if op.filters is None or not (op.filters.fixed_bias or (padded and op.filters.padded)):
            continue
        reads = constants.reads.get(op.filters.name)
        if reads is None:
            continue
        index, _ = plan.groups.at(op.inputs[0].labels[np.nan_to_num(reads) != 0])
        for number in np.unique(index).tolist():
            name = plan.groups.name_of(number)
            if name not in plan.carriers:
                found.setdefault(name, op.layer)
    return found


def set_carriers(plan: PrunePlan, state: MutableMapping[str, Tensor]) -> Constants:
    """Make every layer of a group with a carrier emit 1 there before its activation.

    Args:
        plan: The choice.
        state: State of the masked model; the biases of carriers are changed.

    Returns:
        The constants that are then read.
    """
    for name, unit in plan.carriers.items():
        for member in plan.groups[name].members:
            key = (member.norm.bias if member.norm else None) or (member.filters.bias if member.filters else None)
            if key is not None:
                rows = torch.from_numpy(member.positions[member.units == unit])
                state[key] = state[key].detach().index_fill(0, rows.to(state[key].device), 1)
    return find_constants(plan, state)


def failing_carriers(plan: PrunePlan, masked: MutableMapping[str, Tensor], constants: Constants) -> dict[str, str]:
    """Return the carriers of which nothing arrives where constants are read: group -> layer."""
    if not plan.carriers:
        return {}
    carried = set_carriers(plan, dict(masked))
    failing = {name: layer for name, layer in carried.lost.items() if name in plan.carriers}
    for op in plan.groups.graph.ops:
        reads = constants.reads.get(op.layer) if op.filters is not None else None
        if reads is None:
            continue
        index, place = plan.groups.at(op.inputs[0].labels)
        for name, unit in plan.carriers.items():
            mine = index == plan.groups.number_of(name)
            if np.nan_to_num(reads[mine]).any() and not carried.reads[op.layer][mine & (place == unit)].any():
                failing.setdefault(name, op.layer)
    return failing


def load_carriers(
    plan: PrunePlan, op: Op, state: MutableMapping[str, Tensor], reads: FloatArray, carried: FloatArray
) -> FloatArray:
    """Give the weights of dead channels to the carriers of their groups.

    Args:
        plan: The choice.
        op: The filters that read them.
        state: Full size; the weight of `op` is changed.
        reads: [C] constants of the masked model, NaN where a channel is alive.
        carried: [C] the same with carriers set.

    Returns:
        [C] The constants that are left for the bias.
    """
    assert op.filters is not None
    rest: FloatArray = reads.copy()
    labels = op.inputs[0].labels
    index, place = plan.groups.at(labels)
    weight = state[op.filters.weight].detach().clone()
    inside, rows = len(labels) // op.filters.groups, weight.shape[0] // op.filters.groups
    for name, unit in plan.carriers.items():
        mine = (index == plan.groups.number_of(name)) & ~np.isnan(reads)
        for part in range(op.filters.groups):
            here = slice(part * inside, (part + 1) * inside)
            dead = np.flatnonzero(mine[here])
            if not len(dead):
                continue
            at = int(np.flatnonzero(mine[here] & (place[here] == unit))[0])
            out = slice(part * rows, (part + 1) * rows)
            gone = torch.from_numpy(dead).to(weight.device)
            taps = weight[out, gone].double()
            weight[out, gone] = 0  # of a unit with several channels one carries all
            if not reads[here][dead].any():
                continue
            shares = torch.from_numpy(reads[here][dead] / carried[here][at]).to(weight.device)
            weight[out, at] = torch.einsum("kc...,c->k...", taps, shares).to(weight.dtype)
        rest[mine] = np.nan
    state[op.filters.weight] = weight
    return rest
