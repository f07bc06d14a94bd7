# SPDX-License-Identifier: Apache-2.0
"""Feature maps in the accelerator's memory layout, [ceil(C / lanes)][H][W][lanes]."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from yolo_hw.fixedpoint import FixedPoint, IntArray


def pack_map(codes: npt.NDArray[np.integer[Any]], fmt: FixedPoint, lanes: int) -> bytes:
    """Return the bytes of a map: codes [C, H, W], channels padded with zero to a multiple of `lanes`."""
    c, h, w = codes.shape
    blocks = -(-c // lanes)
    padded = np.zeros((blocks * lanes, h, w), fmt.storage_dtype)
    padded[:c] = codes
    return bytes(padded.reshape(blocks, lanes, h, w).transpose(0, 2, 3, 1).tobytes())


def unpack_map(data: bytes, shape: tuple[int, int, int], fmt: FixedPoint, lanes: int) -> IntArray:
    """Return the codes [C, H, W] of a map's bytes."""
    c, h, w = shape
    blocks = -(-c // lanes)
    stored = np.frombuffer(data, fmt.storage_dtype).reshape(blocks, h, w, lanes)
    return np.ascontiguousarray(stored.transpose(0, 3, 1, 2).reshape(blocks * lanes, h, w)[:c], np.int64)
