# SPDX-License-Identifier: Apache-2.0
"""Arrays in npz files: written reproducibly, read without trusting a single length."""

from __future__ import annotations

import io
import math
import tokenize
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from yolo_hw.atomic import atomic_file
from yolo_hw.errors import GraphError

MAX_MEMBER_BYTES = 4 << 30
_HEADER_LIMIT = 1 << 16


def write_arrays(path: str | Path, arrays: Mapping[str, npt.NDArray[np.integer[Any]]]) -> None:
    """Write integer arrays to an uncompressed npz file; equal arrays give equal bytes."""
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        pack_arrays(file, arrays)


def pack_arrays(file: BinaryIO, arrays: Mapping[str, npt.NDArray[np.integer[Any]]]) -> None:
    """Write what `write_arrays` writes to an open file."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(arrays):
            buffer = io.BytesIO()
            little = np.asarray(arrays[name], arrays[name].dtype.newbyteorder("<"), order="C")
            np.lib.format.write_array(buffer, little, version=(1, 0), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), buffer.getvalue())


def read_arrays(path: str | Path) -> dict[str, npt.NDArray[np.integer[Any]]]:
    """Read the integer arrays of an npz file.

    Raises:
        GraphError: Not an npz file, or a member whose header claims a type other than integer or a size other than the
            stored one.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            arrays = {_member_name(path, info): _read_member(path, archive, info) for info in members}
    except OSError as error:
        raise GraphError(f"{path}: cannot read: {error.strerror}") from None
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
        raise GraphError(f"{path}: not an npz file: {error}") from None
    if len(arrays) < len(members):
        raise GraphError(f"{path}: every array must have its own name, one occurs twice")
    return arrays


def _member_name(path: Path, info: zipfile.ZipInfo) -> str:
    if not info.filename.endswith(".npy"):
        raise GraphError(f"{path}: every member must be an .npy array, got {info.filename}")
    return info.filename[: -len(".npy")]


def _read_member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> npt.NDArray[np.integer[Any]]:
    where = f"{path}: {info.filename}"
    if info.compress_type != zipfile.ZIP_STORED or info.file_size > MAX_MEMBER_BYTES:
        raise GraphError(f"{where}: members must be stored uncompressed, at most {MAX_MEMBER_BYTES} bytes")
    if info.file_size > path.stat().st_size:
        raise GraphError(f"{where}: claims {info.file_size} bytes, the file has {path.stat().st_size}")
    data = archive.read(info)
    stream = io.BytesIO(data)
    try:
        if np.lib.format.read_magic(stream) != (1, 0):
            raise ValueError("unknown npy version")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream, max_header_size=_HEADER_LIMIT)
    except (ValueError, TypeError, SyntaxError, tokenize.TokenError, RecursionError, MemoryError) as error:
        raise GraphError(f"{where}: not an npy array: {error}") from None  # numpy parses the header as Python text
    if dtype.kind not in "iu" or fortran:
        raise GraphError(f"{where}: must be a row-major integer array, got {dtype}")
    expected = math.prod(shape) * dtype.itemsize
    if len(data) - stream.tell() != expected or min(shape, default=0) < 0:
        raise GraphError(f"{where}: shape {shape} needs {expected} bytes, found {len(data) - stream.tell()}")
    return np.frombuffer(data, dtype, offset=stream.tell()).reshape(shape)
