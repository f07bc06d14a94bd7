# SPDX-License-Identifier: Apache-2.0
"""Damaged and hostile annotations: named with file and line, dropped or refused, never followed out of the folder."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from support.data import data_path
from support.datasets import HEIGHT, SAMPLES, WIDTH, picture, text, voc_annotation

from yolo_hw.data import Flaw, open_dataset
from yolo_hw.data.items import Findings, Row, make_item
from yolo_hw.data.readers.voc_xml import parse_xml
from yolo_hw.errors import DataError

BAD_BOXES = {
    (5, 5, 5, 9): (Flaw.NO_AREA, None),
    (9, 5, 5, 9): (Flaw.NO_AREA, None),
    (float("nan"), 5, 9, 9): (Flaw.NOT_FINITE, None),
    (1, 1, float("inf"), 9): (Flaw.NOT_FINITE, None),
    (-9, 0, -1, 9): (Flaw.OUTSIDE, None),
    (0, HEIGHT, 9, HEIGHT + 9): (Flaw.OUTSIDE, None),
    (-5, 3, 9, HEIGHT + 5): (Flaw.CLIPPED, [0, 3, 9, HEIGHT]),
    (-1, 0, WIDTH + 1, 9): (None, [-1, 0, WIDTH + 1, 9]),
}


@pytest.mark.parametrize("box", BAD_BOXES)
def test_boxes_that_cannot_be(tmp_path, box):
    flaw, kept = BAD_BOXES[box]
    findings = Findings()
    good = Row("x.txt:1", 0, (1, 2, 3, 4))
    item = make_item(tmp_path, (HEIGHT, WIDTH), [good, Row("x.txt:2", 1, box)], 2, findings)
    assert item.boxes.tolist() == [[1, 2, 3, 4], *([kept] if kept else [])]
    assert [finding.flaw for finding in findings.found] == ([flaw] if flaw else [])
    assert all(str(finding).startswith("x.txt:2: box ") for finding in findings.found)
    assert len(item.labels) == len(item.crowd) == len(item.areas) == len(item.difficult) == len(item.boxes)
    np.testing.assert_array_equal(item.areas, (item.boxes[:, 2:] - item.boxes[:, :2]).prod(1))


def spoil_yolo(root, line):
    text(root / "labels/train/a.txt", f"0 0.5 0.5 0.1 0.1\n{line}\n")
    return "a.txt:2"


def spoil_kitti(root, line):
    text(root / "training/label_2/a.txt", line)
    return "a.txt:1"


def spoil_visdrone(root, line):
    text(root / "VisDrone2019-DET-train/annotations/a.txt", line)
    return "a.txt:1"


def spoil_voc(root, content):
    next(root.glob("Annotations/**/a.xml")).write_text(content)
    return "a.xml"


def spoil_bdd(root, category):
    box = {"x1": 1, "y1": 2, "x2": 3, "y2": 4}
    frames = [{"name": "a.jpg", "labels": [{"category": category, "box2d": box}]}]
    text(root / "labels/det_20/det_train.json", json.dumps(frames))
    return "a.jpg: label 1"


def spoil_hand(root, content):
    text(root / "training_dataset/training_data/annotations/a.mat", content)
    return "a.mat"


SPOILT = [
    ("yolo", spoil_yolo, "0 1 2 3", "expected 'class cx cy w h'"),
    ("yolo", spoil_yolo, "2 .5 .5 .1 .1", "labels use class 2, but there are 2 class names"),
    ("kitti", spoil_kitti, "Car 0 0 0 1 2", "expected the 15 fields of a KITTI label"),
    ("kitti", spoil_kitti, "Dog" + " 1" * 14, "unknown class 'Dog'"),
    ("visdrone", spoil_visdrone, "1,2,3", "expected 'x,y,w,h,score,category,...'"),
    ("visdrone", spoil_visdrone, "1,2,3,4,1,12,0,0", "unknown category 12"),
    ("voc", spoil_voc, "<annotation><object>", "not an XML file"),
    ("voc", spoil_voc, "<annotation><object><name>ant</name></object></annotation>", "bndbox must have the numbers"),
    ("dior", spoil_voc, voc_annotation([[1, 2, 3, 4]], ["whale"]), "unknown class 'whale'"),
    ("bdd100k", spoil_bdd, "moose", "unknown category 'moose'"),
    ("hand", spoil_hand, "MATLAB 5.0", "not an annotation of the hand data set"),
]


@pytest.mark.parametrize(("name", "spoil", "content", "message"), SPOILT)
def test_entries_without_meaning(tmp_path, name, spoil, content, message):
    """An error for who trains; a finding for who checks, and the other image is still read."""
    sample = SAMPLES[name](tmp_path)
    place = spoil(tmp_path, content)
    with pytest.raises(DataError, match=re.escape(place)) as caught:
        open_dataset(sample.source)
    assert message in str(caught.value)
    dataset = open_dataset(sample.source, strict=False)
    assert len(dataset.findings) == 1
    assert dataset.findings[0].flaw in (Flaw.MALFORMED, Flaw.UNKNOWN_CLASS)
    assert place in dataset.findings[0].place
    assert message in dataset.findings[0].message
    assert len(dataset.items[1].boxes) == 1


def test_other_categories_of_bdd100k_are_ignored_regions(tmp_path):
    sample = SAMPLES["bdd100k"](tmp_path)
    spoil_bdd(tmp_path, "other vehicle")
    item = open_dataset(sample.source).items[0]
    assert item.crowd.tolist() == [True]
    assert item.labels.tolist() == [2]


def test_a_score_of_zero_in_visdrone_is_an_ignored_object(tmp_path):
    sample = SAMPLES["visdrone"](tmp_path)
    spoil_visdrone(tmp_path, "1,2,3,4,0,4,0,0")
    item = open_dataset(sample.source).items[0]
    assert (item.crowd.tolist(), item.labels.tolist()) == ([True], [3])


@pytest.mark.parametrize("name", ["yolo", "kitti", "visdrone", "bdd100k", "hand"])
def test_an_unreadable_image_has_no_objects_and_is_named(tmp_path, name):
    sample = SAMPLES[name](tmp_path)
    image = open_dataset(sample.source).items[0].path
    image.write_text("no image")
    dataset = open_dataset(sample.source)
    assert [len(item.boxes) for item in dataset.items] == [0, 1]
    assert [(finding.flaw, finding.place) for finding in dataset.findings] == [(Flaw.BAD_IMAGE, str(image))]


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><annotation>&b;</annotation>'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (BOMB, "no document type"),
        (BOMB.encode("utf-16"), "no document type"),
        ('<!DOCTYPE x SYSTEM "file:///etc/passwd"><x/>', "no document type"),
        ("<a>" * 40 + "</a>" * 40, "nested more than 32 deep"),
        ("<a>&undefined;</a>", "not an XML file"),
        ('<?xml version="1.0" encoding="nonsense"?><a/>', "not an XML file"),
        ("", "not an XML file"),
        (b"\xff\x00", "not an XML file"),
    ],
)
def test_hostile_xml_is_refused(tmp_path, content, message):
    path = tmp_path / "x.xml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        parse_xml(path)


def test_a_huge_annotation_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "x.xml"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # sparse
    with pytest.raises(DataError, match="must have at most 16777216 bytes, has 1099511627776"):
        parse_xml(path)


@pytest.mark.parametrize("stem", ["../../secret", "/etc/passwd"])
def test_lists_cannot_leave_the_folder(tmp_path, stem):
    sample = SAMPLES["voc"](tmp_path)
    text(tmp_path / "ImageSets/Main/train.txt", stem)
    with pytest.raises(DataError, match="leaves the folder"):
        open_dataset(sample.source, split="train")


def test_frames_cannot_leave_the_folder(tmp_path):
    text(tmp_path / "labels/det_val.json", json.dumps([{"name": "../a.jpg", "labels": [{"category": 1, "box2d": 2}]}]))
    with pytest.raises(DataError, match="leaves the folder"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("train: [", "not a YAML file"),
        ("just text", "expected the keys train, val and names"),
        ("train: images\nnames: 7\n", "names must be a list"),
        ("train: images\nnames: {0: a, 2: b}\n", "names must be numbered"),
        ("train: images\nnames: [a, b]\nnc: 3\n", "nc is 3, but there are 2 names"),
        ("train: nothing\nnames: [a]\n", "no such file or folder"),
        ("train: 7\nnames: [a]\n", "must name a folder or a list"),
        ("names: [a]\n", "neither train nor val"),
        ("!!python/object/apply:os.system ['true']", "not a YAML file"),
    ],
)
def test_bad_yaml(tmp_path, content, message):
    picture(tmp_path / "images/a.png")
    with pytest.raises(DataError, match=message):
        open_dataset(text(tmp_path / "data.yaml", content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("train images", r"x\.data:1: expected 'key = value'"),
        ("train = none.txt", "no such file beside the .data file"),
        ("classes = 3\ntrain = images\nnames = x.names", "classes = 3, but there are 1 class names"),
        ("names = x.names", "neither train nor valid"),
    ],
)
def test_bad_darknet_data(tmp_path, content, message):
    picture(tmp_path / "images/a.png")
    text(tmp_path / "x.names", "cat\n")
    with pytest.raises(DataError, match=message):
        open_dataset(text(tmp_path / "x.data", content))


def test_bccd():
    """The real set: 292 images, the official lists, two boxes that are mere points."""
    folder = data_path("bccd") / "BCCD"
    whole = open_dataset(folder)
    assert (len(whole), sum(len(item.boxes) for item in whole.items)) == (292, 3943 - 2)
    assert [(f.flaw, f.place.split("/")[-1]) for f in whole.findings] == [
        (Flaw.NO_AREA, "BloodImage_00338.xml: object 13"),
        (Flaw.NO_AREA, "BloodImage_00343.xml: object 4"),
    ]
    assert [len(open_dataset(folder, split=split)) for split in ("train", "val", "trainval")] == [205, 87, 292]
    assert whole.names == ("Platelets", "RBC", "WBC")
    by_stem = {item.path.stem: item for item in open_dataset(folder.parent / "trainval.txt").items}
    for item in whole.items:  # the makers' YOLO labels, which count pixels from 0
        np.testing.assert_allclose(item.boxes, by_stem[item.path.stem].boxes, atol=1.01)
