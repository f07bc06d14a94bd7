# SPDX-License-Identifier: Apache-2.0
"""Class folders and CIFAR's binary files: what is read, what is refused and how it is said."""

import pickle

import numpy as np
import pytest
from PIL import Image

from yolo_hw.data import (
    ClassificationDataset,
    generate_shapes,
    open_classification,
    read_cifar,
    read_class_folders,
)
from yolo_hw.errors import DataError

NAMES = [f"class{i}" for i in range(10)]


def write_folders(root, **classes):
    """Class name -> number of images, each of one colour."""
    for k, (name, count) in enumerate(classes.items()):
        (root / name / "deeper").mkdir(parents=True)
        for i in range(count):
            folder = root / name / ("deeper" if i % 2 else ".")
            Image.new("RGB", (6 + i, 5), (40 * k, i, 0)).save(folder / f"{i}.png")
    return root


def records(labels, seed=0, label_bytes=1):
    """Return records with the labels in their last label byte, and the images [N, H, W, 3]."""
    rng = np.random.default_rng(seed)
    planes = rng.integers(0, 256, (len(labels), 3, 32, 32)).astype(np.uint8)
    coarse = np.full((len(labels), label_bytes - 1), 7, np.uint8)
    table = np.concatenate([coarse, np.array(labels, np.uint8)[:, None], planes.reshape(len(labels), -1)], 1)
    return table.tobytes(), planes.transpose(0, 2, 3, 1)


def test_class_folders(tmp_path):
    dataset = read_class_folders(write_folders(tmp_path, dog=2, cat=3))
    assert dataset.names == ("cat", "dog")  # alphabetical, not in the order of the files
    assert dataset.labels.tolist() == [0, 0, 0, 1, 1]
    assert len(dataset) == 5
    assert {dataset.image(i)[0, 0, 0] for i in range(3)} == {40}
    assert {dataset.image(i)[0, 0, 0] for i in (3, 4)} == {0}
    assert sorted(dataset.image(i).shape for i in range(3)) == [(5, 6, 3), (5, 7, 3), (5, 8, 3)]


def test_splits_are_folders(tmp_path):
    write_folders(tmp_path / "train", a=2, b=2)
    write_folders(tmp_path / "test", a=1, b=1)
    assert len(open_classification(tmp_path, "train")) == 4
    assert len(open_classification(tmp_path, "test")) == len(open_classification(tmp_path, "val")) == 2
    with pytest.raises(DataError, match=r"name one of the splits in this folder \(test, train\)"):
        open_classification(tmp_path)
    assert len(open_classification(tmp_path / "train")) == 4


def test_cifar10(tmp_path):
    first, images = records([3, 9, 0])
    second, more = records([1, 1], 1)
    (tmp_path / "data_batch_1.bin").write_bytes(first)
    (tmp_path / "test_batch.bin").write_bytes(second)
    (tmp_path / "batches.meta.txt").write_text("\n".join(NAMES) + "\n\n")
    train, test = (open_classification(tmp_path, split) for split in ("train", "test"))
    assert train.names == tuple(NAMES)
    assert train.labels.tolist() == [3, 9, 0]
    assert np.array_equal(np.stack([train.image(i) for i in range(3)]), images)
    assert test.labels.tolist() == open_classification(tmp_path, "val").labels.tolist() == [1, 1]
    whole = open_classification(tmp_path)
    assert np.array_equal(whole.pixels, np.concatenate([images, more]))


def test_cifar100_takes_the_fine_label(tmp_path):
    data, images = records([99, 5], label_bytes=2)
    (tmp_path / "train.bin").write_bytes(data)
    (tmp_path / "fine_label_names.txt").write_text("\n".join(f"fine{i}" for i in range(100)))
    dataset = open_classification(tmp_path, "train")
    assert dataset.labels.tolist() == [99, 5]
    assert dataset.names[99] == "fine99"
    assert np.array_equal(dataset.pixels, images)


