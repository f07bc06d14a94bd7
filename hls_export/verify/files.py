# SPDX-License-Identifier: Apache-2.0
"""Checks of a bundle's files: digests, proofs, descriptors, parameters."""

from __future__ import annotations

import stat
import zlib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from hls_export.bundle.descriptor import RECORD_BYTES, Descriptor, field_offset, pack_descriptors, unpack_descriptors
from hls_export.bundle.manifest import MANIFEST, bundle_files, file_digest
from hls_export.bundle.network_json import accumulator_proofs
from hls_export.pack.params import NO_PARAMS, BlockReader, ConvLayout, ParamBlock
from hls_export.plan import AcceleratorPlan
from yolo_hw.errors import BundleError
from yolo_hw.intgraph import nodes as N


@dataclass(frozen=True)
class OpenBundle:
    """A bundle that has been read.

    Attributes:
        folder: Where it is.
        manifest: ``manifest.json``.
        document: ``network.json``.
        plan: The plan rebuilt from it.
        blocks: Parameter block of every command.
    """

    folder: Path
    manifest: dict[str, Any]
    document: dict[str, Any]
    plan: AcceleratorPlan
    blocks: list[ParamBlock]

    def read(self, path: str) -> bytes:
        """Return the bytes of a file of the bundle."""
        return (self.folder / path).read_bytes()


def check_plain(folder: Path) -> None:
    """Check that a folder holds nothing but folders and plain files, so that reading one ends and stays inside.

    Raises:
        BundleError: Names the link, device or pipe.
    """
    for path in bundle_files(folder):
        if not stat.S_ISREG(path.lstat().st_mode):
            raise BundleError(f"{path.relative_to(folder).as_posix()}: must be a plain file")


def check_files(folder: Path, manifest: dict[str, Any]) -> str:
    """Check that the files are exactly those of the manifest, with its sizes and digests."""
    check_plain(folder)
    listed = {entry["path"]: entry for entry in manifest["files"]}
    present = {path.relative_to(folder).as_posix(): path for path in bundle_files(folder)}
    for path in sorted(set(listed) | set(present)):
        if path not in present:
            raise BundleError(f"{path}: is listed in {MANIFEST}, but missing")
        if path not in listed:
            raise BundleError(f"{path}: is not listed in {MANIFEST}")
        size = present[path].stat().st_size
        if size != listed[path]["bytes"]:
            raise BundleError(f"{path}: must have {listed[path]['bytes']} bytes, got {size}")
        if file_digest(present[path]) != listed[path]["sha256"]:
            raise BundleError(f"{path}: its sha256 is not the one in {MANIFEST}")
    return f"{len(listed)} files"


def check_proofs(bundle: OpenBundle) -> str:
    """Recompute the accumulator proofs from the weights."""
    expected = accumulator_proofs(bundle.plan.graph)
    stated = bundle.document["proofs"]
    for found, proof in zip(stated, expected, strict=False):
        if found != proof:
            raise BundleError(f"proofs: {proof['node']}: recomputed {proof}, stated {found}")
    if len(stated) != len(expected):
        raise BundleError(f"proofs: {len(expected)} nodes have accumulators, {len(stated)} proofs are stated")
    widest = max(expected, key=lambda p: p["bits"])
    limit = bundle.plan.graph.contract.acc_bits
    return f"{len(expected)} nodes, at most {widest['bits']} of {limit} bits ({widest['node']})"


def check_descriptors(bundle: OpenBundle) -> str:
    """Compare every record with the one the network document gives; name record and field."""
    records = unpack_descriptors(bundle.read("ddr/descriptors.bin"))
    expected = pack_descriptors(bundle.plan, bundle.blocks)
    if len(records) != len(expected):
        raise BundleError(f"ddr/descriptors.bin: must have {len(expected)} records, got {len(records)}")
    for i, (record, descriptor) in enumerate(zip(records, expected, strict=True)):
        wanted = descriptor.pack()
        if record != wanted:
            field = _first_field(record, wanted)
            raise BundleError(f"ddr/descriptors.bin: record {i} ({bundle.plan.program[i].node}): field {field} differs")
    return f"{len(records)} records of {RECORD_BYTES} bytes"


def _first_field(record: bytes, wanted: bytes) -> str:
    at = next(i for i in range(len(wanted)) if record[i] != wanted[i])
    name = max((f.name for f in fields(Descriptor) if field_offset(f.name) <= at), key=field_offset)
    word = at // 4 * 4
    found, expected = (int.from_bytes(data[word : word + 4], "little", signed=True) for data in (record, wanted))
    return f"{name} (expected {expected}, got {found})"


def check_params(bundle: OpenBundle) -> str:
    """Read every parameter back from the DDR image and compare it with ``params.npz``."""
    image = bundle.read("ddr/params.bin")
    graph, plan = bundle.plan.graph, bundle.plan
    end = max((block.offset + block.bytes for block in bundle.blocks), default=0)
    if len(image) != end:
        raise BundleError(f"ddr/params.bin: the image must have {end} bytes, got {len(image)}")
    count = 0
    for command, block in zip(plan.program, bundle.blocks, strict=True):
        node = graph.node(command.node)
        if block is NO_PARAMS:
            if isinstance(node, N.Conv2d):
                raise BundleError(f"ddr/params.bin: {node.name} has no parameter block")
            continue
        if zlib.crc32(image[block.offset : block.offset + block.bytes]) != block.crc32:
            raise BundleError(f"ddr/params.bin: {node.name}: the block's CRC-32 is not the stated one")
        if isinstance(node, N.Conv2d):
            _compare_conv(
                bundle, node, BlockReader(image, block, node, ConvLayout(command, len(node.bias), plan.config))
            )
            count += int(node.weight.size + node.bias.size)
        _compare_table(image, block, node)
    return f"{count} weights and biases"


def _compare_conv(bundle: OpenBundle, node: N.Conv2d, reader: BlockReader) -> None:
    weight = reader.weights()
    table = reader.channel_table()
    requant = node.requant(bundle.plan.graph.inputs_of(node), bundle.plan.graph.output_of(node))
    for role, found, expected in (
        ("weight", weight, node.weight),
        ("bias", table[:, 0], node.bias),
        ("output shift", table[:, 1], requant.shift),
    ):
        unequal = found != expected
        if unequal.any():
            at = tuple(int(v) for v in np.unravel_index(int(unequal.argmax()), unequal.shape))
            raise BundleError(
                f"ddr/params.bin: {node.name}: {role} {at} must be {int(expected[at])} as in params.npz, got "
                f"{int(found[at])}"
            )


def _compare_table(image: bytes, block: ParamBlock, node: N.Node) -> None:
    table = node.arrays.get("table")
    if table is None:
        return
    found = np.frombuffer(image[block.table : block.table + 2 * table.size], "<i2")
    if found.size != table.size or (found != table).any():
        raise BundleError(f"ddr/params.bin: {node.name}: the activation table differs from params.npz")
