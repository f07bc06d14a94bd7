# SPDX-License-Identifier: Apache-2.0
"""The steps that are compared are steps of training of the same network, each quantised as its name says."""

import os
import subprocess
import sys

import pytest
import torch
from support.random_net import make_net, net_cfg

from benchmarks import qat_step
from yolo_hw.quant.qat import NormFold


def network():
    return make_net(net_cfg(["leaky", "down_and_up"]))


def images(count):
    return torch.rand(count, 3, 12, 16, generator=torch.Generator().manual_seed(0))


def test_every_candidate_of_ours_makes_steps(monkeypatch):
    monkeypatch.delenv("BREVITAS_JIT", raising=False)
    candidates = qat_step.candidates_of(network, 2)
    assert [candidate.name for candidate in candidates][::5] == ["float", "brevitas"]
    for candidate in candidates[:-1]:
        step = candidate.prepare(1)
        step()
        step()
    assert "BREVITAS_JIT" not in os.environ


def test_a_step_moves_all_parameters():
    model = qat_step.qat_model(network(), qat_step.FORMS["two passes, TQT"], images(1))
    assert {conv.norm_fold for conv in model.convs.values()} == {NormFold.TWO_PASS}
    qat_step.step_of(model, images(2))()
    still = {name for name, p in model.named_parameters() if p.grad is None}
    assert not still


def test_the_rival_has_as_many_quantisers():
    pytest.importorskip("brevitas")
    from brevitas.nn import QuantConv2d, QuantIdentity

    float_net = network()
    model = qat_step.brevitas_model(float_net, images(1))
    kinds = [type(module) for module in model.modules()]
    convs = sum(isinstance(module, torch.nn.Conv2d) for module in float_net.modules())
    assert (kinds.count(QuantConv2d), kinds.count(QuantIdentity)) == (convs, convs + 1)
    scales = [m.act_quant.scale().detach() for m in model.modules() if isinstance(m, QuantIdentity)]
    assert all(float(scale.log2()) == round(float(scale.log2())) for scale in scales)
    qat_step.step_of(model, images(2))()
    learned = [p.grad for name, p in model.named_parameters() if "act_quant" in name]
    assert len(learned) == convs + 1
    assert all(grad is not None and grad.isfinite().all() for grad in learned)
    float_maps, maps = float_net(images(2)), model.eval()(images(2))
    for one, other in zip(float_maps, maps, strict=True):
        assert (one - other).square().mean() < 0.2 * one.var()


def test_the_import_leaves_brevitas_alone():
    code = "import benchmarks.qat_step, os, sys; print('brevitas' in sys.modules, os.environ.get('BREVITAS_JIT'))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "None"]
