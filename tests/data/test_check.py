# SPDX-License-Identifier: Apache-2.0
"""The check of a data set finds every planted fault, and nothing in a good one."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from support.datasets import SAMPLES, picture, text, voc_annotation

from yolo_hw.data import Flaw, open_dataset
from yolo_hw.data.check import check_dataset, draw_sizes


@pytest.mark.parametrize("name", SAMPLES)
def test_a_good_set_has_no_findings(tmp_path, name):
    dataset = open_dataset(SAMPLES[name](tmp_path).source, strict=False)
    report = check_dataset(dataset)
    assert report.findings == ()
    assert (report.images, report.empty) == (2, 0)
    assert sum(entry.objects for entry in report.classes) == sum(report.sizes) == 3
    assert [entry.ignored > 0 for entry in report.classes] == [bool(dataset.items[0].crowd.any())] * len(dataset.names)


def plant(root, flaw):
    """Spoil a VOC set in one way."""
    image, xml = root / "JPEGImages/a.png", root / "Annotations/a.xml"
    if flaw is Flaw.MALFORMED:
        xml.write_text("<annotation>")
    elif flaw is Flaw.NOT_FINITE:
        xml.write_text(xml.read_text().replace("<xmin>11<", "<xmin>nan<"))
    elif flaw is Flaw.NO_AREA:
        xml.write_text(xml.read_text().replace("<xmax>30<", "<xmax>10<"))
    elif flaw is Flaw.OUTSIDE:
        xml.write_text(xml.read_text().replace("<xmin>11<", "<xmin>210<").replace("<xmax>30<", "<xmax>230<"))
    elif flaw is Flaw.CLIPPED:
        xml.write_text(xml.read_text().replace("<xmax>30<", "<xmax>230<"))
    elif flaw is Flaw.BAD_IMAGE:
        image.write_bytes(image.read_bytes()[:300])
    elif flaw is Flaw.WRONG_SIZE:
        picture(image, 90, 60)
    elif flaw is Flaw.SAME_BOX:
        xml.write_text(voc_annotation([[1, 2, 30, 40]] * 2, ["ant", "ant"]))
    elif flaw is Flaw.SAME_IMAGE:
        Image.open(root / "JPEGImages/b.png").save(image, compress_level=1)


@pytest.mark.parametrize("flaw", [flaw for flaw in Flaw if flaw is not Flaw.UNKNOWN_CLASS])
def test_planted_faults_are_found(tmp_path, flaw):
    sample = SAMPLES["voc"](tmp_path)
    plant(tmp_path, flaw)
    report = check_dataset(open_dataset(sample.source, strict=False))
    assert report.flaws == {flaw.value: 1}
    assert report.document()["flaws"] == {flaw.value: 1}
    assert f"{'b.png' if flaw is Flaw.SAME_IMAGE else 'a.'}" in report.findings[0].place


def test_an_unknown_class_is_found(tmp_path):
    sample = SAMPLES["kitti"](tmp_path)
    text(tmp_path / "training/label_2/a.txt", "Zebra" + " 1" * 14)
    report = check_dataset(open_dataset(sample.source, strict=False))
    assert report.flaws == {"unknown class": 1}
    assert report.empty == 1


def test_counts_and_histogram(tmp_path):
    picture(tmp_path / "images/a.png")
    shutil.copy(tmp_path / "images/a.png", tmp_path / "images/b.png")
    text(tmp_path / "labels/a.txt", "1 .5 .5 .1 .1\n0 .5 .5 .16 .266667\n0 .5 .5 1 1\n")
    report = check_dataset(open_dataset(tmp_path, strict=False))
    assert [(entry.objects, entry.images) for entry in report.classes] == [(2, 1), (1, 1)]
    assert report.empty == 1
    roots = [np.sqrt(10 * 6), 16.0, np.sqrt(6000)]
    assert [sum(2 ** (k - 1) <= root < 2**k for root in roots) for k in range(1, 8)] == list(report.sizes[1:8])
    assert json.loads(json.dumps(report.document()))["images"] == 2


def test_the_picture_is_a_png_that_depends_on_the_boxes(tmp_path):
    dataset = open_dataset(SAMPLES["coco"](tmp_path / "set").source)
    draw_sizes(dataset, tmp_path / "a.png")
    draw_sizes(dataset, tmp_path / "b.png")
    draw_sizes(open_dataset(tmp_path / "set", split="val"), tmp_path / "c.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes() != (tmp_path / "c.png").read_bytes()
    assert Image.open(tmp_path / "a.png").format == "PNG"
