# SPDX-License-Identifier: Apache-2.0
"""Running the exported HLS C++ under g++ on the golden vectors."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from hls_export.bundle.golden import golden_tensors
from hls_export.verify.files import OpenBundle
from hls_export.verify.golden import case_input
from hls_export.verify.texts import accelerator_sources, compare_texts
from yolo_hw.errors import BundleError

COMPILE_TIMEOUT_S = 600
RUN_TIMEOUT_S = 7200


class CompilerMissingError(BundleError):
    """No C++ compiler: the simulation cannot be run here."""


def require_compiler() -> str:
    """Return the C++ compiler of the simulation.

    Raises:
        CompilerMissingError: There is no compiler or no make.
    """
    compiler = os.environ.get("CXX", "g++")
    for tool in (compiler, "make"):
        if shutil.which(tool) is None:
            raise CompilerMissingError(f"csim needs '{tool}'; install it, or leave the simulation out with --skip csim")
    return compiler


def check_csim(bundle: OpenBundle, ap_types: Path | None = None) -> str:
    """Compile the bundle's HLS C++ outside of the bundle and run its test bench.

    Args:
        bundle: The bundle.
        ap_types: Folder of Xilinx's ``ap_int.h``; None uses plain integers.

    Returns:
        What was compared.

    Raises:
        CompilerMissingError: No compiler or make.
        BundleError: Compilation failed, or a code or accumulator differs; the test bench's message.
    """
    compare_texts(bundle, accelerator_sources(bundle))  # before make runs anything of the bundle
    compiler = require_compiler()
    with tempfile.TemporaryDirectory(prefix="yolo_hw_csim_") as build:
        hls = str(bundle.folder / "hls")
        arguments = ["make", "-s", "-C", hls, "-f", "Makefile", f"OUT={build}", f"CXX={compiler}"]
        arguments += [f"AP={ap_types}"] if ap_types else []
        compiled = _run([*arguments, f"{build}/yhw_tb"], COMPILE_TIMEOUT_S)
        if compiled.returncode:
            raise BundleError(f"csim: the HLS C++ does not compile: {compiled.stderr.strip()[-600:]}")
        cases = [case["case"] for case in bundle.document["golden"]["cases"]]
        if bundle.document["golden"]["full"]:
            _simulate(Path(build), [str(bundle.folder)], len(cases))
        else:
            for case in cases:
                _simulate_digested(bundle, Path(build), case)
    codes = sum(bundle.plan.graph.output_of(node).shape.numel for node in bundle.plan.graph.nodes) * len(cases)
    origin = "" if bundle.document["golden"]["full"] else ", golden vectors recomputed for the digests"
    return f"{len(cases)} cases, {len(bundle.plan.program)} records, {codes} codes equal{origin}"


def _simulate(build: Path, arguments: list[str], cases: int) -> None:
    result = _run([f"{build}/yhw_tb", *arguments], RUN_TIMEOUT_S)
    lines = result.stdout.splitlines()
    equal = [line for line in lines if line.startswith("EQUAL")]
    if result.returncode or len(equal) != cases:
        raise BundleError(f"csim: {lines[-1] if lines else f'the test bench ended with {result.returncode}'}")


def _simulate_digested(bundle: OpenBundle, build: Path, case: str) -> None:
    """Write one case's golden vectors, which the bundle has only digests of, and simulate it."""
    golden = build / "golden"
    folder = golden / case
    folder.mkdir(parents=True)
    image = case_input(bundle, case)
    (folder / "input.bin").write_bytes(image.astype(np.uint8).tobytes())
    for name, _, files in golden_tensors(bundle.plan.graph, image):
        for suffix, content in files.items():
            (folder / f"{name}.{suffix}.bin").write_bytes(content)
    _simulate(build, [str(bundle.folder), str(golden), case], 1)
    shutil.rmtree(golden)


def _run(arguments: list[str], timeout: int) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(arguments, capture_output=True, text=True, timeout=timeout, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        raise BundleError(f"csim: {Path(arguments[0]).name} did not finish within {timeout} s") from None
