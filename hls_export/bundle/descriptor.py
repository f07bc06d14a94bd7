# SPDX-License-Identifier: Apache-2.0
"""The accelerator's program as 256-byte records; the twin of ``hls_export/engine/yhw_descriptor.h``."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from hls_export.pack.params import NO_PARAMS, ParamBlock
from hls_export.plan import AcceleratorPlan, Command, CommandOp
from hls_export.plan.commands import MAX_INPUTS
from yolo_hw.errors import BundleError
from yolo_hw.geometry import Window
from yolo_hw.intgraph import nodes as N
from yolo_hw.intgraph.nodes import Node

MAGIC = 0x31574859
RECORD_WORDS = 64
RECORD_BYTES = 4 * RECORD_WORDS

LAST_OF_NODE = 1
HAS_TABLE = 2
REORG_REVERSE = 4
REORG_DARKNET = 8

Four = tuple[int, int, int, int]
_ZEROS: Four = (0, 0, 0, 0)


@dataclass(frozen=True)
class Descriptor:
    """One record, fields in the order of the C struct; see there for their meaning."""

    magic: int = MAGIC
    op: int = 0
    node: int = 0
    flags: int = 0
    in_c: int = 0
    in_h: int = 0
    in_w: int = 0
    out_c: int = 0
    out_h: int = 0
    out_w: int = 0
    size_h: int = 0
    size_w: int = 0
    stride_h: int = 0
    stride_w: int = 0
    dilation_h: int = 0
    dilation_w: int = 0
    pad_h: int = 0
    pad_w: int = 0
    stride: int = 0
    tile_h: int = 0
    tile_w: int = 0
    num_inputs: int = 0
    in_offset: Four = _ZEROS
    in_element_bytes: Four = _ZEROS
    in_signed: Four = _ZEROS
    in_shift: Four = _ZEROS
    in_lanes: int = 0
    out_offset: int = 0
    out_element_bytes: int = 0
    in_channel: int = 0
    out_channel: int = 0
    factor_c: int = 0
    factor_h: int = 0
    factor_w: int = 0
    param_offset: int = 0
    param_bytes: int = 0
    param_crc32: int = 0
    weight_bytes: int = 0
    tile_table_offset: int = 0
    channel_table_offset: int = 0
    table_offset: int = 0
    shift: int = 0
    mul_pos: int = 0
    mul_neg: int = 0
    shift_neg: int = 0
    code_lo: int = 0
    code_hi: int = 0
    code_bits: int = 0
    clamp_lo: int = 0
    clamp_hi: int = 0
    modes: int = 0
    build: int = 0

    def pack(self) -> bytes:
        """Return the record's 256 bytes."""
        words: list[int] = []
        for field in fields(self):
            value = getattr(self, field.name)
            words += value if isinstance(value, tuple) else [value]
        return np.array([word & 0xFFFFFFFF for word in words], "<u4").tobytes()


def pack_descriptors(plan: AcceleratorPlan, blocks: list[ParamBlock]) -> list[Descriptor]:
    """Return the record of every command."""
    index = {node.name: i for i, node in enumerate(plan.graph.nodes)}
    last = {command.node: i for i, command in enumerate(plan.program)}
    return [
        _descriptor(plan, command, block, index[command.node], last[command.node] == i)
        for i, (command, block) in enumerate(zip(plan.program, blocks, strict=True))
    ]


def unpack_descriptors(data: bytes) -> list[bytes]:
    """Split the descriptor file into records.

    Raises:
        BundleError: The length is not a whole number of records, or a record lacks the magic number.
    """
    if not data or len(data) % RECORD_BYTES:
        raise BundleError(f"ddr/descriptors.bin: must be a multiple of {RECORD_BYTES} bytes, got {len(data)}")
    records = [data[i : i + RECORD_BYTES] for i in range(0, len(data), RECORD_BYTES)]
    for i, record in enumerate(records):
        magic = int.from_bytes(record[:4], "little")
        if magic != MAGIC:
            raise BundleError(f"ddr/descriptors.bin: record {i} must start with 0x{MAGIC:08x}, got 0x{magic:08x}")
    return records


def field_offset(name: str) -> int:
    """Return the byte offset of a field in the record."""
    position = 0
    for field in fields(Descriptor):
        if field.name == name:
            return position
        position += 16 if isinstance(field.default, tuple) else 4
    raise KeyError(name)


