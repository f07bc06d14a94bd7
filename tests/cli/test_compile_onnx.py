# SPDX-License-Identifier: Apache-2.0
"""``yolo-hw compile --onnx``: from another framework's file to a verified bundle."""

import json

import pytest
from support.cli_runs import run
from support.onnx_exports import export
from support.zoo import INPUT_SIZE, make

from yolo_hw.cli.main import EXIT_BAD_INPUT


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory):
    """A detector with its decoding."""
    return export(make("yolov8_decoded"), tmp_path_factory.mktemp("onnx") / "yolo-8.onnx", (3, INPUT_SIZE, INPUT_SIZE))


def arguments(onnx_file, files, out, *more):
    return ("--onnx", onnx_file, "--calib", files.images, "--out", out, "--skip", "csim", *more)


def test_a_detector_becomes_a_bundle(onnx_file, files, tmp_path):
    out = tmp_path / "bundle"
    result = run("compile", *arguments(onnx_file, files, out, "--input-scale", 255, "--mean", "1,2,3", "--json"))
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["name"] == "yolo_8"
    assert document["simulated_codes"] > 0
    assert "the module ends at /head/box/box.1/Conv [16, 16, 16]" in result.stderr
    network = json.loads((out / "network.json").read_text())
    assert set(network["source"]) == {"onnx"}
    assert len(network["graph"]["outputs"]) == 4
    assert run("verify", out, "--skip", "csim").exit_code == 0


def test_the_named_outputs(onnx_file, files, tmp_path):
    out = tmp_path / "bundle"
    result = run("compile", *arguments(onnx_file, files, out, "--outputs", "/head/box/box.1*/Conv", "--json"))
    assert result.exit_code == 0, result.stderr
    assert len(json.loads((out / "network.json").read_text())["graph"]["outputs"]) == 2


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--cfg", "net.cfg"), "name one network: --cfg, --onnx, or --graph"),
        (("--weights", "net.weights"), "--weights has no effect on an ONNX file"),
        (("--bn-eps", "1e-3"), "--bn-eps has no effect on an ONNX file"),
        (("--outputs", "/heed*"), "there is no tensor or node '/heed*'"),
        (("--std", "0"), "scale and std must be positive"),
        (("--mean", "a,b"), "--mean must be numbers with commas between, got 'a,b'"),
        (("--imgsz", "64"), "the file is made for 32x32, got input_size 64x64"),
    ],
)
def test_options_that_do_not_fit(more, message, onnx_file, files, tmp_path):
    result = run("compile", *arguments(onnx_file, files, tmp_path / "bundle", *more))
    assert result.exit_code == EXIT_BAD_INPUT
    assert message in result.stderr
    assert not (tmp_path / "bundle").exists()


def test_onnx_options_without_a_file(files, tmp_path):
    given = files.arguments(calib=files.images, out=tmp_path / "bundle")
    result = run("compile", *given, "--outputs", "a")
    assert result.exit_code == EXIT_BAD_INPUT
    assert "--outputs has no effect on a cfg" in result.stderr
