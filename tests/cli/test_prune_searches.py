# SPDX-License-Identifier: Apache-2.0
"""``yolo-hw prune --method eagleeye`` and ``yolo-hw sensitivity`` on generated images."""

import json

import pytest
from support.cli_runs import run

from yolo_hw import assets
from yolo_hw.prune.sensitivity import SensitivityScan

PARTS = ["--cfg", assets.PARTS_CFG, "--weights", assets.PARTS_WEIGHTS, "--names", assets.PARTS_NAMES]
SMALL = ["--candidates", 2, "--adapt-images", 2, "--score-images", 2, "--ratio", 0.3, "--runs", 0, "--max-images", 2]
SEARCH = ["--method", "eagleeye", "--candidates", 3, "--delta", 0.1, "--adapt-images", 2, "--score-images", 4]
SEARCH += ["--multiple-of", 4, "--runs", 0, "--seed", 5]


def run_well(*options):
    result = run(*options)
    assert result.exit_code == 0, result.stderr
    return result


def test_a_search_writes_a_model_whose_batch_norms_adapted(tmp_path, labelled):
    search = ["prune", *PARTS, "--method", "eagleeye", "--data", labelled, *SMALL, "--log", tmp_path / "log.json"]
    printed = run_well(*search, "--out", tmp_path / "out").stdout
    assert "Before its batch norms adapted" in printed
    rows = json.loads((tmp_path / "log.json").read_text("utf-8"))["rows"]
    assert all(0.65 <= row["share"] <= 0.75 for row in rows)
    again = run_well(
        "prune", *PARTS, "--plan", tmp_path / "out" / "prune.json", "--runs", 0, "--out", tmp_path / "plan"
    )
    assert "batch norms adapt in its search only" in again.stderr
    assert "adapted to images" not in again.stdout
    weights = [(tmp_path / name / "parts.weights").read_bytes() for name in ("out", "plan")]
    assert len(weights[0]) == len(weights[1])
    assert weights[0] != weights[1]
    result = run(*search, "--score-images", 3, "--dry-run")
    assert result.exit_code == 2
    assert "of another model, other images or other options" in result.stderr


@pytest.mark.parametrize("importance", ["activation", "taylor", "taylor-gate"])
def test_searches_by_criteria_that_look_at_images(tmp_path, labelled, importance):
    options = [*PARTS, "--data", labelled, "--max-images", 2, "--importance", importance]
    run_well("prune", *options, *SMALL, "--method", "eagleeye", "--dry-run")
    scan = ["sensitivity", *options, "--ratios", "0.5", "--include", "conv_31", "--out", tmp_path / "out", "--json"]
    assert list(json.loads(run_well(*scan).stdout)["curves"]) == ["conv_31"]


def test_the_figure_of_a_scan_is_that_of_the_report(tmp_path, labelled):
    scan = [*PARTS, "--data", labelled, "--ratios", "0.5", "--include", "conv_31", "--out", tmp_path / "out", "--json"]
    baseline = json.loads(run_well("sensitivity", *scan).stdout)["baseline"]
    report = run_well("prune", *PARTS, "--data", labelled, "--ratio", 0.2, "--dry-run", "--json").stdout
    assert 0 < baseline == json.loads(report)["figures"]["ap50"]["before"]


def test_a_scan_reads_networks_as_pruning_does(tmp_path):
    cfg = tmp_path / "odd.cfg"
    cfg.write_text(assets.PARTS_CFG.read_text("utf-8").replace("[net]", "[net]\nown_training_key=1", 1), "utf-8")
    scan = ["sensitivity", "--cfg", cfg, *PARTS[2:4], "--ratios", "0.5", "--include", "conv_31", "--json"]
    assert run(*scan, "--out", tmp_path / "strict").exit_code == 2
    lenient = run_well(*scan, "--lenient", "--out", tmp_path / "lenient")
    assert "own_training_key" in lenient.stderr
    other = run_well(*scan, "--lenient", "--bn-eps", "0.1", "--out", tmp_path / "eps")
    assert json.loads(other.stdout)["curves"] != json.loads(lenient.stdout)["curves"]


def test_a_scan_does_not_go_on_with_other_images(tmp_path, labelled):
    scan = ["sensitivity", *PARTS, "--ratios", "0.5", "--include", "conv_31", "--out", tmp_path / "out", "--json"]
    noise = json.loads(run_well(*scan).stdout)
    assert json.loads(run_well(*scan).stdout) == noise
    result = run(*scan, "--images", labelled)
    assert result.exit_code == 2
    assert "of another model, other images or other options" in result.stderr


def test_a_search_writes_its_best_candidate_and_goes_on_from_its_log(labelled, tmp_path):
    log, options = tmp_path / "log.json", [*PARTS, *SEARCH, "--data", labelled]
    first = run("prune", *options, "--ratio", 0.3, "--log", log, "--out", tmp_path / "first")
    assert first.exit_code == 0, first.stderr
    rows = json.loads(log.read_text("utf-8"))["rows"]
    best = max(rows, key=lambda row: row["score"])
    assert len(rows) == 3
    assert all(0.6 <= row["share"] <= 0.8 for row in rows)
    record = json.loads((tmp_path / "first" / "prune.json").read_text("utf-8"))
    assert record["config"]["method"] == "eagleeye"
    again = run("prune", *options, "--ratio", 0.3, "--log", log, "--out", tmp_path / "again", "--json")
    assert again.exit_code == 0, again.stderr
    assert json.loads(again.stdout)["figures"]["params"]["after"] == best["params"]
    for name in ("parts.cfg", "parts.weights"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--method", "eagleeye", "--ratio", 0.3], "give --data and --names"),
        (["--method", "regular", "--ratio", 0.3, "--candidates", 4], "--candidates"),
        ([*SEARCH, "--data", "{labelled}", "--ratio", 0.999], "band"),
    ],
)
def test_what_a_search_cannot_do_is_said(options, words, labelled, tmp_path):
    given = [str(labelled) if option == "{labelled}" else option for option in options]
    result = run("prune", *PARTS, *given, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert words in result.stderr
    assert not (tmp_path / "out").exists()


def test_scales_that_are_not_small_are_warned_of():
    result = run("prune", *PARTS, "--ratio", 0.5, "--dry-run", "--runs", 0)
    assert result.exit_code == 0
    assert "a ratio of 50.0% is not safe" in result.stderr


def test_sensitivity_is_written_and_goes_on(tmp_path, monkeypatch):
    options = [*PARTS, "--out", tmp_path / "out", "--ratios", "0.25,0.5", "--include", "conv_0", "--include", "conv_2"]
    result = run("sensitivity", *options, "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["baseline"] == 0
    assert set(document["curves"]) == {"conv_0", "conv_2"}
    assert all(0 < low < high for low, high in document["curves"].values())
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"sensitivity.json", "sensitivity.png", "scales.png"}
    monkeypatch.setattr(SensitivityScan, "measure", None)
    assert run("sensitivity", *options, "--json").stdout == result.stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--ratios", "half"], "--ratios must be numbers"),
        (["--ratios", "0.5,0.25"], "must rise"),
        (["--metric", "ap50"], "give --data"),
        (["--include", "conv_99"], "conv_9"),
    ],
)
def test_bad_requests_of_sensitivity_are_one_error(options, words, tmp_path):
    result = run("sensitivity", *PARTS, "--out", tmp_path / "out", *options)
    assert result.exit_code == 2
    assert words in result.stderr
    assert not (tmp_path / "out").exists()
