# SPDX-License-Identifier: Apache-2.0
"""Folders with images of every kind: read, or named, skipped and counted."""

import json

import numpy as np
import pytest
from PIL import Image
from support.cli_runs import run

RGB = np.random.default_rng(3).integers(0, 256, (40, 50, 3)).astype(np.uint8)
GOOD = {"grey", "rgb", "rgba", "sixteen_bits", "palette"}
BAD = {"cut", "empty", "text"}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Five readable images, three damaged ones, one file that is no image."""
    folder = tmp_path_factory.mktemp("mixed")
    Image.fromarray(RGB).save(folder / "rgb.jpg")
    Image.fromarray(RGB[:, :, 0]).save(folder / "grey.png")
    Image.fromarray(np.concatenate([RGB, RGB[:, :, :1]], 2)).save(folder / "rgba.png")
    Image.fromarray(RGB[:, :, 0].astype(np.uint16) * 257).save(folder / "sixteen_bits.png")
    Image.fromarray(RGB).quantize(16).save(folder / "palette.gif")
    (folder / "cut.jpg").write_bytes((folder / "rgb.jpg").read_bytes()[:700])
    (folder / "empty.png").touch()
    (folder / "text.png").write_text("no image")
    (folder / "notes.txt").write_text("not looked at")
    return folder


def assert_named_and_counted(result, count):
    skipped = [line for line in result.stderr.splitlines() if line.startswith("skipped: ")]
    assert len(skipped) == count
    for stem in BAD:
        assert sum(f"{stem}." in line for line in skipped) == 1


def test_detect(files, mixed, tmp_path):
    out = tmp_path / "out"
    result = run("detect", *files.arguments(source=mixed, out=out, conf=0.05), "--json")
    assert result.exit_code == 0, result.stderr
    assert_named_and_counted(result, 3)
    document = json.loads(result.stdout)
    assert document == json.loads((out / "detections.json").read_text())
    assert document["skipped"] == 3
    assert {path.stem for path in out.glob("*.png")} == {path.stem for path in out.glob("*.txt")} == GOOD
    for entry in document["images"]:
        for found in entry["detections"]:
            x1, y1, x2, y2 = found["box"]
            assert 0 <= x1 <= x2 <= 50
            assert 0 <= y1 <= y2 <= 40
    # every picture has the size of its image; grey and 16-bit grey are the same image
    assert all(Image.open(path).size == (50, 40) for path in out.glob("*.png"))
    assert (out / "grey.txt").read_text() == (out / "sixteen_bits.txt").read_text()


def test_detect_prints_a_table_with_counts(files, mixed, tmp_path):
    result = run("detect", *files.arguments(source=mixed, out=tmp_path / "out"), "--no-pictures")
    assert result.exit_code == 0
    assert "5 images, 3 skipped" in result.stdout
    assert not list((tmp_path / "out").glob("*.png"))


def test_compile_calibrates_on_the_readable_ones(files, mixed, tmp_path):
    result = run("compile", *files.arguments(calib=mixed, out=tmp_path / "out", skip="csim"), "--json")
    assert result.exit_code == 0, result.stderr
    assert_named_and_counted(result, 3)
    document = json.loads(result.stdout)
    assert (document["calibration_images"], document["skipped_images"]) == (5, 3)


def test_eval_counts_what_it_cannot_read(files, mixed, tmp_path):
    for stem in GOOD | BAD:
        (mixed / f"{stem}.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    result = run("eval", *files.arguments(data=mixed), "--json")
    assert result.exit_code == 0, result.stderr
    assert_named_and_counted(result, 3)
    document = json.loads(result.stdout)
    assert (document["images"], document["skipped"]) == (8, 3)


def test_images_of_one_name_do_not_overwrite_each_other(files, tmp_path):
    for name in ("a/x.png", "b/x.png", "b/x.jpg"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RGB).save(tmp_path / "in" / name)
    out = tmp_path / "out"
    result = run("detect", *files.arguments(source=tmp_path / "in", out=out))
    assert result.exit_code == 0
    assert len(list(out.rglob("*.png"))) == len(list(out.rglob("*.txt"))) == 3


def test_detect_never_overwrites_its_input(files, tmp_path):
    """Neither the image nor the labels beside it."""
    Image.fromarray(RGB).save(tmp_path / "x.png")
    (tmp_path / "x.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    result = run("detect", *files.arguments(source=tmp_path, out=tmp_path))
    assert result.exit_code == 2
    assert "--out must not be a folder of source images" in result.stderr
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("runner", ["float", "engine"])
def test_both_runners_detect_and_evaluate(files, tmp_path, runner):
    calib = {"calib": files.images} if runner == "engine" else {}
    options = files.arguments(runner=runner, source=files.images, out=tmp_path / "out", **calib)
    result = run("detect", *options, "--json")
    assert result.exit_code == 0, result.stderr
    assert len(json.loads(result.stdout)["images"]) == 2
    result = run("eval", *files.arguments(runner=runner, data=files.images, **calib), "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["images"] == 2
