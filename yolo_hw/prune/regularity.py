# SPDX-License-Identifier: Apache-2.0
"""Which layers have numbers of channels that are no multiple of what the hardware computes at once, and why."""

from __future__ import annotations

from dataclasses import dataclass

from yolo_hw.prune.channels import IntArray
from yolo_hw.prune.cost import filter_ops
from yolo_hw.prune.darknet_prune import Pruned
from yolo_hw.prune.groups import Group
from yolo_hw.prune.layer_shapes import layer_shapes


@dataclass(frozen=True)
class Irregular:
    """A number of channels that is no multiple.

    Attributes:
        layer: The layer.
        side: ``outputs`` or ``inputs``.
        channels: How many there are.
        multiple: What they are no multiple of.
        why: The groups they are in and why these are as they are.
    """

    layer: str
    side: str
    channels: int
    multiple: int
    why: str


def irregular_layers(pruned: Pruned) -> list[Irregular]:
    """Return every side of a layer of the pruned model whose number of channels is no multiple, in graph order."""
    config = pruned.plan.config
    ops = filter_ops(pruned.plan.channels.groups)
    found = []
    for shape in layer_shapes(pruned.model):
        op = ops[shape.name]
        sides = [("outputs", shape.out_channels, config.multiple_of or 1, op.output.labels)]
        if not op.whole_groups:
            sides.append(("inputs", shape.in_channels, config.input_multiple_of, op.inputs[0].labels))
        for side, channels, multiple, labels in sides:
            if channels % multiple:
                found.append(Irregular(shape.name, side, channels, multiple, _why(pruned, labels, multiple)))
    return found


def _why(pruned: Pruned, labels: IntArray, multiple: int) -> str:
    """Return the groups that are to blame: those whose channels among these are no multiple."""
    groups = pruned.plan.channels.groups
    counts = pruned.surgery.plan.counts
    index, _ = groups.at(labels)
    reasons = []
    for number in dict.fromkeys(index.tolist()):
        group = groups[groups.name_of(number)]
        count = int((index == number).sum()) // group.size * counts[group.name]
        if count % multiple:
            reasons.append((f"{count} of {group.name}", _reason(pruned, group)))
    if len(reasons) == 1:
        return reasons[0][1]
    return "; ".join(": ".join(words) for words in reasons)


def _reason(pruned: Pruned, group: Group) -> str:
    own = group.why_protected or group.why_follows or pruned.plan.channels.reasons.get(group.name)
    if own is not None:
        return own
    whole = pruned.surgery.plan.counts[group.name] == group.size
    return f"all {group.size} units stay" if whole else "the choice was not bound to this multiple"
