# SPDX-License-Identifier: Apache-2.0
"""Labelled images for classifiers: a folder per class, and the binary files of CIFAR-10 and CIFAR-100."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from yolo_hw.data.image import IMAGE_SUFFIXES, ImageArray, read_image
from yolo_hw.errors import DataError

CIFAR_SIDE = 32
CIFAR_PIXELS = 3 * CIFAR_SIDE * CIFAR_SIDE
"""Bytes of an image: a red, a green and a blue plane, row by row."""
CIFAR_CLASSES = {1: 10, 2: 100}
"""Label bytes of a record -> classes: CIFAR-10 has one label, CIFAR-100 a coarse one and the fine one."""
MAX_CIFAR_BYTES = 1 << 30
"""Larger files are refused; the largest published one has 147 MiB."""

SPLITS = {"train": ("train",), "val": ("val", "valid", "validation", "test"), "test": ("test", "val")}
"""Split -> names of folders that may hold it."""


@dataclass(frozen=True)
class ClassificationDataset:
    """Images with one class each.

    Attributes:
        names: Class names.
        labels: [N] int64, index into `names`.
        paths: The image files, or empty if `pixels` holds the images.
        pixels: [N, H, W, 3] uint8 RGB, or empty.
    """

    names: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    paths: tuple[Path, ...] = ()
    pixels: npt.NDArray[np.uint8] = field(default_factory=lambda: np.zeros((0, 0, 0, 3), np.uint8))

    def __post_init__(self) -> None:
        """Check that there is one image per label and a name for every label."""
        images = len(self.paths) + len(self.pixels)
        if images != len(self.labels) or (len(self.paths) and len(self.pixels)):
            raise DataError(
                f"ClassificationDataset: must have one image per label, got {images} and {len(self.labels)}"
            )
        if len(self.labels) and not 0 <= self.labels.min() <= self.labels.max() < len(self.names):
            raise DataError(
                f"ClassificationDataset: labels must be in 0..{len(self.names) - 1}, got {self.labels.min()} to "
                f"{self.labels.max()}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> ImageArray:
        """Return image `index`, [H, W, 3] uint8 RGB.

        Raises:
            DataError: The file cannot be read.
        """
        return self.pixels[index] if len(self.pixels) else read_image(self.paths[index])


def open_classification(source: str | Path, split: str | None = None) -> ClassificationDataset:
    """Open a data set by what `source` is.

    Args:
        source: A folder of class folders, one that holds such folders as splits (``train``, ``val``, ``test``), or one
            with the binary files of CIFAR.
        split: ``train``, ``val`` or ``test``; None takes everything, which a folder of splits does not allow.

    Returns:
        The data set; files are not decoded yet.

    Raises:
        DataError: Nothing readable there.
    """
    source = Path(source)
    if not source.is_dir():
        raise DataError(f"{source}: a classification data set is a folder, there is none")
    if split is not None and split not in SPLITS:
        raise DataError(f"split must be one of {', '.join(SPLITS)}, got '{split}'")
    if (source / "data_batch_1").is_file() or (source / "meta").is_file():
        raise DataError(f"{source}: these are CIFAR's Python pickles, which can run code: get the binary version")
    if any(source.glob("*.bin")):
        return _open_cifar(source, split)
    splits = [name for names in SPLITS.values() for name in names if (source / name).is_dir()]
    if not splits:
        if split is not None:
            raise DataError(f"{source}: has no folder {' or '.join(SPLITS[split])}")
        return read_class_folders(source)
    if split is None:
        raise DataError(f"{source}: name one of the splits in this folder ({', '.join(sorted(set(splits)))})")
    for name in SPLITS[split]:
        if (source / name).is_dir():
            return read_class_folders(source / name)
    raise DataError(f"{source}: has no folder {' or '.join(SPLITS[split])}")


def read_class_folders(folder: str | Path) -> ClassificationDataset:
    """Read a folder with one folder of images per class; classes are in alphabetical order.

    Raises:
        DataError: There is no class folder, or one without images.
    """
    folder = Path(folder)
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not classes:
        raise DataError(f"{folder}: must hold one folder per class, there is none")
    paths: list[Path] = []
    labels: list[int] = []
    for label, of_class in enumerate(classes):
        found = sorted(p for p in of_class.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
        if not found:
            raise DataError(f"{of_class}: no image ({', '.join(sorted(IMAGE_SUFFIXES))}) in this class folder")
        paths += found
        labels += [label] * len(found)
    return ClassificationDataset(tuple(c.name for c in classes), np.array(labels, np.int64), tuple(paths))


def read_cifar(files: Sequence[Path], names: Sequence[str], label_bytes: int = 1) -> ClassificationDataset:
    """Read binary files of CIFAR-10 (`label_bytes` 1) or CIFAR-100 (2, of which the fine label is taken).

    Every record is the labels and 3072 bytes of pixels (https://www.cs.toronto.edu/~kriz/cifar.html).

    Args:
        files: The files, in order.
        names: Class names.
        label_bytes: Labels per record.

    Returns:
        The images.

    Raises:
        DataError: A file has another size or a label out of range; names file and record.
    """
    record = label_bytes + CIFAR_PIXELS
    labels, pixels = [], []
    for path in files:
        data = _read_bounded(path)
        if not data or len(data) % record:
            raise DataError(f"{path}: must be a positive number of records of {record} bytes, got {len(data)} bytes")
        table = np.frombuffer(data, np.uint8).reshape(-1, record)
        of_file = table[:, label_bytes - 1].astype(np.int64)
        if of_file.max() >= len(names):
            bad = int(np.flatnonzero(of_file >= len(names))[0])
            raise DataError(f"{path}: record {bad}: the label must be below {len(names)}, got {of_file[bad]}")
        labels.append(of_file)
        pixels.append(table[:, label_bytes:].reshape(-1, 3, CIFAR_SIDE, CIFAR_SIDE).transpose(0, 2, 3, 1))
    if not files:
        raise DataError("read_cifar: no file given")
    return ClassificationDataset(
        tuple(names), np.concatenate(labels), pixels=np.ascontiguousarray(np.concatenate(pixels))
    )


def _read_bounded(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CIFAR_BYTES + 1)
    except OSError as error:
        raise DataError(f"{path}: cannot read: {error.strerror}") from None
    if len(data) > MAX_CIFAR_BYTES:
        raise DataError(f"{path}: a CIFAR file has at most {MAX_CIFAR_BYTES} bytes, this one has more")
    return data


def _open_cifar(folder: Path, split: str | None) -> ClassificationDataset:
    """Open the files by the names they have in the published archives."""
    fine = (folder / "fine_label_names.txt").is_file()
    train = ["train.bin"] if fine else sorted(path.name for path in folder.glob("data_batch_*.bin"))
    test = ["test.bin"] if fine else ["test_batch.bin"]
    chosen = {"train": train, "val": test, "test": test, None: [*train, *test]}[split]
    files = [folder / name for name in chosen if (folder / name).is_file()]
    if not files:
        raise DataError(f"{folder}: has none of {', '.join(chosen) or 'data_batch_1.bin, ...'}")
    label_bytes = 2 if fine else 1
    listing = folder / ("fine_label_names.txt" if fine else "batches.meta.txt")
    names = _read_class_names(listing, CIFAR_CLASSES[label_bytes])
    return read_cifar(files, names, label_bytes)


def _read_class_names(path: Path, count: int) -> list[str]:
    """Return the names in a file, numbers where the file is missing."""
    if not path.is_file():
        return [str(i) for i in range(count)]
    try:
        names = [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot read the class names: {error}") from None
    if len(names) != count:
        raise DataError(f"{path}: must hold {count} class names, got {len(names)}")
    return names
