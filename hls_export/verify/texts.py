# SPDX-License-Identifier: Apache-2.0
"""Everything in a bundle that follows from its network: regenerate it and compare bytes."""

from __future__ import annotations

import io

from hls_export.bundle.descriptor import pack_descriptors
from hls_export.bundle.headers import config_header, incbin_source, model_header, network_header
from hls_export.bundle.manifest import MANIFEST, bundle_files, load_schema, manifest_document, role_of
from hls_export.bundle.memmap import memmap_csv, memmap_document, memmap_header
from hls_export.bundle.network_json import NETWORK, encode_network
from hls_export.bundle.text_memory import text_memories
from hls_export.bundle.write import ENGINE, core_headers
from hls_export.verify.files import OpenBundle
from hls_export.verify.golden import golden_files
from yolo_hw.errors import BundleError
from yolo_hw.intgraph.arrays import pack_arrays
from yolo_hw.intgraph.io import json_bytes

IMAGES = ("ddr/params.bin", "ddr/descriptors.bin")
"""Files that have a check of their own."""


def check_texts(bundle: OpenBundle) -> str:
    """Compare every file that follows from the network with what this version writes; there must be no others."""
    expected = {
        **_documents(bundle),
        **derived_headers(bundle),
        **accelerator_sources(bundle),
        **derived_text_memories(bundle),
    }
    compare_texts(bundle, expected)
    allowed = {*expected, *golden_files(bundle), *IMAGES}
    for path in bundle_files(bundle.folder):
        if path.relative_to(bundle.folder).as_posix() not in allowed:
            raise BundleError(f"{path.relative_to(bundle.folder).as_posix()}: is no file of a bundle")
    return f"{len(expected)} files"


def compare_texts(bundle: OpenBundle, expected: dict[str, bytes]) -> None:
    """Compare files with their expected bytes.

    Raises:
        BundleError: Names the file and the first line or byte that differs.
    """
    for path, content in expected.items():
        if not (bundle.folder / path).is_file():
            raise BundleError(f"{path}: is missing")
        found = bundle.read(path)
        if found != content:
            at = next((i for i, (a, b) in enumerate(zip(found, content, strict=False)) if a != b), len(content))
            place = f"byte {min(at, len(found))}, line {content.count(10, 0, at) + 1}"
            raise BundleError(f"{path}: differs from what this version writes for the network, first at {place}")


def accelerator_sources(bundle: OpenBundle) -> dict[str, bytes]:
    """Return the contents of the ``hls`` folder by path."""
    golden = bundle.document["golden"]
    cases = [case["case"] for case in golden["cases"]] if golden["full"] else []
    hand_written = [p for p in sorted(ENGINE.rglob("*")) if p.suffix in (".h", ".cpp", ".tcl") or p.name == "Makefile"]
    return {
        **{f"hls/{path.relative_to(ENGINE).as_posix()}": path.read_bytes() for path in hand_written},
        **{f"hls/core/{path.name}": path.read_bytes() for path in core_headers()},
        "hls/yhw_config.h": config_header(bundle.plan).encode(),
        "hls/yhw_network.h": network_header(bundle.plan, cases).encode(),
    }


def _documents(bundle: OpenBundle) -> dict[str, bytes]:
    document, arrays = encode_network(bundle.plan, bundle.blocks, bundle.document["source"], bundle.document["golden"])
    packed = io.BytesIO()
    pack_arrays(packed, arrays)
    entries = sorted(bundle.manifest["files"], key=lambda entry: str(entry["path"]))  # `check_files` has their digests
    manifest = manifest_document(bundle.plan.graph, [{**entry, "role": role_of(entry["path"])} for entry in entries])
    version = bundle.manifest["tool"]["version"]
    if version != manifest["tool"]["version"]:
        raise BundleError(
            f"{MANIFEST}: written by version {version}, which this version {manifest['tool']['version']} cannot check; "
            "export again, or verify with that version"
        )
    return {
        NETWORK: json_bytes(document),
        "params.npz": packed.getvalue(),
        MANIFEST: json_bytes(manifest),
        **{f"schema/{name}": json_bytes(load_schema(name)) for name in ("network.schema.json", "manifest.schema.json")},
    }


def derived_headers(bundle: OpenBundle) -> dict[str, bytes]:
    """Return the memory map's files, the host's headers and the ``.incbin`` source by path."""
    plan = bundle.plan
    sizes = [len(bundle.read(path)) for path in IMAGES]
    memmap = memmap_document(plan, *sizes)
    return {
        "ddr/memmap.json": json_bytes(memmap),
        "ddr/memmap.csv": memmap_csv(memmap).encode(),
        "ddr/memmap.h": memmap_header(memmap).encode(),
        "include/yolo_hw_model.h": model_header(plan, sizes[0], pack_descriptors(plan, bundle.blocks)).encode(),
        "include/yhw_descriptor.h": (ENGINE / "yhw_descriptor.h").read_bytes(),
        "src/yolo_hw_model.S": incbin_source(plan.config.align).encode(),
    }


def derived_text_memories(bundle: OpenBundle) -> dict[str, bytes]:
    """Return the contents of the ``mem`` folder by path."""
    params, descriptors = (bundle.read(path) for path in IMAGES)
    texts = text_memories("params", params, bundle.plan.config.lanes) | text_memories("descriptors", descriptors, 4)
    return {f"mem/{file}": text.encode() for file, text in texts.items()}
