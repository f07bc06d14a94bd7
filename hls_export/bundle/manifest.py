# SPDX-License-Identifier: Apache-2.0
"""The manifest: every file of a bundle with role, size and digest."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, cast

from yolo_hw import __version__
from yolo_hw.errors import BundleError, GraphError
from yolo_hw.intgraph.codec import graph_schema
from yolo_hw.intgraph.graph import IntGraph
from yolo_hw.intgraph.io import read_json
from yolo_hw.intgraph.schema import first_violation

MANIFEST = "manifest.json"
SCHEMA_ID = "yolo_hw.bundle/1"

ROLES = (
    ("network.json", "network"),
    ("params.npz", "arrays"),
    ("schema/", "schema"),
    ("ddr/params.bin", "params"),
    ("ddr/descriptors.bin", "descriptors"),
    ("ddr/memmap", "memory_map"),
    ("include/", "header"),
    ("src/", "source"),
    ("mem/", "text_memory"),
    ("hls/", "hls"),
    ("golden/", "golden"),
)
"""Path prefix -> role; the first match counts."""

WORK_FOLDERS = ("hls/build", "hls/yhw_project")
"""Where ``make csim`` and ``vitis_hls -f run_hls.tcl`` work; no part of a bundle, and nothing reads them."""


@cache
def load_schema(name: str) -> dict[str, Any]:
    """Return a JSON Schema of this package, the integer graph's embedded where it is referred to."""
    schema = cast("dict[str, Any]", json.loads(Path(__file__).with_name(name).read_text("utf-8")))
    if name == "network.schema.json":
        schema["$defs"]["intgraph"] = graph_schema()
    return schema


def validate_document(document: dict[str, Any], schema: str, where: str) -> None:
    """Check a JSON document against a schema of this package.

    Raises:
        BundleError: Names the place and what must hold.
    """
    violation = first_violation(document, load_schema(schema))
    if violation:
        raise BundleError(f"{where}: {violation}")


def file_digest(path: Path) -> str:
    """Return the sha256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def make_manifest(folder: Path, graph: IntGraph) -> dict[str, Any]:
    """List every file below `folder`."""
    return manifest_document(graph, [_entry(folder, path) for path in bundle_files(folder)])


def manifest_document(graph: IntGraph, entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the manifest of a graph's bundle with the given file entries."""
    contract = graph.contract
    return {
        "schema": SCHEMA_ID,
        "name": graph.name,
        "tool": {"name": "yolo_hw", "version": __version__},
        "numeric": {
            "rounding": contract.rounding.value,
            "overflow": contract.overflow.value,
            "acc_bits": contract.acc_bits,
            "min_shift": contract.min_shift,
            "max_shift": contract.max_shift,
            "byte_order": "little",
        },
        "files": entries,
    }


def bundle_files(folder: Path) -> list[Path]:
    """Return all that lies below `folder` but folders, the manifest and `WORK_FOLDERS`, sorted by relative path."""
    work = {folder / name for name in WORK_FOLDERS}
    found: list[Path] = []
    for parent, folders, files in os.walk(folder):
        entries = {Path(parent, name) for name in folders}
        kept = {path for path in entries - work if not path.is_symlink()}
        folders[:] = [path.name for path in kept]
        found += [Path(parent, name) for name in files] + list(entries - work - kept)
    return sorted(set(found) - {folder / MANIFEST}, key=lambda path: path.relative_to(folder).as_posix())


def _entry(folder: Path, path: Path) -> dict[str, Any]:
    relative = path.relative_to(folder).as_posix()
    return {"path": relative, "role": role_of(relative), "bytes": path.stat().st_size, "sha256": file_digest(path)}


def role_of(path: str) -> str:
    """Return the role of a bundle's file.

    Raises:
        BundleError: No file of a bundle lies there.
    """
    for prefix, role in ROLES:
        if path.startswith(prefix):
            return role
    raise BundleError(f"{path}: is no file of a bundle")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read and validate a bundle's manifest; paths must stay inside of the bundle.

    Raises:
        BundleError: No bundle, unknown version, or a path that leaves the bundle.
    """
    if not folder.is_dir():
        raise BundleError(f"{folder}: no such folder")
    if not (folder / MANIFEST).is_file():
        raise BundleError(f"{folder}: not a bundle, it has no {MANIFEST}")
    try:
        document = read_json(folder / MANIFEST)
    except GraphError as error:
        raise BundleError(str(error)) from None
    version = document.get("schema")
    if version != SCHEMA_ID:
        raise BundleError(f"{MANIFEST}: this version reads schema '{SCHEMA_ID}', got '{version}'")
    validate_document(document, "manifest.schema.json", MANIFEST)
    check_paths(entry["path"] for entry in document["files"])
    return document


def check_paths(paths: Iterable[str]) -> None:
    """Check that relative paths are plain, unique and stay inside of the bundle.

    Raises:
        BundleError: Names the path.
    """
    seen: set[str] = set()
    for path in paths:
        parts = PurePosixPath(path).parts
        if (
            path.startswith("/")
            or "\\" in path
            or "\0" in path
            or ".." in parts
            or PurePosixPath(path).as_posix() != path
        ):
            raise BundleError(f"{MANIFEST}: a path must stay inside of the bundle, got '{path[:80]}'")
        if path in seen:
            raise BundleError(f"{MANIFEST}: '{path[:80]}' is listed twice")
        seen.add(path)
