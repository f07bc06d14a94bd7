# SPDX-License-Identifier: Apache-2.0
"""Masks as a file: ``masks.npz`` with one array of bits for each parameter. Equal masks give equal bytes."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from yolo_hw.atomic import atomic_file
from yolo_hw.errors import PruneError
from yolo_hw.prune.masks import Masks

MASKS = "masks.npz"


_NO_MASKS = (
    *(ValueError, TypeError, AttributeError, RuntimeError, SyntaxError, EOFError, MemoryError),
    *(zipfile.BadZipFile, zlib.error, tokenize.TokenError),
)
"""What NumPy and the archive raise for files that are damaged or something else."""


def save_masks(path: str | Path, masks: Masks) -> None:
    """Write masks."""
    arrays = {name: mask.cpu().numpy() for name, mask in masks.items()}
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def load_masks(path: str | Path) -> dict[str, Tensor]:
    """Read masks.

    Raises:
        PruneError: The file cannot be read or holds something else than masks.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except OSError as error:
        raise PruneError(f"{path}: cannot read: {error.strerror or error}") from None
    except _NO_MASKS as error:
        raise PruneError(f"{path}: must be a file of masks (.npz): {error}") from None
    for name, array in found.items():
        if array.dtype != np.bool_:
            raise PruneError(f"{path}: '{name}' must be a mask of booleans, got {array.dtype}")
    return {name: torch.from_numpy(array) for name, array in found.items()}
