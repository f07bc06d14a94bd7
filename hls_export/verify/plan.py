# SPDX-License-Identifier: Apache-2.0
"""Planning the network again: program, tiles and memory map must be what this version plans.

Unlike the replay of the memory map, which knows nothing of the planner, this is no proof of correctness: it finds
numbers that were changed after the export and that happen to do no harm.
"""

from __future__ import annotations

from typing import Any

from hls_export.bundle.memmap import memmap_document
from hls_export.pack.params import pack_params
from hls_export.plan import make_plan
from hls_export.verify.files import OpenBundle
from yolo_hw.errors import BundleError


def check_plan(bundle: OpenBundle) -> str:
    """Plan and pack again; compare every command, address, lifetime and parameter byte."""
    stated = bundle.plan
    plan = make_plan(stated.graph, stated.config)
    if len(stated.program) != len(plan.program):
        raise BundleError(f"plan: must have {len(plan.program)} records, got {len(stated.program)}")
    for i, (found, command) in enumerate(zip(stated.program, plan.program, strict=True)):
        _compare(f"record {i} ({command.node})", vars(command), vars(found))
    found_map, wanted_map = memmap_document(stated, 0, 0), memmap_document(plan, 0, 0)
    for found_tensor, tensor in zip(found_map.pop("tensors"), wanted_map.pop("tensors"), strict=True):
        _compare(f"tensor {tensor['name']}", tensor, found_tensor)
    _compare("memory map", wanted_map, found_map)
    params, blocks = pack_params(plan)
    image = bundle.read("ddr/params.bin")
    if image != params:
        at = next((i for i, (a, b) in enumerate(zip(image, params, strict=False)) if a != b), len(params))
        raise BundleError(f"ddr/params.bin: byte {at} is not what params.npz packs to")
    for i, (found_block, block) in enumerate(zip(bundle.blocks, blocks, strict=True)):
        _compare(f"parameter block of record {i} ({plan.program[i].node})", vars(block), vars(found_block))
    return f"{len(plan.program)} records, {len(plan.memory.locations)} tensors, {len(params)} parameter bytes"


def _compare(where: str, wanted: dict[str, Any], found: dict[str, Any]) -> None:
    for key, value in wanted.items():
        if found[key] != value:
            raise BundleError(f"plan: {where}: {key} must be {value}, got {found[key]}")
