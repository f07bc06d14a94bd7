# SPDX-License-Identifier: Apache-2.0
"""Loading the compiled operators (csrc/ops.cpp, csrc/cpu, csrc/cuda)."""

from __future__ import annotations

from pathlib import Path

import torch

LIBRARY = Path(__file__).resolve().parents[1] / "_ops.so"
"""Holds no Python code, so one file serves every Python version."""


def load_library() -> None:
    """Register the operators ``torch.ops.yolo_hw.*``; a second call does nothing.

    Raises:
        ImportError: The library was not built, or was built for another torch. There is no fallback.
    """
    if not LIBRARY.is_file():
        raise ImportError(
            f"the compiled operators of yolo_hw are missing ({LIBRARY}): install the package with 'pip install .', or "
            "in a source tree with 'pip install -e .'; an installation with YOLO_HW_OPS=0 has none"
        )
    try:
        torch.ops.load_library(str(LIBRARY))  # type: ignore[no-untyped-call]
    except OSError as error:
        raise ImportError(
            f"the compiled operators of yolo_hw cannot be loaded into torch {torch.__version__}: {error}; "
            "install yolo_hw again in this environment"
        ) from error
