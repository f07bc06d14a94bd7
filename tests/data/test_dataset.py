# SPDX-License-Identifier: Apache-2.0
"""COCO json and YOLO text labels."""

import json

import numpy as np
import pytest
from PIL import Image

from yolo_hw.data.dataset import label_path, open_dataset, read_coco, read_names, read_yolo
from yolo_hw.errors import DataError


def picture(path, width=100, height=50):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height)).save(path)
    return path


@pytest.mark.parametrize(
    ("image", "labels"),
    [
        ("set/images/a.jpg", "set/labels/a.txt"),
        ("images/val/images/x/a.png", "images/val/labels/x/a.txt"),
        ("flat/a.jpg", "flat/a.txt"),
        ("images.jpg", "images.txt"),
    ],
)
def test_label_path(tmp_path, image, labels):
    assert label_path(tmp_path / image) == tmp_path / labels


def test_yolo_labels_become_pixels(tmp_path):
    image = picture(tmp_path / "images/a.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.txt").write_text("1 0.5 0.5 0.2 0.4\r\n\n0 0.1 0.5 0.2 1\n1 0.5 0.5 0 0.1\n")
    dataset = read_yolo([image], ["cat", "dog"])
    (item,) = dataset.items
    np.testing.assert_allclose(item.boxes, [[40, 15, 60, 35], [0, 0, 20, 50]])
    assert item.labels.tolist() == [1, 0]
    np.testing.assert_allclose(item.areas, [400, 1000])
    assert item.size == (50, 100)
    assert dataset.warnings == (f"{tmp_path / 'labels/a.txt'}:4: box without area dropped",)


def test_without_names_classes_are_numbers(tmp_path):
    image = picture(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("3 0.5 0.5 0.2 0.4\n")
    assert read_yolo([image]).names == ("0", "1", "2", "3")
    with pytest.raises(DataError, match="labels use class 3, but there are 2 class names"):
        read_yolo([image], ["x", "y"])


@pytest.mark.parametrize("line", ["0 1 2 3", "0 1 2 3 4 5", "x 1 2 3 4", "-1 0 0 1 1", "0.5 0 0 1 1"])
def test_malformed_lines_are_named(tmp_path, line):
    image = picture(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text(f"0 0.5 0.5 0.1 0.1\n{line}\n")
    with pytest.raises(DataError, match=r"a\.txt:2: expected 'class cx cy w h'"):
        read_yolo([image])


def test_binary_labels_are_named(tmp_path):
    image = picture(tmp_path / "a.png")
    (tmp_path / "a.txt").write_bytes(b"0 0.5\xff")
    with pytest.raises(DataError, match=r"a\.txt: cannot read the labels"):
        read_yolo([image])


def test_an_unreadable_image_is_kept_without_objects_and_named(tmp_path):
    """It must not stop an evaluation, which counts it as skipped."""
    good, bad = picture(tmp_path / "a.png"), tmp_path / "b.png"
    bad.write_text("no image")
    for stem in "ab":
        (tmp_path / f"{stem}.txt").write_text("0 0.5 0.5 0.2 0.4\n")
    dataset = read_yolo([good, bad])
    assert [len(item.labels) for item in dataset.items] == [1, 0]
    assert len(dataset.warnings) == 1
    assert dataset.warnings[0].startswith(f"{bad}: not an image")


def coco(**changes):
    return {
        "images": [{"id": 7, "file_name": "a.png", "width": 100, "height": 50}],
        "categories": [{"id": 9, "name": "dog"}, {"id": 2, "name": "cat"}],
        "annotations": [
            {"image_id": 7, "category_id": 9, "bbox": [10, 5, 20, 30], "area": 123, "iscrowd": 1},
            {"image_id": 7, "category_id": 2, "bbox": [0, 0, 1, 1]},
        ],
        **changes,
    }


def test_coco(tmp_path):
    (tmp_path / "instances.json").write_text(json.dumps(coco()))
    (tmp_path / "images").mkdir()
    for dataset in (open_dataset(tmp_path), open_dataset(tmp_path / "instances.json")):
        assert dataset.names == ("cat", "dog")
        (item,) = dataset.items
        assert item.path == tmp_path / "images/a.png"
        assert item.boxes.tolist() == [[10, 5, 30, 35], [0, 0, 1, 1]]
        assert (item.labels.tolist(), item.crowd.tolist(), item.areas.tolist()) == ([1, 0], [True, False], [123, 1])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "\x00",
        json.dumps(coco(images=[{"id": 1}])),
        json.dumps(coco(annotations=[{"image_id": 8, "category_id": 9, "bbox": [0, 0, 1, 1]}])),
        json.dumps(coco(annotations=[{"image_id": 7, "category_id": 9, "bbox": [0, 0, 1]}])),
        json.dumps(coco(images=[{"id": 7, "file_name": "../a.png", "width": 1, "height": 1}])),
        json.dumps(coco(images=[{"id": 7, "file_name": "/etc/a.png", "width": 1, "height": 1}])),
        json.dumps(coco(images=5)),
        json.dumps(coco(categories=[{"id": "x", "name": "y"}])),
        "[" * 100_000,
    ],
)
def test_other_json_is_refused(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(DataError, match=r"x\.json: not a COCO instances file"):
        read_coco(tmp_path / "x.json", tmp_path)


def test_names(tmp_path):
    (tmp_path / "x.names").write_text("cat\r\n traffic light \n\n")
    assert read_names(tmp_path / "x.names") == ("cat", "traffic light")
    (tmp_path / "x.names").write_text("\n")
    with pytest.raises(DataError, match="no class name"):
        read_names(tmp_path / "x.names")
    with pytest.raises(DataError, match="cannot read the class names"):
        read_names(tmp_path)
