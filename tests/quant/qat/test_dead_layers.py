# SPDX-License-Identifier: Apache-2.0
"""Layers of which rounding leaves nothing: gradients stay finite, and what cannot go on says why."""

import copy

import pytest
import torch
from support.qat import images_of
from support.random_net import make_images, make_net, net_cfg

from yolo_hw.errors import QuantError
from yolo_hw.quant import QuantConfig
from yolo_hw.quant.qat import NormFold, QatConfig, ScaleMethod, lower_model, prepare_qat

DEPTH = 24
"""In float32 ``1 / sqrt(1e-5)`` to this power is infinite."""


def prepared(depth, **qat):
    model = make_net(net_cfg(["leaky"] * depth))
    config = QuantConfig(w_bits=4, a_bits=4)
    return prepare_qat(model, config, qat=QatConfig(**qat), batches=[make_images(model)]), images_of(model)


@pytest.mark.parametrize("norm_fold", list(NormFold))
def test_gradients_pass_many_layers_of_zeros(norm_fold):
    qat, images = prepared(DEPTH, norm_fold=norm_fold)
    for name, quantiser in qat.formats.items():
        if name != f"conv_{DEPTH + 1}":
            quantiser.set_frac(torch.tensor([-20]))
    (output,) = qat.train()(images)
    (output * torch.randn(output.shape, generator=torch.Generator().manual_seed(0))).sum().backward()
    assert all(p.grad.isfinite().all() for p in qat.parameters() if p.grad is not None)
    assert any(qat.conv("conv_0").norm.weight.grad != 0)


@pytest.mark.parametrize("method", [method for method in ScaleMethod if method.learns])
@pytest.mark.parametrize("value", [1e30, -1e30])
def test_thresholds_far_away_stay_in_the_formats(method, value):
    qat, images = prepared(1, w_scale=method, a_scale=method)
    for name, parameter in qat.named_parameters():
        if name.startswith("formats"):
            parameter.data.fill_(value)
    assert all(y.isfinite().all() for y in qat.train()(images))


def test_a_number_that_diverged_is_named():
    qat, images = prepared(1)
    qat.formats["conv_1"].log2_t.data.fill_(torch.nan)
    for work in (lambda: qat.train()(images), lambda: qat.eval()(images), lambda: lower_model(qat)):
        with pytest.raises(QuantError, match=r"formats\.conv_1\.log2_t must be finite, but .* made it nan"):
            work()


def test_other_failures_are_left_as_they_are():
    qat, images = prepared(1)
    with pytest.raises(RuntimeError, match="channels"):
        copy.deepcopy(qat)(images[:, :2])
