# SPDX-License-Identifier: Apache-2.0
"""Integer graphs on disk: byte-identical round trips, and errors that name what is wrong."""

import json

import numpy as np
import pytest
from support.random_graph import random_graph, random_input

from yolo_hw.errors import GraphError, OutputError
from yolo_hw.fixedpoint import Overflow, Rounding
from yolo_hw.intgraph import load_graph, run_outputs, save_graph
from yolo_hw.intgraph.arrays import read_arrays, write_arrays
from yolo_hw.intgraph.codec import decode_graph, encode_graph
from yolo_hw.intgraph.io import ARRAYS_FILE, GRAPH_FILE

GRAPH = random_graph(21, size=(7, 10))


@pytest.fixture
def saved(tmp_path):
    save_graph(GRAPH, tmp_path / "graph")
    return tmp_path / "graph"


def edit(folder, change):
    """Change the JSON document of a saved graph."""
    document = json.loads((folder / GRAPH_FILE).read_text())
    change(document)
    (folder / GRAPH_FILE).write_text(json.dumps(document))


def first(document, op):
    return next(node for node in document["nodes"] if node["op"] == op)


@pytest.mark.parametrize("seed", range(12))
def test_a_round_trip_is_byte_identical(tmp_path, seed):
    rounding, overflow = list(Rounding)[seed % 4], list(Overflow)[seed % 3]
    graph = random_graph(seed, bits=(8, 16) if seed % 2 else (4, 8), rounding=rounding, overflow=overflow)
    save_graph(graph, tmp_path / "one")
    loaded = load_graph(tmp_path / "one")
    save_graph(loaded, tmp_path / "two")
    for name in (GRAPH_FILE, ARRAYS_FILE):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert (loaded.contract, loaded.tensors, loaded.outputs) == (graph.contract, graph.tensors, graph.outputs)
    codes = random_input(graph, seed)
    for one, other in zip(run_outputs(graph, codes), run_outputs(loaded, codes), strict=True):
        np.testing.assert_array_equal(one, other)


def test_all_numbers_hardware_sees_are_integers():
    document, arrays = encode_graph(GRAPH)
    for output in document["outputs"]:
        output.pop("head")

    def numbers(value):
        if isinstance(value, dict):
            value = list(value.values())
        return [n for item in value for n in numbers(item)] if isinstance(value, list) else [value]

    assert not any(isinstance(number, float) for number in numbers(document))
    assert all(array.dtype.kind == "i" for array in arrays.values())


def set_in(section, key, value):
    return lambda document: (document[section] if section else document).__setitem__(key, value)


def change_node(op, key, value):
    return lambda document: first(document, op).__setitem__(key, value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_in(None, "schema", "yolo_hw.intgraph/2"), "schema.*yolo_hw.intgraph/1"),
        (lambda document: document.pop("schema"), "schema"),
        (lambda document: document.pop("contract"), "contract"),
        (set_in(None, "surprise", 1), "surprise"),
        (set_in(None, "nodes", []), "nodes"),
        (set_in(None, "name", "../../etc/passwd"), "name"),
        (set_in("contract", "rounding", "stochastic"), "rounding"),
        (set_in("contract", "acc_bits", 64), "acc_bits"),
        (set_in("contract", "max_shift", 48), "max_shift"),
        (set_in("contract", "max_shift", 40.0), "max_shift"),
        (change_node("conv2d", "op", "softmax"), "op"),
        (change_node("conv2d", "inputs", []), "inputs"),
        (change_node("conv2d", "w_bits", 64), "w_bits"),
        (change_node("conv2d", "groups", True), "groups"),
        (change_node("conv2d", "start", 1), "start"),
        (change_node("slice", "start", -1), "start"),
        (
            change_node("slice", "window", {"size": [1, 1], "stride": [1, 1], "pad": [0, 0], "dilation": [1, 1]}),
            "window",
        ),
        (change_node("upsample", "stride", 65), "stride"),
        (change_node("reorg", "mode", "other"), "mode"),
        (lambda document: first(document, "conv2d").pop("window"), "window"),
        (lambda document: first(document, "conv2d")["window"].pop("pad"), "pad"),
        (lambda document: first(document, "conv2d")["window"]["size"].append(3), "size"),
        (lambda document: document["tensors"][0].__setitem__("bits", 17), "bits"),
        (lambda document: document["tensors"][0].__setitem__("shape", [3, 0, 10]), "shape"),
        (lambda document: document["outputs"][0]["head"].__setitem__("kind", "ssd"), "head"),
    ],
)
def test_documents_against_the_schema_are_refused(saved, change, message):
    edit(saved, change)
    with pytest.raises(GraphError, match=f"graph document: .*{message}"):
        load_graph(saved)


def test_a_broken_invariant_is_found_on_loading(saved):
    edit(saved, change_node("avgpool", "mul", 3))
    with pytest.raises(GraphError, match="averages_are_exact"):
        load_graph(saved)


def test_a_tensor_may_be_declared_once(saved):
    edit(saved, lambda document: document["tensors"].append({**document["tensors"][1], "frac": 3}))
    with pytest.raises(GraphError, match="is declared twice"):
        load_graph(saved)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a JSON file"),
        ("{", "not a JSON file"),
        ("[]", "must hold a JSON object"),
        ("[" * 100_000, "not a JSON file"),
        ("\xff\xfe", "not a JSON file"),
    ],
)
def test_files_that_are_no_documents_are_refused(saved, text, message):
    (saved / GRAPH_FILE).write_bytes(text.encode("latin-1"))
    with pytest.raises(GraphError, match=message):
        load_graph(saved)


@pytest.mark.parametrize("name", [GRAPH_FILE, ARRAYS_FILE])
def test_missing_files_are_named(saved, name):
    (saved / name).unlink()
    with pytest.raises(GraphError, match=f"{name}: cannot read"):
        load_graph(saved)


def test_arrays_missing_left_over_or_of_another_type_are_named(saved):
    name = next(node.name for node in GRAPH.nodes if node.op == "conv2d") + ".weight"
    arrays = read_arrays(saved / ARRAYS_FILE)
    for changed, message in (
        ({key: value for key, value in arrays.items() if key != name}, f"{name} is missing"),
        ({**arrays, "spare.weight": arrays[name]}, "no node owns spare.weight"),
        ({**arrays, name: arrays[name].astype(np.int64)}, f"{name} must have type int16, got int64"),
    ):
        write_arrays(saved / ARRAYS_FILE, changed)
        with pytest.raises(GraphError, match=message):
            load_graph(saved)


def test_saving_replaces_an_older_graph_only(saved):
    save_graph(random_graph(22), saved)
    assert load_graph(saved).name == "random_22"
    foreign = saved.parent / "thesis"
    foreign.mkdir()
    (foreign / "chapter.tex").write_text("text")
    with pytest.raises(OutputError):
        save_graph(GRAPH, foreign)
    assert (foreign / "chapter.tex").exists()


def test_a_decoded_graph_owns_its_arrays():
    document, arrays = encode_graph(GRAPH)
    decoded = decode_graph(document, arrays)
    for array in arrays.values():
        array[...] = 0
    original = {node.name: node.arrays for node in GRAPH.nodes}
    for node in decoded.nodes:
        for role, array in node.arrays.items():
            np.testing.assert_array_equal(array, original[node.name][role])
