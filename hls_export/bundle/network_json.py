# SPDX-License-Identifier: Apache-2.0
"""``network.json``: the integer graph, the plan and the proofs, to and from JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from hls_export.bundle.descriptor import RECORD_BYTES
from hls_export.bundle.manifest import validate_document
from hls_export.bundle.memmap import memmap_document
from hls_export.config import AcceleratorConfig
from hls_export.pack.params import NO_PARAMS, ParamBlock
from hls_export.plan import AcceleratorPlan, Command, CommandOp, Location, MemoryPlan, Tile
from hls_export.plan.arena import Lifetime
from yolo_hw.errors import BundleError
from yolo_hw.intgraph.bounds import accumulator_bound
from yolo_hw.intgraph.codec import decode_graph, encode_graph
from yolo_hw.intgraph.graph import IntGraph

NETWORK = "network.json"
SCHEMA_ID = "yolo_hw.network/1"

Json = dict[str, Any]


def encode_network(
    plan: AcceleratorPlan, blocks: list[ParamBlock], source: Mapping[str, str], golden: Json
) -> tuple[Json, dict[str, npt.NDArray[np.integer[Any]]]]:
    """Return the document and the graph's arrays.

    Args:
        plan: The planned network.
        blocks: Parameter block of every command.
        source: Digests of what the network was made from.
        golden: Index of the golden vectors.
    """
    graph_document, arrays = encode_graph(plan.graph)
    memory = plan.memory
    param_bytes = max((block.offset + block.bytes for block in blocks), default=0)
    document: Json = {
        "schema": SCHEMA_ID,
        "source": dict(source),
        "graph": graph_document,
        "accelerator": {**asdict(plan.config), "lanes": plan.config.lanes},
        "program": [_encode_command(c, b) for c, b in zip(plan.program, blocks, strict=True)],
        "tensors": memmap_document(plan, 0, 0)["tensors"],
        "memory": {
            "io_bytes": memory.io_bytes,
            "arena_bytes": memory.arena_bytes,
            "arena_bound_bytes": memory.arena_bound,
            "unshared_bytes": memory.unshared_bytes,
            "param_bytes": param_bytes,
            "descriptor_bytes": RECORD_BYTES * len(plan.program),
        },
        "proofs": accumulator_proofs(plan.graph),
        "golden": golden,
    }
    return document, arrays


def decode_network(
    document: Json, arrays: Mapping[str, npt.NDArray[np.integer[Any]]]
) -> tuple[AcceleratorPlan, list[ParamBlock]]:
    """Rebuild the plan from a document; nothing is planned anew.

    Raises:
        BundleError: Unknown version, or the document does not follow its schema.
        GraphError: The graph part is invalid.
    """
    if document.get("schema") != SCHEMA_ID:
        raise BundleError(f"{NETWORK}: this version reads schema '{SCHEMA_ID}', got '{document.get('schema')}'")
    validate_document(document, "network.schema.json", NETWORK)
    graph = decode_graph(document["graph"], arrays)
    accelerator = dict(document["accelerator"])
    lanes = accelerator.pop("lanes")
    config = AcceleratorConfig(**accelerator)
    if lanes != config.lanes:
        raise BundleError(f"{NETWORK}: lanes must be {config.lanes} for a {config.tm}x{config.tn} tile, got {lanes}")
    program = [_decode_command(command) for command in document["program"]]
    _check_names(graph, program, document["tensors"])
    memory = document["memory"]
    plan = AcceleratorPlan(
        graph,
        config,
        program,
        MemoryPlan(
            locations={t["name"]: _decode_location(t) for t in document["tensors"]},
            lifetimes=_decode_lifetimes(document["tensors"]),
            io_bytes=memory["io_bytes"],
            arena_bytes=memory["arena_bytes"],
            arena_bound=memory["arena_bound_bytes"],
            unshared_bytes=memory["unshared_bytes"],
        ),
    )
    return plan, [_decode_block(command["params"]) for command in document["program"]]


def accumulator_proofs(graph: IntGraph) -> list[Json]:
    """Return the accumulator range of every computing node."""
    proofs = []
    for node in graph.nodes:
        bound = accumulator_bound(node, graph.inputs_of(node))
        if bound is not None:
            values = {"lo": bound.lo, "hi": bound.hi, "bits": bound.bits, "channel": bound.channel}
            proofs.append({"node": node.name, **values})
    return proofs


def _encode_command(command: Command, block: ParamBlock) -> Json:
    return {
        "op": command.op.name,
        "node": command.node,
        "inputs": list(command.inputs),
        "output": command.output,
        "in_channel": command.in_channel,
        "out_channel": command.out_channel,
        "channels": command.channels,
        "tile_h": command.tile.h,
        "tile_w": command.tile.w,
        "params": None if block is NO_PARAMS else asdict(block),
    }


def _decode_command(document: Json) -> Command:
    fields = {key: value for key, value in document.items() if key not in ("params", "tile_h", "tile_w")}
    fields |= {"op": CommandOp[document["op"]], "inputs": tuple(document["inputs"])}
    return Command(**fields, tile=Tile(document["tile_h"], document["tile_w"]))


def _decode_block(document: Json | None) -> ParamBlock:
    return NO_PARAMS if document is None else ParamBlock(**document)


def _decode_location(document: Json) -> Location:
    fields = {key: value for key, value in document.items() if key not in ("name", "first_record", "last_record")}
    return Location(**fields)


def _decode_lifetimes(tensors: list[Json]) -> dict[str, Lifetime]:
    return {
        t["root"]: Lifetime(t["root"], t["bytes"], t["first_record"], t["last_record"])
        for t in tensors
        if t["root"] == t["name"]
    }


def _check_names(graph: IntGraph, program: list[Command], tensors: list[Json]) -> None:
    names = [tensor["name"] for tensor in tensors]
    if sorted(names) != sorted(graph.tensors):
        raise BundleError(f"{NETWORK}: the memory map must place every tensor of the graph once")
    for tensor in tensors:
        if tensor["root"] not in graph.tensors:
            raise BundleError(f"{NETWORK}: {tensor['name']}: no tensor '{tensor['root']}'")
    nodes = {node.name for node in graph.nodes}
    for i, command in enumerate(program):
        unknown = [name for name in (*command.inputs, command.output) if name not in graph.tensors]
        if unknown or command.node not in nodes or command.output != command.node:
            raise BundleError(f"{NETWORK}: record {i} names tensors or nodes the graph does not have")
