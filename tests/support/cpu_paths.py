# SPDX-License-Identifier: Apache-2.0
"""Running an operator on every instruction set and on several threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

import yolo_hw.ops  # noqa: F401 - loads the operators

PATHS = ("baseline", "avx2", "avx512")


def supported_paths() -> list[str]:
    """The paths of this processor."""
    found = []
    try:
        for name in PATHS:
            try:
                torch.ops.yolo_hw.set_cpu_path(name)
            except RuntimeError:
                continue
            found.append(name)
    finally:
        torch.ops.yolo_hw.set_cpu_path("best")
    return found


def results_on_every_path(run: Callable[[], Sequence[Tensor]], threads: Sequence[int] = (1, 3)) -> list[list[Tensor]]:
    """What `run` returns on each supported path with each number of threads."""
    before = torch.get_num_threads()
    results = []
    try:
        for path in supported_paths():
            for count in threads:
                torch.ops.yolo_hw.set_cpu_path(path)
                torch.set_num_threads(count)
                assert torch.ops.yolo_hw.cpu_path() == path
                results.append(list(run()))
    finally:
        torch.ops.yolo_hw.set_cpu_path("best")
        torch.set_num_threads(before)
    assert len(results) >= len(threads)
    return results
