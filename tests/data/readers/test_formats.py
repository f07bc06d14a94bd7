# SPDX-License-Identifier: Apache-2.0
"""Every format gives the same boxes, splits and ignored regions, and is recognised by what lies there."""

from __future__ import annotations

import numpy as np
import pytest
from support.datasets import HEIGHT, SAMPLES, WIDTH

from yolo_hw.data import open_dataset, splits_of
from yolo_hw.data.dataset import find_format
from yolo_hw.data.readers import FORMATS
from yolo_hw.errors import DataError


def assert_item_is(item, dataset, boxes, names):
    own = ~item.crowd
    np.testing.assert_allclose(item.boxes[own], boxes, atol=1e-6)
    assert [dataset.names[label] for label in item.labels[own]] == names
    assert item.size == (HEIGHT, WIDTH)
    assert item.path.is_file()


def test_there_is_a_sample_of_every_format():
    assert {format.name for format in FORMATS} == set(SAMPLES)


@pytest.mark.parametrize("name", SAMPLES)
def test_boxes_classes_and_sizes(tmp_path, name):
    sample = SAMPLES[name](tmp_path)
    assert find_format(sample.source).name == name
    dataset = open_dataset(sample.source)
    assert dataset.findings == ()
    assert [item.path.stem for item in dataset.items] == ["a", "b"]
    for item, boxes, names in zip(dataset.items, sample.boxes, sample.names, strict=True):
        assert_item_is(item, dataset, boxes, names)


@pytest.mark.parametrize("name", SAMPLES)
def test_splits(tmp_path, name):
    sample = SAMPLES[name](tmp_path)
    assert splits_of(sample.source) == sample.splits
    whole = open_dataset(sample.source)
    for split, stem in zip(("train", "val"), "ab", strict=True):
        part = open_dataset(sample.source, split=split)
        assert part.names == whole.names
        assert [item.path.stem for item in part.items] == [stem]
    with pytest.raises(DataError, match="no split 'trian'; there are train, val"):
        open_dataset(sample.source, split="trian")


@pytest.mark.parametrize("name", [name for name in SAMPLES if name in ("kitti", "visdrone")])
def test_ignored_regions_are_crowd_of_every_class(tmp_path, name):
    sample = SAMPLES[name](tmp_path)
    dataset = open_dataset(sample.source)
    first, second = dataset.items
    assert not second.crowd.any()
    crowd = zip(first.boxes[first.crowd], first.labels[first.crowd], strict=True)
    regions = {(tuple(box), int(label)) for box, label in crowd}
    assert regions == {(box, label) for box in sample.ignored for label in range(len(dataset.names))}
    assert first.crowd.sum() == len(regions)


@pytest.mark.parametrize("name", ["voc", "dior"])
def test_difficult_objects_are_flagged_and_no_crowd(tmp_path, name):
    first, second = open_dataset(SAMPLES[name](tmp_path).source).items
    assert (first.difficult.tolist(), second.difficult.tolist()) == ([False, True], [False])
    assert not first.crowd.any()


def test_coco_keeps_its_own_areas(tmp_path):
    first, _ = open_dataset(SAMPLES["coco"](tmp_path).source).items
    assert first.areas.tolist() == [5.0, 6.0]


def test_a_list_file_chooses_images_of_any_source(tmp_path):
    sample = SAMPLES["voc"](tmp_path / "set")
    (tmp_path / "mine.txt").write_text("set/JPEGImages/b.png\n")
    dataset = open_dataset(sample.source, split=str(tmp_path / "mine.txt"))
    assert [item.path.stem for item in dataset.items] == ["b"]
    (tmp_path / "mine.txt").write_text("set/JPEGImages/b.png\nset/JPEGImages/c.png\n")
    with pytest.raises(DataError, match=r"c\.png is no image of .* \(1 of 2 are none\)"):
        open_dataset(sample.source, split=str(tmp_path / "mine.txt"))


def test_the_format_can_be_named(tmp_path):
    """BCCD's folder holds Pascal VOC and YOLO labels."""
    sample = SAMPLES["voc"](tmp_path)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.txt").write_text("0 0.5 0.5 1 1\n")
    dataset = open_dataset(sample.source, format="yolo")
    assert dataset.items[0].boxes.tolist() == [[0, 0, WIDTH, HEIGHT]]
    with pytest.raises(DataError, match=r"no format 'yol'; there are .*did you mean 'yolo'"):
        open_dataset(sample.source, format="yol")


def test_other_yaml_files_do_not_make_a_folder_a_data_set_of_ultralytics(tmp_path):
    sample = SAMPLES["kitti"](tmp_path)
    (tmp_path / "config.yaml").write_text("learning_rate: 1\n")
    assert find_format(sample.source).name == "kitti"


def test_what_is_no_data_set_is_refused(tmp_path):
    (tmp_path / "notes.md").write_text("nothing")
    with pytest.raises(DataError, match="not a data set of a known format"):
        open_dataset(tmp_path / "notes.md")
    with pytest.raises(DataError, match="no such file or folder"):
        open_dataset(tmp_path / "nothing")
    with pytest.raises(DataError, match="no image"):
        open_dataset(tmp_path)
