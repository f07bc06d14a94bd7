# SPDX-License-Identifier: Apache-2.0
"""``prune.json``: what was pruned, why, and a plan that can be edited by hand and carried out again.

For every group ``kept`` is the choice: indices in rising order, -1 for an added zero unit, or null where nothing was
chosen because the group is protected or its number follows from others. ``carried_out`` says what is left where that is
something else: a carrier of constants took a place, or the number followed. `load_plan` reads ``kept`` and ``silent``.
Equal models and options give equal bytes.
"""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Mapping
from dataclasses import fields
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from yolo_hw import __version__
from yolo_hw.atomic import atomic_file
from yolo_hw.errors import GraphError, PruneError, nearest
from yolo_hw.intgraph.io import read_json
from yolo_hw.intgraph.schema import first_violation
from yolo_hw.nn.darknet import Darknet
from yolo_hw.prune.channels import BoolArray, IntArray
from yolo_hw.prune.config import ENUM_FIELDS, PruneConfig
from yolo_hw.prune.cost import LayerShape
from yolo_hw.prune.darknet_prune import DarknetPlan, Pruned, excluded_layers
from yolo_hw.prune.darknet_surgery import darknet_groups
from yolo_hw.prune.groups import Group
from yolo_hw.prune.layer_removal import RemovedBlock, remove_blocks
from yolo_hw.prune.layer_shapes import layer_shapes
from yolo_hw.prune.plan import PAD, PrunePlan
from yolo_hw.prune.select import Budget

RECORD = "prune.json"
SCHEMA_ID = "yolo_hw.prune/1"
SCHEMA_FILE = Path(__file__).with_name("prune.schema.json")

Json = dict[str, Any]

_BREAK = re.compile(r"\n\s+")
_LEAF = re.compile(r"([\[{])\n\s+([^\[\]{}]*?)\n\s+([\]}])")


@cache
def record_schema() -> Json:
    """Return the JSON schema of ``prune.json``."""
    schema: Json = json.loads(SCHEMA_FILE.read_text("utf-8"))
    return schema


