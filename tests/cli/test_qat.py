# SPDX-License-Identifier: Apache-2.0
"""``yolo-hw qat``: a run ends with an integer graph whose figures are those that were printed."""

import json

import pytest
from support.cli_runs import run
from support.one_thread import one_thread  # noqa: F401 - a fixture

from yolo_hw import assets
from yolo_hw.cli.main import main
from yolo_hw.cli.train_extras import make_extras
from yolo_hw.data import open_dataset
from yolo_hw.evaluate import IntRunner
from yolo_hw.intgraph import load_graph
from yolo_hw.nn.darknet import load_darknet
from yolo_hw.prune.mask_file import load_masks
from yolo_hw.quant.config import LeakySlope, QuantConfig
from yolo_hw.quant.qat import QatConfig
from yolo_hw.train.callbacks import measure
from yolo_hw.train.run_options import read_run


def words(labelled, folder, *more):
    return [
        "qat", "--cfg", assets.PARTS_CFG, "--weights", assets.PARTS_WEIGHTS, "--data", labelled, "--epochs", 2,
        "--batch", 3, "--learning-rate", 1e-4, "--warmup-epochs", 0, "--ema-decay", 0, "--out", folder, *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def trained(labelled, tmp_path_factory):
    folder = tmp_path_factory.mktemp("qat") / "run"
    result = run(*words(labelled, folder, "--w-bits", 4, "--json"))
    assert result.exit_code == 0, result.output
    return folder, json.loads(result.stdout)


def test_the_integer_graph_is_what_was_measured(trained, labelled):
    folder, figures = trained
    graph = load_graph(folder / "best.graph")
    assert {node.w_bits for node in graph.nodes if node.op == "conv2d"} == {4}
    found = measure(IntRunner(graph), open_dataset(labelled, None))
    assert (found.ap50, found.ap) == (figures["ap50"], figures["ap"])
    assert found.ap50 > 0.3
    for name in ("best.cfg", "best.weights", "best.pt", "report.md", "args.toml"):
        assert (folder / name).exists()


def test_the_graph_becomes_a_bundle(trained, labelled, tmp_path):
    folder, _ = trained
    out = tmp_path / "bundle"
    images = ["--calib", labelled, "--skip", "csim"]
    result = run("compile", "--graph", folder / "best.graph", *images, "--out", out, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["verify"]["passed"] is True


def test_heads_may_be_left_in_float_while_training(labelled, tmp_path):
    more = ["--w-bits", 4, "--heads", "float", "--epochs", 1]
    result = run(*words(labelled, tmp_path / "run", *more))
    assert result.exit_code == 0, result.output
    graph = load_graph(tmp_path / "run" / "best.graph")
    assert {graph.tensors[output.tensor].fmt.bits for output in graph.outputs} == {16}
    assert sorted({node.w_bits for node in graph.nodes if node.op == "conv2d"}) == [4, 16]


def test_a_finished_run_resumes_to_the_same_graph(trained):
    folder, figures = trained
    before = (folder / "best.graph" / "graph.json").read_bytes()
    result = run("qat", "--resume", folder, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == figures
    assert (folder / "best.graph" / "graph.json").read_bytes() == before


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--percentile", "99"], "--percentile has no effect on observers other than percentile"),
        (["--override", "nothing:w=4"], "override 'nothing' matches no layer"),
        (["--w-bits", "9"], "9"),
        (["--norms-at", "2"], "norms-at"),
        (["--overflow", "wrap"], "overflow must saturate"),
    ],
)
def test_bad_options_are_one_error(labelled, tmp_path, more, message):
    result = run(*words(labelled, tmp_path / "run", *more))
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def parts_of_a_run(labelled, tmp_path_factory):
    """What a run with options of its own has been made of: its quantised form and what freezes it."""
    folder = tmp_path_factory.mktemp("options") / "run"
    more = ["--w-scale", "lsq", "--a-scale", "range", "--norm-fold", "two-pass", "--heads", "wide", "--norms-at", 0.25]
    more += ["--scales-at", 0.5, "--calib-images", 3, "--w-observer", "max", "--observer", "kl", "--per-tensor"]
    more += ["--signed", "--no-bias-correction", "--equalise", 0.25, "--rounding", "floor", "--a-bits", 7, "--bits", 6]
    result = run(*words(labelled, folder, *more, "--leaky", "3/5", "--imgsz", 64, "--epochs", 1))
    assert result.exit_code == 0, result.output
    model = load_darknet(assets.PARTS_CFG, assets.PARTS_WEIGHTS)
    (extra,) = make_extras(model, read_run(folder).extras, folder)
    return extra.form, extra.callback


def test_options_reach_the_quantised_form(parts_of_a_run):
    form, freeze = parts_of_a_run
    assert form.qat == QatConfig(w_scale="lsq", a_scale="range", norm_fold="two-pass", heads="wide")
    assert form.calibration_images == 3
    assert (freeze.norms_at, freeze.scales_at) == (0.25, 0.5)
    assert form.quant == QuantConfig(
        w_bits=6, a_bits=7, w_observer="max", a_observer="kl", per_channel=False, unsigned=False, bias_correction=False,
        equalise=0.25, rounding="floor", leaky=LeakySlope(3, 5),
    )  # fmt: skip


def test_help_offers_what_the_command_takes():
    text = " ".join(run("qat", "--help").output.split())
    assert "[default: runs/qat]" in text
    assert "runs/train" not in text
    assert "drawn anew" not in text
    offered = {option for parameter in main.get_command(None, "qat").params for option in parameter.opts}
    assert {"--w-bits", "--no-bias-correction", "--learning-rate"} < offered
    for refused in ("--adaround", "--absorb-biases", "--bias-correction-by", "--precision", "--sync-batch-norm"):
        assert refused not in offered
        result = run("qat", refused)
        assert result.exit_code == 2
        assert "No such option" in result.output
        assert refused in result.output


def test_a_target_of_a_file_is_found_from_elsewhere(labelled, tmp_path, monkeypatch):
    (tmp_path / "board.toml").write_text('name = "board"\nabout = "Ours."\nbase = "generic"\nw_bits = [4]\n')
    monkeypatch.chdir(tmp_path)
    result = run(*words(labelled, tmp_path / "run", "--target", "board.toml", "--imgsz", 64, "--epochs", 1))
    assert result.exit_code == 0, result.output
    monkeypatch.chdir(tmp_path / "run")
    result = run("qat", "--resume", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert {node.w_bits for node in load_graph("best.graph").nodes if node.op == "conv2d"} == {4}


def test_checkpoints_of_quantised_runs_are_no_start(trained, labelled, tmp_path):
    folder, _ = trained
    result = run(*words(labelled, tmp_path / "run"), "--weights", folder / "best.pt")
    assert result.exit_code == 2
    assert "must be of a Darknet, this one is of a QatModel: give the .weights file beside it" in result.output
    assert not (tmp_path / "run").exists()


def test_weights_are_needed(labelled, tmp_path):
    result = run("qat", "--cfg", assets.PARTS_CFG, "--data", labelled, "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert "--weights" in result.output


def test_masks_become_zeros_of_the_integer_graph(labelled, tmp_path):
    pruned = tmp_path / "pruned"
    network = ["--cfg", assets.PARTS_CFG, "--weights", assets.PARTS_WEIGHTS]
    result = run("prune", *network, "--method", "n-m", "--exclude", "conv_0", "--out", pruned)
    assert result.exit_code == 0, result.output
    masks = load_masks(pruned / "masks.npz")
    (weights,) = pruned.glob("*.weights")
    more = ["--weights", weights, "--masks", pruned / "masks.npz", "--epochs", 1]
    result = run(*words(labelled, tmp_path / "run", *more))
    assert result.exit_code == 0, result.output
    graph = load_graph(tmp_path / "run" / "best.graph")
    zeros = {}
    for node in graph.nodes:
        mask = masks.get(f"blocks.{node.name}.conv.weight")
        if mask is not None:
            zeros[node.name] = int((~mask).sum())
            assert not node.weight[~mask.numpy()].any()
            assert node.weight.any()
    assert len(zeros) > 2
    assert sum(zeros.values()) == sum(int((~mask).sum()) for mask in masks.values())
