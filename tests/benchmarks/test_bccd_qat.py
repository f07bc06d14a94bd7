# SPDX-License-Identifier: Apache-2.0
"""The study of quantisers: its rows are what their names say, runs of different settings do not mix."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from PIL import Image

from benchmarks import bccd_qat
from benchmarks.bccd import trained_model
from benchmarks.bccd_qat import FLOAT, VARIANTS, draw, main, write_results
from benchmarks.resumable import check_settings
from yolo_hw.quant.qat import NormFold, ScaleMethod, prepare_qat

IN_FLOAT = {"qat8-unfolded", "google8", "google8-fold", "google8-pow2", "google4", "tpsq8"}
IN_FLOAT |= {"dorefa8", "dorefa8-fold", "dorefa4"}


def test_rows_have_the_form_their_names_say():
    model = trained_model()
    found = {
        name for name, v in VARIANTS.items() if v.qat and prepare_qat(model, v.config, qat=v.qat).obstacle is not None
    }
    assert found == IN_FLOAT
    for name, variant in VARIANTS.items():
        if name.startswith(("google", "tpsq", "dorefa", "cosine")):
            assert variant.bits == (int(name.split("-fold")[0].removesuffix("-pow2")[-1]),) * 2
            assert not variant.per_channel
            assert variant.qat is not None
            assert variant.qat.w_scale is variant.qat.a_scale
            assert variant.qat.norm_fold.folds == ("fold" in name or "cosine" in name)
            assert (variant.qat.w_scale is ScaleMethod.GOOGLE) == ("pow2" in name)
            assert variant.qat.w_scale.value.startswith(name.partition("-")[0].rstrip("48"))
        else:
            assert variant.bits == ((4, 8) if "w4a8" in name else (4, 4) if name.startswith("qat4") else (8, 8))
        assert variant.pruned == name.endswith("-pruned")


def test_unknown_rows_are_named():
    result = CliRunner().invoke(main, ["work", "--rows", "float,goggle8"])
    assert result.exit_code == 2
    assert "no row goggle8; there are float, ptq8" in result.output


def test_settings_do_not_mix(tmp_path):
    check_settings(tmp_path, {"epochs": 3, "images": None})
    check_settings(tmp_path, {"epochs": 3, "images": None})
    with pytest.raises(Exception, match="give another folder"):
        check_settings(tmp_path, {"epochs": 4, "images": None})


def test_pruned_rows_need_a_detector(tmp_path):
    study = bccd_qat.Study(tmp_path, None, bccd_qat.TRAINING)
    with pytest.raises(Exception, match="need --pruned CFG WEIGHTS"):
        study.float_model(pruned=True)


def test_results_of_a_trial_stay_in_the_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(bccd_qat, "RESULTS", tmp_path / "published.json")
    monkeypatch.setattr(bccd_qat, "FIGURE", tmp_path / "published.png")
    for name in ("tpsq8", FLOAT, "qat8"):
        (tmp_path / f"row_{name}.json").write_text(json.dumps({"name": name}))
    for fold in NormFold:
        curve = {"curve": fold.value, "frozen_at": 1.4, "points": [[0, 0.9], [1, 0.8], [2, 0.95]]}
        (tmp_path / f"curve_{fold.value}.json").write_text(json.dumps(curve))
    write_results(tmp_path, trial=True)
    assert not (tmp_path / "published.json").exists()
    written = json.loads((tmp_path / "results.json").read_text())
    assert [row["name"] for row in written["rows"]] == [FLOAT, "qat8", "tpsq8"]
    assert len(written["curves"]) == len(NormFold)
    write_results(tmp_path, trial=False)
    assert json.loads((tmp_path / "published.json").read_text()) == written
    colours = Image.open(tmp_path / "published.png").convert("RGB").getcolors(1 << 20)
    shown = {"#{:02x}{:02x}{:02x}".format(*colour) for _, colour in colours}
    assert set(bccd_qat.COLOURS.values()) <= shown
    draw(written["curves"][:1], tmp_path / "one.png")
    assert (tmp_path / "one.png").read_bytes() != (tmp_path / "published.png").read_bytes()
