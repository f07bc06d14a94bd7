# SPDX-License-Identifier: Apache-2.0
"""Conversion: every format that is read, written as every format that is written and read back."""

from __future__ import annotations

import numpy as np
import pytest
from support.data import data_path
from support.datasets import SAMPLES, picture, text

from yolo_hw.data import open_dataset, splits_of
from yolo_hw.data.dataset import find_format
from yolo_hw.data.writers import Target, open_parts, unique_stems, write_dataset_as, yolo_line
from yolo_hw.errors import DataError, OutputError

READ_AS = {Target.YOLO: "ultralytics", Target.COCO: "coco", Target.VOC: "voc"}


def objects(dataset):
    """Return the class names and boxes of all objects, image by image; regions to ignore apart."""
    return [
        [(dataset.names[label], *box) for label, box in zip(item.labels[own], item.boxes[own].tolist(), strict=True)]
        for item in dataset.items
        for own in [~item.crowd]
    ]


@pytest.mark.parametrize("target", Target)
@pytest.mark.parametrize("name", SAMPLES)
def test_round_trip(tmp_path, name, target):
    parts = open_parts(SAMPLES[name](tmp_path / "in").source)
    assert list(parts) == ["train", "val"]
    remarks = write_dataset_as(target, parts, tmp_path / "out")
    assert find_format(tmp_path / "out").name == READ_AS[target]
    assert splits_of(tmp_path / "out") == ("train", "val")
    for split, part in parts.items():
        back = open_dataset(tmp_path / "out", split=split)
        assert back.findings == ()
        for old, new in zip(objects(part), objects(back), strict=True):
            assert [row[0] for row in old] == [row[0] for row in new]
            np.testing.assert_allclose([row[1:] for row in new], [row[1:] for row in old], atol=1e-4)
        if target is not Target.VOC:  # whose classes are those that occur, in alphabetical order
            assert back.names == part.names
        for old, new in zip(part.items, back.items, strict=True):
            assert old.path.read_bytes() == new.path.read_bytes()
    crowds = sum(int(item.crowd.sum()) for part in parts.values() for item in part.items)
    assert len(remarks) == (crowds > 0 and target is not Target.COCO)


def test_coco_keeps_everything(tmp_path):
    for name in ("visdrone", "voc", "coco"):
        parts = open_parts(SAMPLES[name](tmp_path / name).source)
        write_dataset_as(Target.COCO, parts, tmp_path / "out" / name)
        for split, part in parts.items():
            for old, new in zip(part.items, open_dataset(tmp_path / "out" / name, split=split).items, strict=True):
                for key in ("boxes", "labels", "crowd", "areas", "difficult"):
                    np.testing.assert_array_equal(getattr(new, key), getattr(old, key))


def test_voc_keeps_difficult(tmp_path):
    write_dataset_as(Target.VOC, open_parts(SAMPLES["voc"](tmp_path / "in").source), tmp_path / "out")
    assert open_dataset(tmp_path / "out").items[0].difficult.tolist() == [False, True]


def test_boxes_of_fractions_become_whole_pixels_in_voc(tmp_path):
    picture(tmp_path / "in/a.png")
    boxes = [(0.4, 0.4, 10.6, 20.4), (5.2, 5.2, 5.9, 5.9), (99.2, 0, 100, 60), (3, 3, 4, 9)]
    text(tmp_path / "in/a.txt", "".join(yolo_line(0, box, (60, 100)) for box in boxes))
    write_dataset_as(Target.VOC, open_parts(tmp_path / "in"), tmp_path / "out")
    (item,) = open_dataset(tmp_path / "out").items
    assert len(item.boxes) == len(boxes)
    np.testing.assert_allclose(item.boxes, boxes, atol=1.3)
    np.testing.assert_array_equal(item.boxes, np.rint(item.boxes))


def test_darknet_reads_what_is_written_for_yolo(tmp_path):
    parts = open_parts(SAMPLES["coco"](tmp_path / "in").source)
    write_dataset_as(Target.YOLO, parts, tmp_path / "out")
    for split in ("train", "val"):
        assert objects(open_dataset(tmp_path / "out/set.data", split=split)) == objects(
            open_dataset(tmp_path / "out/data.yaml", split=split)
        )


def test_a_source_without_splits_is_one_whole(tmp_path):
    picture(tmp_path / "in/a.png")
    text(tmp_path / "in/a.txt", "0 0.5 0.5 0.5 0.5\n")
    for target in Target:
        parts = open_parts(tmp_path / "in")
        write_dataset_as(target, parts, tmp_path / target.value)
        assert objects(open_dataset(tmp_path / target.value)) == objects(parts["all"])


def test_links_instead_of_copies(tmp_path):
    parts = open_parts(SAMPLES["yolo"](tmp_path / "in").source)
    write_dataset_as(Target.COCO, parts, tmp_path / "out", link=True)
    assert all(path.is_symlink() and path.is_file() for path in (tmp_path / "out/images").iterdir())


def test_equal_file_names_are_told_apart(tmp_path):
    paths = [tmp_path / "x/a.png", tmp_path / "y/a.png", tmp_path / "y/b.png"]
    assert list(unique_stems(paths).values()) == ["x_a", "y_a", "y_b"]
    assert list(unique_stems(paths[1:]).values()) == ["a", "b"]
    with pytest.raises(DataError, match="differ in their suffix only"):
        unique_stems([tmp_path / "a.png", tmp_path / "a.jpg"])


def test_nothing_is_left_behind_and_nothing_destroyed(tmp_path):
    parts = open_parts(SAMPLES["coco"](tmp_path / "in").source)
    parts["val"].items[0].path.unlink()
    with pytest.raises(DataError, match="no such image"):
        write_dataset_as(Target.YOLO, parts, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    text(tmp_path / "mine/thesis.txt", "ten years of work")
    with pytest.raises(OutputError, match="not empty"):
        write_dataset_as(Target.YOLO, parts, tmp_path / "mine")


def test_parts_must_have_the_same_classes(tmp_path):
    first = open_dataset(SAMPLES["yolo"](tmp_path / "a").source)
    second = open_dataset(SAMPLES["hand"](tmp_path / "b").source)
    with pytest.raises(DataError, match="the same classes"):
        write_dataset_as(Target.COCO, {"train": first, "val": second}, tmp_path / "out")


def test_bccd(tmp_path):
    parts = open_parts(data_path("bccd") / "BCCD", splits=["train", "val"])
    for target in Target:
        write_dataset_as(target, parts, tmp_path / target.value, link=True)
        for split, part in parts.items():
            back = open_dataset(tmp_path / target.value, split=split)
            for old, new in zip(objects(part), objects(back), strict=True):
                np.testing.assert_allclose([row[1:] for row in new], [row[1:] for row in old], atol=1e-3)
