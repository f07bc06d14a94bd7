# SPDX-License-Identifier: Apache-2.0
"""Reading images of any kind as RGB bytes, and finding them in folders."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from yolo_hw.errors import DataError

ImageArray = npt.NDArray[np.uint8]
"""[H, W, 3], RGB."""

_ORIENTATION = 0x0112
"""Exif tag; 1 is upright."""

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})


def read_image(path: str | Path) -> ImageArray:
    """Read an image as RGB: grey is repeated, transparency dropped, 16 bits reduced to 8, EXIF rotation applied.

    Args:
        path: The file.

    Returns:
        [H, W, 3] uint8.

    Raises:
        DataError: The file is missing, truncated, too large or no image.
    """
    with _opened(path) as file:
        image: Image.Image = file  # each step below copies all pixels, so only where it changes something
        if file.getexif().get(_ORIENTATION, 1) != 1:
            image = ImageOps.exif_transpose(file)
        if image.mode.startswith("I"):  # 16 bits (or 16 bits in 32)
            image = Image.fromarray((np.clip(np.asarray(image), 0, 0xFFFF) >> 8).astype(np.uint8))
        if image.mode != "RGB":
            image = image.convert("RGB")
        return np.array(image, np.uint8)


def image_size(path: str | Path) -> tuple[int, int]:
    """Return (height, width) as `read_image` would give them, from the file's header; raises like it."""
    with _opened(path) as file:
        width, height = file.size
        if file.getexif().get(_ORIENTATION, 1) >= 5:  # 5..8 swap the sides
            width, height = height, width
        return height, width


_DECODER_ERRORS = (
    *(OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, ArithmeticError, NotImplementedError),
    *(struct.error, zlib.error, Image.DecompressionBombWarning, Image.DecompressionBombError),
)
"""What Pillow's decoders raise on damaged files of one format or another."""


@contextmanager
def _opened(path: str | Path) -> Iterator[Image.Image]:
    """Yield an image file that may be too large, damaged or missing; every failure is a DataError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # Pillow's remarks on damaged metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as file:
                yield file
    except FileNotFoundError:
        raise DataError(f"{path}: no such image") from None
    except UnidentifiedImageError:
        raise DataError(f"{path}: not an image of a known format") from None
    except _DECODER_ERRORS as error:
        reason = str(error).split("\n")[0] or type(error).__name__
        raise DataError(f"{path}: cannot read the image: {reason}") from None


def find_images(source: str | Path) -> list[Path]:
    """Return the images a source names, sorted: an image file, a folder (searched recursively) or a text file of paths.

    Relative paths in a list are relative to the list's folder.

    Raises:
        DataError: The source does not exist or holds no image.
    """
    source = Path(source)
    if source.is_dir():
        found = sorted(path for path in source.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
        if not found:
            raise DataError(f"{source}: no image ({', '.join(sorted(IMAGE_SUFFIXES))}) in this folder")
        return found
    if not source.is_file():
        raise DataError(f"{source}: no such file or folder")
    if source.suffix.lower() != ".txt":
        return [source]
    try:
        lines = [line.strip() for line in source.read_text("utf-8").splitlines()]
    except UnicodeDecodeError:
        raise DataError(f"{source}: an image list must be UTF-8 text") from None
    listed = [source.parent / line for line in lines if line and not line.startswith("#")]
    if not listed:
        raise DataError(f"{source}: the image list is empty")
    return listed
