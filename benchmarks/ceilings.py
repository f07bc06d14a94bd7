# SPDX-License-Identifier: Apache-2.0
"""What the machine can do at most, measured in the same run: copying memory, multiplying and adding in registers."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.measure import Candidate, Case, Function, PeerMissingError

NAME = "ceilings"
COPY_BYTES = 64 << 20
"""Of one tensor: beyond every cache."""
ROUNDS = 200_000
SOURCE = Path(__file__).with_name("peak.cpp")


def cases() -> list[Case]:
    """Return the ceilings as one case each."""
    copy = memcpy_candidate(COPY_BYTES)
    peaks = [
        Case(f"{kind} peak", (Candidate("peak", _peak(kind)),), 0, _operations(kind)) for kind in ("float", "int8")
    ]
    return [Case("memory copy", (copy,), 2 * COPY_BYTES), *peaks]


def memcpy_candidate(size: int) -> Candidate:
    """Copying `size` bytes between two buffers that exist: the floor of an operator that reads and writes as much."""
    return Candidate("memcpy", lambda threads: copy_function(size, threads), bytes=2 * size)


def copy_function(size: int, threads: int) -> Function:
    """Return a copy of `size` bytes: the C library's on one thread, torch's on several."""
    source, target = (torch.ones(size, dtype=torch.uint8) for _ in range(2))
    if threads == 1:
        return _Copy(source, target)
    return lambda: target.copy_(source)


class _Copy:
    """memmove with as little around it as Python allows; keeps its buffers."""

    def __init__(self, source: Tensor, target: Tensor) -> None:
        self._buffers = (source, target)
        self._arguments = (target.data_ptr(), source.data_ptr(), source.numel())

    def __call__(self) -> object:
        return ctypes.memmove(*self._arguments)


@cache
def _library() -> ctypes.CDLL:
    """The compiled probe."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise PeerMissingError(f"the compiler {compiler} is not installed")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "peak.so"
        command = [compiler, "-std=c++14", "-O2", "-march=native", "-shared", "-fPIC", str(SOURCE), "-o", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise PeerMissingError(f"{SOURCE.name} does not compile: {done.stderr.splitlines()[0]}")
        library = ctypes.CDLL(str(path))
    for kind in ("float", "int8"):
        function = getattr(library, f"yhw_peak_{kind}")
        function.argtypes, function.restype = [ctypes.c_int64], ctypes.c_int64
    return library


def _operations(kind: str) -> int:
    """Operations of one call on one thread; 0 where there is no probe."""
    try:
        return int(getattr(_library(), f"yhw_peak_{kind}")(1)) * ROUNDS
    except PeerMissingError:
        return 0


def _peak(kind: str) -> Callable[[int], Function]:
    def prepare(threads: int) -> Function:
        function = getattr(_library(), f"yhw_peak_{kind}")
        if not function(1):
            raise PeerMissingError(f"no {kind} multiply-add that {SOURCE.name} knows on this processor")
        if threads == 1:
            return lambda: function(ROUNDS)
        pool = ThreadPoolExecutor(threads)
        share = [ROUNDS // threads] * threads
        return lambda: list(pool.map(function, share))

    return prepare
