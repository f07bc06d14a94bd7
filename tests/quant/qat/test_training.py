# SPDX-License-Identifier: Apache-2.0
"""Quantised models in the ordinary training loop: they learn, save, resume, freeze, average and give weights back."""

import copy
import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.interrupted import InterruptedRunError, StopAt
from support.ladder import assert_qat_ladder
from support.networks import CfgWriter
from support.qat import images_of, trained_qat
from support.random_net import BLOCKS, make_images, make_net, net_cfg, random_net
from support.scenes import Scenes, mimic
from torch import nn

from yolo_hw.darknet.layers import ACTIVATIONS, Shape
from yolo_hw.errors import QuantError
from yolo_hw.intgraph.target_profiles import find_target
from yolo_hw.quant import AdaRoundConfig, QuantConfig, fold_model
from yolo_hw.quant.qat import (
    FreezeQat,
    HeadForm,
    NormFold,
    QatConfig,
    ScaleMethod,
    float_model,
    lower_model,
    prepare_qat,
)
from yolo_hw.train import Optimizer, SaveCheckpoint, TrainConfig, fit
from yolo_hw.train.batches import Batch

FOUR_BITS = QuantConfig(w_bits=4, a_bits=4, equalise=None, bias_correction=False)


def distance(model, teacher):
    with torch.no_grad():
        return float(mimic(teacher)(model.eval()(images_of(teacher, 7)), Batch(images_of(teacher, 7), None))["mimic"])


@pytest.mark.parametrize(("scale", "share"), [(ScaleMethod.TQT, 0.5), (ScaleMethod.LSQ, 0.5), (ScaleMethod.RANGE, 0.8)])
def test_training_comes_closer_to_the_float_model_than_calibration(scale, share):
    teacher = make_net(net_cfg(["leaky", "shortcut", "mish", "spp"]))
    qat = prepare_qat(
        teacher, FOUR_BITS, qat=QatConfig(w_scale=scale, a_scale=scale), batches=[make_images(teacher, 16)]
    )
    before = distance(qat, teacher)
    optimizer = torch.optim.Adam(qat.parameters(), lr=3e-3)
    loss = mimic(teacher)
    qat.freeze_norms()
    for step in range(60):
        images = images_of(teacher, step)
        optimizer.zero_grad()
        loss(qat.train()(images), Batch(images, None))["mimic"].backward()
        optimizer.step()
    assert distance(qat, teacher) < share * before
    assert_qat_ladder(qat, make_images(teacher, 1, seed=9)[0])


def test_the_ordinary_loop_trains_freezes_and_averages():
    teacher = make_net(net_cfg(["leaky", "shortcut", "mish", "spp"]))
    qat = prepare_qat(teacher, FOUR_BITS, batches=[make_images(teacher, 16)])
    before = distance(qat, teacher)
    config = TrainConfig(epochs=20, batch=8, optimizer=Optimizer.ADAMW, learning_rate=2e-3, ema_decay=0.9, workers=0)
    state = fit(qat, Scenes(teacher), config, loss=mimic(teacher), callbacks=[FreezeQat(0.0, 0.8)])
    assert state.model is qat
    assert all(conv.norm_frozen for conv in state.best_model.convs.values())
    assert distance(state.best_model, teacher) < 0.7 * before
    assert_qat_ladder(state.best_model, make_images(teacher, 1, seed=9)[0])


@pytest.mark.parametrize(("scale", "stop"), [(ScaleMethod.TQT, 3), (ScaleMethod.LSQ, 5), (ScaleMethod.RANGE, 7)])
def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path, scale, stop):
    """Before, between and after the freezes of batch norms and of steps; without images the first batch decides."""
    teacher = make_net(net_cfg(["leaky", "shortcut", "mish"]))
    config = TrainConfig(epochs=4, batch=8, learning_rate=1e-3, ema_decay=0.9, workers=0, accumulate=2)

    def trained(path, *more):
        qat = prepare_qat(teacher, FOUR_BITS, qat=QatConfig(w_scale=scale, a_scale=scale))
        callbacks = [*more, FreezeQat(0.5, 0.75), SaveCheckpoint(path, 1)]
        state = fit(qat, Scenes(teacher), config, loss=mimic(teacher), callbacks=callbacks)
        return {**qat.state_dict(), **{f"mean {k}": v for k, v in state.best_model.state_dict().items()}}

    whole = trained(tmp_path / "whole.pt")
    with pytest.raises(InterruptedRunError):
        trained(tmp_path / "parts.pt", StopAt(stop))
    found = trained(tmp_path / "parts.pt")
    assert [name for name, value in whole.items() if not torch.equal(value, found[name])] == []


