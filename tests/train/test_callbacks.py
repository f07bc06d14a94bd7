# SPDX-License-Identifier: Apache-2.0
"""Measuring, stopping early, keeping the best, writing down."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from support.tiny_training import TINY_CFG

from yolo_hw.darknet import build_network, parse_cfg, read_weights
from yolo_hw.nn import Darknet, load_darknet
from yolo_hw.train import (
    Callback,
    Evaluate,
    RecordResults,
    SaveBest,
    SaveCheckpoint,
    TrainConfig,
    TrainError,
    YoloLoss,
    fit,
    load_checkpoint,
)

FITNESS = {1: 0.1, 2: 0.4, 3: 0.3, 4: 0.4, 5: 0.2, 6: 0.5}


class Scripted:
    """A measurement with a fixed course."""

    def __init__(self):
        self.count = 0

    def __call__(self, model):
        self.count += 1
        return FITNESS[self.count], {"fitness": FITNESS[self.count], "ap50": 0.5}


def run(model, data, callbacks, epochs=6, **options):
    config = TrainConfig(epochs=epochs, batch=4, warmup_epochs=0.5, **options)
    return fit(model, data, config, loss=YoloLoss.of_network(model.network), callbacks=callbacks)


def test_run_ends_when_nothing_is_gained(make_model, squares):
    state = run(make_model(), squares, [Evaluate(Scripted(), patience=2)])
    assert state.epoch == 4
    assert state.stop == "no fitter model since epoch 2"
    assert state.best.epoch == 2


def test_every_second_epoch_and_the_last_are_measured(make_model, squares):
    state = run(make_model(), squares, [Evaluate(Scripted(), every_epochs=2)], epochs=5)
    assert [measured.epoch for measured in state.history] == [2, 4, 5]


def test_best_is_kept_even_in_the_last_epoch(make_model, squares, tmp_path):
    written = []

    class Watch(Callback):
        def on_epoch(self, state):
            written.append(load_checkpoint(tmp_path / "best.pt").step // state.steps_per_epoch)

    model = make_model()
    state = run(model, squares, [Evaluate(Scripted()), SaveBest(tmp_path, ("red", "blue")), Watch()])
    assert written == [1, 2, 2, 2, 2, 6]
    best = load_checkpoint(tmp_path / "best.pt")
    assert best.description["names"] == ["red", "blue"]
    assert best.description["cfg"] == model.network.cfg
    assert (tmp_path / "best.names").read_text() == "red\nblue\n"
    loaded = load_darknet(tmp_path / "best.cfg", tmp_path / "best.weights")
    for name, value in loaded.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(value, best.best_weights[name]), name
    assert read_weights(tmp_path / "best.weights", loaded.network).header.seen == state.step * 4


def test_figures_of_any_number_type_are_kept(make_model, squares, tmp_path):
    def measured(model):
        return np.float64(0.5), {"ap50": np.float32(0.25)}

    run(make_model(), squares, [Evaluate(measured), SaveCheckpoint(tmp_path / "last.pt", 100)], epochs=1)
    assert load_checkpoint(tmp_path / "last.pt").history == [{"epoch": 1, "fitness": 0.5, "figures": {"ap50": 0.25}}]


def test_fitness_that_is_no_number_ends_the_run(make_model, squares):
    with pytest.raises(TrainError, match="epoch 1: the fitness is nan"):
        run(make_model(), squares, [Evaluate(lambda model: (float("nan"), {}))])


class Count(Callback):
    def __init__(self, count=0):
        self.count = count

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


def test_two_callbacks_of_a_class_keep_their_own_state(make_model, squares, tmp_path):
    saver = SaveCheckpoint(tmp_path / "last.pt", 100)
    run(make_model(), squares, [Count(1), Count(2), saver], epochs=1)
    again = [Count(), Count()]
    run(make_model(), squares, [*again, RecordResults(tmp_path), saver], epochs=1)  # one more than before
    assert [callback.count for callback in again] == [1, 2]


def test_another_cfg_is_not_resumed(make_model, squares, tmp_path):
    saver = SaveCheckpoint(tmp_path / "last.pt", 100)
    run(make_model(), squares, [saver], epochs=1)
    text = TINY_CFG.replace("anchors=10,10", "anchors=20,20")
    other = Darknet(build_network(parse_cfg(text, "tiny.cfg")))
    with pytest.raises(TrainError, match="the network's cfg must be the saved run's"):
        run(other, squares, [saver], epochs=1)


def test_what_a_killed_save_left_is_removed(make_model, squares, tmp_path):
    (tmp_path / ".last.pt.xyz").write_bytes(b"half")
    run(make_model(), squares, [SaveCheckpoint(tmp_path / "last.pt", 100)], epochs=1)
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


def read(path):
    with path.open(encoding="utf-8") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def test_table_of_a_resumed_run_equals_that_of_an_uninterrupted_one(make_model, squares, tmp_path):
    class StopError(Exception):
        pass

    class Stop(Callback):
        def on_step(self, state, terms):
            if state.step == 7:
                raise StopError

    def train(folder, *more):
        folder.mkdir(exist_ok=True)
        recorder = RecordResults(folder)
        saver = SaveCheckpoint(folder / "last.pt", 1)
        return run(make_model(), squares, [Evaluate(Scripted()), recorder, saver, *more])

    train(tmp_path / "whole")
    with pytest.raises(StopError):
        train(tmp_path / "parts", Stop())

    class Rest(Scripted):
        pass

    resumed = Rest()
    resumed.count = 3  # the scripted course goes on
    folder = tmp_path / "parts"
    run(make_model(9), squares, [Evaluate(resumed), RecordResults(folder), SaveCheckpoint(folder / "last.pt", 1)])
    whole, parts = read(tmp_path / "whole" / "results.csv"), read(folder / "results.csv")
    assert len(whole) == 6
    assert whole == parts
    assert list(folder.glob("events.out.tfevents*"))
    assert (folder / "results.png").read_bytes().startswith(b"\x89PNG")
