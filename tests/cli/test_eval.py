# SPDX-License-Identifier: Apache-2.0
"""``yolo-hw eval``: what it reports, draws and refuses."""

import json
import sys

import pytest
from support.cli_runs import run

from yolo_hw.cli.eval import COLUMNS
from yolo_hw.evaluate import FloatRunner, IntRunner

STAGES = ["read", "preprocess", "inference", "postprocess"]


@pytest.fixture(scope="module")
def data(files, tmp_path_factory):
    """The two images with labels."""
    folder = tmp_path_factory.mktemp("labelled")
    (folder / "images").mkdir()
    (folder / "labels").mkdir()
    for i, path in enumerate(sorted(files.images.iterdir())):
        (folder / "images" / path.name).write_bytes(path.read_bytes())
        (folder / "labels" / path.with_suffix(".txt").name).write_text(f"{i} 0.5 0.5 0.6 0.6\n")
    return folder


def report_of(files, data, *options):
    result = run("eval", *files.arguments(data=data), *options, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_report_has_every_figure_by_default(files, data):
    report = report_of(files, data)
    for name in ("ap", "ap50", "fitness", "voc07", "voc12", "confidence", "precision", "recall", "f1"):
        assert 0 <= report[name] <= 1
    assert set(report["darknet"]) == {"map50", "precision", "recall", "f1", "mean_iou"}
    assert (report["images"], report["skipped"]) == (2, 0)
    assert list(report["milliseconds"]) == STAGES
    assert all(value > 0 for value in report["milliseconds"].values())
    assert [c["name"] for c in report["classes"]] == ["0", "1"]
    assert report["fitness"] == pytest.approx(0.1 * report["ap50"] + 0.9 * report["ap"])


@pytest.mark.parametrize("kind", COLUMNS)
def test_metrics_are_chosen(files, data, kind):
    report, whole = report_of(files, data, "--metrics", kind), report_of(files, data)
    kept = {"coco": {"ap", "ap50"}, "voc07": {"voc07"}, "voc12": {"voc12"}, "darknet": {"darknet"}}
    others = set().union(*(names for name, names in kept.items() if name != kind))
    assert kept[kind] <= set(report)
    assert not others & set(report)
    assert not others & set(report["classes"][0])
    assert all(report[name] == whole[name] for name in kept[kind])
    table = run("eval", *files.arguments(data=data), "--metrics", kind).stdout
    for name, columns in COLUMNS.items():
        assert all((f" {title} " in table) == (name == kind) for title, _ in columns)


def test_report_and_plots_are_written(files, data, tmp_path):
    options = ["--report", tmp_path / "new" / "report.json", "--plots", tmp_path / "plots"]
    printed = report_of(files, data, *options)
    assert json.loads((tmp_path / "new" / "report.json").read_text()) == printed
    assert sorted(printed["plots"]) == sorted(str(path) for path in (tmp_path / "plots").iterdir())
    assert len(printed["plots"]) == 5


def test_batch_size_does_not_change_what_is_found(files, data):
    one, many = (report_of(files, data, "--batch", size) for size in (1, 2))
    assert one["ap50"] == pytest.approx(many["ap50"], abs=1e-6)


@pytest.mark.parametrize(
    ("runner", "size", "shape"), [("float", "64", (64, 64)), ("float", "64x32", (64, 32)), ("engine", "64", (64, 64))]
)
def test_imgsz_replaces_the_input_size(files, data, runner, size, shape):
    seen = []
    calib = ["--calib", files.images] if runner == "engine" else []
    with pytest.MonkeyPatch.context() as patch:
        for kind in (FloatRunner, IntRunner):
            plain = kind.run
            patch.setattr(kind, "run", lambda self, x, plain=plain: (seen.append(x.shape[1:3]), plain(self, x))[1])
        report_of(files, data, "--imgsz", size, "--runner", runner, *calib)
    assert set(seen) == {shape}


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--imgsz", "big"], "--imgsz must be SIZE or HEIGHTxWIDTH, for example 416 or 256x320, got 'big'"),
        (["--runner", "engine"], "--runner engine needs calibration images"),
        (["--runner", "onnx"], "an ONNX file needs --onnx and --cfg"),
        (["--onnx", "x.onnx"], "neither --weights nor another --runner"),
        (["--bundle", "x"], "--bundle holds the integer network"),
        (["--pixel-scale", "0.5"], "--pixel-scale has no effect on --runner float"),
        (["--device", "cpu", "--runner", "engine"], "--device has no effect on --runner engine"),
        (["--device", "abacus"], "--device abacus cannot be used: "),
    ],
)
def test_options_that_do_not_go_together_are_refused(files, data, options, part):
    result = run("eval", *files.arguments(data=data), *options)
    assert result.exit_code == 2
    assert part in result.stderr


def test_an_onnx_file_without_the_runtime_is_one_clear_line(files, data, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    result = run("eval", "--cfg", files.cfg, "--onnx", "net.onnx", "--data", data)
    assert result.exit_code == 2
    assert result.stderr == "error: net.onnx: running ONNX files needs onnxruntime: pip install 'yolo-hw[onnx]'\n"


def test_an_onnx_file_gives_the_figures_of_the_float_model(files, data, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    from yolo_hw.interop.onnx_float import float_model
    from yolo_hw.nn import load_darknet
    from yolo_hw.quant.fold import fold_model

    model = float_model(fold_model(load_darknet(files.cfg, files.weights)))
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    options = ["--cfg", files.cfg, "--onnx", tmp_path / "net.onnx", "--pixel-scale", 1 / 256, "--data", data, "--json"]
    result = run("eval", *options)
    assert result.exit_code == 0, result.stderr
    report, expected = json.loads(result.stdout), report_of(files, data)
    assert report["ap50"] == pytest.approx(expected["ap50"], abs=1e-3)
    assert report["classes"][0]["objects"] == expected["classes"][0]["objects"]
