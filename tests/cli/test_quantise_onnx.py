# SPDX-License-Identifier: Apache-2.0
"""``yolo-hw quantise --onnx``: reports, budgets and bounds for foreign networks; and a size of one's own."""

import json

import numpy as np
import pytest
import torch
from support.cli_runs import run
from support.onnx_exports import export
from support.zoo import INPUT_SIZE, make

from yolo_hw.cli.main import EXIT_BAD_INPUT
from yolo_hw.darknet.layers import Shape
from yolo_hw.data.batches import load_batches
from yolo_hw.interop.onnx_import import InputConvention, import_onnx
from yolo_hw.intgraph.engine import Engine
from yolo_hw.intgraph.io import load_graph

OUTPUTS = "/head/box/box.1*/Conv"


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory):
    """A detector with its decoding."""
    return export(make("yolov8_decoded"), tmp_path_factory.mktemp("onnx") / "yolo-8.onnx", (3, INPUT_SIZE, INPUT_SIZE))


def quantise(onnx_file, files, out, *more):
    network = ["--onnx", onnx_file, "--outputs", OUTPUTS, "--input-scale", 255, "--mean", "1,2,3"]
    return run("quantise", *network, "--calib", files.images, "--report-images", 2, "--out", out, *more)


def energy_kept(onnx_file, files, folder):
    """Recompute what ``--drop-of output-error`` measures: the module in torch, the graph in the engine."""
    convention = InputConvention(scale=255, mean=(1, 2, 3), std=(1,))
    model = import_onnx(onnx_file, outputs=(OUTPUTS,), convention=convention).model.eval()
    (images,) = load_batches(files.images, Shape(3, INPUT_SIZE, INPUT_SIZE))
    graph = load_graph(folder / "graph")
    found = Engine(graph).run_batch(images.transpose(0, 3, 1, 2))
    shares = []
    exact = {
        maps.shape: maps.detach().double().numpy() for maps in model(torch.from_numpy(images).permute(0, 3, 1, 2) / 255)
    }
    assert len(exact) == len(graph.outputs)
    for output, codes in zip(graph.outputs, found, strict=True):
        y = exact[codes.shape]
        shares.append(((codes * graph.tensors[output.tensor].fmt.step - y) ** 2).sum() / (y**2).sum())
    return 100 * (1 - np.mean(shares))


def test_the_graph_is_that_of_compile(onnx_file, files, tmp_path):
    result = quantise(onnx_file, files, tmp_path / "q", "--w-bits", 6, "--json")
    assert result.exit_code == 0, result.output
    layers = json.loads(result.stdout)["quant_report"]["layers"]
    graph = load_graph(tmp_path / "q" / "graph")
    assert len(graph.outputs) == 2
    assert {node.name for node in graph.nodes if node.op == "conv2d"} <= {layer["name"] for layer in layers}
    network = ["--onnx", onnx_file, "--outputs", OUTPUTS, "--input-scale", 255, "--mean", "1,2,3"]
    out = tmp_path / "bundle"
    result = run("compile", *network, "--calib", files.images, "--w-bits", 6, "--skip", "csim", "--out", out)
    assert result.exit_code == 0, result.output
    assert (out / "params.npz").read_bytes() == (tmp_path / "q" / "graph" / "params.npz").read_bytes()


def test_a_budget(onnx_file, files, tmp_path):
    options = ["--budget", "bytes=0.6", "--w-choices", "4,8", "--metric", "curvature", "--json"]
    result = quantise(onnx_file, files, tmp_path / "q", *options)
    assert result.exit_code == 0, result.output
    chosen = json.loads(result.stdout)["word_lengths"]
    assert chosen["budget"]["cost"] <= chosen["budget"]["limit"] == 0.6 * chosen["budget"]["uniform"]
    graph = load_graph(tmp_path / "q" / "graph")
    assert {node.w_bits for node in graph.nodes if node.op == "conv2d"} == {4, 8}


def test_a_bound_on_the_outputs_error(onnx_file, files, tmp_path):
    options = ["--w-bits", 4, "--a-bits", 16, "--raise", "weights", "--metric", "curvature"]
    options += ["--drop-of", "output-error"]
    result = quantise(onnx_file, files, tmp_path / "q", *options, "--max-drop", 0.5, "--json")
    assert result.exit_code == 0, result.output
    control = json.loads(result.stdout)["accuracy_control"]
    assert control["reached"]
    assert control["drop_of"] == "output-error"
    assert control["baseline"] == 100
    assert control["trials"][0]["score"] < 99.5 <= control["score"]
    graph = load_graph(tmp_path / "q" / "graph")
    assert {node.w_bits for node in graph.nodes if node.op == "conv2d"} == {4, 16}
    assert control["score"] == pytest.approx(energy_kept(onnx_file, files, tmp_path / "q"), abs=1e-3)
    result = quantise(onnx_file, files, tmp_path / "far", *options, "--max-drop", 0)
    assert result.exit_code == 1
    assert "outputs %" in result.stdout
    assert "out of reach" in " ".join(result.stdout.split())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--cfg", "net.cfg"], "name one network: --cfg, or --onnx"),
        (["--weights", "net.weights"], "--weights has no effect on an ONNX file"),
        (["--max-drop", 1, "--data", "."], "average precision needs the detection heads of a cfg, an ONNX network has"),
        (["--max-drop", 1], "bound the outputs' error with --max-drop and --drop-of output-error"),
        (["--sensitivity", "--metric", "ap50"], "average precision needs the detection heads of a cfg"),
        (["--data", "."], "average precision needs the detection heads of a cfg"),
        (["--max-drop", 1, "--drop-of", "output-error", "--split", "val"], "--split has no effect on quantisation"),
        (["--drop-of", "output-error"], "--drop-of has no effect on quantisation without --max-drop"),
        (["--imgsz", 64], "the file is made for 32x32, got input_size 64x64"),
        (["--outputs", "/heed*"], "there is no tensor or node '/heed*'"),
    ],
)
def test_options_that_do_not_fit(more, message, onnx_file, files, tmp_path):
    result = quantise(onnx_file, files, tmp_path / "q", *more)
    assert result.exit_code == EXIT_BAD_INPUT
    assert message in result.stderr
    assert not list(tmp_path.iterdir())


def test_onnx_options_are_none_of_a_cfg(files, tmp_path):
    result = run("quantise", *files.arguments(calib=files.images, out=tmp_path / "q"), "--mean", "1")
    assert result.exit_code == EXIT_BAD_INPUT
    assert "--mean has no effect on a cfg" in result.stderr


@pytest.mark.parametrize("verb", ["quantise", "compile"])
def test_a_cfg_at_another_size(verb, files, tmp_path):
    skip = ["--skip", "csim"] if verb == "compile" else []
    arguments = files.arguments(calib=files.images, out=tmp_path / "o")
    result = run(verb, *arguments, "--imgsz", "64x96", *skip)
    assert result.exit_code == 0, result.output
    path = {"quantise": ("graph", "graph.json"), "compile": ("network.json",)}[verb]
    document = json.loads(tmp_path.joinpath("o", *path).read_text())
    tensors = (document if verb == "quantise" else document["graph"])["tensors"]
    assert [t["shape"] for t in tensors if t["name"] == "input"] == [[3, 64, 96]]
