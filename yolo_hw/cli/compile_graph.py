# SPDX-License-Identifier: Apache-2.0
"""From a saved integer graph to a verified bundle: the end of the flow of `yolo_hw.pipeline`, without a float model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hls_export.bundle import ExportOptions, GoldenOptions, export_bundle
from hls_export.bundle.manifest import file_digest
from hls_export.config import AcceleratorConfig
from hls_export.plan import AcceleratorPlan
from hls_export.verify import VerifyReport, verify_bundle
from yolo_hw.data.batches import load_batches
from yolo_hw.data.preprocess import Resize
from yolo_hw.errors import GraphError
from yolo_hw.fixedpoint import IntArray
from yolo_hw.intgraph.execute import image_codes
from yolo_hw.intgraph.graph import INPUT, INPUT_FORMAT, IntGraph
from yolo_hw.intgraph.io import ARRAYS_FILE, GRAPH_FILE, load_graph
from yolo_hw.pipeline import Progress, check_destination


@dataclass(frozen=True, kw_only=True)
class GraphJob:
    """Everything `compile_graph` needs."""

    graph: Path
    """Folder of the integer graph (`yolo_hw.intgraph.io`)."""
    images: Path
    """Images of golden vectors: a folder, an image or a list."""
    out: Path
    """The bundle's folder."""
    accelerator: AcceleratorConfig
    """The hardware."""
    resize: Resize
    """How images are brought to the network's size."""
    golden_images: int
    """Images that become golden vectors, besides the adversarial ones."""
    golden: GoldenOptions
    """Size limit of the golden files."""
    skip: tuple[str, ...]
    """Checks to leave out of the verification."""


def compile_graph(job: GraphJob, progress: Progress) -> tuple[AcceleratorPlan, VerifyReport]:
    """Bring an integer graph into a verified bundle.

    The graph is checked when it is read, and with it every invariant of docs/numerics.md. What has made it does not
    take part, so the equality of a float64 simulation with it is not checked again.

    Args:
        job: Inputs, outputs, options.
        progress: Receives steps and counts.

    Returns:
        The plan that was exported, and what the checks have found in the bundle.

    Raises:
        YoloHwError: Any bad input; nothing is left behind.
    """
    progress.step("check output")
    check_destination(job.out, job.skip)
    progress.step("load graph")
    graph = load_graph(job.graph)
    _check_input(job.graph, graph)
    progress.step("load images")
    options = ExportOptions(_golden_images(job, graph), _digests(job.graph), job.golden)
    progress.step("write bundle")
    plan = export_bundle(
        graph, job.accelerator, job.out, options, lambda done, total: progress.advance("golden vectors", done, total)
    )
    report = verify_bundle(job.out, skip=job.skip, progress=lambda name: progress.step(f"verify: {name}"))
    return plan, report


def _check_input(path: Path, graph: IntGraph) -> None:
    found = graph.tensors[INPUT].fmt
    if found != INPUT_FORMAT:
        raise GraphError(f"{path}: the input must be {INPUT_FORMAT}, the bytes of an image, got {found}")


def _golden_images(job: GraphJob, graph: IntGraph) -> dict[str, IntArray]:
    batches = load_batches(job.images, graph.input_shape, resize=job.resize, batch=1, limit=job.golden_images)
    return {f"image{i}": image_codes(batch[0]) for i, batch in enumerate(batches)}


def _digests(folder: Path) -> dict[str, str]:
    files = {"graph": GRAPH_FILE, "params": ARRAYS_FILE}
    return {role: file_digest(folder / name) for role, name in files.items()}
