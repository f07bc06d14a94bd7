# SPDX-License-Identifier: Apache-2.0
"""Running the exported HLS C++ under g++ on the golden vectors."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from hls_export.verify.files import OpenBundle
from yolo_hw.errors import BundleError

COMPILE_TIMEOUT_S = 600
RUN_TIMEOUT_S = 7200


class CompilerMissingError(BundleError):
    """No C++ compiler: the simulation cannot be run here."""


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
    if not bundle.document["golden"]["full"]:
        raise BundleError(
            "csim: the bundle holds golden digests only; export with a larger golden limit to simulate it"
        )
    compiler = os.environ.get("CXX", "g++")
    for tool in (compiler, "make"):
        if shutil.which(tool) is None:
            raise CompilerMissingError(f"csim needs '{tool}'; install it, or leave the simulation out with --skip csim")
    with tempfile.TemporaryDirectory(prefix="yolo_hw_csim_") as build:
        arguments = ["make", "-s", "-C", str(bundle.folder / "hls"), f"OUT={build}", f"CXX={compiler}"]
        arguments += [f"AP={ap_types}"] if ap_types else []
        compiled = _run([*arguments, f"{build}/yhw_tb"], COMPILE_TIMEOUT_S)
        if compiled.returncode:
            raise BundleError(f"csim: the HLS C++ does not compile: {compiled.stderr.strip()[-600:]}")
        result = _run([f"{build}/yhw_tb", str(bundle.folder)], RUN_TIMEOUT_S)
    lines = result.stdout.splitlines()
    equal = [line for line in lines if line.startswith("EQUAL")]
    cases = len(bundle.document["golden"]["cases"])
    if result.returncode or len(equal) != cases:
        raise BundleError(f"csim: {lines[-1] if lines else f'the test bench ended with {result.returncode}'}")
    codes = sum(info.shape.numel for info in bundle.plan.graph.tensors.values()) * cases
    return f"{cases} cases, {len(bundle.plan.program)} records, {codes} codes equal"


def _run(arguments: list[str], timeout: int) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(arguments, capture_output=True, text=True, timeout=timeout, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        raise BundleError(f"csim: {Path(arguments[0]).name} did not finish within {timeout} s") from None
