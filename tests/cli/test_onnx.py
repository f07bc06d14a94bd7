# SPDX-License-Identifier: Apache-2.0
"""``yolo-hw onnx``: the four forms from their sources, what is refused, and nothing left behind."""

import json

import numpy as np
import onnx
import pytest
from support.bundle import write_bundle
from support.cli_runs import run
from support.onnx_runs import run_codes, run_onnx
from support.random_graph import random_graph, random_input
from support.rounding_probe import rounding_probe

from yolo_hw.cli.main import EXIT_BAD_INPUT
from yolo_hw.fixedpoint import Rounding
from yolo_hw.intgraph import run_outputs, save_graph
from yolo_hw.nn import load_darknet


@pytest.fixture(scope="module")
def graph():
    return random_graph(11, max_channels=6)


@pytest.fixture(scope="module")
def saved(graph, tmp_path_factory):
    folder = tmp_path_factory.mktemp("graphs") / "graph"
    save_graph(graph, folder)
    return folder


def test_float_from_cfg_and_weights(files, tmp_path):
    out = tmp_path / "net.onnx"
    result = run("onnx", "--form", "float", *files.arguments(), "--out", out, "--batch", 0, "--imgsz", 64, "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert document == {"form": "float", "out": str(out), "bytes": out.stat().st_size, "exact": None, "mismatches": []}
    x = np.random.default_rng(0).random((2, 3, 64, 64), np.float32)
    import torch

    expected = load_darknet(files.cfg, files.weights, size=(64, 64))(torch.from_numpy(x))
    for one, other in zip(run_onnx(onnx.load(out), x).values(), expected, strict=True):
        np.testing.assert_allclose(one, other.detach().numpy(), rtol=1e-4, atol=1e-5)


def test_batch_norms_are_kept_with_their_epsilon(files, tmp_path):
    out = tmp_path / "net.onnx"
    options = ("--keep-batch-norm", "--bn-eps", "1e-3")
    assert run("onnx", "--form", "float", *files.arguments(), "--out", out, *options).exit_code == 0
    norms = [node for node in onnx.load(out).graph.node if node.op_type == "BatchNormalization"]
    assert norms
    assert all(node.attribute[0].f == pytest.approx(1e-3) for node in norms)


def test_integer_from_a_bundle_and_from_a_graph(graph, saved, tmp_path):
    write_bundle(graph, tmp_path / "bundle")
    codes = random_input(graph, 0)
    for source in (tmp_path / "bundle", saved):
        out = tmp_path / f"{source.name}.onnx"
        result = run("onnx", "--form", "integer", "--graph", source, "--out", out)
        assert result.exit_code == 0, result.stderr
        assert "every code equals the integer graph's" in result.stdout
        found = run_codes(onnx.load(out), graph, codes)
        for output, expected in zip(graph.outputs, run_outputs(graph, codes), strict=True):
            np.testing.assert_array_equal(found[output.tensor][0], expected)
    assert (tmp_path / "bundle.onnx").read_bytes() == (tmp_path / "graph.onnx").read_bytes()


@pytest.mark.parametrize("form", ["qdq", "qonnx"])
def test_what_may_differ_is_printed(saved, tmp_path, form):
    out = tmp_path / "net.onnx"
    result = run("onnx", "--form", form, "--graph", saved, "--out", out)
    assert result.exit_code == 0, result.stderr
    assert "rounding" in result.stdout
    assert "codes of these nodes may differ" in result.stdout
    document = json.loads(run("onnx", "--form", form, "--graph", saved, "--out", out, "--json").stdout)
    assert document["exact"] is False
    assert {"rounding", "float32"} <= {entry["reason"] for entry in document["mismatches"]}
    strict = run("onnx", "--form", form, "--graph", saved, "--out", tmp_path / "strict.onnx", "--strict")
    assert strict.exit_code == EXIT_BAD_INPUT
    assert f"strict {form} must give equal codes" in strict.stderr
    assert list(tmp_path.iterdir()) == [out]


def test_strict_lets_exact_graphs_pass(tmp_path):
    save_graph(rounding_probe(Rounding.HALF_EVEN, 3), tmp_path / "graph")
    result = run("onnx", "--form", "qdq", "--graph", tmp_path / "graph", "--out", tmp_path / "q.onnx", "--strict")
    assert result.exit_code == 0, result.stderr
    assert "every code equals" in result.stdout


def test_half_up_has_two_stand_ins(saved, tmp_path):
    modes = {}
    for name in ("half_away", "half_even"):
        out = tmp_path / f"{name}.onnx"
        run("onnx", "--form", "qonnx", "--graph", saved, "--out", out, "--half-up-as", name)
        quants = [node for node in onnx.load(out).graph.node if node.op_type == "Quant"]
        modes[name] = {a.s for node in quants for a in node.attribute if a.name == "rounding_mode"}
    assert modes == {"half_away": {b"HALF_UP"}, "half_even": {b"ROUND"}}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--form", "float"), "--form float needs --cfg"),
        (("--form", "integer"), "--form integer needs --graph"),
        (("--form", "float", "--cfg", "a", "--weights", "b", "--graph", "c"), "--graph goes with --form qdq or"),
        (("--form", "qdq", "--graph", "c", "--keep-batch-norm"), "--keep-batch-norm goes with --form float, not with"),
        (("--form", "integer", "--graph", "c", "--strict"), "--strict goes with --form qdq or qonnx, not with integer"),
        (("--form", "qdq", "--graph", "c", "--half-up-as", "half_even"), "--half-up-as goes with --form qonnx"),
        (("--form", "qdq", "--graph", "none"), "none: must be a bundle or the folder of a saved graph; holds no manif"),
        (("--form", "onnx",), "'onnx' is not one of 'float', 'qdq', 'integer', 'qonnx'"),
    ],
)  # fmt: skip
def test_bad_options(tmp_path, arguments, message):
    result = run("onnx", *arguments, "--out", tmp_path / "net.onnx")
    assert result.exit_code == EXIT_BAD_INPUT
    assert message in " ".join(result.stderr.split())
    assert not any(tmp_path.iterdir())


def test_an_output_that_cannot_be_written(saved, tmp_path):
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    result = run("onnx", "--form", "integer", "--graph", saved, "--out", tmp_path / "folder")
    assert result.exit_code == EXIT_BAD_INPUT
    assert "Is a directory" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
