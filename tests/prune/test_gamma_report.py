# SPDX-License-Identifier: Apache-2.0
"""Histograms of batch-norm scales over the epochs."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from support.interrupted import InterruptedRunError, StopAt
from support.tiny_training import detector

from yolo_hw.errors import PruneError
from yolo_hw.prune.gamma_report import EDGES, GammaHistory, count_gammas, gamma_sizes
from yolo_hw.prune.gamma_sparsity import GammaSparsity
from yolo_hw.train import SaveCheckpoint, TrainConfig, YoloLoss, fit


def test_every_scale_is_counted_once():
    sizes = {"a": np.array([0.0, 1e-9, 0.005, 0.5, 99.0]), "b": np.array([0.05, 0.2, 2.0])}
    entry = count_gammas(sizes, (0.01, 0.1))
    assert [sum(entry["layers"][name]["counts"]) for name in sizes] == [5, 3]
    assert entry["layers"]["a"]["counts"][0] == 2
    assert entry["layers"]["a"]["counts"][-1] == 1
    assert entry["layers"]["a"]["below"] == pytest.approx([3 / 5, 3 / 5])
    assert entry["layers"]["b"]["below"] == pytest.approx([0, 1 / 3])
    assert entry["below"] == pytest.approx([3 / 8, 4 / 8])
    assert EDGES[0] == 0
    assert np.all(np.diff(EDGES) > 0)


def run(data, folder, checkpoint=None, stop=None):
    model, history = detector(), GammaHistory(folder)
    sparsity = GammaSparsity(["*"], 0.5)
    config = TrainConfig(epochs=3, batch=4, warmup_epochs=0, ema_decay=0.5)
    callbacks = [sparsity, history]
    callbacks += [SaveCheckpoint(checkpoint, 100)] if checkpoint else []
    callbacks += [StopAt(epoch=stop)] if stop else []
    loss = YoloLoss.of_network(model.network)
    state = fit(model, data, config, loss=loss, regularisers=[sparsity], callbacks=callbacks)
    return history, state


def test_the_kept_model_is_written_after_every_epoch(squares, tmp_path):
    history, state = run(squares, tmp_path)
    document = json.loads((tmp_path / "gammas.json").read_text())
    assert [entry["epoch"] for entry in document["epochs"]] == [1, 2, 3]
    assert document["epochs"] == history.entries
    last = document["epochs"][-1]["layers"]
    assert list(last) == ["blocks.conv_0.bn", "blocks.conv_1.bn", "blocks.conv_2.bn"]
    for name, values in gamma_sizes(state.best_model, ["*"]).items():
        assert last[name]["counts"] == np.histogram(values, EDGES)[0].tolist()
        assert last[name]["below"] == [float((values < t).mean()) for t in document["thresholds"]]
    pixels = np.asarray(Image.open(tmp_path / "gammas.png").convert("RGB"))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20


def test_tensorboard_gets_a_histogram_of_every_layer(squares, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    history, _ = run(squares, tmp_path)
    events = accumulator.EventAccumulator(str(tmp_path), {accumulator.HISTOGRAMS: 0})  # 0: keep all
    events.Reload()
    assert events.Tags()["histograms"] == [f"gamma/{name}" for name in history.entries[0]["layers"]]
    assert [event.step for event in events.Histograms("gamma/blocks.conv_1.bn")] == [1, 2, 3]


def test_a_resumed_run_writes_the_same(squares, tmp_path):
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    run(squares, tmp_path / "whole")
    with pytest.raises(InterruptedRunError):
        run(squares, tmp_path / "parts", tmp_path / "last.pt", stop=2)
    assert len(json.loads((tmp_path / "parts" / "gammas.json").read_text())["epochs"]) == 2
    run(squares, tmp_path / "parts", tmp_path / "last.pt")
    assert (tmp_path / "parts" / "gammas.json").read_text() == (tmp_path / "whole" / "gammas.json").read_text()


def test_one_threshold_and_one_epoch_are_enough(squares, tmp_path):
    model = detector()
    history = GammaHistory(tmp_path, ["blocks.conv_1"], (0.1,))
    fit(model, squares, TrainConfig(epochs=1, batch=8), loss=YoloLoss.of_network(model.network), callbacks=[history])
    assert list(history.entries[0]["layers"]) == ["blocks.conv_1.bn"]
    assert (tmp_path / "gammas.png").exists()


@pytest.mark.parametrize("thresholds", [(), (0.1, 0.01), (0.0, 0.1)])
def test_bad_thresholds_are_refused(tmp_path, thresholds):
    with pytest.raises(PruneError, match="must be positive and rise"):
        GammaHistory(tmp_path, thresholds=thresholds)