def test_a_copy_of_the_state_continues_alike():
    teacher = random_net(3)
    qat = trained_qat(teacher, QuantConfig(), QatConfig())
    qat.freeze_scales()
    buffer = io.BytesIO()
    torch.save(qat.state_dict(), buffer)
    buffer.seek(0)
    other = prepare_qat(teacher)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    for one, two in zip(qat(images_of(teacher)), other(images_of(teacher)), strict=True):
        assert torch.equal(one, two)
    assert lower_model(other).tensors == lower_model(qat).tensors


@pytest.mark.parametrize("block", sorted(set(BLOCKS) - set(ACTIVATIONS)))
def test_weights_go_back_into_the_float_model(block):
    model = make_net(net_cfg([block]))
    untouched = float_model(prepare_qat(model), model)
    for name, value in model.state_dict().items():
        assert torch.equal(untouched.state_dict()[name], value), name
    qat = trained_qat(model, QuantConfig(), QatConfig())
    trained = float_model(qat, model)
    assert any(not torch.equal(value, model.state_dict()[name]) for name, value in trained.state_dict().items())
    for one, two in zip(fold_model(trained).nodes, qat.folded_graph().nodes, strict=True):
        if hasattr(one, "weight"):
            np.testing.assert_array_equal(one.weight, two.weight)
            np.testing.assert_array_equal(one.bias, two.bias)


class PlainNorm(nn.Module):
    """Channels of very different ranges behind a batch norm that has no scale and no shift, or only one of them."""

    def __init__(self, kept):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1)
        for name in {"weight", "bias"} - {kept}:
            setattr(self.norm, name, None)
        with torch.no_grad():
            self.norm.running_var.copy_(4.0 ** torch.arange(-6, 10, 2))
        self.norm.num_batches_tracked.fill_(7)

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.conv(x))))


@pytest.mark.parametrize("kept", [None, "weight", "bias"])
def test_what_a_batch_norm_lacks_is_not_trained(kept):
    torch.manual_seed(0)
    model = PlainNorm(kept).eval()
    images = [np.random.default_rng(0).integers(0, 256, (4, 10, 10, 3)).astype(np.uint8)]
    qat = prepare_qat(model, batches=images).train()
    norm = qat.conv("conv").norm
    assert [name for name, _ in norm.named_parameters()] == ([kept] if kept else [])
    assert norm.num_batches_tracked == 7
    x = torch.from_numpy(images[0]).permute(0, 3, 1, 2).float() / 255
    optimizer = torch.optim.Adam(qat.parameters(), lr=0.02)
    for trained in (False, True):
        if trained:
            qat(x).square().sum().backward()
            optimizer.step()
        for one, two in zip(
            fold_model(float_model(qat, model), Shape(3, 10, 10)).nodes, qat.folded_graph().nodes, strict=True
        ):
            np.testing.assert_array_equal(one.weight, two.weight)
            np.testing.assert_array_equal(one.bias, two.bias)
    float_model(qat, model)(x)
    assert_qat_ladder(qat.eval(), images[0][0])


@pytest.mark.parametrize("norm_fold", [fold for fold in NormFold if fold.folds])
@pytest.mark.parametrize("scale", [ScaleMethod.TQT, ScaleMethod.LSQ, ScaleMethod.RANGE, ScaleMethod.TPSQ])
def test_a_step_reads_no_value_of_a_tensor(monkeypatch, norm_fold, scale):
    """Where a device computes, every such question would wait for all its work; what is frozen is asked once."""
    model = make_net(net_cfg(["leaky", "shortcut", "mish", "spp"]))
    options = QatConfig(w_scale=scale, a_scale=scale, norm_fold=norm_fold)
    qat = prepare_qat(model, qat=options, batches=[make_images(model)]).train()
    for freeze in (lambda: None, qat.freeze_norms, qat.freeze_scales):
        freeze()
        images = images_of(model)
        qat(images)
        with monkeypatch.context() as patched:
            for question in ("__bool__", "__int__", "__float__", "item", "tolist", "cpu", "numpy"):
                patched.setattr(torch.Tensor, question, lambda *_: pytest.fail("a tensor was asked"))
            torch.stack([y.sum() for y in qat(images)]).sum().backward()


@pytest.mark.parametrize("heads", list(HeadForm))
def test_short_biases_are_trained_as_they_are_stored(heads):
    """On a target whose biases have 8 bits a frozen model computes the same in training and in evaluation."""
    target = replace(find_target("dpu-like"), name="board", w_bits=(8, 16), a_bits=(8, 16), acc_bits=48)
    model = make_net(net_cfg(["leaky", "relu"]))
    qat = trained_qat(model, QuantConfig(target=target), QatConfig(heads=heads)).double()
    qat.freeze_norms()
    qat.freeze_scales()
    x = images_of(model).double()
    qat.zero_grad()
    trained, evaluated = qat.train()(x), qat.eval()(x)
    assert all(torch.equal(one, two) for one, two in zip(trained, evaluated, strict=True))
    torch.stack([y.sum() for y in trained]).sum().backward()
    assert all(conv.norm.bias.grad.any() for conv in qat.convs.values() if conv.norm is not None)


