# SPDX-License-Identifier: Apache-2.0
"""Bundles of small networks, and tools that change a bundle on disk. Needs no torch."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import tempfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from support.cfg_graph import cfg_graph, feature_cfg
from support.random_graph import random_input

from hls_export.bundle import ExportOptions, export_bundle
from hls_export.bundle.descriptor import pack_descriptors
from hls_export.bundle.manifest import bundle_files
from hls_export.config import AcceleratorConfig
from hls_export.plan import AcceleratorPlan
from hls_export.verify import Status, VerifyReport, open_bundle, verify_bundle
from hls_export.verify.texts import accelerator_sources, derived_headers, derived_text_memories
from yolo_hw.fixedpoint import IntArray
from yolo_hw.intgraph import IntGraph


def write_bundle(
    graph: IntGraph, folder: Path, config: AcceleratorConfig | None = None, **options: Any
) -> AcceleratorPlan:
    """Export a graph with one random golden image."""
    images = {"image0": random_input(graph, 1)}
    return export_bundle(graph, config or AcceleratorConfig(), folder, ExportOptions(images, **options))


def failures(folder: Path, *, skip: Iterable[str] = ("csim",)) -> dict[str, str]:
    """Verify a bundle; return the messages of the failed checks by name."""
    return failed(verify_bundle(folder, skip=tuple(skip)))


def failed(report: VerifyReport) -> dict[str, str]:
    """Return the messages of a report's failed checks by name."""
    return {result.name: result.detail for result in report.results if result.status is Status.FAILED}


def edit_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a JSON file of a bundle and write it as the library does."""
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def flip_bit(path: Path, bit: int) -> None:
    """Invert one bit of a file; negative numbers count from its end."""
    data = bytearray(path.read_bytes())
    data[bit // 8 % len(data)] ^= 1 << bit % 8
    path.write_bytes(data)


def edit_arrays(path: Path, change: Callable[[dict[str, IntArray]], object]) -> None:
    """Change the arrays of an npz file with numpy's own writer."""
    with np.load(path) as file:
        arrays = {key: file[key].copy() for key in file.files}
    change(arrays)
    packed = io.BytesIO()
    np.savez(packed, **arrays)
    path.write_bytes(packed.getvalue())


def forge_manifest(folder: Path) -> None:
    """List the files as they are now, as a tool would that recomputes digests without looking at contents."""

    def refresh(document: dict[str, Any]) -> None:
        for entry in document["files"]:
            path = folder / entry["path"]
            if path.is_file():
                data = path.read_bytes()
                entry |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    edit_json(folder / "manifest.json", refresh)


@functools.cache
def feature_bundle_files() -> tuple[str, ...]:
    """Return the paths of all files of the small bundle but its manifest, for parametrised tests."""
    with tempfile.TemporaryDirectory() as folder:
        write_bundle(cfg_graph(feature_cfg()), Path(folder))
        return tuple(path.relative_to(folder).as_posix() for path in bundle_files(Path(folder)))


def rewrite(
    folder: Path,
    change_document: Callable[[dict[str, Any]], object] = lambda document: None,
    change_image: Callable[[bytearray], object] = lambda image: None,
) -> None:
    """Change network and parameter image, then make everything that follows from them agree again.

    What stays as it was: ``params.npz``, the plan's other numbers, proofs and golden vectors.
    """
    image = bytearray((folder / "ddr/params.bin").read_bytes())
    change_image(image)
    (folder / "ddr/params.bin").write_bytes(image)

    def change(document: dict[str, Any]) -> None:
        change_document(document)
        for command in document["program"]:
            block = command["params"]
            if block:
                block["crc32"] = zlib.crc32(image[block["offset"] : block["offset"] + block["bytes"]])

    edit_json(folder / "network.json", change)
    opened = open_bundle(folder)
    descriptors = b"".join(d.pack() for d in pack_descriptors(opened.plan, opened.blocks))
    (folder / "ddr/descriptors.bin").write_bytes(descriptors)
    regenerate_texts(folder)


def regenerate_texts(folder: Path) -> None:
    """Write every derived text and the manifest anew for the network and images as they are now."""
    opened = open_bundle(folder)
    for part in (derived_headers, derived_text_memories, accelerator_sources):
        for path, content in part(opened).items():
            (folder / path).write_bytes(content)
    forge_manifest(folder)
