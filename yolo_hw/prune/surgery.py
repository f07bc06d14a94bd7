# SPDX-License-Identifier: Apache-2.0
"""From a plan to tensors: the masked state of full size, and the compact state without the dead channels.

``mask`` kills the channels, ``compensate`` moves the constants they still emit into the layers that read them, and
``compact`` takes the kept positions of every tensor. The compact model computes what the masked one does; with dead
channels at zero, or carriers for their constants, at the borders of padded maps too.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from yolo_hw.errors import PruneError
from yolo_hw.prune.carriers import failing_carriers, load_carriers, set_carriers, stuck_reads
from yolo_hw.prune.channels import BoolArray, ChannelGraph, IntArray, Slot
from yolo_hw.prune.constants import Constants, dead_units, find_constants, offsets
from yolo_hw.prune.groups import norms_after
from yolo_hw.prune.plan import PAD, DeadBias, PrunePlan
from yolo_hw.prune.positions import kept_positions

State = dict[str, Tensor]


@dataclass(frozen=True)
class Surgery:
    """What `operate` returns.

    Attributes:
        plan: The plan as it was carried out: with followers and carriers.
        masked: State of the masked model, of full size.
        compact: State of the compact model.
        dropped: Groups whose constants had to be dropped although they were to be moved -> the layer that cannot take
            them.
        inexact: Groups whose constants are read by a convolution that pads its input with zeros -> that layer; there
            the compact model differs from the masked one at borders.
        new_biases: Keys of biases that did not exist before.
    """

    plan: PrunePlan
    masked: State
    compact: State
    dropped: dict[str, str] = field(default_factory=dict)
    inexact: dict[str, str] = field(default_factory=dict)
    new_biases: tuple[str, ...] = ()


def operate(plan: PrunePlan, state: State, dead_bias: DeadBias = DeadBias.TRANSFER) -> Surgery:
    """Carry out a plan on the tensors of a model.

    Args:
        plan: The choice.
        state: The model's state dict; it is not changed.
        dead_bias: What becomes of the constants that pruned channels emit.

    Returns:
        Both states and what was decided on the way.

    Raises:
        PruneError: A constant can go nowhere, or a zero channel cannot be added.
    """
    plan, masked, constants, dropped = _settle(plan, state, dead_bias)
    compensated, new_biases = compensate(plan, masked, constants)
    inexact = stuck_reads(plan, constants, padded=True)
    return Surgery(plan, masked, compact(plan, compensated), dropped, inexact, new_biases)


def _settle(plan: PrunePlan, state: State, dead_bias: DeadBias) -> tuple[PrunePlan, State, Constants, dict[str, str]]:
    """Decide which groups drop their constants and which keep a carrier for them; both sets only grow.

    A constant that is lost on its way is dropped. One that is read where no bias can take it up needs a carrier; where
    that does not work it is dropped, too.
    """
    exact = dead_bias is not DeadBias.TRANSFER
    dropped: dict[str, str] = dict.fromkeys(plan.groups, "") if dead_bias is DeadBias.ZERO else {}
    carried: set[str] = set()
    while True:
        current = plan.with_carriers(carried).with_followers()
        masked = mask(current, state, set(dropped))
        constants = find_constants(current, masked)
        stuck = stuck_reads(current, constants, padded=exact)
        trouble = constants.lost | failing_carriers(current, masked, constants)
        again = {name: layer for name, layer in trouble.items() if name in dropped}
        if again:
            name, layer = next(iter(again.items()))
            raise PruneError(
                f"{name}: its pruned channels emit a constant that {layer} cannot take up; exclude this group"
            )
        if trouble:
            dropped.update(trouble)
            carried -= set(trouble)
        elif stuck:
            carried |= set(stuck)
        else:
            return current, masked, constants, {name: layer for name, layer in dropped.items() if layer}


def mask(plan: PrunePlan, state: State, zero_groups: set[str]) -> State:
    """Return a copy of the state in which the dead channels are dead: zero weights, gamma = 0.

    Args:
        plan: The choice.
        state: The model's state dict.
        zero_groups: Groups whose dead channels have beta = 0 or bias = 0 too, so that they emit activation(0).

    Returns:
        A state of the same shapes; only the tensors that change are copied.
    """
    masked = dict(state)
    dead = dead_units(plan)
    biases, statistics = _bias_keys(plan.groups.graph), _statistic_keys(plan.groups.graph)
    zero_units = np.zeros(len(dead), bool)
    for name in zero_groups:
        zero_units[plan.groups[name].units] = True
    for slot in plan.groups.graph.slots:
        if not slot.produces or slot.path not in state or slot.path in statistics:
            continue
        units = plan.groups.graph.unit_of[slot.labels]
        rows = dead[units] & zero_units[units] if slot.path in biases else dead[units]
        _zero(masked, slot.path, slot.dim, rows)
    _mask_silent(plan, masked)
    return masked


def _mask_silent(plan: PrunePlan, masked: State) -> None:
    """Kill the filters of single members of kept units, constants included."""
    for name, members in plan.silent.items():
        for member in plan.groups[name].members:
            if member.name not in members:
                continue
            rows = np.zeros(0, bool)
            keys = [member.filters.weight, member.filters.bias] if member.filters else []
            keys += [member.norm.weight, member.norm.bias] if member.norm else []
            for key in filter(None, keys):
                rows = np.zeros(len(masked[key]), bool)
                rows[member.positions] = members[member.name][member.units]
                _zero(masked, key, 0, rows)


def _bias_keys(graph: ChannelGraph) -> set[str]:
    """Return the keys of everything that is added to a channel."""
    keys = {op.filters.bias for op in graph.ops if op.filters} | {op.norm.bias for op in graph.ops if op.norm}
    return {key for key in keys if key is not None}


def _statistic_keys(graph: ChannelGraph) -> set[str | None]:
    """Return the keys of running means and variances."""
    return {key for op in graph.ops if op.norm for key in (op.norm.mean, op.norm.var)}


def _zero(state: State, key: str, dim: int, rows: BoolArray) -> None:
    if rows.any():
        state[key] = (
            state[key].detach().index_fill(dim, torch.from_numpy(np.flatnonzero(rows)).to(state[key].device), 0)
        )


def compensate(plan: PrunePlan, masked: State, constants: Constants) -> tuple[State, tuple[str, ...]]:
    """Move constants into the carriers where there are some, and into running means and biases elsewhere.

    Args:
        plan: The choice.
        masked: State of the masked model.
        constants: Of its dead channels.

    Returns:
        A state of full size in which what the dead channels emit no longer matters, and the keys of added biases.
    """
    state = dict(masked)
    norm_after = norms_after(plan.groups.graph)
    carried = set_carriers(plan, state).reads
    new_biases: list[str] = []
    for op in plan.groups.graph.ops:
        filters = op.filters
        if filters is None or filters.name not in constants.reads:
            continue
        reads = constants.reads[filters.name]
        if not plan.carriers and not np.nan_to_num(reads).any():
            continue
        rest = load_carriers(plan, op, state, reads, carried[filters.name])
        shift = torch.from_numpy(offsets(op, rest, masked[filters.weight]))
        if not shift.any():
            continue
        norm = norm_after.get(op.output.index)
        if norm is not None and norm.norm is not None and norm.norm.mean is not None:
            key, sign = norm.norm.mean, -1.0
        else:
            key, sign = filters.bias or filters.weight.removesuffix("weight") + "bias", 1.0
            if key not in state:
                new_biases.append(key)
                state[key] = torch.zeros(filters.channels, dtype=state[filters.weight].dtype)
        state[key] = (state[key].double() + sign * shift.to(state[key].device)).to(state[key].dtype)
    return state, tuple(new_biases)


def compact(plan: PrunePlan, state: State) -> State:
    """Return the state with the kept positions of every tensor; added channels are zero, their variance 1.

    Args:
        plan: The choice.
        state: A state of full size.

    Returns:
        A new state; tensors that do not change are shared.
    """
    small = dict(state)
    seen: set[tuple[str, int]] = set()
    slots = [*plan.groups.graph.slots, *_new_bias_slots(plan.groups.graph, state)]
    for slot in slots:
        if slot.path not in state or (slot.path, slot.dim) in seen:
            continue
        seen.add((slot.path, slot.dim))
        positions = kept_positions(plan, slot.labels)
        if not np.array_equal(positions, np.arange(len(slot.labels))):
            small[slot.path] = _take(small[slot.path], slot, positions)
    return small


def _new_bias_slots(graph: ChannelGraph, state: State) -> list[Slot]:
    """Return slots of the biases that `compensate` has added."""
    return [
        Slot(key, 0, op.output.labels)
        for op in graph.ops
        if op.filters is not None and op.filters.bias is None
        for key in [op.filters.weight.removesuffix("weight") + "bias"]
        if key in state
    ]


def _take(tensor: Tensor, slot: Slot, positions: IntArray) -> Tensor:
    if slot.dim >= tensor.ndim or tensor.shape[slot.dim] != len(slot.labels):
        found = tuple(tensor.shape)
        raise PruneError(f"{slot.path}: dimension {slot.dim} must have {len(slot.labels)} entries, got shape {found}")
    index = torch.from_numpy(np.maximum(positions, 0)).to(tensor.device)
    taken = tensor.detach().index_select(slot.dim, index)
    added = np.flatnonzero(positions == PAD)
    return taken.index_fill(slot.dim, torch.from_numpy(added).to(tensor.device), slot.fill) if len(added) else taken
