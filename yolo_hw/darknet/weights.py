# SPDX-License-Identifier: Apache-2.0
r"""Darknet ``.weights`` files <-> one set of float32 arrays per layer.

Format, all little-endian: int32 major, minor, revision; the number of images seen, uint64 if
``10 * major + minor >= 2`` (header of 20 bytes) and uint32 otherwise (16 bytes); then float32 arrays in
layer order, for each layer in the order of `Layer.params`. The file has no index: only a cfg gives it
meaning, so every length is checked against the network before anything is allocated.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from yolo_hw.atomic import atomic_file
from yolo_hw.darknet.layers import Connected, Layer
from yolo_hw.darknet.network import Network
from yolo_hw.errors import WeightsError

FloatArray = npt.NDArray[np.float32]

VARIANCE_TOLERANCE = 1e-3
"""A variance below minus this is no rounding residue but a sign of arrays that are out of step."""


@dataclass(frozen=True)
class Header:
    """Header of a weights file."""

    major: int = 0
    minor: int = 2
    revision: int = 5
    seen: int = 0

    @property
    def size(self) -> int:
        """Bytes of the header."""
        return 20 if self._wide else 16

    @property
    def _wide(self) -> bool:
        return self.major * 10 + self.minor >= 2

    @property
    def transposed(self) -> bool:
        """Whether the weights of connected layers are stored [inputs, outputs]."""
        return self.major > 1000 or self.minor > 1000

    def pack(self) -> bytes:
        """Return the header's bytes."""
        return struct.pack("<3i" + ("Q" if self._wide else "I"), self.major, self.minor, self.revision, self.seen)

    @classmethod
    def unpack(cls, data: bytes, name: str) -> Header:
        """Parse the first bytes of a file."""
        if len(data) < 16:
            raise WeightsError(
                f"{name}: a weights file starts with a header of at least 16 bytes, got {len(data)} bytes"
            )
        major, minor, revision = struct.unpack_from("<3i", data)
        if not (0 <= major < 10000 and 0 <= minor < 10000 and 0 <= revision < 10000):
            raise WeightsError(f"{name}: not a darknet weights file: version {major}.{minor}.{revision}")
        probe = cls(major, minor, revision)
        if len(data) < probe.size:
            raise WeightsError(f"{name}: the header must have {probe.size} bytes, got {len(data)}")
        (seen,) = struct.unpack_from("<Q" if probe.size == 20 else "<I", data, 12)
        return cls(major, minor, revision, seen)


@dataclass
class Weights:
    """The arrays of a network.

    Attributes:
        layers: Layer index -> role -> float32 array with the shape of `Layer.params`.
        header: Version and images seen.
        loaded_layers: How many layers the file covers; less than the network's for a partial file.
    """

    layers: dict[int, dict[str, FloatArray]]
    header: Header = field(default_factory=Header)
    loaded_layers: int = 0

    def of(self, layer: Layer) -> Mapping[str, FloatArray]:
        """Return the arrays of `layer` (empty if it owns none)."""
        return self.layers.get(layer.index, {})


