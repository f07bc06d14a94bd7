# SPDX-License-Identifier: Apache-2.0
"""``yolo-hw data``: exit codes, outputs, one error line for bad input and nothing left behind."""

from __future__ import annotations

import json

import pytest
from support.cli_runs import run
from support.datasets import SAMPLES, text

from yolo_hw.cli.main import EXIT_BAD_INPUT, EXIT_DIFFERENCE
from yolo_hw.data import open_dataset, splits_of


@pytest.fixture
def voc(tmp_path):
    return SAMPLES["voc"](tmp_path / "in").source


@pytest.mark.parametrize("verb", ["check", "convert", "split", "synth", "anchors"])
def test_help_has_an_example(verb):
    result = run("data", verb, "--help")
    assert result.exit_code == 0
    assert f"Example: yolo-hw data {verb}" in " ".join(result.stdout.split())


def test_check_of_a_good_set(voc, tmp_path):
    result = run("data", "check", voc, "--out", tmp_path / "report")
    assert result.exit_code == 0, result.stderr
    assert "nothing wrong" in result.stdout
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == ["box_sizes.png", "report.json"]
    document = json.loads((tmp_path / "report/report.json").read_text())
    assert (document["images"], document["findings"]) == (2, [])
    assert json.loads(run("data", "check", voc, "--json").stdout) == document
    assert json.loads(run("data", "check", voc, "--json", "--split", "val").stdout)["images"] == 1


def test_check_of_a_bad_set_exits_with_one(voc):
    annotation = voc / "Annotations/a.xml"
    annotation.write_text(annotation.read_text().replace("<xmax>30<", "<xmax>3<"))
    result = run("data", "check", voc)
    assert result.exit_code == EXIT_DIFFERENCE
    assert "1 findings: box without area: 1" in result.stdout
    assert "a.xml: object 1" in result.stdout


@pytest.mark.parametrize("target", ["yolo", "coco", "voc"])
def test_convert(voc, tmp_path, target):
    result = run("data", "convert", voc, "--to", target, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    assert "train: 1 images, 2 boxes" in result.stdout
    assert splits_of(tmp_path / "out") == ("train", "val")
    again = run("data", "convert", voc, "--to", target, "--split", "val", "--link", "--out", tmp_path / "out")
    assert again.exit_code == 0, again.stderr
    assert len(open_dataset(tmp_path / "out")) == 1


def test_convert_says_what_is_lost(tmp_path):
    source = SAMPLES["kitti"](tmp_path / "in").source
    result = run("data", "convert", source, "--to", "yolo", "--out", tmp_path / "out")
    assert result.exit_code == 0
    assert "warning: 8 ignored regions are left out: yolo labels cannot express them" in result.stderr


@pytest.mark.parametrize(
    ("options", "lists"),
    [
        (["--folds", "2"], {"fold0_train": 1, "fold0_val": 1, "fold1_train": 1, "fold1_val": 1}),
        (["--ratio", ".5,.5", "--seed", "3"], {"train": 1, "val": 1}),
    ],
)
def test_split(voc, tmp_path, options, lists):
    result = run("data", "split", voc, *options, "--out", tmp_path / "lists")
    assert result.exit_code == 0, result.stderr
    found = {path.stem: path for path in (tmp_path / "lists").glob("*.txt") if path.stem != "split"}
    assert {name: len(open_dataset(voc, split=str(path))) for name, path in found.items()} == lists
    before = {name: path.read_text() for name, path in found.items()}
    assert run("data", "split", voc, *options, "--out", tmp_path / "lists").exit_code == 0
    assert {name: path.read_text() for name, path in found.items()} == before


def test_synth_and_anchors(tmp_path):
    assert run("data", "synth", "--images", "2", "--seed", "1", "--out", tmp_path / "set").exit_code == 0
    assert len(open_dataset(tmp_path / "set")) == 2
    options = [tmp_path / "set", "--net", "416x320", "--count", "3", "--generations", "50"]
    document = json.loads(run("data", "anchors", *options, "--json").stdout)
    result = run("data", "anchors", *options)
    assert result.exit_code == 0, result.stderr
    line = "anchors = " + ",  ".join(f"{w},{h}" for w, h in document["refined"]["anchors"])
    assert result.stdout.splitlines()[-1] == line
    assert document["refined"]["mean_best_iou"] >= document["k_means"]["mean_best_iou"]
    assert "best possible recall at IoU 0.5" in result.stdout


BAD = {
    "no source": (["check", "nothing"], "nothing: no such file or folder"),
    "no split": (["check", "{voc}", "--split", "vall"], "no split 'vall'; there are train, val"),
    "no names": (["check", "{voc}", "--names", "none.names"], "none.names: cannot read the class names"),
    "both": (["split", "{voc}", "--folds", "2", "--ratio", ".5,.5", "--out", "out"], "either --folds or --ratio"),
    "neither": (["split", "{voc}", "--out", "out"], "either --folds or --ratio"),
    "ratio": (["split", "{voc}", "--ratio", ".8,.3", "--out", "out"], "--ratio must be two or three shares"),
    "words": (["split", "{voc}", "--ratio", "a,b", "--out", "out"], "--ratio must be two or three shares"),
    "folds": (["split", "{voc}", "--folds", "5", "--out", "out"], "2 images cannot be divided"),
    "net": (["anchors", "{voc}", "--net", "416"], "--net must be WIDTHxHEIGHT"),
    "zero net": (["anchors", "{voc}", "--net", "0x416"], "--net must be WIDTHxHEIGHT"),
    "count": (["anchors", "{voc}", "--net", "416x416"], "9 anchors need as many boxes"),
    "damaged": (["convert", "{bad}", "--to", "yolo", "--out", "out"], "a.xml: not an XML file"),
    "no images": (["convert", "{lost}", "--to", "yolo", "--out", "out"], "b.jpg: no such image"),
    "unwritable": (["synth", "--images", "1", "--out", "/proc/self/x/y"], "cannot write to /proc/"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_error_line_and_leaves_nothing(voc, tmp_path, monkeypatch, case):
    arguments, message = BAD[case]
    bad, lost = SAMPLES["voc"](tmp_path / "bad").source, SAMPLES["voc"](tmp_path / "lost").source
    text(bad / "Annotations/a.xml", "<annotation>")
    (lost / "JPEGImages/b.png").unlink()
    places = {"voc": voc, "bad": bad, "lost": lost}
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    result = run("data", *(argument.format(**places) for argument in arguments))
    assert result.exit_code == EXIT_BAD_INPUT
    assert result.stderr.splitlines()[-1].startswith("error: ")
    assert sum(line.startswith("error: ") for line in result.stderr.splitlines()) == 1
    assert message in result.stderr
    assert list((tmp_path / "work").iterdir()) == []
