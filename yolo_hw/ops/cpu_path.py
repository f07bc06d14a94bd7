# SPDX-License-Identifier: Apache-2.0
"""The instruction set that the CPU kernels of all operators use; every one gives the same bits."""

from __future__ import annotations

import torch

from yolo_hw.ops._library import load_library

load_library()


def cpu_path() -> str:
    """Return the path in use: ``"avx512"``, ``"avx2"`` or ``"baseline"``, by default the best of this processor."""
    path: str = torch.ops.yolo_hw.cpu_path()
    return path


def set_cpu_path(name: str) -> None:
    """Use another path, for all threads, until the next call.

    Args:
        name: ``"avx512"``, ``"avx2"``, ``"baseline"``, or ``"best"`` for the default.

    Raises:
        RuntimeError: There is no such path, or this processor cannot run it.
    """
    torch.ops.yolo_hw.set_cpu_path(name)
