# SPDX-License-Identifier: Apache-2.0
"""Verification of a bundle: the list of checks is `CHECKS`, the entry is `verify_bundle`."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

from hls_export.bundle.manifest import MANIFEST, read_manifest
from hls_export.bundle.network_json import NETWORK, decode_network
from hls_export.verify.csim import CompilerMissingError, check_csim, require_compiler
from hls_export.verify.files import (
    OpenBundle,
    check_descriptors,
    check_files,
    check_params,
    check_plain,
    check_proofs,
)
from hls_export.verify.golden import all_engine_paths, check_engine, check_golden
from hls_export.verify.memory import replay_memory
from hls_export.verify.plan import check_plan
from hls_export.verify.report import CheckResult, Difference, Status, VerifyReport, first_difference
from hls_export.verify.texts import check_texts
from yolo_hw.errors import BundleError, GraphError, YoloHwError
from yolo_hw.intgraph.arrays import read_arrays
from yolo_hw.intgraph.check import CHECKS as GRAPH_INVARIANTS
from yolo_hw.intgraph.check import check_graph
from yolo_hw.intgraph.io import read_json

__all__ = [
    "CHECKS",
    "CheckResult",
    "CompilerMissingError",
    "Difference",
    "OpenBundle",
    "Status",
    "VerifyReport",
    "first_difference",
    "open_bundle",
    "require_compiler",
    "verify_bundle",
]

Progress = Callable[[str], None]


def _check_graph(bundle: OpenBundle) -> str:
    check_graph(bundle.plan.graph)
    return f"{len(bundle.plan.graph.nodes)} nodes, {len(GRAPH_INVARIANTS)} invariants"


def _check_memory(bundle: OpenBundle) -> str:
    words = replay_memory(bundle.plan)
    return f"{len(bundle.plan.program)} records replayed, {words} words read while intact"


CHECKS: dict[str, Callable[[OpenBundle], str]] = {
    "graph": _check_graph,
    "proofs": check_proofs,
    "descriptors": check_descriptors,
    "params": check_params,
    "memory": _check_memory,
    "plan": check_plan,
    "texts": check_texts,
    "golden": check_golden,
    **{f"engine-{path}": partial(check_engine, path=path) for path in all_engine_paths()},
    "csim": check_csim,
}
"""Name -> check of an opened bundle, after `BEFORE`; each returns what it compared, or raises."""

BEFORE = ("manifest", "files", "import")
"""The checks that open a bundle."""


def open_bundle(folder: str | Path) -> OpenBundle:
    """Read a bundle's network and rebuild graph and plan from it.

    Raises:
        BundleError: The bundle is damaged or of another version.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    check_plain(folder)
    document: dict[str, Any] = read_json(folder / NETWORK)
    arrays = read_arrays(folder / "params.npz")
    try:
        plan, blocks = decode_network(document, arrays)
    except GraphError as error:
        raise BundleError(f"{NETWORK}, params.npz: {error}") from None
    return OpenBundle(folder, manifest, document, plan, blocks)


def verify_bundle(folder: str | Path, *, skip: Collection[str] = (), progress: Progress | None = None) -> VerifyReport:
    """Run every check on a bundle.

    A failed check does not keep the others from running, with two exceptions: an invalid graph is not executed, and the
    simulation runs only on a bundle without any other fault, because descriptors address its memory.

    Args:
        folder: The bundle.
        skip: Names of checks to leave out; they are reported as skipped.
        progress: Called with the name of each check before it runs.

    Returns:
        The report.

    Raises:
        BundleError: `folder` is no bundle at all.
        CompilerMissingError: The simulation cannot run here and is not skipped.
        YoloHwError: An unknown name in `skip`.
    """
    unknown = set(skip) - set(CHECKS) - {"files"}
    if unknown:
        raise YoloHwError(f"no check '{min(unknown)}'; the checks are files, {', '.join(CHECKS)}")
    folder = Path(folder)
    if not folder.is_dir():
        raise BundleError(f"{folder}: no such folder")
    if not (folder / MANIFEST).is_file():
        raise BundleError(f"{folder}: not a bundle, it has no {MANIFEST}")
    report = VerifyReport()
    _run(report, "manifest", lambda: f"{len(read_manifest(folder)['files'])} files listed", (), progress)
    opened: list[OpenBundle] = []
    if report.passed:
        _run(report, "files", lambda: check_files(folder, read_manifest(folder)), skip, progress)
        _run(report, "import", lambda: _open(folder, opened), (), progress)
    for name, check in CHECKS.items():
        reason = _reason_to_leave_out(report, name, opened)
        if reason:
            report.results.append(CheckResult(name, Status.SKIPPED, reason))
        else:
            _run(report, name, partial(check, opened[0]), skip, progress)
    return report


def _open(folder: Path, opened: list[OpenBundle]) -> str:
    opened.append(open_bundle(folder))
    return f"{NETWORK} follows its schema"


def _reason_to_leave_out(report: VerifyReport, name: str, opened: list[OpenBundle]) -> str | None:
    failed = [result.name for result in report.results if result.status is Status.FAILED]
    if not opened:
        return "the bundle could not be imported"
    if "graph" in failed:
        return "the graph is not valid"
    if name == "csim" and failed:
        return f"not run, because {failed[0]} failed"
    return None


def _run(
    report: VerifyReport, name: str, check: Callable[[], str], skip: Collection[str], progress: Progress | None
) -> None:
    if name in skip:
        report.results.append(CheckResult(name, Status.SKIPPED, "left out on request"))
        return
    if progress:
        progress(name)
    try:
        report.results.append(CheckResult(name, Status.PASSED, check()))
    except CompilerMissingError:
        raise
    except YoloHwError as error:
        report.results.append(CheckResult(name, Status.FAILED, str(error)))
    except MemoryError:
        report.results.append(CheckResult(name, Status.FAILED, "the bundle asks for more memory than there is"))
    except OSError as error:
        report.results.append(CheckResult(name, Status.FAILED, f"{error.filename}: cannot read: {error.strerror}"))
