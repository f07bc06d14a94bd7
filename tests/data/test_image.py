# SPDX-License-Identifier: Apache-2.0
"""Reading images of every kind as RGB bytes, refusing damaged ones, finding them in folders and lists."""

import contextlib
import io
import random
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from yolo_hw.data.image import find_images, image_size, read_image
from yolo_hw.errors import DataError

RGB = np.random.default_rng(0).integers(0, 256, (6, 9, 3)).astype(np.uint8)
GREY = RGB[:, :, 0]


def saved(path, pixels, **options):
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "ppm"])
def test_lossless_formats(tmp_path, suffix):
    path = saved(tmp_path / f"x.{suffix}", RGB)
    assert np.array_equal(read_image(path), RGB)
    assert image_size(path) == (6, 9)


def test_grey_is_repeated(tmp_path):
    assert np.array_equal(read_image(saved(tmp_path / "x.png", GREY)), np.repeat(GREY[:, :, None], 3, 2))


def test_transparency_is_dropped_without_blending(tmp_path):
    alpha = np.full((6, 9, 1), 7, np.uint8)
    assert np.array_equal(read_image(saved(tmp_path / "x.png", np.concatenate([RGB, alpha], 2))), RGB)
    grey_alpha = np.stack([GREY, alpha[:, :, 0]], 2)
    assert np.array_equal(read_image(saved(tmp_path / "y.png", grey_alpha))[:, :, 1], GREY)


def test_palette(tmp_path):
    colours = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [9, 8, 7]], np.uint8)
    image = Image.fromarray(GREY % 4)
    image.putpalette(colours.tobytes())
    for name in ("x.gif", "x.png"):
        image.save(tmp_path / name)
        assert np.array_equal(read_image(tmp_path / name), colours[GREY % 4])


@pytest.mark.parametrize(("suffix", "dtype"), [("png", np.uint16), ("tif", np.uint16), ("tif", np.int32)])
def test_sixteen_bits_keep_the_upper_eight(tmp_path, suffix, dtype):
    deep = np.array([[0, 255, 256, 511], [512, 32767, 32768, 65535]], dtype)
    found = read_image(saved(tmp_path / f"x.{suffix}", deep))
    assert found.shape == (2, 4, 3)
    assert found[:, :, 0].tolist() == found[:, :, 2].tolist() == [[0, 0, 1, 1], [2, 127, 128, 255]]


@pytest.mark.parametrize(
    ("orientation", "expected"),
    [(1, RGB), (3, RGB[::-1, ::-1]), (6, np.rot90(RGB, -1)), (8, np.rot90(RGB, 1)), (5, RGB.swapaxes(0, 1))],
)
def test_exif_rotation(tmp_path, orientation, expected):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / "x.png", RGB, exif=exif)
    assert np.array_equal(read_image(path), expected)
    assert image_size(path) == expected.shape[:2]


def png_claiming(width, height):
    """A PNG whose header claims a size its data does not have."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(10))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not an image of a known format"),
        (b"hello", "not an image of a known format"),
        (b"\x89PNG\r\n\x1a\n", "cannot read the image|not an image"),
        (png_claiming(100_000, 100_000), "cannot read the image: Image size"),
        (png_claiming(10_000, 10_000), "cannot read the image: Image size"),
        (png_claiming(100, 100), "cannot read the image"),
    ],
)
def test_damaged_files_are_named(tmp_path, content, reason):
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"bad\.png: ({reason})"):
        read_image(path)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(DataError, match=r"none\.png: no such image"):
        read_image(tmp_path / "none.png")
    with pytest.raises(DataError, match=r"cannot read the image: .*directory"):
        read_image(tmp_path)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "DDS"])
def test_random_damage_never_escapes_as_another_error(tmp_path, form):
    rng, buffer = random.Random(1), io.BytesIO()
    Image.fromarray(RGB).save(buffer, form)
    path = tmp_path / "x.png"
    for _ in range(150):
        content = bytearray(buffer.getvalue())
        for _ in range(rng.choice([1, 2, 8])):
            content[rng.randrange(min(len(content), 140))] = rng.choice([0, 127, 255, rng.randrange(256)])
        path.write_bytes(content[: rng.choice([None, rng.randrange(len(content))])])
        for read in (read_image, image_size):
            with contextlib.suppress(DataError):
                assert len(read(path))


def test_folders_are_searched_recursively_and_sorted(tmp_path):
    (tmp_path / "b").mkdir()
    for name in ("b/z.JPG", "c.png", "a.webp", "notes.txt", "b/x.weights"):
        (tmp_path / name).touch()
    assert [p.relative_to(tmp_path).as_posix() for p in find_images(tmp_path)] == ["a.webp", "b/z.JPG", "c.png"]


def test_lists_are_relative_to_themselves(tmp_path):
    (tmp_path / "list.txt").write_text("# comment\nimages/a.jpg\r\n\n  b.png  \n/abs/c.png\n")
    expected = [tmp_path / "images/a.jpg", tmp_path / "b.png", tmp_path.__class__("/abs/c.png")]
    assert find_images(tmp_path / "list.txt") == expected


def test_sources_without_images(tmp_path):
    with pytest.raises(DataError, match=r"no image .* in this folder"):
        find_images(tmp_path)
    with pytest.raises(DataError, match="no such file or folder"):
        find_images(tmp_path / "none")
    (tmp_path / "list.txt").write_text("\n# nothing\n")
    with pytest.raises(DataError, match="the image list is empty"):
        find_images(tmp_path / "list.txt")
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="must be UTF-8"):
        find_images(tmp_path / "list.txt")
