# SPDX-License-Identifier: Apache-2.0
"""Options of ``yolo-hw quantise`` that reach the graph: it is the one that Python's options give."""

import json

import pytest
from support.cli_runs import run, write_network
from support.networks import CfgWriter

from yolo_hw.data.batches import load_batches
from yolo_hw.intgraph.io import save_graph
from yolo_hw.nn.darknet import load_darknet
from yolo_hw.quant import QuantConfig, quantise_model


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A net with a rectified map, which is unsigned unless asked otherwise."""
    cfg = CfgWriter(32, 32)
    cfg.conv(8, 3, activation="relu")
    cfg.conv(8, 3, 2)
    cfg.conv(6, activation="linear")
    return write_network(tmp_path_factory.mktemp("rectified"), cfg.text())


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        (["--w-observer", "max"], {"w_observer": "max"}),
        (["--w-observer", "percentile", "--percentile", 80], {"w_observer": "percentile", "percentile": 80.0}),
        (["--per-tensor"], {"per_channel": False}),
        (["--signed"], {"unsigned": False}),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_the_graph_is_that_of_the_same_options_in_python(network, files, tmp_path, options, fields):
    cfg, weights = network
    result = run("quantise", "--cfg", cfg, "--weights", weights, "--calib", files.images, *options, "--w-bits", 4,
                 "--out", tmp_path / "q")  # fmt: skip
    assert result.exit_code == 0, result.output
    model = load_darknet(cfg, weights)
    batches = list(load_batches(files.images, model.network.input))
    for name, given in {"expected": fields, "usual": {}}.items():
        save_graph(quantise_model(model, batches, QuantConfig(w_bits=4, **given)), tmp_path / name)
    assert bytes_of(tmp_path / "q" / "graph") == bytes_of(tmp_path / "expected")
    assert bytes_of(tmp_path / "expected") != bytes_of(tmp_path / "usual")


@pytest.mark.parametrize("decibels", [0, 1000])
def test_what_counts_as_hurting(network, files, tmp_path, decibels):
    cfg, weights = network
    result = run("quantise", "--cfg", cfg, "--weights", weights, "--calib", files.images, "--bits", 2, "--hurt-db",
                 decibels, "--out", tmp_path / "q", "--json")  # fmt: skip
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)["quant_report"]
    assert report["hurt_db"] == decibels
    assert (report["first_hurt"] is None) == (decibels == 0)
