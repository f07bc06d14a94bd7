# SPDX-License-Identifier: Apache-2.0
"""Statistics equal what their definition says, and leave the model as it was."""

import numpy as np
import pytest
import torch
from support.tiny_training import detector
from torch import nn

from yolo_hw.errors import PruneError
from yolo_hw.prune.statistics import collect_activations, collect_gradients, collect_taylor


def network():
    torch.manual_seed(5)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.LeakyReLU(0.1),
        nn.Conv2d(6, 4, 3, bias=True),
        nn.Flatten(),
        nn.Linear(4 * 6 * 6, 5),
    ).double()
    bn = model[1]
    for tensor in (bn.weight, bn.bias, bn.running_mean):
        nn.init.normal_(tensor)
    nn.init.uniform_(bn.running_var, 0.5, 2)
    return model


def batches(sizes=(2, 3)):
    generator = torch.Generator().manual_seed(9)
    return [torch.randn(n, 3, 8, 8, generator=generator, dtype=torch.float64) for n in sizes]


def loss(model, batch):
    return model(batch).square().mean()


def loss_without(model, parameters, channel, scale):
    """The loss with one channel's parameters multiplied by `scale`."""
    before = [p.detach().clone() for p in parameters]
    with torch.no_grad():
        for p in parameters:
            p[channel] *= scale
        losses = [float(loss(model, batch)) for batch in batches()]
        for p, old in zip(parameters, before, strict=True):
            p.copy_(old)
    return np.array(losses)


@pytest.mark.parametrize("name", ["0", "1", "3", "5"])
def test_taylor_is_the_squared_slope_of_the_loss_towards_zero(name):
    """The slope by finite differences: scaling a channel's parameters by 1 - t changes the loss by t * sum g * p."""
    model = network().eval()
    scores = collect_taylor(model, [name], batches(), loss)[name]
    parameters = list(model.get_submodule(name).parameters())
    step = 1e-5
    for channel, score in enumerate(scores):
        up, down = (loss_without(model, parameters, channel, 1 + t) for t in (step, -step))
        np.testing.assert_allclose(score, (((up - down) / (2 * step)) ** 2).sum(), rtol=1e-6, atol=1e-18)


def test_gradients_are_those_of_backward():
    model = network().eval()
    found = collect_gradients(model, ["0", "5"], batches(), loss)
    for batch in batches():
        loss(model, batch).backward()
    for name in ("0", "5"):
        np.testing.assert_allclose(found[name], model.get_submodule(name).weight.grad, rtol=1e-5, atol=1e-9)


def test_activations_are_means_over_all_images():
    model = network().eval()
    found = collect_activations(model, ["2", "5"], batches())
    with torch.no_grad():
        maps = model[:3](torch.cat(batches())).abs().mean((0, 2, 3))
        outputs = model(torch.cat(batches())).abs().mean(0)
    np.testing.assert_allclose(found["2"], maps, rtol=1e-12)
    np.testing.assert_allclose(found["5"], outputs, rtol=1e-12)


def test_every_run_of_a_module_counts():
    twice = nn.Sequential(conv := nn.Conv2d(2, 2, 1, bias=False), conv)
    x = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = torch.cat([conv(x), conv(conv(x))]).abs().mean((0, 2, 3))
    np.testing.assert_allclose(collect_activations(twice, ["0"], [x])["0"], expected, rtol=1e-5)


@pytest.mark.parametrize("collect", [collect_taylor, collect_gradients])
def test_the_model_is_as_it_was(collect):
    model = network().train()
    model[2].eval()
    model[0].weight.requires_grad_(False)
    model[3].weight.grad = torch.ones_like(model[3].weight)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with torch.no_grad():
        first = collect(model, ["0", "3"], batches(), loss)
        collect_activations(model, ["0"], batches())
    again = collect(model, ["0", "3"], batches(), loss)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert [module.training for module in model] == [True, True, False, True, True, True]
    assert [p.requires_grad for p in model.parameters()] == [False] + [True] * 6
    assert [p.grad is not None for p in model.parameters()] == [False] * 3 + [True] + [False] * 3
    assert (model[3].weight.grad == 1).all()
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_the_model_is_as_it_was_after_an_error():
    model = network().train()
    model[0].weight.requires_grad_(False)
    with pytest.raises(RuntimeError):
        collect_taylor(model, ["0"], [torch.zeros(1, 5, 8, 8)], loss)
    with pytest.raises(RuntimeError):
        collect_activations(model, ["0"], [torch.zeros(1, 5, 8, 8)])
    assert all(module.training for module in model.modules())
    assert not model[0].weight.requires_grad
    assert not model[0]._forward_hooks


def test_a_detector():
    """Darknet's blocks can be differentiated in evaluation mode."""
    model = detector().eval()
    names = [name for name, module in model.named_modules() if isinstance(module, (nn.Conv2d, nn.BatchNorm2d))]
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    scores = collect_taylor(model, names, [images], lambda m, x: m(x)[0].square().sum())
    assert len(scores) == 7
    assert all((s > 0).any() for s in scores.values())
    means = collect_activations(model, [f"blocks.{name}" for name in model.blocks], [images])
    assert all((mean > 0).all() for mean in means.values())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: collect_taylor(m, ["6"], batches(), loss), "no module '6'"),
        (lambda m: collect_activations(m, ["conv"], batches()), "no module 'conv'"),
        (lambda m: collect_taylor(m, ["2"], batches(), loss), "gradients of '2': the module must have parameters"),
        (lambda m: collect_taylor(m, ["0"], [], loss), "at least one batch"),
        (lambda m: collect_activations(m, ["0"], iter([])), "at least one batch"),
        (lambda m: collect_taylor(m, ["0"], batches(), lambda m, x: m(x)), "batch 0: must be one finite number"),
        (lambda m: collect_taylor(m, ["0"], batches(), lambda m, x: m(x).sum() / 0), "must be one finite number, is"),
        (lambda m: collect_taylor(m, ["3"], batches(), lambda m, x: m[0](x).sum()), "it does not on '3'"),
        (lambda m: collect_gradients(m, ["0"], batches(), lambda m, x: x.sum()), "it does not on '0'"),
        (lambda m: collect_activations(m, ["3"], batches(), lambda m, x: m[0](x)), "'3': the module must run"),
        (lambda m: collect_activations(m, ["0"], batches(), lambda m, x: None), "'0': the module must run"),
    ],
)
def test_what_cannot_be_collected_is_an_error(call, message):
    with pytest.raises(PruneError, match=message):
        call(network())


def test_modules_of_another_layout_are_refused():
    up = nn.ConvTranspose2d(3, 6, 2)
    with pytest.raises(PruneError, match=r"output channels first, they are \[3, 6, 2, 2\], \[6\]"):
        collect_taylor(up, [""], batches(), loss)
    with pytest.raises(PruneError, match="got list"):
        collect_activations(detector(), [""], [torch.zeros(1, 3, 32, 32)])
