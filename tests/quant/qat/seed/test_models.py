# SPDX-License-Identifier: Apache-2.0
"""Whole models of every method: those without integer form train, evaluate, and say why they are not lowered."""

import copy

import numpy as np
import pytest
import torch
from support.ladder import assert_qat_ladder
from support.qat import images_of, trained_qat
from support.random_net import BLOCKS, make_images, make_net, net_cfg, random_net

from yolo_hw.errors import QuantError
from yolo_hw.quant import Observer, QuantConfig
from yolo_hw.quant.execute import float_parameters, run_folded
from yolo_hw.quant.qat import NormFold, QatConfig, ScaleMethod, lower_model, prepare_qat
from yolo_hw.quant.weights import choose_fracs

POWERS = (ScaleMethod.GOOGLE, ScaleMethod.TPSQ, ScaleMethod.COSINE_PTQ)
FLOATS = (ScaleMethod.GOOGLE_FLOAT, ScaleMethod.DOREFA)
PER_TENSOR = QuantConfig(per_channel=False)


def both(method, **others):
    return QatConfig(w_scale=method, a_scale=method, **others)


@pytest.mark.parametrize("method", POWERS)
@pytest.mark.parametrize("w_bits", [4, 8])
def test_powers_of_two_climb_the_ladder(method, w_bits):
    config = QuantConfig(w_bits=w_bits, a_bits=w_bits, per_channel=False)
    assert_qat_ladder(trained_qat(random_net(w_bits), config, both(method)), make_images(random_net(w_bits), 1)[0])


@pytest.mark.parametrize("method", FLOATS)
@pytest.mark.parametrize("block", sorted(BLOCKS))
def test_float_steps_train_and_evaluate_every_layer_kind(method, block):
    model = make_net(net_cfg([block]))
    qat = trained_qat(model, PER_TENSOR, both(method, norm_fold=NormFold.BATCH), steps=2)
    assert all(y.isfinite().all() for y in qat(images_of(model)))


