# SPDX-License-Identifier: Apache-2.0
"""Writing a bundle. The top function is `export_bundle`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hls_export.bundle.descriptor import Descriptor, pack_descriptors
from hls_export.bundle.golden import GoldenOptions, Progress, golden_inputs, write_golden
from hls_export.bundle.headers import config_header, incbin_source, model_header, network_header
from hls_export.bundle.manifest import MANIFEST, load_schema, make_manifest
from hls_export.bundle.memmap import memmap_csv, memmap_document, memmap_header
from hls_export.bundle.network_json import NETWORK, encode_network
from hls_export.bundle.text_memory import text_memories
from hls_export.config import AcceleratorConfig
from hls_export.pack.params import pack_params
from hls_export.plan import AcceleratorPlan, make_plan
from yolo_hw.atomic import atomic_folder, check_replaceable
from yolo_hw.errors import ExportError
from yolo_hw.fixedpoint import IntArray
from yolo_hw.intgraph.arrays import write_arrays
from yolo_hw.intgraph.check import check_graph
from yolo_hw.intgraph.graph import IntGraph
from yolo_hw.intgraph.io import json_bytes

ENGINE = Path(__file__).resolve().parents[1] / "engine"
"""The accelerator's hand-written sources."""
CORE_HEADERS = ("config.h", "requant.h", "rounding.h")
"""The arithmetic that the accelerator shares with the engine."""


@dataclass(frozen=True)
class ExportOptions:
    """What goes into a bundle besides the network.

    Attributes:
        images: Codes [C, H, W] of real images for golden vectors, by case name.
        source: Digests of what the network was made from, by role.
        golden: Size limit of the golden files.
    """

    images: Mapping[str, IntArray]
    source: Mapping[str, str] = field(default_factory=dict)
    golden: GoldenOptions = field(default_factory=GoldenOptions)


def export_bundle(
    graph: IntGraph,
    config: AcceleratorConfig,
    folder: str | Path,
    options: ExportOptions,
    progress: Progress | None = None,
) -> AcceleratorPlan:
    """Write everything an FPGA project needs of a network; equal inputs give equal bytes.

    Args:
        graph: The network.
        config: The accelerator.
        folder: Output; an existing bundle there is replaced, anything else is an error.
        options: Golden images and provenance.
        progress: Called with golden cases done and in all.

    Returns:
        The plan that was exported.

    Raises:
        GraphError: The graph violates an invariant.
        ExportError: The accelerator cannot run it.
        OutputError: `folder` holds something that is no bundle.
    """
    folder = Path(folder)
    check_replaceable(folder, MANIFEST)
    check_graph(graph)
    plan = make_plan(graph, config)
    params, blocks = pack_params(plan)
    descriptors = pack_descriptors(plan, blocks)
    with atomic_folder(folder, marker=MANIFEST) as out:
        golden = write_golden(graph, golden_inputs(graph, options.images), out / "golden", options.golden, progress)
        network, arrays = encode_network(plan, blocks, options.source, golden)
        _write(out / NETWORK, json_bytes(network))
        write_arrays(out / "params.npz", arrays)
        for name in ("network.schema.json", "manifest.schema.json"):
            _write(out / "schema" / name, json_bytes(load_schema(name)))
        _write_memory_images(out, plan, params, b"".join(d.pack() for d in descriptors))
        _write_headers(out, plan, len(params), descriptors)
        cases = [case["case"] for case in golden["cases"]] if golden["full"] else []
        _write_hls(out / "hls", plan, cases)
        _write(out / MANIFEST, json_bytes(make_manifest(out, graph)))
    return plan


def core_headers() -> list[Path]:
    """Return the headers of ``csrc/core`` that the accelerator includes, from the source tree or the installation.

    Raises:
        ExportError: They are in neither.
    """
    for folder in (ENGINE.parents[1] / "csrc" / "core", ENGINE.parent / "core"):
        found = [folder / name for name in CORE_HEADERS]
        if all(path.is_file() for path in found):
            return found
    raise ExportError("the headers of csrc/core are missing from the installation; install yolo_hw again")


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _write_memory_images(out: Path, plan: AcceleratorPlan, params: bytes, descriptors: bytes) -> None:
    _write(out / "ddr/params.bin", params)
    _write(out / "ddr/descriptors.bin", descriptors)
    document = memmap_document(plan, len(params), len(descriptors))
    _write(out / "ddr/memmap.json", json_bytes(document))
    _write(out / "ddr/memmap.csv", memmap_csv(document).encode())
    _write(out / "ddr/memmap.h", memmap_header(document).encode())
    for name, data, word_bytes in (("params", params, plan.config.lanes), ("descriptors", descriptors, 4)):
        for file, text in text_memories(name, data, word_bytes).items():
            _write(out / "mem" / file, text.encode())


def _write_headers(out: Path, plan: AcceleratorPlan, param_bytes: int, descriptors: list[Descriptor]) -> None:
    _write(out / "include/yolo_hw_model.h", model_header(plan, param_bytes, descriptors).encode())
    _write(out / "include/yhw_descriptor.h", (ENGINE / "yhw_descriptor.h").read_bytes())
    _write(out / "src/yolo_hw_model.S", incbin_source(plan.config.align).encode())


def _write_hls(out: Path, plan: AcceleratorPlan, cases: list[str]) -> None:
    for path in sorted(ENGINE.rglob("*")):
        if path.suffix in (".h", ".cpp", ".tcl") or path.name == "Makefile":
            _write(out / path.relative_to(ENGINE), path.read_bytes())
    for path in core_headers():
        _write(out / "core" / path.name, path.read_bytes())
    _write(out / "yhw_config.h", config_header(plan).encode())
    _write(out / "yhw_network.h", network_header(plan, cases).encode())