def read_weights(path: str | Path, network: Network, *, partial: bool = False) -> Weights:
    """Read a weights file for `network`.

    Args:
        path: The file.
        network: Gives the layers and their array shapes.
        partial: Accept a file that ends after some layer, such as ``darknet53.conv.74``.

    Returns:
        All arrays, copied out of the file.

    Raises:
        WeightsError: The file is unreadable, too short, too long, or holds NaN, infinity or a negative variance; names
            the layer, the offset and the number of floats expected and found.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            header = Header.unpack(file.read(20), path.name)
            layout = _layout(network, _File(path.name, header.size, _count_floats(path, size - header.size)), partial)
            file.seek(header.size)
            floats = np.fromfile(file, "<f4")
    except OSError as error:
        raise WeightsError(f"{path}: cannot read the weights file: {error.strerror or error}") from None
    weights = Weights({}, header)
    for layer, start, stop in layout:
        weights.loaded_layers = layer.index + 1
        if stop > start:
            weights.layers[layer.index] = _take(layer, floats[start:stop], header)
            _check(path.name, layer, weights.layers[layer.index])
    return weights


def write_weights(path: str | Path, network: Network, weights: Weights) -> None:
    """Write the arrays of `weights` in darknet's format; a file that was read is reproduced byte for byte.

    Args:
        path: Output file, replaced atomically.
        network: Gives the order.
        weights: Arrays; layers from `weights.loaded_layers` on are left out.

    Raises:
        WeightsError: An array is missing or has another shape.
    """
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        file.write(weights.header.pack())
        for layer in network.layers[: weights.loaded_layers]:
            arrays = weights.of(layer)
            for param in layer.params:
                array = arrays.get(param.role)
                found = None if array is None else array.shape
                if array is None or found != param.shape:
                    raise WeightsError(f"{layer.name}: {param.role} must have shape {param.shape}, got {found}")
                if isinstance(layer, Connected) and param.role == "weight" and weights.header.transposed:
                    array = array.T
                file.write(np.ascontiguousarray(array, "<f4").tobytes())


def _count_floats(path: Path, body: int) -> int:
    """Return how many floats `body` bytes after the header hold."""
    if not path.is_file():
        raise WeightsError(f"{path}: the weights must be a regular file: its size is checked before anything is read")
    if body % 4:
        raise WeightsError(f"{path.name}: {body} bytes after the header are not a whole number of float32; truncated?")
    return body // 4


@dataclass(frozen=True)
class _File:
    """What `_layout` needs to know of a file."""

    name: str
    header_bytes: int
    floats: int


def _layout(network: Network, file: _File, partial: bool) -> list[tuple[Layer, int, int]]:
    """Return (layer, first float, float after the last) for every layer the file covers, or raise."""
    layout: list[tuple[Layer, int, int]] = []
    position = 0
    for layer in network.layers:
        needed = sum(param.numel for param in layer.params)
        if needed and partial and 0 < position == file.floats:
            return layout
        if position + needed > file.floats:
            raise WeightsError(
                f"{file.name}: {layer.name} (line {layer.place.line} of {network.name}.cfg) needs {needed} floats at "
                f"byte {file.header_bytes + 4 * position}, found {file.floats - position}; the network has "
                f"{network.num_params} floats, the file {file.floats}: truncated, or the weights of another cfg"
            )
        layout.append((layer, position, position + needed))
        position += needed
    if position != file.floats:
        raise WeightsError(
            f"{file.name}: the network {network.name} ends at byte {file.header_bytes + 4 * position} after {position} "
            f"floats, found {file.floats - position} floats more: the weights of another cfg"
        )
    return layout


def _take(layer: Layer, floats: FloatArray, header: Header) -> dict[str, FloatArray]:
    arrays: dict[str, FloatArray] = {}
    position = 0
    for param in layer.params:
        flat = floats[position : position + param.numel]
        if isinstance(layer, Connected) and param.role == "weight" and header.transposed:
            arrays[param.role] = flat.reshape(param.shape[::-1]).T.copy()
        else:
            arrays[param.role] = flat.reshape(param.shape).copy()
        position += param.numel
    return arrays


def _check(name: str, layer: Layer, arrays: Mapping[str, FloatArray]) -> None:
    for role, array in arrays.items():
        bad = ~np.isfinite(array)
        if bad.any():
            raise WeightsError(
                f"{name}: {layer.name}: {role} must be finite, got {int(bad.sum())} NaN or infinite values of "
                f"{array.size}, the first at {int(np.flatnonzero(bad)[0])}; a diverged training or a damaged file"
            )
        if role == "var" and array.min() < -VARIANCE_TOLERANCE:
            raise WeightsError(
                f"{name}: {layer.name}: variances must not be negative, got {array.min():g} at {int(array.argmin())}; "
                "the file probably belongs to another cfg"
            )