def _descriptor(plan: AcceleratorPlan, command: Command, block: ParamBlock, index: int, last: bool) -> Descriptor:
    graph, locations = plan.graph, plan.memory.locations
    node = graph.node(command.node)
    infos = [graph.tensors[name] for name in command.inputs]
    source, out = locations[command.inputs[0]], locations[command.output]
    contract = graph.contract
    return Descriptor(
        op=int(command.op),
        node=index,
        flags=_flags(node, last),
        in_c=infos[0].shape.c,
        in_h=infos[0].shape.h,
        in_w=infos[0].shape.w,
        out_c=command.channels,
        out_h=graph.tensors[command.output].shape.h,
        out_w=graph.tensors[command.output].shape.w,
        **_window_fields(node),
        stride=_stride(node, command),
        tile_h=command.tile.h,
        tile_w=command.tile.w,
        num_inputs=len(command.inputs),
        in_offset=_four(locations[name].offset for name in command.inputs),
        in_element_bytes=_four(info.fmt.storage_bytes for info in infos),
        in_signed=_four(int(info.fmt.signed) for info in infos),
        in_shift=_four(node.alignment(graph.inputs_of(node)) if isinstance(node, N.Add) else ()),
        in_lanes=source.lanes,
        out_offset=out.offset,
        out_element_bytes=out.element_bytes,
        in_channel=command.in_channel,
        out_channel=command.out_channel,
        **_factor_fields(plan, command),
        **_param_fields(block),
        **_requant_fields(plan, node, command),
        modes=contract.rounding.number + 16 * contract.overflow.number,
        build=plan.config.tm + (plan.config.tn << 8) + (contract.acc_bits << 16),
    )


def _four(values: object) -> Four:
    listed = [int(value) for value in values]  # type: ignore[attr-defined]
    a, b, c, d = (listed + [0] * MAX_INPUTS)[:MAX_INPUTS]
    return (a, b, c, d)


def _flags(node: Node, last: bool) -> int:
    flags = LAST_OF_NODE if last else 0
    if isinstance(node, (N.Conv2d, N.Add, N.Mul)) and node.act.table is not None:
        flags |= HAS_TABLE
    if isinstance(node, N.Reorg):
        flags |= (REORG_REVERSE if node.reverse else 0) | (REORG_DARKNET if node.mode == "darknet" else 0)
    return flags


def _window_fields(node: Node) -> dict[str, int]:
    if not isinstance(node, (N.Conv2d, N.MaxPool)):
        return {}
    window: Window = node.window
    parts = {"size": window.size, "stride": window.stride, "dilation": window.dilation, "pad": window.pad}
    return {f"{name}_{axis}": pair[i] for name, pair in parts.items() for i, axis in enumerate("hw")}


def _stride(node: Node, command: Command) -> int:
    if isinstance(node, (N.Upsample, N.Reorg)):
        return node.stride
    return 1 if command.op is CommandOp.COPY else 0


def _factor_fields(plan: AcceleratorPlan, command: Command) -> dict[str, int]:
    if command.op is not CommandOp.MUL:
        return {}
    shape = plan.graph.tensors[command.inputs[1]].shape
    return {"factor_c": shape.c, "factor_h": shape.h, "factor_w": shape.w}


def _param_fields(block: ParamBlock) -> dict[str, int]:
    if block is NO_PARAMS:
        return {}
    return {
        "param_offset": block.offset,
        "param_bytes": block.bytes,
        "param_crc32": block.crc32,
        "weight_bytes": block.weight_bytes,
        "tile_table_offset": block.tile_table,
        "channel_table_offset": block.channel_table,
        "table_offset": block.table,
    }


def _requant_fields(plan: AcceleratorPlan, node: Node, command: Command) -> dict[str, int]:
    requant = node.requant(plan.graph.inputs_of(node), plan.graph.output_of(node))
    if requant is None:
        return {}
    return {
        "shift": 0 if isinstance(node, N.Conv2d) else int(requant.shift[0]),
        "mul_pos": requant.mul_pos,
        "mul_neg": requant.mul_neg,
        "shift_neg": requant.shift_neg,
        "code_lo": requant.code.lo,
        "code_hi": requant.code.hi,
        "code_bits": requant.code.bits,
        "clamp_lo": requant.clamp_lo,
        "clamp_hi": requant.clamp_hi,
    }
