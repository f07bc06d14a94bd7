# SPDX-License-Identifier: Apache-2.0
"""Division: every image once, every class in every part, fixed by a seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from yolo_hw.data import DetectionDataset, Item, find_images
from yolo_hw.data.folds import stratified_parts, write_splits
from yolo_hw.errors import DataError


def dataset(label_sets, root=Path("/x")):
    items = [
        Item(
            root / f"{i:03d}.png",
            (9, 9),
            np.zeros((len(labels), 4)),
            np.array(labels, np.int64),
            np.zeros(len(labels), bool),
            np.zeros(len(labels)),
        )
        for i, labels in enumerate(label_sets)
    ]
    return DetectionDataset(("common", "some", "rare"), tuple(items))


def long_tail():
    """100 images: all have class 0, 30 class 1, 5 class 2, 10 more nothing."""
    sets = [[0, *([1] if i % 3 == 0 and i < 90 else []), *([2] if i % 20 == 7 else [])] for i in range(100)]
    return dataset(sets + [[]] * 10)


@pytest.mark.parametrize("shares", [[1] * 5, [0.8, 0.2], [0.7, 0.2, 0.1]])
def test_every_image_is_in_one_part_and_every_class_in_proportion(shares):
    data = long_tail()
    parts = stratified_parts(data, shares, 0)
    assert sorted(i for part in parts for i in part) == list(range(110))
    for part, share in zip(parts, np.array(shares) / sum(shares), strict=True):
        assert part == sorted(part)
        assert abs(len(part) - 110 * share) <= 3
        for label, total in ((0, 100), (1, 30), (2, 5)):
            count = sum(label in data.items[i].labels for i in part)
            assert abs(count - total * share) <= 1.5, label
        assert abs(sum(not len(data.items[i].labels) for i in part) - 10 * share) <= 1.5


def test_a_seed_fixes_the_parts():
    assert stratified_parts(long_tail(), [1, 1], 4) == stratified_parts(long_tail(), [1, 1], 4)
    assert stratified_parts(long_tail(), [1, 1], 4) != stratified_parts(long_tail(), [1, 1], 5)


def test_no_part_is_empty():
    assert sorted(map(len, stratified_parts(dataset([[0]] * 3), [0.98, 0.01, 0.01], 0))) == [1, 1, 1]


@pytest.mark.parametrize("shares", [[1, 1, 1], [1, 0], [1, -1], []])
def test_impossible_divisions_are_refused(shares):
    with pytest.raises(DataError, match="2 images cannot be divided"):
        stratified_parts(dataset([[0], [1]]), shares, 0)


def test_lists_name_the_images_from_where_they_lie(tmp_path):
    data = dataset([[0], [1], []], tmp_path / "images")
    write_splits(data, {"train": [0, 2], "val": [1]}, tmp_path / "lists/here", "a remark")
    assert (tmp_path / "lists/here/train.txt").read_text() == "../../images/000.png\n../../images/002.png\n"
    (path,) = find_images(tmp_path / "lists/here/val.txt")
    assert path.resolve() == data.items[1].path.resolve()
