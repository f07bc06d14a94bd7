# SPDX-License-Identifier: Apache-2.0
"""Resize and Upsample: nearest neighbours, by whole factors.

The modes of ONNX differ in which pixel is the nearest. Whether the chosen ones repeat each pixel is not decided by a
list of modes: the source pixel of every output pixel is computed by the formula of the mode and compared.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch.nn.functional as F

from yolo_hw.interop.from_onnx.builder import Call, Operator, Refused, Result
from yolo_hw.interop.from_onnx.document import MAX_EXTENT

Float64Array = npt.NDArray[np.float64]

COORDINATES: dict[str, Callable[[Float64Array, float, int, int], Float64Array]] = {
    "asymmetric": lambda x, scale, before, after: x / scale,
    "half_pixel": lambda x, scale, before, after: (x + 0.5) / scale - 0.5,
    "pytorch_half_pixel": lambda x, scale, before, after: (x + 0.5) / scale - 0.5 if after > 1 else 0 * x,
    "tf_half_pixel_for_nn": lambda x, scale, before, after: (x + 0.5) / scale,
    "half_pixel_symmetric": lambda x, scale, before, after: (
        before / 2 * (1 - after / (before * scale)) + (x + 0.5) / scale - 0.5
    ),
    "align_corners": lambda x, scale, before, after: x * (before - 1) / max(after - 1, 1),
}
"""Mode -> position in the input of the output's pixels, from the operator's documentation (opset 19)."""

NEAREST: dict[str, Callable[[Float64Array], Float64Array]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}
"""Mode -> the pixel nearest to a position."""


def resize(call: Call) -> Result:
    """Resize to given sizes or by given scales."""
    old = call.builder.document.opset < 11  # there the scales are the second input, and positions asymmetric
    coordinates = call.attribute("coordinate_transformation_mode", "asymmetric" if old else "half_pixel")
    nearest = call.attribute("nearest_mode", "floor" if old else "round_prefer_floor")
    return _repeat(call, _sizes(call, 1 if old else 2, 3), coordinates, nearest)


def upsample(call: Call) -> Result:
    """Upsample, the operator of opset 9."""
    return _repeat(call, _sizes(call, 1, None), "asymmetric", "floor")


def _sizes(call: Call, scales_at: int, sizes_at: int | None) -> list[tuple[int, float]]:
    """Return (size, scale) of every axis after the resize."""
    shape = list(call.shape(0))
    axes = call.attribute("axes", range(len(shape)))
    targets = [(size, 1.0) for size in shape]
    by_size = sizes_at is not None and call.has(sizes_at)
    values = call.constant(sizes_at if by_size and sizes_at is not None else scales_at).reshape(-1)
    if by_size and call.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise Refused("keep_aspect_ratio_policy must be stretch")
    if not np.isfinite(values).all() or np.abs(values).max() >= MAX_EXTENT:
        raise Refused(f"must have finite sizes or scales below {MAX_EXTENT}, got {values.tolist()}")
    if len(values) != len(list(axes)):
        raise Refused(f"must have one number for each of {len(list(axes))} axes, got {len(values)}")
    for axis, value in zip(axes, values.tolist(), strict=True):
        size = int(value) if by_size else int(np.floor(shape[axis] * value))
        targets[axis % len(shape)] = size, size / shape[axis] if by_size else value
    return targets


def _repeat(call: Call, targets: list[tuple[int, float]], coordinates: str, nearest: str) -> Result:
    shape = call.shape(0)
    if call.attribute("mode", "nearest") != "nearest":
        raise Refused(f"mode must be nearest, got {call.attribute('mode')}")
    if len(shape) != 4 or [size for size, _ in targets[:2]] != list(shape[:2]):
        raise Refused(f"must resize height and width of [N, C, H, W] alone, got {[size for size, _ in targets]}")
    if coordinates not in COORDINATES or nearest not in NEAREST:
        raise Refused(f"positions by {coordinates} and {nearest} are not supported")
    factors = []
    for before, (after, scale) in zip(shape[2:], targets[2:], strict=True):
        if after < before or after % before or after >= MAX_EXTENT:
            raise Refused(f"must enlarge by a whole factor to less than {MAX_EXTENT}, got {before} to {after}")
        positions = COORDINATES[coordinates](np.arange(after, dtype=np.float64), scale, before, after)
        pixels = np.clip(NEAREST[nearest](positions), 0, before - 1)
        if not np.array_equal(pixels, np.arange(after) // (after // before)):
            raise Refused(f"with {coordinates} and {nearest} it does not repeat each pixel {after // before} times")
        factors.append(after // before)
    if factors == [1, 1]:
        return call.map(0)
    scale_factor = tuple(float(factor) for factor in factors)
    return call.builder.call(F.interpolate, call.map(0), scale_factor=scale_factor, mode="nearest")


RESIZE: dict[str, Operator] = {"Resize": resize, "Upsample": upsample}
"""Operator -> what translates it."""
