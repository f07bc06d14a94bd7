# SPDX-License-Identifier: Apache-2.0
"""``yolo-hw quantise``: what it writes, what it prints, what it refuses."""

import json

import pytest
from support.cli_runs import run, run_process

from yolo_hw import assets
from yolo_hw.intgraph.io import load_graph
from yolo_hw.quant.report_files import read_report

PARTS = ["--cfg", assets.PARTS_CFG, "--weights", assets.PARTS_WEIGHTS, "--names", assets.PARTS_NAMES]


def quantise(files, out, *options):
    return run("quantise", *files.arguments(calib=files.images, out=out), *options)


def run_well(files, out, *options):
    result = quantise(files, out, *options)
    assert result.exit_code == 0, result.output
    return result


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_graph_a_report_and_pictures(files, tmp_path):
    printed = run_well(files, tmp_path / "q", "--bits", 6).stdout
    graph = load_graph(tmp_path / "q" / "graph")
    assert {node.w_bits for node in graph.nodes if node.op == "conv2d"} == {6}
    report = read_report(tmp_path / "q" / "quant_report.json")
    assert all(layer["name"] in printed for layer in report["layers"])
    pictures = {"sqnr.png", "histograms_01.png", "weights_01.png"}
    names = {"graph/graph.json", "graph/params.npz", "quant_report.json", *pictures}
    assert set(contents(tmp_path / "q")) == names
    first = contents(tmp_path / "q")
    run_well(files, tmp_path / "q", "--bits", 6)  # takes the place of the older one
    assert contents(tmp_path / "q") == first


def test_the_graph_is_that_of_compile(files, tmp_path):
    run_well(files, tmp_path / "q", "--w-bits", 4)
    arguments = files.arguments(calib=files.images, out=tmp_path / "b", skip="csim")
    assert run("compile", *arguments, "--w-bits", 4).exit_code == 0
    bundled = json.loads((tmp_path / "b" / "network.json").read_text())["graph"]
    assert bundled == json.loads((tmp_path / "q" / "graph" / "graph.json").read_text())
    assert (tmp_path / "b" / "params.npz").read_bytes() == (tmp_path / "q" / "graph" / "params.npz").read_bytes()


@pytest.mark.parametrize("budget", ["bytes=0.6", "bytes=0.6x", "macbits=0.5"])
def test_a_budget_is_kept_and_its_overrides_give_the_same_graph(files, tmp_path, budget):
    printed = json.loads(run_well(files, tmp_path / "q", "--budget", budget, "--json").stdout)
    chosen = printed["word_lengths"]
    assert chosen == json.loads((tmp_path / "q" / "word_lengths.json").read_text())
    share = float(budget.split("=")[1].rstrip("x"))
    assert chosen["budget"]["cost"] <= chosen["budget"]["limit"] == share * chosen["budget"]["uniform"]
    assert len(set(chosen["bits"].values())) > 1
    overrides = [part for text in chosen["overrides"] for part in ("--override", text)]
    run_well(files, tmp_path / "again", *overrides)
    assert contents(tmp_path / "again" / "graph") == contents(tmp_path / "q" / "graph")


def test_cycles_come_from_a_table(files, tmp_path):
    layers = read_report_layers(files, tmp_path)
    table = {name: {f"{w}x{a}": w * a for w in range(2, 9) for a in (4, 8)} for name in layers}
    (tmp_path / "cycles.json").write_text(json.dumps(table))
    options = ["--budget", "cycles=0.5", "--cycles", tmp_path / "cycles.json", "--json"]
    chosen = json.loads(run_well(files, tmp_path / "q", *options).stdout)["word_lengths"]["budget"]
    assert chosen["uniform"] == 64 * len(layers)
    assert chosen["cost"] <= 32 * len(layers)
    del table[layers[0]]["5x8"]
    (tmp_path / "cycles.json").write_text(json.dumps(table))
    result = quantise(files, tmp_path / "p", *options)
    assert result.exit_code == 2
    assert f"cycles.json: has no cycles of {layers[0]} with 5x8 bits" in result.stderr


def read_report_layers(files, tmp_path):
    run_well(files, tmp_path / "plain")
    report = read_report(tmp_path / "plain" / "quant_report.json")
    return [layer["name"] for layer in report["layers"] if layer["weights"]]


def test_json_is_all_of_stdout(files, tmp_path):
    """The solver prints remarks of its own, through C's buffers."""
    arguments = files.arguments(calib=files.images, out=tmp_path / "q")
    result = run_process("quantise", *arguments, "--budget", "macbits=0.5", "--json")
    assert result.returncode == 0, result.stderr
    assert set(json.loads(result.stdout)) == {"quant_report", "sensitivity", "word_lengths"}


def test_sensitivity_goes_on_from_its_log(files, tmp_path):
    options = ["--sensitivity", "--w-choices", "4,8", "--log", tmp_path / "log", "--metric", "curvature"]
    printed = run_well(files, tmp_path / "q", *options).stdout
    assert "damage (curvature) with one unit quantised" in printed
    log = (tmp_path / "log" / "sensitivity.json").read_bytes()
    first = contents(tmp_path / "q")
    assert {"sensitivity.json", "sensitivity.png"} < set(first)
    run_well(files, tmp_path / "q", *options)
    assert contents(tmp_path / "q") == first
    assert (tmp_path / "log" / "sensitivity.json").read_bytes() == log
    result = quantise(files, tmp_path / "q", *options, "--rounding", "floor")
    assert result.exit_code == 2
    assert "other options" in result.stderr


