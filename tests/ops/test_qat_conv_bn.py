# SPDX-License-Identifier: Apache-2.0
"""The quantisation-aware step equals a convolution with Q(w c) / c followed by torch's batch norm."""

from __future__ import annotations

import pytest
import torch
from support.fold_layers import DEVICES
from torch import Tensor
from torch.nn import functional

from yolo_hw.fixedpoint import FixedPoint, Overflow, Rounding
from yolo_hw.ops import reference
from yolo_hw.ops.fold_bn import BatchNorm, FoldLayer
from yolo_hw.ops.qat_conv_bn import ConvGeometry, WeightFormat, qat_conv_bn

EPS = 1e-3
GEOMETRIES = [ConvGeometry(1, 1), ConvGeometry((2, 1), (0, 2), 2), ConvGeometry(1, 1, groups=4)]
FORMATS = [
    WeightFormat(FixedPoint(8, 6)),
    WeightFormat(FixedPoint(4, 3), Rounding.HALF_EVEN, Overflow.SATURATE_SYMMETRIC),  # some weights saturate
]


def make_case(geometry: ConvGeometry, dtype: torch.dtype = torch.float64) -> tuple[Tensor, FoldLayer, Tensor]:
    """x, a layer with scales of both signs, and a gradient to the result."""
    generator = torch.Generator().manual_seed(4)

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)

    x, weight = draw(3, 4, 9, 8), draw(8, 4 // geometry.groups, 3, 3)
    norm = BatchNorm(draw(8), draw(8), draw(8), draw(8).square() + 0.5)
    shape = functional.conv2d(x, weight, None, *geometry).shape
    return x, FoldLayer(weight, norm, frac=torch.arange(8, dtype=torch.int32) % 3 + 2), draw(*shape)


def leaves_of(x: Tensor, layer: FoldLayer) -> list[Tensor]:
    """x, weight, gamma, beta with gradients."""
    assert layer.norm is not None
    return [t.detach().clone().requires_grad_() for t in (x, layer.weight, layer.norm.gamma, layer.norm.beta)]


def unfused(leaves: list[Tensor], layer: FoldLayer, quantiser: WeightFormat, geometry: ConvGeometry) -> Tensor:
    """The same step by its definition, with the straight-through gradient written out; moves the running statistics."""
    x, weight, gamma, beta = leaves
    assert layer.norm is not None
    c = (gamma / torch.sqrt(layer.norm.var + EPS)).detach().reshape(-1, 1, 1, 1)
    folded = weight * c
    codes = reference.fake_quant_pow2(folded.detach(), *quantiser, frac=layer.frac)
    passes = reference.fake_quant_pow2_backward(torch.ones_like(codes), folded.detach(), *quantiser, frac=layer.frac)
    quantised = folded * passes + (codes - folded * passes).detach()
    z = functional.conv2d(x, quantised / c, None, *geometry)
    return functional.batch_norm(z, layer.norm.mean, layer.norm.var, gamma, beta, True, 0.25, EPS)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("quantiser", FORMATS, ids=["8 bits", "4 bits"])
def test_training_step_equals_convolution_and_batch_norm(
    device: str, geometry: ConvGeometry, quantiser: WeightFormat
) -> None:
    x, layer, grad = make_case(geometry)
    results = []
    for fused in (True, False):
        where = device if fused else "cpu"
        leaves = [t.to(where).detach().requires_grad_() for t in leaves_of(x, layer)]
        assert layer.norm is not None
        assert layer.frac is not None
        norm = BatchNorm(
            leaves[2], leaves[3], layer.norm.mean.to(where, copy=True), layer.norm.var.to(where, copy=True)
        )
        one = FoldLayer(leaves[1], norm, frac=layer.frac.to(where))
        if fused:
            y = qat_conv_bn(leaves[0], one, quantiser, geometry, training=True, eps=EPS, momentum=0.25)
        else:
            y = unfused(leaves, one, quantiser, geometry)
        y.backward(grad.to(where))
        grads = [t.grad for t in leaves]
        results.append([t.detach().cpu() for t in (y, norm.mean, norm.var, *grads) if t is not None])
    assert len(results[0]) == 7
    for found, wanted in zip(*results, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


def test_float32_stays_close_to_float64() -> None:
    """Both steps round sums of 36 products and one normalisation: a few hundred units of 2^-24 of the largest value."""
    geometry, quantiser = GEOMETRIES[0], FORMATS[0]
    x, layer, _ = make_case(geometry)
    results = []
    for dtype in (torch.float32, torch.float64):
        norm = BatchNorm(*(t.to(dtype).clone() for t in layer.norm or ()))
        # Weights on the grid with c = 1, so that both precisions round to equal codes.
        weight = (layer.weight * 16).round() / 16
        one = FoldLayer(weight.to(dtype), norm._replace(gamma=norm.gamma.sign(), var=torch.ones_like(norm.var) - 2**-6))
        out = qat_conv_bn(x.to(dtype), one, quantiser, geometry, training=True, eps=2**-6)
        results.append(out.double())
    torch.testing.assert_close(*results, rtol=0, atol=256 * 2.0**-24 * float(results[1].abs().max()))


def test_evaluation_uses_the_running_statistics() -> None:
    geometry, quantiser = GEOMETRIES[0], FORMATS[0]
    x, layer, grad = make_case(geometry)
    leaves = leaves_of(x, layer)
    assert layer.norm is not None
    one = layer._replace(weight=leaves[1], norm=layer.norm._replace(gamma=leaves[2], beta=leaves[3]))
    before = layer.norm.mean.clone(), layer.norm.var.clone()
    y = qat_conv_bn(leaves[0], one, quantiser, geometry, training=False, eps=EPS)
    y.backward(grad)
    assert torch.equal(layer.norm.mean, before[0])
    assert torch.equal(layer.norm.var, before[1])
    c = layer.norm.gamma / torch.sqrt(layer.norm.var + EPS)
    codes = reference.fake_quant_pow2(layer.weight * c.reshape(-1, 1, 1, 1), quantiser.fmt, frac=layer.frac)
    want = functional.conv2d(x, codes, layer.norm.beta - layer.norm.mean * c, *geometry)
    torch.testing.assert_close(y, want, rtol=0, atol=1e-12)
    assert all(leaf.grad is not None and bool(leaf.grad.any()) for leaf in leaves)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_dead_channel_gives_beta_and_keeps_its_statistics(dtype: torch.dtype) -> None:
    x, layer, grad = make_case(GEOMETRIES[0], dtype)
    assert layer.norm is not None
    layer.norm.gamma[:2] = torch.tensor([0.0, 1e-42], dtype=dtype)
    before = layer.norm.mean.clone(), layer.norm.var.clone()
    leaves = leaves_of(x, layer)
    one = layer._replace(weight=leaves[1], norm=layer.norm._replace(gamma=leaves[2], beta=leaves[3]))
    y = qat_conv_bn(leaves[0], one, FORMATS[0], GEOMETRIES[0], training=True)
    y.backward(grad)
    assert torch.equal(y[:, 0], layer.norm.beta[0].expand_as(y[:, 0]))
    assert layer.norm.mean[0] == before[0][0]
    assert layer.norm.var[0] == before[1][0]
    finite = [y, layer.norm.mean, layer.norm.var, *(t.grad for t in leaves if t.grad is not None)]
    assert len(finite) == 7
    assert all(bool(t.isfinite().all()) for t in finite)
    assert (layer.norm.mean[2:] != before[0][2:]).all()


def test_compile() -> None:
    x, layer, _ = make_case(GEOMETRIES[0], torch.float32)
    results = []
    for compiled in (False, True):
        leaves = leaves_of(x, layer)
        assert layer.norm is not None
        norm = BatchNorm(leaves[2], leaves[3], layer.norm.mean.clone(), layer.norm.var.clone())
        one = layer._replace(weight=leaves[1], norm=norm)

        def step(x: Tensor, one: FoldLayer = one) -> Tensor:
            return qat_conv_bn(x, one, FORMATS[0], GEOMETRIES[0], training=True)

        run = torch.compile(step, fullgraph=True, backend="aot_eager") if compiled else step
        y = run(leaves[0])
        y.sum().backward()
        results.append([y, norm.mean, norm.var, *(t.grad for t in leaves if t.grad is not None)])
    assert len(results[0]) == 7
    for found, wanted in zip(*results, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


def test_what_it_cannot_do_is_refused() -> None:
    x, layer, _ = make_case(GEOMETRIES[0])
    for change in ({"norm": None}, {"bias": torch.zeros(8)}, {"transposed_groups": 1}):
        with pytest.raises(ValueError, match="must have a batch norm, no bias and not be transposed"):
            qat_conv_bn(x, layer._replace(**change), FORMATS[0], GEOMETRIES[0], training=True)
