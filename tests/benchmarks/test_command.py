# SPDX-License-Identifier: Apache-2.0
"""The command line of the benchmarks, and a run of a small case."""

from __future__ import annotations

import json
import math

import pytest
from click.testing import CliRunner

from benchmarks import __main__ as command
from benchmarks import figures, record


@pytest.fixture
def run(tmp_path):
    def invoke(*arguments):
        return CliRunner().invoke(command.main, [*arguments, "--results", str(tmp_path)])

    return invoke


def test_list_names_cases_and_candidates_and_writes_nothing(run, tmp_path):
    found = run("--list", "fake_quant", "memory")
    assert found.exit_code == 0, found.output
    assert "weight 16x3x3x3 per tensor: forward: memcpy | " in found.output
    assert "memory: " in found.output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no_such"], "no benchmark 'no_such'; there are fake_quant"),
        (["engine", "--threads", "1,x"], "--threads takes numbers like 1,2, got '1,x'"),
        (["fake_quant", "--only", "nothing*"], "fake_quant has no case that matches 'nothing*'"),
        (["memory", "--only", "x"], "memory has no cases that --only could choose from"),
        (["fake_quant", "--rounds", "0"], "--rounds"),
    ],
)
def test_wrong_use_exits_with_two_and_says_why(run, tmp_path, arguments, message):
    found = run(*arguments)
    assert found.exit_code == 2
    assert message in found.output
    assert not list(tmp_path.iterdir())


def test_small_case(run, tmp_path):
    found = run("fake_quant", "--only", "weight 16x3x3x3 per tensor: backward", "--rounds", "2")
    assert found.exit_code == 0, found.output
    (path,) = tmp_path.iterdir()
    assert path.name == record.result_file().name
    part = json.loads(path.read_text())["benchmarks"]["fake_quant"]
    assert "--only 'weight 16x3x3x3 per tensor: backward'" in part["command"]
    assert part["versions"]["torch"]
    named = {row["candidate"]: row for row in part["rows"]}
    assert {"memcpy", "yolo_hw", "torch fake_quantize"} <= set(named)
    assert all(math.isfinite(row["median_s"]) and row["median_s"] > 0 for row in part["rows"])
    assert named["yolo_hw"]["bytes"] == 3 * 4 * 16 * 3 * 3 * 3
    assert {row["case"] for row in part["rows"]} >= {"memory copy"}


def test_figures_are_drawn_from_results(tmp_path):
    def timed(case, candidate, median, **facts):
        speeds = {"bytes": 1e6, "operations": 1e9, "gb_per_s": 1e-3 / median, "gop_per_s": 1 / median, "min_s": median}
        return {"case": case, "threads": 1, "candidate": candidate, "median_s": median, **speeds, **facts}

    dense = {"dense": True, "dtype": "float32", "layer": "l"}
    ceilings = [timed(case, "peak", 1e-3) for case in ("memory copy", "float peak", "int8 peak")]
    layer = [timed("l", "onnxruntime fp32", 2e-3, **dense)]
    pruned = {"dtype": "float32", "pattern": "unstructured", "layer": "l"}
    layer += [timed("l", f"yolo_hw {s}", 1e-3 / s, sparsity=s, **pruned) for s in (0.5, 0.9)]
    section = {"command": "c", "versions": {}, "missing": {}, "rows": ceilings + layer}
    record.merge_speeds(tmp_path / "machine.json", "sparse_conv", section, replace=True)
    drawn = figures.main(tmp_path, tmp_path / "figures")
    assert [path.name for path in drawn] == ["roofline.png", "sparsity.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)