def test_word_lengths_are_those_of_the_target(files, tmp_path):
    options = ["--target", "dpu-like", "--sensitivity", "--metric", "curvature", "--json"]
    units = json.loads(run_well(files, tmp_path / "q", *options).stdout)["sensitivity"]["units"]
    assert {bits for unit in units for bits in unit["damage"]} == {"8"}


@pytest.mark.slow
def test_a_bound_on_the_loss(labelled, tmp_path):
    small = ["--calib", labelled / "images", "--max-calib", 2, "--report-images", 2, "--metric", "curvature"]
    small += ["--data", labelled, "--bits", 4, "--no-bias-correction", "--raise", "weights"]
    result = run("quantise", *PARTS, *small, "--max-drop", 100, "--out", tmp_path / "far", "--json")
    assert result.exit_code == 0, result.output
    control = json.loads(result.stdout)["accuracy_control"]
    assert control["reached"]
    assert [trial["stage"] for trial in control["trials"]] == ["options"]
    lost = control["baseline"] - control["score"]
    assert lost > 1
    result = run("quantise", *PARTS, *small, "--max-drop", 0, "--out", tmp_path / "near")
    assert result.exit_code == 1  # 4-bit activations alone cost accuracy
    assert "out of reach: with all units that may be raised in 16 bits" in " ".join(result.stdout.split())
    graph = load_graph(tmp_path / "near" / "graph")
    assert {node.w_bits for node in graph.nodes if node.op == "conv2d"} == {16}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--budget", "bytes"], "--budget must be KIND=VALUE or KIND=SHAREx, such as bytes=0.5x, got 'bytes'"),
        (["--budget", "byte=0.5"], "kind must be one of bytes, macbits, cycles, got 'byte'; did you mean 'bytes'?"),
        (["--budget", "bytes=0.01"], "word lengths: the budget is"),
        (["--budget", "bytes=0.5", "--max-drop", "1"], "both choose word lengths: give one"),
        (["--budget", "cycles=0.5"], "--budget cycles needs an accelerator, --tile TMxTN, or a table of cycles"),
        (["--budget", "cycles=0.5", "--tile", "8x8", "--cycles", "c.json"], "--cycles FILE: give one of them"),
        (["--budget", "cycles=0.5", "--tile", "8x9"], "tile: TN must be a multiple of 4"),
        (["--budget", "cycles=0.5", "--cycles", "c.json", "--acc-words", "99"], "--acc-words has no effect on a table"),
        (["--budget", "bytes=0.5", "--tile", "8x8"], "--tile has no effect on --budget bytes"),
        (["--sensitivity", "--max-taps", "9"], "--max-taps has no effect on quantisation without --budget"),
        (["--budget", "bytes=0.5", "--override", "conv_0:w=8"], "--override has no effect on --sensitivity, --budget"),
        (["--sensitivity", "--w-choices", "4;8"], "--w-choices must be word lengths such as 4,8, got '4;8'"),
        (["--sensitivity", "--a-choices", "9"], "sensitivity: a_bits must be different ones of"),
        (["--sensitivity", "--metric", "ap50"], "measure average precision on labelled images: give --data"),
        (["--max-drop", "1"], "measure average precision on labelled images: give --data"),
        (
            ["--max-drop", "1", "--data", ".", "--target", "dpu-like"],
            "'dpu-like' must have weights of 16 bits, it has 8",
        ),
        (["--metric", "curvature"], "--metric has no effect on quantisation alone"),
        (["--split", "val"], "--split has no effect on quantisation without --max-drop"),
        (["--raise", "weights"], "--raise has no effect on quantisation without --max-drop"),
        (["--time-limit", "3"], "--time-limit has no effect on quantisation without --budget"),
        (["--percentile", "99"], "--percentile has no effect on observers other than percentile"),
        (["--no-equalise", "--equalise-by", "weights"], "--equalise-by has no effect on channels that --no-equalise"),
        (
            ["--equalise-by", "weights", "--equalise", "1"],
            "--equalise has no effect on channels whose weights",
        ),
        (["--no-bias-correction", "--bias-correction-by", "images"], "--bias-correction-by has no effect on biases"),
        (["--bits", "8", "--w-bits", "4", "--a-bits", "8"], "--bits has no effect on word lengths that --w-bits and"),
        (["--random-weights"], "give --weights, or --random-weights"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(files, tmp_path, options, message):
    result = quantise(files, tmp_path / "q", *options)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert not list(tmp_path.iterdir())


def test_a_network_is_needed(files, tmp_path):
    result = run("quantise", "--calib", files.images, "--out", tmp_path / "q")
    assert result.exit_code == 2
    assert "name one network: --cfg, or --onnx" in result.stderr


def test_foreign_folders_are_left_alone(files, tmp_path):
    (tmp_path / "q").mkdir()
    (tmp_path / "q" / "thesis.tex").write_text("years of work")
    result = quantise(files, tmp_path / "q")
    assert result.exit_code == 2
    assert "thesis.tex" in result.stderr or "no quant_report.json" in result.stderr
    assert [path.name for path in (tmp_path / "q").iterdir()] == ["thesis.tex"]
    run_well(files, tmp_path / "own")
    (tmp_path / "own" / "notes.txt").write_text("mine")
    result = quantise(files, tmp_path / "own")
    assert result.exit_code == 2
    assert "notes.txt, which is no result of this command" in result.stderr
