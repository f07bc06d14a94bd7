# SPDX-License-Identifier: Apache-2.0
"""``yolo-hw compile --graph``: a saved integer graph becomes the bundle that its float network becomes."""

import json
import shutil
from dataclasses import replace

import pytest
from support.cli_runs import run

from yolo_hw.cli.main import EXIT_BAD_INPUT
from yolo_hw.intgraph import INPUT, load_graph, save_graph
from yolo_hw.intgraph.arrays import write_arrays

SAME = ("graph", "accelerator", "program", "tensors", "memory", "proofs", "golden")


@pytest.fixture(scope="module")
def compiled(files, tmp_path_factory):
    """A bundle made of the float network, and the integer graph in it, on disk."""
    folder = tmp_path_factory.mktemp("compiled")
    given = files.arguments(calib=files.images, out=folder / "bundle")
    result = run("compile", *given, "--skip", "csim", "--w-bits", 4)
    assert result.exit_code == 0, result.stderr
    result = run("quantise", *files.arguments(calib=files.images, out=folder / "quantised"), "--w-bits", 4)
    assert result.exit_code == 0, result.stderr
    (graph,) = folder.rglob("graph.json")
    return folder / "bundle", graph.parent


def arguments(graph, files, out, *more):
    return ("compile", "--graph", graph, "--calib", files.images, "--out", out, "--skip", "csim", *more)


def test_the_bundle_is_that_of_the_float_network(compiled, files, tmp_path):
    bundle, graph = compiled
    result = run(*arguments(graph, files, tmp_path / "out", "--json"))
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["verify"]["passed"] is True
    one, other = (json.loads((folder / "network.json").read_text()) for folder in (bundle, tmp_path / "out"))
    assert {key: one[key] for key in SAME} == {key: other[key] for key in SAME}
    assert set(other["source"]) == {"graph", "params"}
    for path in (bundle / "golden").rglob("*.bin"):
        assert path.read_bytes() == (tmp_path / "out" / "golden" / path.relative_to(bundle / "golden")).read_bytes()
    assert {path.name for path in (tmp_path / "out" / "golden").iterdir() if path.is_dir()} >= {"image0", "all_max"}
    assert run("verify", tmp_path / "out", "--skip", "csim").exit_code == 0


def test_the_table_and_the_number_of_images(compiled, files, tmp_path):
    result = run(*arguments(compiled[1], files, tmp_path / "out", "--golden-images", 2, "--tile", "8x8"))
    assert result.exit_code == 0, result.stderr
    for text in ("network", "records", "8x8", "engine"):
        assert text in result.stdout
    cases = json.loads((tmp_path / "out" / "network.json").read_text())["golden"]["cases"]
    assert {"image0", "image1"} <= {case["case"] for case in cases}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--cfg", "net.cfg"), "name one network: --cfg, --onnx, or --graph"),
        (("--onnx", "net.onnx"), "name one network: --cfg, --onnx, or --graph"),
        (("--weights", "net.weights"), "--weights has no effect on a graph in integers"),
        (("--bits", "4"), "--bits has no effect on a graph in integers"),
        (("--target", "dpu-like"), "--target has no effect on a graph in integers"),
        (("--max-calib", "4"), "--max-calib has no effect on a graph in integers"),
        (("--imgsz", "32"), "--imgsz has no effect on a graph in integers"),
        (("--search", "1"), "--search has no effect on a graph in integers"),
        (("--tile", "3x3"), "tile"),
        (("--calib", "nowhere"), "nowhere"),
    ],
)
def test_options_that_do_not_fit(more, message, compiled, files, tmp_path):
    result = run(*arguments(compiled[1], files, tmp_path / "out", *more))
    assert result.exit_code == EXIT_BAD_INPUT
    assert message in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_network_has_to_be_named(files, tmp_path):
    result = run("compile", "--calib", files.images, "--out", tmp_path / "out")
    assert result.exit_code == EXIT_BAD_INPUT
    assert "name one network: --cfg, --onnx, or --graph" in result.stderr


def test_graphs_that_are_none_are_refused(compiled, files, tmp_path):
    out = tmp_path / "out"
    graph = tmp_path / "graph"
    result = run(*arguments(graph, files, out))
    assert (result.exit_code, "graph.json: cannot read" in result.stderr) == (EXIT_BAD_INPUT, True)
    shutil.copytree(compiled[1], graph)
    write_arrays(graph / "params.npz", {})
    result = run(*arguments(graph, files, out))
    assert (result.exit_code, result.stderr.count("\n")) == (EXIT_BAD_INPUT, 1), result.stderr
    assert not out.exists()


def test_graphs_of_other_inputs_than_images_are_refused(compiled, files, tmp_path):
    graph = load_graph(compiled[1])
    info = graph.tensors[INPUT]
    other = {**graph.tensors, INPUT: replace(info, fmt=replace(info.fmt, signed=True))}
    save_graph(replace(graph, tensors=other), tmp_path / "graph")
    result = run(*arguments(tmp_path / "graph", files, tmp_path / "out"))
    assert result.exit_code == EXIT_BAD_INPUT
    assert "the input must be u8f8, the bytes of an image, got s8f8" in result.stderr
    assert not (tmp_path / "out").exists()