def pruning_record(
    pruned: Pruned, costs: Mapping[str, Any] | None = None, source: Mapping[str, str] | None = None
) -> Json:
    """Return the document.

    Args:
        pruned: The pruned model and its plan.
        costs: Name of a figure -> ``{"before": ..., "after": ...}``, see `yolo_hw.prune.figures`.
        source: SHA-256 of the files the model was read from.

    Returns:
        A document that follows `record_schema`.
    """
    plan = pruned.plan
    network = plan.model.network
    return {
        "schema": SCHEMA_ID,
        "versions": {
            "yolo_hw": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "model": {"name": network.name, "input": list(network.input), "source": dict(source or {})},
        "config": encode_config(plan.config),
        "costs": dict(costs or {}),
        "removed_blocks": [
            {"shortcut": block.shortcut, "layers": list(block.layers), "score": block.score} for block in plan.blocks
        ],
        "constants": {"dropped": pruned.surgery.dropped, "inexact_at_borders": pruned.surgery.inexact},
        "layers": [_layer(*shapes) for shapes in layers_before_and_after(pruned)],
        "groups": [_group(pruned, group) for group in plan.channels.groups.values()],
    }


def layers_before_and_after(pruned: Pruned) -> list[tuple[LayerShape, LayerShape]]:
    """Return every convolution and fully connected layer before and after; those of removed blocks are left out."""
    return list(zip(layer_shapes(pruned.plan.model), layer_shapes(pruned.model), strict=True))


def decision(pruned: Pruned, group: Group) -> str:
    """Return in words what became of a group and why."""
    if group.why_protected is not None:
        return f"stays whole: {group.why_protected}"
    executed = pruned.surgery.plan
    before, after = group.size, executed.counts[group.name]
    if group.why_follows is not None:
        return f"{after} of {before}: {group.why_follows}"
    words = [f"{after} of {before}"]
    if reason := pruned.plan.channels.reasons.get(group.name):
        words.append(reason)
    if added := executed.added(group):
        words.append(f"{added} of them added zeros")
    if group.name in executed.carriers:
        words.append(f"unit {executed.carriers[group.name]} is dead and carries constants")
    if group.name in pruned.surgery.dropped:
        words.append(f"constants dropped: {pruned.surgery.dropped[group.name]} cannot take them up")
    if group.name in pruned.surgery.inexact:
        words.append(f"constants inexact at the border of {pruned.surgery.inexact[group.name]}")
    return "; ".join(words)


def write_record(path: str | Path, document: Json) -> None:
    """Write a document, see `record_bytes`.

    Raises:
        PruneError: It does not follow the schema.
    """
    violation = first_violation(document, record_schema())
    if violation is not None:
        raise PruneError(f"{path}: {violation}")
    with atomic_file(path) as temporary:
        temporary.write_bytes(record_bytes(document))


def record_bytes(document: Json) -> bytes:
    """Return a document as UTF-8 JSON; what holds numbers and words only is on one line."""
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
    return (_LEAF.sub(lambda found: found[1] + _BREAK.sub(" ", found[2]) + found[3], text) + "\n").encode()


def read_record(path: str | Path) -> Json:
    """Read a document and check it against the schema.

    Raises:
        PruneError: It cannot be read or breaks a rule; names the place.
    """
    try:
        document = read_json(Path(path))
    except GraphError as error:
        raise PruneError(str(error)) from None
    violation = first_violation(document, record_schema())
    if violation is not None:
        raise PruneError(f"{path}: {violation}")
    return document


def load_plan(path: str | Path, model: Darknet) -> PrunePlan:
    """Read the choice of channels of a ``prune.json``.

    Groups that the file does not name keep everything. Scores are read, too: they choose carriers and the units of
    groups that follow.

    Args:
        path: The file, as written or edited.
        model: The model the channels are chosen from, without the removed blocks.

    Returns:
        The plan.

    Raises:
        PruneError: The file breaks a rule, or does not belong to the model; names the group.
    """
    return _plan_of(Path(path), read_record(path), model)


def load_darknet_plan(path: str | Path, model: Darknet) -> DarknetPlan:
    """Read a ``prune.json`` with its options and its removed blocks, for `carry_out`.

    Args:
        path: The file, as written or edited.
        model: The model it was made for, with all its blocks.

    Returns:
        The plan.

    Raises:
        PruneError: See `load_plan`; or the model has lost its blocks, or would lose others.
    """
    document = read_record(path)
    config = decode_config(document["config"])
    blocks: tuple[RemovedBlock, ...] = ()
    if names := [block["shortcut"] for block in document["removed_blocks"]]:
        model, blocks = remove_blocks(model, len(names), excluded_layers(model, config))
        if [block.shortcut for block in blocks] != names:
            raise PruneError(
                f"{path}: the blocks of {', '.join(names)} are to be removed, "
                f"of this model those of {', '.join(block.shortcut for block in blocks)} would be"
            )
    return DarknetPlan(config, model, _plan_of(Path(path), document, model), blocks)


def encode_config(config: PruneConfig) -> Json:
    """Return the options as JSON; a criterion that is a function becomes its name."""
    return {field.name: _encoded(getattr(config, field.name)) for field in fields(config)}


def decode_config(document: Json) -> PruneConfig:
    """Return the options of a document of `encode_config`."""
    options = dict(document)
    for name, enum in ENUM_FIELDS.items():
        options[name] = None if options[name] is None else enum(options[name])
    options["budget"] = None if options["budget"] is None else Budget(**options["budget"])
    options["include"] = None if options["include"] is None else tuple(options["include"])
    options["exclude"] = tuple(options["exclude"])
    return PruneConfig(**options)


def _encoded(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Budget):
        return dict(vars(value))
    if isinstance(value, tuple):
        return list(value)
    return getattr(value, "__name__", repr(value)) if callable(value) else value


def _layer(before: LayerShape, after: LayerShape) -> Json:
    return {
        "name": before.name,
        "kernel": list(before.kernel),
        "outputs": {"before": before.out_channels, "after": after.out_channels},
        "inputs": {"before": before.in_channels, "after": after.in_channels},
        "groups": {"before": before.groups, "after": after.groups},
    }


def _group(pruned: Pruned, group: Group) -> Json:
    choice, executed = pruned.plan.channels, pruned.surgery.plan
    kept = choice.kept.get(group.name) if group.prunable else None
    left = executed.kept.get(group.name)
    scores = choice.scores.get(group.name)
    silent = choice.silent.get(group.name, {})
    entry: Json = {
        "name": group.name,
        "decision": decision(pruned, group),
        "protected": group.why_protected,
        "follows": group.why_follows,
        "reason": choice.reasons.get(group.name),
        "units": {"before": group.size, "after": executed.counts[group.name]},
        "kept": None if kept is None else kept.tolist(),
        "carrier": executed.carriers.get(group.name),
        "scores": None if scores is None else [float(score) for score in scores],
        "members": [{"name": m.name, "kind": m.kind, "channels": len(m.positions)} for m in group.members],
        "consumers": list(group.consumers),
    }
    if left is not None and (kept is None or not np.array_equal(left, kept)):
        entry["carried_out"] = left.tolist()
    if any(units.any() for units in silent.values()):
        entry["silent"] = {name: np.flatnonzero(units).tolist() for name, units in silent.items()}
    return entry


def _plan_of(path: Path, document: Json, model: Darknet) -> PrunePlan:
    groups = darknet_groups(model)
    known = list(groups)
    kept: dict[str, IntArray] = {}
    scores, reasons = {}, {}
    silent: dict[str, dict[str, BoolArray]] = {}
    seen: set[str] = set()
    for entry in document["groups"]:
        name = entry["name"]
        if name in seen:
            raise PruneError(f"{path}: group '{name}' is there twice")
        if name not in known:
            raise PruneError(f"{path}: the model has no group '{name}'{nearest(name, known)}")
        seen.add(name)
        group = groups[name]
        _check_entry(path, entry, group)
        if entry["scores"] is not None:
            scores[name] = np.array(entry["scores"], np.float64)
        if entry["kept"] is None:
            continue
        kept[name] = np.array(entry["kept"], np.int64)
        if entry["reason"] is not None and len(kept[name]) == entry["units"]["after"]:
            reasons[name] = entry["reason"]
        if marks := entry.get("silent"):
            silent[name] = {member: np.isin(np.arange(group.size), units) for member, units in marks.items()}
    try:
        return PrunePlan(groups, kept, silent, scores, reasons)
    except PruneError as error:
        raise PruneError(f"{path}: {error}") from None


def _check_entry(path: Path, entry: Json, group: Group) -> None:
    """Check that an entry belongs to its group and that its choice is one."""
    place = f"{path}: group '{group.name}'"
    if entry["units"]["before"] != group.size:
        raise PruneError(f"{place}: the file has {entry['units']['before']} units, the model {group.size}")
    if entry["scores"] is not None and len(entry["scores"]) != group.size:
        raise PruneError(f"{place}: must have {group.size} scores, got {len(entry['scores'])}")
    if entry["kept"] is not None and not group.prunable:
        raise PruneError(f"{place}: kept must be null, the group {group.why_protected or group.why_follows}")
    if entry["kept"] is not None:
        units = [unit for unit in entry["kept"] if unit != PAD]
        if units != sorted(units) or entry["kept"] != units + [PAD] * (len(entry["kept"]) - len(units)):
            raise PruneError(f"{place}: kept must rise, with -1 for added units at the end, got {entry['kept']}")
        if units and units[-1] >= group.size:
            raise PruneError(f"{place}: kept units must be different indices below {group.size}, got {units[-1]}")
    members = [member.name for member in group.members]
    for name, units in entry.get("silent", {}).items():
        if name not in members:
            raise PruneError(f"{place}: '{name}' does not make its channels{nearest(name, members)}")
        if units and max(units) >= group.size:
            raise PruneError(f"{place}: silent units of {name} must be below {group.size}, got {max(units)}")