def test_classes_are_numbered_where_names_are_missing(tmp_path):
    (tmp_path / "test_batch.bin").write_bytes(records([2])[0])
    assert open_classification(tmp_path, "test").names == tuple(map(str, range(10)))


GOOD = records([1, 2])[0]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "positive number of records of 3073 bytes, got 0 bytes"),
        (GOOD[:-1], "positive number of records of 3073 bytes, got 6145 bytes"),
        (records([1, 10])[0], "record 1: the label must be below 10, got 10"),
        (b"\xff" * 3073, "record 0: the label must be below 10, got 255"),
    ],
)
def test_damaged_cifar_files_are_refused(tmp_path, data, message):
    path = tmp_path / "data_batch_1.bin"
    path.write_bytes(data)
    with pytest.raises(DataError, match=rf"data_batch_1\.bin: .*{message}|{message}"):
        read_cifar([path], NAMES)


def test_pickles_are_refused_unread(tmp_path):
    for name in ("data_batch_1", "meta"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_bytes(pickle.dumps({b"data": 1}))
        with pytest.raises(DataError, match="Python pickles, which can run code: get the binary version"):
            open_classification(folder)


@pytest.mark.parametrize(
    ("make", "split", "message"),
    [
        (lambda f: None, None, "must hold one folder per class, there is none"),
        (lambda f: None, "train", "has no folder train"),
        (lambda f: None, "best", "split must be one of train, val, test, got 'best'"),
        (lambda f: write_folders(f, a=1, b=0), None, r"b: no image \("),
        (lambda f: write_folders(f / "train", a=1), "test", "has no folder test or val"),
        (lambda f: (f / "test_batch.bin").write_bytes(GOOD), "train", "has none of data_batch_1.bin"),
        (lambda f: [(f / "test_batch.bin").write_bytes(GOOD), (f / "batches.meta.txt").write_text("a\nb")], "test",
         "must hold 10 class names, got 2"),
    ],
)  # fmt: skip
def test_folders_that_hold_something_else(tmp_path, make, split, message):
    make(tmp_path)
    with pytest.raises(DataError, match=message):
        open_classification(tmp_path, split)


def test_missing_sources(tmp_path):
    with pytest.raises(DataError, match="is a folder, there is none"):
        open_classification(tmp_path / "none")
    with pytest.raises(DataError, match="cannot read: No such file"):
        read_cifar([tmp_path / "none.bin"], NAMES)
    with pytest.raises(DataError, match="no file given"):
        read_cifar([], NAMES)


def test_a_data_set_checks_itself():
    pixels = np.zeros((2, 4, 4, 3), np.uint8)
    with pytest.raises(DataError, match="one image per label, got 2 and 3"):
        ClassificationDataset(("a",), np.zeros(3, np.int64), pixels=pixels)
    with pytest.raises(DataError, match=r"labels must be in 0\.\.0, got 0 to 1"):
        ClassificationDataset(("a",), np.array([0, 1]), pixels=pixels)


def test_generated_shapes_depend_on_seed_and_number_alone():
    small, large, other = generate_shapes(8, 0), generate_shapes(12, 0), generate_shapes(8, 1)
    assert np.array_equal(small.pixels, large.pixels[:8])
    assert not np.array_equal(small.pixels, other.pixels)
    assert small.labels.tolist() == [0, 1, 2, 3] * 2
    assert generate_shapes(4, 0, 48).pixels.shape == (4, 48, 48, 3)


def test_no_mean_tells_the_shape():
    """The best threshold on an image's brightness tells disc from cross in at most 80 % of the cases."""
    dataset = generate_shapes(400, 0)
    brightness = dataset.pixels.mean((1, 2, 3))
    disc, cross = brightness[dataset.labels == 0], brightness[dataset.labels == 3]
    best = max(((disc > t).mean() + (cross <= t).mean()) / 2 for t in brightness)
    assert 0.5 <= best < 0.8