@pytest.mark.parametrize("frozen", [False, True])
def test_mixed_precision_leaves_the_sums_alone(frozen):
    model = make_net(net_cfg(["leaky", "mish"]))
    qat = prepare_qat(model, batches=[make_images(model)]).train()
    if frozen:
        qat.freeze_norms()
    again = copy.deepcopy(qat)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = again(images_of(model))
    for one, two in zip(qat(images_of(model)), mixed, strict=True):
        assert torch.equal(one, two)


def test_the_model_given_is_not_changed():
    model = random_net(4)
    before = copy.deepcopy(model.state_dict())
    trained_qat(model, QuantConfig(), QatConfig())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_without_images_the_first_batch_decides():
    model = random_net(5)
    qat = prepare_qat(model)
    with pytest.raises(QuantError, match="fraction bits are not set"):
        qat(images_of(model))
    with pytest.raises(QuantError, match="fraction bits are not set"):
        lower_model(qat)
    qat.train()(images_of(model))
    given = prepare_qat(model, batches=[make_images(model)])
    for one, two in zip(qat.formats.values(), given.formats.values(), strict=True):
        assert one.format() == two.format()


def test_freezing_at_shares_of_a_run():
    class State:
        total_steps = 10

        def __init__(self, model):
            self.model, self.step = model, 0

    model = random_net(6)
    qat = prepare_qat(model, batches=[make_images(model)])
    state, freeze = State(qat), FreezeQat(norms_at=0.3, scales_at=0.8)
    freeze.on_start(state)
    seen = []
    for state.step in range(1, 11):
        freeze.on_step(state, {})
        norms = all(bool(conv.norm_frozen) for conv in qat.convs.values() if conv.norm is not None)
        seen.append((norms, all(bool(q.frozen) for q in qat.formats.values())))
    assert seen == [(step >= 3, step >= 8) for step in range(1, 11)]
    with pytest.raises(QuantError, match="must come from prepare_qat, got Conv2d"):
        freeze.on_start(State(nn.Conv2d(1, 1, 1)))
    with pytest.raises(QuantError, match="norms_at must be a share"):
        FreezeQat(norms_at=1.5)


@pytest.mark.parametrize("idle", [{"adaround": AdaRoundConfig()}, {"absorb_biases": True}])
def test_options_of_post_training_quantisation_are_refused(idle):
    with pytest.raises(QuantError, match=f"{next(iter(idle))} has no effect on training"):
        prepare_qat(make_net(net_cfg(["leaky"])), QuantConfig(**idle))


@pytest.mark.parametrize("method", [ScaleMethod.RANGE, ScaleMethod.GOOGLE])
def test_a_group_of_tensors_moves_its_range_once_per_step(method):
    model = make_net(net_cfg(["spp", "down_and_up"]))
    qat = prepare_qat(model, qat=QatConfig(a_scale=method, range_momentum=0.5), batches=[make_images(model)]).train()
    before = {name: quantiser.largest.clone() for name, quantiser in qat.formats.items()}
    seen = {name: [] for name in qat.formats}
    for name, quantiser in qat.formats.items():
        quantiser.register_forward_pre_hook(lambda module, given, name=name: seen[name].append(given[0].abs().max()))
    qat(images_of(model, 5))
    assert max(len(sizes) for sizes in seen.values()) > 1
    for name, quantiser in qat.formats.items():
        if quantiser.grid.signed:
            assert quantiser.largest.item() == before[name].lerp(max(seen[name]).detach(), 0.5).item()


def test_calibration_shows_a_group_its_tensors_as_one():
    """The range of a first batch is that of all tensors, not of the first one moved toward the others."""
    cfg = CfgWriter(12, 16)
    cfg.conv(8, 3)
    cfg.conv(8)
    cfg.route(-1, -2)
    cfg.yolo([0, 1], 1, "8,8, 16,16")
    model = make_net(cfg.text())
    qat = prepare_qat(model, QuantConfig(unsigned=False), qat=QatConfig(a_scale=ScaleMethod.GOOGLE))
    seen = {name: [] for name in qat.formats}
    for name, quantiser in qat.formats.items():
        observe = quantiser.observe
        quantiser.observe = lambda x, first, name=name, observe=observe: (
            seen[name].append(float(x.abs().max())), observe(x, first))  # fmt: skip
    qat.calibrate([make_images(model)])
    assert max(len(sizes) for sizes in seen.values()) > 1
    assert all(quantiser.largest.item() == max(seen[name]) for name, quantiser in qat.formats.items())


def test_statistics_over_processes_are_refused():
    model = make_net(net_cfg(["leaky"]))
    qat = prepare_qat(model, batches=[make_images(model)]).train()
    synced = nn.SyncBatchNorm.convert_sync_batchnorm(qat)
    with pytest.raises(QuantError, match="sync_batch_norm"):
        synced(images_of(model))
