# SPDX-License-Identifier: Apache-2.0
"""DoReFa against the paper's formulae in numpy."""

import numpy as np
import pytest
import torch

from yolo_hw.errors import QuantError
from yolo_hw.quant.qat.config import ScaleMethod
from yolo_hw.quant.qat.methods import make_quantiser
from yolo_hw.quant.qat.quantiser import Grid
from yolo_hw.quant.qat.seed.dorefa import DorefaActivations, DorefaWeights


def quantise_k(r, bits):
    """Equation 5 of the paper, r in [0, 1]."""
    n = 2**bits - 1
    return np.floor(n * r + 0.5) / n


def paper_weights(w, bits):
    """Equation 9 of the paper: in [-1, 1]."""
    t = np.tanh(w)
    return 2 * quantise_k(t / (2 * np.abs(t).max()) + 0.5, bits) - 1


@pytest.mark.parametrize("bits", [2, 4, 8, 15])
def test_weights_are_the_papers_times_their_size(bits):
    w = torch.randn(3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(bits))
    found = DorefaWeights(Grid(bits))(w).numpy()
    size = np.tanh(np.abs(w.numpy()).max())
    np.testing.assert_allclose(found / size, paper_weights(w.numpy(), bits), rtol=0, atol=1e-12)
    assert abs(found).max() == pytest.approx(size)
    assert len(np.unique(found)) <= 2**bits
    each = DorefaWeights(Grid(bits), channels=3)(w).numpy()
    for row, one in zip(each, w.numpy(), strict=True):
        np.testing.assert_allclose(row / np.tanh(np.abs(one).max()), paper_weights(one, bits), rtol=0, atol=1e-12)


def test_small_weights_keep_their_size():
    """So a folded weight means the same before and after: the error is at most half a step of its own range."""
    w = 0.01 * torch.randn(200, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = DorefaWeights(Grid(8))(w)
    assert (found - w).abs().max() <= w.abs().max() / 255 * 1.01


def test_the_gradient_of_weights_is_that_of_the_tangent():
    w = torch.randn(50, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    grad = torch.randn(50, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    DorefaWeights(Grid(4))(w).backward(grad)
    torch.testing.assert_close(w.grad, grad * (1 - torch.tanh(w.detach()) ** 2))


@pytest.mark.parametrize("bits", [4, 8])
def test_unsigned_activations_are_the_papers_at_their_own_size(bits):
    x = torch.linspace(-5, 15, 801, dtype=torch.float64)
    found = DorefaActivations(Grid(bits, signed=False))(x).numpy()
    np.testing.assert_allclose(found / 10, quantise_k(np.clip(0.1 * x.numpy(), 0, 1), bits), rtol=0, atol=1e-12)


def test_signed_activations_keep_what_is_negative():
    x = torch.tensor([-20.0, -10.0, -3.0, 0.0, 3.0, 20.0], requires_grad=True)
    y = DorefaActivations(Grid(4))(x)
    assert y.tolist() == pytest.approx([-10, -10, -20 / 7, 0, 20 / 7, 10])
    y.sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 1, 1, 0]


@pytest.mark.parametrize("channels", [1, 2])
def test_nothing_but_zeros_stays_zero(channels):
    w = torch.zeros(2, 3, requires_grad=True)
    y = DorefaWeights(Grid(4), channels)(w)
    y.sum().backward()
    assert torch.equal(y, torch.zeros(2, 3))
    assert w.grad.isfinite().all()


def test_there_are_no_fraction_bits_and_not_more_than_fifteen():
    for of_weights, kind in ((True, DorefaWeights), (False, DorefaActivations)):
        quantiser = make_quantiser(ScaleMethod.DOREFA, Grid(8), of_weights=of_weights)
        assert type(quantiser) is kind
        with pytest.raises(QuantError, match="dorefa: the step is no power of two"):
            quantiser.frac()
    with pytest.raises(QuantError, match="dorefa: weights must have at most 15 bits, got 16"):
        DorefaWeights(Grid(16))
