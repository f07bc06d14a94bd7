# SPDX-License-Identifier: Apache-2.0
"""The study of post-training quantisation: rows are kept apart, other libraries may be missing, trials stay in WORK."""

import json

import pytest
import torch
from click.testing import CliRunner
from support.random_net import make_images, make_net, net_cfg

from benchmarks import ptq
from benchmarks.measure import PeerMissingError
from yolo_hw.evaluate import FloatRunner, IntRunner
from yolo_hw.quant import quantise_model


def test_every_candidate_has_a_file_of_its_own(tmp_path):
    names = [name for name, _ in ptq.candidates(None)]
    assert len({ptq.row_file(tmp_path, name) for name in names}) == len(names) > 25


def test_heads_are_compared_with_the_float_network():
    model = make_net(net_cfg(["leaky"]))
    images = make_images(model, 3)
    quantised = ptq._Compared(IntRunner(quantise_model(model, [images])), FloatRunner(model))
    same = ptq._Compared(FloatRunner(model), FloatRunner(model))
    for compared in (quantised, same):
        compared.run(images[:2])
        compared.run(images[2:])
    wanted, found = (runner.run(images) for runner in (quantised.reference, quantised.runner))
    noise = [
        10 * torch.log10((x.double() ** 2).sum() / ((y - x).double() ** 2).sum())
        for x, y in zip(wanted, found, strict=True)
    ]
    assert quantised.heads_db == pytest.approx([float(value) for value in noise], abs=0.02)
    assert same.heads_db == [None] * len(wanted)


@pytest.fixture
def study(monkeypatch, tmp_path):
    """Two candidates, one of which needs what is not installed; returns how often the other one was made."""
    made = []

    def missing():
        raise PeerMissingError("peer: No module named 'peer'")

    monkeypatch.setattr(ptq, "real_case", lambda *_: None)
    monkeypatch.setattr(ptq, "candidates", lambda _: iter([("one: a", lambda: made.append(1)), ("two: b", missing)]))
    monkeypatch.setattr(ptq, "row_of", lambda name, _runner, _case: {"candidate": name, "ap50": 0.5})
    monkeypatch.setattr(ptq, "RESULTS", tmp_path)
    return made


def test_a_row_is_measured_once_and_a_missing_library_is_said(study, tmp_path):
    for _ in range(2):
        result = CliRunner().invoke(ptq.main, [str(tmp_path / "work")], catch_exceptions=False)
        assert result.exit_code == 0
        rows = json.loads((tmp_path / "ptq.json").read_text())["rows"]
        wanted = {"candidate": "two: b", "missing": "peer: No module named 'peer'"}
        assert rows == [{"candidate": "one: a", "ap50": 0.5}, wanted]
    assert len(study) == 1
    result = CliRunner().invoke(ptq.main, [str(tmp_path / "work"), "--only", "two*"], catch_exceptions=False)
    assert json.loads((tmp_path / "ptq.json").read_text())["rows"][0]["candidate"] == "one: a"


def test_a_glob_without_a_candidate_names_them(study, tmp_path):
    result = CliRunner().invoke(ptq.main, [str(tmp_path / "work"), "--only", "three*"])
    assert result.exit_code == 2
    assert "no candidate matches 'three*'; there are one: a, two: b" in result.output
