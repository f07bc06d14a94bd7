# SPDX-License-Identifier: Apache-2.0
"""The memory map of a bundle as JSON, C header and table."""

from __future__ import annotations

import csv
import io
from typing import Any

from hls_export.plan import AcceleratorPlan


def memmap_document(plan: AcceleratorPlan, param_bytes: int, descriptor_bytes: int) -> dict[str, Any]:
    """Return regions (relocatable, byte sizes) and the place and lifetime of every tensor."""
    memory = plan.memory
    return {
        "align": plan.config.align,
        "regions": {
            "params": {"bytes": param_bytes, "file": "ddr/params.bin"},
            "descriptors": {"bytes": descriptor_bytes, "file": "ddr/descriptors.bin"},
            "activations": {
                "bytes": memory.total_bytes,
                "io_bytes": memory.io_bytes,
                "arena_bytes": memory.arena_bytes,
            },
        },
        "arena": {"bound_bytes": memory.arena_bound, "unshared_bytes": memory.unshared_bytes},
        "tensors": [_tensor(plan, name) for name in plan.graph.tensors],
    }


def _tensor(plan: AcceleratorPlan, name: str) -> dict[str, Any]:
    location = plan.memory.locations[name]
    lifetime = plan.memory.lifetimes[location.root]
    return {
        "name": name,
        "offset": location.offset,
        "bytes": location.bytes,
        "lanes": location.lanes,
        "element_bytes": location.element_bytes,
        "root": location.root,
        "channel": location.channel,
        "first_record": lifetime.first,
        "last_record": lifetime.last,
    }


def memmap_csv(document: dict[str, Any]) -> str:
    """Return the tensors as a table, sorted by address."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(document["tensors"][0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(sorted(document["tensors"], key=lambda t: (t["offset"], t["first_record"])))
    return buffer.getvalue()


def memmap_header(document: dict[str, Any]) -> str:
    """Return a C header with the offset of every tensor."""
    lines = ["/* SPDX-License-Identifier: Apache-2.0 */", "#ifndef YHW_MEMMAP_H_", "#define YHW_MEMMAP_H_", ""]
    for tensor in document["tensors"]:
        macro = "".join(ch if ch.isalnum() else "_" for ch in tensor["name"]).upper()
        lines.append(f"#define YHW_TENSOR_{macro}_OFFSET {tensor['offset']}u /* {tensor['bytes']} bytes */")
    return "\n".join([*lines, "", "#endif /* YHW_MEMMAP_H_ */"]) + "\n"
