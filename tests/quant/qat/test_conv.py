# SPDX-License-Identifier: Apache-2.0
"""Without its rounding the trained convolution is convolution and batch norm; nothing jumps at the freeze."""

import copy

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from yolo_hw.darknet.layers import Shape
from yolo_hw.geometry import Window
from yolo_hw.ops.batch_norm import batch_norm
from yolo_hw.quant.config import QuantConfig
from yolo_hw.quant.folded import FoldedConv
from yolo_hw.quant.qat.config import NormFold
from yolo_hw.quant.qat.conv import QatConv, _normalised
from yolo_hw.quant.qat.quantiser import FixedQuantiser, FracLimits, Grid, Quantiser
from yolo_hw.quant.source import ConvSource

X_FRAC = torch.tensor([8], dtype=torch.int32)
FREE = FracLimits(torch.tensor([-60], dtype=torch.int32), torch.tensor([60], dtype=torch.int32))


def test_no_device_is_asked_which_channels_are_constant():
    """Tensors without values stand for a device whose values have not been computed yet."""
    with FakeTensorMode():
        y, vector = torch.randn(2, 3, 4, 4, requires_grad=True), torch.ones(3)
        out, _, _ = _normalised(y, vector, vector, vector, vector)
        out.sum().backward()
        assert y.grad.shape == y.shape


def test_constant_channels_have_the_gradient_of_the_running_variance():
    torch.manual_seed(0)
    y = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    y[:, 1] = 0.75
    eps, size = torch.full((3,), 1e-5, dtype=torch.float64), torch.tensor([5.0, 0.5, 7.0], dtype=torch.float64)
    found = []
    chosen = torch.where(torch.tensor([False, True, False]), size, eps)
    for normalise in (lambda *x: _normalised(*x, eps, size), lambda *x: batch_norm(*x, chosen)):
        inputs = [x.clone().requires_grad_() for x in (y, torch.arange(1.0, 4.0).double(), torch.ones(3).double())]
        out, *statistics = normalise(*inputs)
        (out * torch.linspace(-1, 1, out.numel()).reshape(out.shape)).sum().backward()
        found.append([out, *statistics, *(x.grad for x in inputs)])
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))


class NoRounding(Quantiser):
    """Leaves weights as they are."""

    def frac(self, limits=None):
        return torch.full((self.channels,), 40, dtype=torch.int32)

    def forward(self, x, limits=None):
        return x


def make_layer(quantiser, norm_fold, groups=1):
    """A convolution with a batch norm that has seen data and has scales of both signs, and its quantised form."""
    torch.manual_seed(3)
    conv = nn.Conv2d(4, 8, 3, 2, 1, groups=groups, bias=False).double()
    norm = nn.BatchNorm2d(8, eps=1e-3).double()
    with torch.no_grad():
        norm.weight.copy_(torch.randn(8))
        norm.bias.copy_(torch.randn(8))
        norm.running_mean.copy_(torch.randn(8))
        norm.running_var.copy_(torch.rand(8) + 0.5)
    node = FoldedConv(
        name="conv",
        inputs=("input",),
        shape=Shape(8, 5, 6),
        weight=conv.weight.detach().numpy(),
        bias=None,
        window=Window((3, 3), (2, 2), (1, 1)),
        groups=groups,
    )
    return conv, norm, QatConv(node, ConvSource(conv.weight, norm), quantiser, norm_fold, QuantConfig())


