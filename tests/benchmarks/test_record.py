# SPDX-License-Identifier: Apache-2.0
"""Results: merged by benchmark, case and thread count; complete or not at all; tables from them."""

from __future__ import annotations

import json

import pytest

from benchmarks import record, speed_tables


def section(*keys, **changes):
    rows = [{"case": case, "threads": threads, "candidate": mark} for case, threads, mark in keys]
    return {"command": "c", "versions": {"python": "3"}, "missing": {}, "rows": rows, **changes}


def rows_in(path, name):
    return [(r["case"], r["threads"], r["candidate"]) for r in json.loads(path.read_text())["benchmarks"][name]["rows"]]


def test_slug_is_a_file_name():
    facts = {"processor": "Intel(R) Xeon(R) Processor @ 2.1GHz", "family": "6", "model": "143", "cores": 2}
    assert record.machine_slug(facts) == "intel-xeon-2-1ghz-6-143-2c"
    assert "/" not in record.result_file().name


def test_other_benchmarks_stay(tmp_path):
    path = tmp_path / "machine.json"
    record.merge_speeds(path, "one", section(("a", 1, "x")), replace=True)
    record.merge_speeds(path, "two", section(("b", 1, "y")), replace=True)
    assert rows_in(path, "one") == [("a", 1, "x")]
    assert rows_in(path, "two") == [("b", 1, "y")]
    assert json.loads(path.read_text())["machine"]["cores"] > 0


@pytest.mark.parametrize(("replace", "kept"), [(True, [("a", 2, "old")]), (False, [("b", 1, "old"), ("a", 2, "old")])])
def test_a_run_replaces_what_it_measured(tmp_path, replace, kept):
    path = tmp_path / "machine.json"
    old = section(("a", 1, "old"), ("b", 1, "old"), ("a", 2, "old"), missing={"peer": "why"})
    record.merge_speeds(path, "one", old, replace=True)
    record.merge_speeds(path, "one", section(("a", 1, "new")), replace=replace)
    assert rows_in(path, "one") == [*kept, ("a", 1, "new")]


def test_a_failing_merge_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "machine.json"
    record.merge_speeds(path, "one", section(("a", 1, "x")), replace=True)
    before = path.read_bytes()
    monkeypatch.setattr(record, "_dump", lambda document: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        record.merge_speeds(path, "one", section(("a", 1, "y")), replace=True)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["machine.json"]


def test_numbers_survive(tmp_path):
    path = tmp_path / "machine.json"
    rows = [{"case": "a", "threads": 1, "candidate": "x", "median_s": 1.23456789e-6, "layer": '"@rows0@"'}]
    record.merge_speeds(path, "one", section(rows=rows), replace=True)
    (row,) = json.loads(path.read_text())["benchmarks"]["one"]["rows"]
    assert row == {**rows[0], "median_s": 1.23457e-6}


def timed(candidate, median, **facts):
    return {
        "case": "l",
        "threads": 1,
        "candidate": candidate,
        "median_s": median,
        "q1_s": median,
        "q3_s": median,
        **facts,
    }


def test_sparse_speed_up_is_over_the_fastest_dense_of_the_same_type():
    rows = [
        timed("slow", 4e-3, dense=True, dtype="float32"),
        timed("fast", 2e-3, dense=True, dtype="float32"),
        timed("bytes", 1e-3, dense=True, dtype="int8"),
        timed("yolo_hw unstructured, 50%", 1e-3, dtype="float32", pattern="unstructured", sparsity=0.5),
    ]
    document = {"benchmarks": {"sparse_conv": {"rows": rows}}}
    assert speed_tables.sparsity_speedups(document) == {("yolo_hw", "unstructured"): {0.5: [2.0]}}
    assert "| 50% | 2.00 (2.00..2.00) |" in speed_tables.sparse_conv(document)


def test_engine_ratio_is_over_the_best_int8_peer():
    facts = {"network": "n", "dtype": "int8"}
    rows = [
        timed("yolo_hw avx2", 2e-3, ours=True, path="avx2", **facts),
        timed("openvino int8", 3e-3, **facts),
        timed("onnxruntime int8", 4e-3, **facts),
        timed("onnxruntime fp32", 1e-3, network="n", dtype="float32"),
    ]
    text = speed_tables.engine({"benchmarks": {"engine": {"rows": rows}}})
    assert text.splitlines()[-1].endswith("| 1.50 |")
