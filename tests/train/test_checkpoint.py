# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: resuming is exact, and nothing but a checkpoint is taken for one."""

from __future__ import annotations

import pickle

import pytest
import torch

from yolo_hw.train import (
    Callback,
    Optimizer,
    SaveCheckpoint,
    TrainConfig,
    TrainError,
    YoloLoss,
    fit,
    load_checkpoint,
    save_checkpoint,
)

CONFIG = TrainConfig(epochs=3, batch=2, warmup_epochs=0.5, optimizer=Optimizer.ADAMW, learning_rate=1e-3)


class InterruptedRunError(Exception):
    pass


class StopAt(Callback):
    def __init__(self, step):
        self.step = step

    def on_step(self, state, terms):
        if state.step == self.step:
            raise InterruptedRunError


class NoisyLoss:
    """A loss that draws from torch's generator, as dropout would."""

    def __init__(self, network):
        self.plain = YoloLoss.of_network(network)

    def __call__(self, maps, batch):
        return {**self.plain(maps, batch), "noise": (maps[0] * torch.randn_like(maps[0])).mean()}


def train(model, data, config, path=None, stop=None):
    callbacks = [SaveCheckpoint(path, 1)] if path else []
    if stop:
        callbacks.append(StopAt(stop))
    return fit(model, data, config, loss=NoisyLoss(model.network), callbacks=callbacks)


def assert_equal_states(a, b):
    for name, value in a.model.state_dict().items():
        assert torch.equal(value, b.model.state_dict()[name]), name
    for name, value in a.averaged.model.state_dict().items():
        assert torch.equal(value, b.averaged.model.state_dict()[name]), name


@pytest.mark.parametrize("optimizer", list(Optimizer))
@pytest.mark.parametrize("stop", [1, 4, 6])  # within the first epoch, at its end, within the second
def test_resumed_run_equals_the_uninterrupted_one_bit_for_bit(make_model, squares, tmp_path, stop, optimizer):
    config = TrainConfig(epochs=3, batch=2, warmup_epochs=0.5, optimizer=optimizer, learning_rate=1e-3)
    whole = train(make_model(), squares, config)
    path = tmp_path / "run.checkpoint"
    with pytest.raises(InterruptedRunError):
        train(make_model(), squares, config, path, stop)
    assert load_checkpoint(path).step == (3 if stop == 4 else stop)  # an epoch's last step is saved after its callbacks
    resumed = train(make_model(7), squares, config, path)  # other first weights: all must come from the file
    assert resumed.step == whole.step == 12
    assert_equal_states(whole, resumed)


def test_finished_run_is_not_trained_further(make_model, squares, tmp_path):
    path = tmp_path / "run.checkpoint"
    first = train(make_model(), squares, CONFIG, path)
    again = train(make_model(), squares, CONFIG, path)
    assert_equal_states(first, again)


def test_resume_can_be_switched_off(make_model, squares, tmp_path):
    path = tmp_path / "run.checkpoint"
    train(make_model(), squares, CONFIG, path)
    model = make_model()
    seen = []

    class First(Callback):
        def on_start(self, state):
            seen.append(state.step)

    fit(
        model,
        squares,
        CONFIG,
        loss=YoloLoss.of_network(model.network),
        callbacks=[SaveCheckpoint(path, 100, resume=False), First()],
    )
    assert seen == [0]


def test_changed_options_are_refused_and_named(make_model, squares, tmp_path):
    path = tmp_path / "run.checkpoint"
    train(make_model(), squares, CONFIG, path)
    other = TrainConfig(epochs=3, batch=2, warmup_epochs=0.5, optimizer=Optimizer.ADAMW, learning_rate=2e-3)
    with pytest.raises(TrainError, match=r"learning_rate must be 0\.001 as in the saved run, got 0\.002"):
        train(make_model(), squares, other, path)


def test_another_number_of_images_is_refused(make_model, squares, tmp_path):
    path = tmp_path / "run.checkpoint"
    train(make_model(), squares, CONFIG, path)
    with pytest.raises(TrainError, match="8 training images, this one has 6"):
        train(make_model(), squares[:6], CONFIG, path)


def test_another_model_is_refused(make_model, squares, tmp_path):
    path = tmp_path / "run.checkpoint"
    train(make_model(), squares, CONFIG, path)
    model = make_model()
    model.blocks["conv_1"].conv = torch.nn.Conv2d(12, 24, 5, 2, 2, bias=False)
    with pytest.raises(TrainError, match="belongs to another model"):
        train(model, squares, CONFIG, path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(TrainError, match="absent: no such checkpoint"):
        load_checkpoint(tmp_path / "absent")


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 not a zip", bytes(range(256)) * 20])
def test_garbage_is_refused(tmp_path, content):
    path = tmp_path / "garbage"
    path.write_bytes(content)
    with pytest.raises(TrainError, match="garbage: not a readable checkpoint"):
        load_checkpoint(path)


def test_truncated_checkpoint_is_refused(make_model, squares, tmp_path):
    path = tmp_path / "run.checkpoint"
    train(make_model(), squares, CONFIG, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(TrainError, match="not a readable checkpoint"):
        load_checkpoint(path)


def test_code_in_a_file_is_not_executed(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    path = tmp_path / "evil"
    torch.save({"format": "yolo_hw.checkpoint", "payload": Evil()}, path)
    with pytest.raises(TrainError, match="not a readable checkpoint"):
        load_checkpoint(path)
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(TrainError, match="not a readable checkpoint"):
        load_checkpoint(path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([1, 2], "must be a file of format"),
        ({"format": "other"}, "must be a file of format"),
        ({"format": "yolo_hw.checkpoint", "version": 99}, "version must be 2, got 99"),
        ({"format": "yolo_hw.checkpoint", "version": 2, "step": 3}, "entry 'images' is missing"),
    ],
)
def test_other_torch_files_are_refused(tmp_path, document, message):
    path = tmp_path / "file"
    torch.save(document, path)
    with pytest.raises(TrainError, match=message):
        load_checkpoint(path)


def test_failed_save_leaves_the_old_checkpoint(make_model, squares, tmp_path, monkeypatch):
    path = tmp_path / "run.checkpoint"
    state = train(make_model(), squares, CONFIG, path)
    before = path.read_bytes()

    def full_disk(document, target):
        target.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="no space"):
        save_checkpoint(path, state)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["run.checkpoint"]