def images(seed=0):
    return torch.randn(6, 4, 9, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("norm_fold", list(NormFold))
@pytest.mark.parametrize("groups", [1, 4])
def test_training_without_rounding_is_convolution_and_batch_norm(norm_fold, groups):
    """Outputs, gradients and running statistics, over several steps; then evaluation."""
    conv, norm, qat = make_layer(NoRounding(Grid(8), 8), norm_fold, groups)
    qat.train()
    mine = torch.optim.SGD(qat.parameters(), 0.1, momentum=0.9)
    theirs = torch.optim.SGD([conv.weight, *norm.parameters()], 0.1, momentum=0.9)
    for step in range(5):
        x, other = (images(step).requires_grad_() for _ in range(2))
        found, wanted = qat(x, X_FRAC, FREE), norm(conv(other))
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
        mine.zero_grad(), theirs.zero_grad()
        grad = torch.randn(found.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
        found.backward(grad)
        wanted.backward(grad)
        torch.testing.assert_close(x.grad, other.grad, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(qat.weight.grad, conv.weight.grad, rtol=1e-9, atol=1e-9)
        for name, parameter in norm.named_parameters():
            torch.testing.assert_close(qat.norm.get_parameter(name).grad, parameter.grad, rtol=1e-9, atol=1e-9)
        mine.step(), theirs.step()
        torch.testing.assert_close(qat.norm.running_mean, norm.running_mean, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(qat.norm.running_var, norm.running_var, rtol=1e-9, atol=1e-9)
    qat.eval(), norm.eval()
    torch.testing.assert_close(qat(images(9), X_FRAC, FREE), norm(conv(images(9))), rtol=0, atol=1e-6)


@pytest.mark.parametrize("norm_fold", list(NormFold))
def test_frozen_training_computes_what_evaluation_does(norm_fold):
    _, _, qat = make_layer(FixedQuantiser(Grid(4), 8), norm_fold)
    qat.quantiser.set_frac(torch.arange(8) % 3 + 1)
    qat.train()
    qat(images(), X_FRAC, FREE)
    qat.freeze_norm()
    before = copy.deepcopy(qat.norm.state_dict())
    trained = qat(images(1), X_FRAC, FREE)
    evaluated = qat.eval()(images(1), X_FRAC, FREE)
    # Evaluation alone rounds biases, to a 256th of the weights' step and less.
    torch.testing.assert_close(trained, evaluated, rtol=0, atol=2.0**-9)
    for name, value in qat.norm.state_dict().items():
        assert torch.equal(value, before[name])


def test_the_rounded_weight_does_not_follow_the_batch():
    """One and two passes quantise with the running variance; folding with the batch's gives other codes every time."""
    codes = {}
    for norm_fold in NormFold:
        seen = []
        _, _, qat = make_layer(FixedQuantiser(Grid(4), 8), norm_fold)
        qat.quantiser.set_frac(torch.full((8,), 2))
        qat.norm.momentum = 0.0
        qat.quantiser.register_forward_hook(lambda module, inputs, output, seen=seen: seen.append(output.detach()))
        for seed in range(2):
            qat.train()(images(seed) * (1 + seed), X_FRAC, FREE)
        codes[norm_fold] = seen
    assert torch.equal(*codes[NormFold.ONE_PASS])
    assert torch.equal(*codes[NormFold.TWO_PASS])
    assert not torch.equal(*codes[NormFold.BATCH])


@pytest.mark.parametrize("norm_fold", [NormFold.ONE_PASS, NormFold.TWO_PASS])
def test_a_scale_of_zero_keeps_its_statistics(norm_fold):
    _, _, qat = make_layer(FixedQuantiser(Grid(8), 8), norm_fold)
    qat.quantiser.set_frac(torch.full((8,), 6))
    with torch.no_grad():
        qat.norm.weight[2] = 0
    before = qat.norm.running_mean.clone()
    y = qat.train()(images(), X_FRAC, FREE)
    y.sum().backward()
    assert y.isfinite().all()
    assert all(p.grad.isfinite().all() for p in qat.parameters())
    assert qat.norm.running_mean.isfinite().all()
    assert (qat.norm.running_mean != before).any()


def test_biases_are_rounded_to_the_accumulators_grid_and_limit_it():
    quantiser = FixedQuantiser(Grid(8), 8)
    _, _, qat = make_layer(quantiser, NormFold.ONE_PASS)
    quantiser.set_frac(torch.full((8,), 20))
    with torch.no_grad():
        qat.norm.bias.mul_(2.0**8)
    codes = qat.eval().codes(X_FRAC, FREE)
    assert (abs(codes.bias) < 2**30).all()
    assert (codes.w_frac < 20).any()
    y = qat(torch.zeros(1, 4, 9, 11, dtype=torch.float64), X_FRAC, FREE)
    expected = torch.ldexp(torch.from_numpy(codes.bias).double(), -torch.from_numpy(codes.w_frac) - 8)
    assert torch.equal(y[0, :, 2, 2], expected)


def test_a_window_that_ends_beyond_the_map():
    """Darknet's pools and convolutions may end to the right and below only."""
    conv = nn.Conv2d(2, 3, 2, bias=True).double()
    node = FoldedConv(
        name="conv",
        inputs=("input",),
        shape=Shape(3, 4, 4),
        weight=conv.weight.detach().numpy(),
        bias=None,
        window=Window((2, 2)),
    )
    source = ConvSource(conv.weight, None, conv.bias)
    qat = QatConv(node, source, NoRounding(Grid(8), 3), NormFold.ONE_PASS, QuantConfig())
    x = images()[:, :2, :4, :4]
    torch.testing.assert_close(qat(x, X_FRAC, FREE), conv(F.pad(x, (0, 1, 0, 1))))


def gradients_beside_frozen(layer, x):
    """Gradients to weight and x, in training and with frozen statistics, of a loss that no shift changes."""
    target = torch.randn(6, 8, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    target -= target.mean((0, 2, 3), keepdim=True)
    for frozen in (False, True):
        other, given = copy.deepcopy(layer).train(), x.clone().requires_grad_()
        if frozen:
            other.freeze_norm()
        (other(given, X_FRAC, FREE) * target).sum().backward()
        yield other.weight.grad, given.grad


@pytest.mark.parametrize("norm_fold", list(NormFold))
def test_a_constant_channel_has_the_gradient_of_the_frozen_layer(norm_fold):
    """Its statistics of the batch say nothing; with them the gradient would be up to 1 / sqrt(eps) times as large."""
    quantiser = FixedQuantiser(Grid(8))
    quantiser.set_frac(torch.tensor([5]))
    _, _, layer = make_layer(quantiser, norm_fold)
    (_, found), (_, wanted) = gradients_beside_frozen(layer, 0 * images())
    assert wanted.abs().max() > 0
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("norm_fold", [NormFold.ONE_PASS, NormFold.NONE])
def test_weights_rounded_to_zero_have_the_gradient_of_the_frozen_layer(norm_fold):
    quantiser = FixedQuantiser(Grid(4))
    quantiser.set_frac(torch.tensor([-20]))
    _, _, layer = make_layer(quantiser, norm_fold)
    (found, _), (wanted, _) = gradients_beside_frozen(layer, images())
    assert wanted.abs().max() > 0
    torch.testing.assert_close(found, wanted)
