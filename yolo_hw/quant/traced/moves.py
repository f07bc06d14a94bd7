# SPDX-License-Identifier: Apache-2.0
"""Operators that only move elements: they are executed on positions, see `yolo_hw.quant.traced.values`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._pytree import tree_map

from yolo_hw.quant.traced.tracer import Operator
from yolo_hw.quant.traced.values import BATCH, Value, rearranged

aten = torch.ops.aten

MOVES = frozenset(
    {
        aten.view, aten._unsafe_view, aten.reshape, aten.flatten, aten.unflatten, aten.view_as, aten.permute,
        aten.transpose, aten.t, aten.numpy_T, aten.swapaxes, aten.movedim, aten.slice, aten.select, aten.narrow,
        aten.unsqueeze, aten.squeeze, aten.expand, aten.expand_as, aten.repeat, aten.repeat_interleave, aten.chunk,
        aten.split, aten.split_with_sizes, aten.unbind, aten.unsafe_chunk, aten.unsafe_split,
        aten.unsafe_split_with_sizes, aten.cat, aten.stack, aten.pad, aten.constant_pad_nd, aten.reflection_pad2d,
        aten.replication_pad2d, aten.pixel_shuffle, aten.pixel_unshuffle, aten.channel_shuffle, aten.flip, aten.roll,
        aten.upsample_nearest2d, aten.index, aten.index_select, aten.slice_scatter, aten.select_scatter,
    }
)  # fmt: skip
"""What needs no translation of its own."""

SETTLED = frozenset({aten.upsample_nearest2d, aten.pixel_shuffle, aten.pixel_unshuffle, aten.channel_shuffle})
"""Moves that become nodes where they stand, whatever follows."""

IDENTITIES = frozenset(
    {aten.contiguous, aten.clone, aten.alias, aten.detach, aten.lift_fresh_copy, aten.to, aten._to_copy, aten.type_as}
)
"""Operators whose result is their first argument; a change of the number format is none of the values' meaning."""

OF_SIZES = frozenset({aten.zeros_like, aten.ones_like, aten.full_like, aten.new_zeros, aten.new_ones, aten.new_full})
"""Constants as large as their argument."""

DROPOUTS = frozenset({aten.dropout, aten.dropout_, aten.feature_dropout, aten.alpha_dropout, aten.native_dropout})


def move(op: Operator, target: OpOverload, args: dict[str, Any]) -> Value | list[Value]:
    """Execute a move.

    Args:
        op: Where it stands.
        target: The operator.
        args: Its arguments by name; values in the places of tensors, constants where the code has them.

    Raises:
        QuantError: It fills in a number that is not zero, or mixes images.
    """
    if args.get("mode", "constant") == "constant" and args.get("value") not in (None, 0):
        raise op.refuse(f"padding must be zero, got {args['value']}")
    roles = [role for role in ("tensors", "input", "self", "src") if role in args]
    items = [item for role in roles for item in (args[role] if role == "tensors" else [args[role]])]
    values = [item if isinstance(item, Value) else _zeros(op, item) for item in items]
    rest = {name: value for name, value in args.items() if name not in roles}
    rest = tree_map(lambda x: _like(x) if isinstance(x, Value) else x, rest)

    def apply(tensors: list[Tensor]) -> Tensor | Sequence[Tensor]:
        return target(*([tensors] if roles == ["tensors"] else tensors), **rest)  # type: ignore[no-any-return]

    found = rearranged(apply, values, op.name)
    single = len(found) == 1 and not str(target._schema.returns[0].type).startswith("List")
    return found[0] if single else found


def constant_of_sizes(target: OpOverload, args: dict[str, Any]) -> Tensor:
    """Execute one of `OF_SIZES`."""
    return target(_like(args.pop("self")), **args)  # type: ignore[no-any-return]


def _like(value: Value) -> Tensor:
    """A tensor of a value's sizes, for operators that take sizes from one."""
    return torch.empty(BATCH, *value.shape)


def _zeros(op: Operator, item: object) -> Value:
    """Return a constant of zeros as a value."""
    if isinstance(item, Tensor) and not item.any() and item.dim() and item.shape[0] == BATCH:
        return Value((), tuple(item.shape[1:]), op.name, torch.zeros(item.shape[1:], dtype=torch.int64), True)
    raise op.refuse("only zeros can be joined with what the image decides, no other constants")