@pytest.mark.parametrize(
    "qat",
    [
        QatConfig(w_scale=ScaleMethod.TQT, a_scale=ScaleMethod.GOOGLE_FLOAT),
        QatConfig(w_scale=ScaleMethod.DOREFA, a_scale=ScaleMethod.LSQ),
        QatConfig(norm_fold=NormFold.NONE),
    ],
    ids=["weights", "activations", "folds"],
)
def test_powers_of_two_train_beside_what_has_no_integer_form(qat):
    model = random_net(7)
    prepared = trained_qat(model, QuantConfig(), qat)
    assert all(y.isfinite().all() for y in prepared(images_of(model)))
    frozen = copy.deepcopy(prepared).train()
    frozen.freeze_norms()
    frozen.freeze_scales()
    for one, two in zip(frozen(images_of(model)), prepared(images_of(model)), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("norm_fold", [NormFold.BATCH, NormFold.NONE])
@pytest.mark.parametrize("method", [*POWERS, *FLOATS])
def test_a_calibrated_model_is_near_the_float_one(method, norm_fold):
    """With 16 bits, weights of 8 for dorefa, what is left is the method's own choice of ranges."""
    model = make_net(net_cfg(["leaky", "shortcut", "leaky"]))
    bits = QuantConfig(w_bits=8, a_bits=16) if method is ScaleMethod.DOREFA else QuantConfig(w_bits=16, a_bits=16)
    qat = prepare_qat(model, bits, qat=both(method, norm_fold=norm_fold), batches=[make_images(model)])
    # google clips up to a third of every tensor's largest value, dorefa's tangent shortens large weights
    share = {ScaleMethod.GOOGLE: 0.6, ScaleMethod.DOREFA: 0.2}.get(method, 0.01)
    with torch.no_grad():
        for found, wanted in zip(qat(images_of(model)), model(images_of(model)), strict=True):
            assert (found - wanted).abs().max() < share * wanted.abs().max()


@pytest.mark.parametrize(
    ("qat", "message"),
    [
        (
            QatConfig(w_scale=ScaleMethod.GOOGLE_FLOAT),
            r"conv_0: the step of its weights \(google-float\) .*w_scale tqt",
        ),
        (QatConfig(a_scale=ScaleMethod.DOREFA), r"conv_0: the step of its values \(dorefa\) .* a_scale tqt, lsq"),
        (QatConfig(norm_fold=NormFold.NONE), r"conv_0: its batch norm .*norm_fold none.* use norm_fold one-pass"),
    ],
)
def test_what_has_no_integer_form_says_where_and_why(qat, message):
    model = make_net(net_cfg(["leaky"]))
    prepared = prepare_qat(model, qat=qat, batches=[make_images(model)])
    assert prepared.obstacle is not None
    with pytest.raises(QuantError, match=message):
        lower_model(prepared)
    assert prepare_qat(model, batches=[make_images(model)]).obstacle is None


@pytest.mark.parametrize("method", [ScaleMethod.FIXED, ScaleMethod.TQT])
def test_weights_that_are_not_folded_have_steps_of_their_own(method):
    """Not those of the folded weights that calibration has seen."""
    model = make_net(net_cfg(["leaky"]))
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith("bn.weight"):
                value.mul_(16)
    config = QuantConfig(w_observer=Observer.MAX)
    qat = prepare_qat(
        model, config, qat=QatConfig(w_scale=method, norm_fold=NormFold.NONE), batches=[make_images(model)]
    )
    folded = prepare_qat(model, config, qat=QatConfig(w_scale=method), batches=[make_images(model)])
    for name, conv in qat.convs.items():
        if conv.norm is not None:
            rows = conv.rounded_weight().detach().double().flatten(1).numpy()
            assert conv.quantiser.frac().tolist() == choose_fracs(rows, 8, config).tolist()
            assert conv.quantiser.frac().tolist() != folded.convs[name].quantiser.frac().tolist()


def test_observed_models_are_calibrated_on_what_the_quantised_network_makes():
    """Ranges of a google model are those of its own maps, which four-bit weights have moved."""
    model = make_net(net_cfg(["leaky", "shortcut"]))
    images = make_images(model)
    qat = prepare_qat(model, QuantConfig(w_bits=4), qat=both(ScaleMethod.GOOGLE_FLOAT), batches=[images])
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    floats = {
        r.node.name: r.out
        for r in run_folded(qat.folded_graph(), x * (255 / 256), float_parameters(qat.folded_graph()))
    }
    with torch.no_grad():
        maps = dict(qat.run(x))
    ranges = {name: float(quantiser.largest) for name, quantiser in qat.formats.items()}
    assert all(quantiser.largest > 0 for quantiser in qat.formats.values())
    for name, largest in ranges.items():
        assert largest == pytest.approx(float(maps[name].abs().max()), rel=1e-5)
    assert any(largest != pytest.approx(float(floats[name].abs().max()), rel=1e-3) for name, largest in ranges.items())


def test_calibration_leaves_modes_as_they_are():
    model = make_net(net_cfg(["leaky"]))
    qat = prepare_qat(model, qat=both(ScaleMethod.TPSQ))
    qat.train()
    frozen = next(iter(qat.convs.values())).eval()
    qat.calibrate([make_images(model)])
    assert qat.training
    assert not frozen.training
    before = copy.deepcopy(qat.state_dict())
    qat.eval()(images_of(model))
    assert all(torch.equal(value, before[name]) for name, value in qat.state_dict().items())


def test_frozen_from_the_first_step_there_are_still_scales():
    """They come from calibration, here of the first batch, and not from steps that never happen."""
    model = random_net(11)
    for method in (ScaleMethod.GOOGLE, ScaleMethod.GOOGLE_FLOAT, ScaleMethod.TPSQ):
        qat = prepare_qat(model, qat=both(method))
        qat.freeze_scales()
        outputs = qat.train()(images_of(model))
        assert all(y.isfinite().all() and y.abs().max() > 0 for y in outputs)
        before = [value.clone() for value in qat.formats.state_dict().values()]
        qat(100 * images_of(model))
        assert all(map(torch.equal, qat.formats.state_dict().values(), before))


def test_evaluation_does_not_use_up_the_training_of_scales():
    model = random_net(12)
    qat = prepare_qat(model, qat=both(ScaleMethod.GOOGLE), batches=[make_images(model)])
    before = [value.clone() for value in qat.formats.state_dict().values()]
    for seed in range(20):
        qat.eval()(4 * images_of(model, seed))
    assert all(map(torch.equal, qat.formats.state_dict().values(), before))
    qat.train()(4 * images_of(model))
    assert not all(map(torch.equal, qat.formats.state_dict().values(), before))


@pytest.mark.parametrize("method", [*POWERS, *FLOATS])
def test_all_zero_weights_do_no_harm(method):
    model = make_net(net_cfg(["leaky"]))
    with torch.no_grad():
        for value in model.parameters():
            if value.ndim == 4:
                value.zero_()
    qat = prepare_qat(model, PER_TENSOR, qat=both(method, norm_fold=NormFold.BATCH), batches=[make_images(model)])
    outputs = qat.train()(images_of(model))
    torch.stack([y.square().mean() for y in outputs]).sum().backward()
    assert all(y.isfinite().all() for y in outputs)
    assert all(p.grad is None or p.grad.isfinite().all() for p in qat.parameters())
    assert all(np.isfinite(y.detach().numpy()).all() for y in qat.eval()(images_of(model)))
