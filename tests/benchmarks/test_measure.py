# SPDX-License-Identifier: Apache-2.0
"""The measurement: order, statistics, repetition, missing peers. No absolute times."""

from __future__ import annotations

import gc
from collections import Counter

import pytest

from benchmarks import measure
from benchmarks.measure import Candidate, Case, PeerMissingError


def test_statistics_by_hand():
    found = measure.summarise([5.0, 1.0, 2.0, 3.0, 100.0], 7)
    assert found == measure.Timing(3.0, 2.0, 5.0, 2.0, 1.0, 5, 7)


def test_statistics_need_samples():
    with pytest.raises(ValueError, match="at least one sample"):
        measure.summarise([], 1)


def test_every_candidate_takes_every_place():
    orders = list(measure.rotations(["a", "b", "c"], 6))
    assert orders[:3] == [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"]]
    for place in range(3):
        assert Counter(order[place] for order in orders) == {"a": 2, "b": 2, "c": 2}


def test_candidates_take_turns(monkeypatch):
    monkeypatch.setattr(measure, "MIN_SAMPLE_S", 0.0)
    calls = []
    functions = {name: (lambda n=name: calls.append(n)) for name in "ab"}
    found = measure.measure_functions(functions, rounds=4)
    assert {name: timing.samples for name, timing in found.items()} == {"a": 4, "b": 4}
    rounds = calls[-16:]  # per round and candidate: one call that is not timed, one that is
    assert ["".join(rounds[i : i + 4]) for i in range(0, 16, 4)] == ["aabb", "bbaa", "aabb", "bbaa"]


def test_short_functions_are_repeated():
    assert measure.calls_per_sample(measure.MIN_SAMPLE_S / 10) == 10
    assert measure.calls_per_sample(1.0) == 1
    assert measure.calls_per_sample(0.0) > 1000


def test_garbage_collection_comes_back():
    def fail():
        raise RuntimeError("broken candidate")

    assert gc.isenabled()
    measure.measure_functions({"fine": lambda: None}, 1)
    assert gc.isenabled()
    with pytest.raises(RuntimeError, match="broken candidate"):
        measure.measure_functions({"fail": fail}, 1)
    assert gc.isenabled()


def absent(threads):
    raise PeerMissingError("no such library")


def test_missing_peer_is_named_and_the_others_are_measured():
    case = Case(
        "sum", (Candidate("peer", absent), Candidate("here", lambda threads: lambda: sum(range(threads)))), 8, 2
    )
    rows, missing = measure.measure_case(case, 3, 2)
    assert missing == {"peer": "no such library"}
    assert [row["candidate"] for row in rows] == ["here"]


def test_row_has_bytes_operations_and_facts():
    candidate = Candidate("half", lambda threads: lambda: None, {"sparsity": 0.5}, operations=10)
    (row,), _ = measure.measure_case(Case("c", (candidate,), 8, 20, {"layer": "x"}), 1, 3)
    assert (row["case"], row["threads"], row["candidate"], row["bytes"], row["operations"]) == ("c", 1, "half", 8, 10)
    assert (row["layer"], row["sparsity"], row["samples"]) == ("x", 0.5, 3)
    assert row["gb_per_s"] == pytest.approx(8 / row["median_s"] / 1e9)
    assert row["gop_per_s"] == pytest.approx(10 / row["median_s"] / 1e9)
    assert row["min_s"] <= row["q1_s"] <= row["median_s"] <= row["q3_s"]


def test_nothing_runs_is_no_error():
    assert measure.measure_case(Case("c", (Candidate("peer", absent),), 1), 1, 1) == ([], {"peer": "no such library"})
