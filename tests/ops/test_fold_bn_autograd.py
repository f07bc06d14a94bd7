# SPDX-License-Identifier: Apache-2.0
"""Gradients, registration and argument checks of the batch-norm folding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.fold_layers import DEVICES, DTYPES, KINDS, MODES, assert_same_bits, make_layer, on_cpu
from torch import Tensor

from yolo_hw.fixedpoint import FixedPoint
from yolo_hw.ops import reference_fold_bn
from yolo_hw.ops.fold_bn import BatchNorm, FoldLayer, fold_bn, fold_bn_fake_quant, fold_bn_fake_quant_layers

ops = torch.ops.yolo_hw


def leaves_of(layer: FoldLayer) -> list[Tensor]:
    """Weight, gamma, beta, mean, var and, if there is one, bias, with gradients."""
    assert layer.norm is not None
    vectors = [layer.weight, *layer.norm, *([] if layer.bias is None else [layer.bias])]
    return [x.detach().clone().requires_grad_() for x in vectors]


def layer_of(leaves: list[Tensor], like: FoldLayer) -> FoldLayer:
    bias = leaves[5] if len(leaves) > 5 else None
    return like._replace(weight=leaves[0], norm=BatchNorm(*leaves[1:5]), bias=bias)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bias", [True, False])
def test_fused_gradient_equals_reference(device: str, dtype: torch.dtype, kind: str, bias: bool) -> None:
    layer = make_layer(kind, dtype, device=device, bias=bias)
    fmt = FixedPoint(5, 0)
    for rounding, overflow in MODES:
        leaves = leaves_of(layer)
        folded = fold_bn_fake_quant(layer_of(leaves, layer), fmt, rounding, overflow)
        grads = (torch.randn_like(folded[0]), torch.randn_like(folded[1]))
        torch.autograd.backward(folded, grads)
        host = (grads[0].cpu(), grads[1].cpu())
        weight, of_bias, norm = reference_fold_bn.fold_bn_fake_quant_backward(
            host, on_cpu(layer), fmt, rounding, overflow
        )
        wanted = (weight, *norm, *([of_bias] if bias else []))
        assert_same_bits(tuple(x.grad for x in leaves if x.grad is not None), wanted)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bias", [True, False])
def test_gradients_of_both_orders(kind: str, bias: bool) -> None:
    layer = make_layer(kind, torch.float64, bias=bias)

    def fold(*leaves: Tensor) -> tuple[Tensor, Tensor]:
        one = layer_of(list(leaves), layer)
        assert one.norm is not None
        return fold_bn(one.weight, one.norm, one.bias, transposed_groups=one.transposed_groups)

    assert torch.autograd.gradcheck(fold, leaves_of(layer), fast_mode=True)
    assert torch.autograd.gradgradcheck(fold, leaves_of(layer), fast_mode=True)


def test_gradients_of_a_clamped_variance() -> None:
    layer = make_layer("conv", torch.float64)
    assert layer.norm is not None
    var = layer.norm.var * torch.tensor([1.0, -1.0, -1.0, 1.0])
    layer = layer._replace(weight=layer.weight[..., 0, 0], norm=layer.norm._replace(var=var))

    def fold(*leaves: Tensor) -> tuple[Tensor, Tensor]:
        return fold_bn(leaves[0], BatchNorm(*leaves[1:5]), leaves[5], eps=0.5)

    leaves = leaves_of(layer)
    assert torch.autograd.gradcheck(fold, leaves)
    assert torch.autograd.gradgradcheck(fold, leaves)
    sum(x.sum() for x in fold(*leaves)).backward()  # type: ignore[union-attr]
    assert leaves[4].grad is not None
    assert leaves[4].grad[[0, 3]].all()
    assert not leaves[4].grad[1:3].any()


@pytest.mark.parametrize("device", DEVICES)
def test_gradient_through_a_layer_without_batch_norm(device: str) -> None:
    layer = make_layer("conv", torch.float64, device=device)
    weight, bias = (x.clone().requires_grad_() for x in (layer.weight, layer.bias) if x is not None)
    folded = fold_bn_fake_quant(FoldLayer(weight, None, bias), FixedPoint(16, 8))
    torch.autograd.backward(folded, [2 * torch.ones_like(x) for x in folded])
    assert weight.grad is not None
    assert bias.grad is not None
    assert (weight.grad == 2).all()
    assert (bias.grad == 2).all()


@pytest.mark.parametrize("device", DEVICES)
def test_gradient_of_channels_last_weights(device: str) -> None:
    layer = make_layer("long", torch.float64, device=device)
    want, got = leaves_of(layer), leaves_of(layer)
    got[0] = layer.weight.to(memory_format=torch.channels_last).detach().requires_grad_()
    grad = torch.randn_like(layer.weight)
    for leaves in (want, got):
        fold_bn_fake_quant(layer_of(leaves, layer), FixedPoint(5, 0))[0].backward(grad)
    assert got[0].grad is not None
    assert want[0].grad is not None
    assert got[0].grad.stride() == got[0].stride()
    assert torch.equal(got[0].grad, want[0].grad)
    for a, b in zip(got[1:5], want[1:5], strict=True):  # sums in another order
        assert a.grad is not None
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-12, atol=1e-12)


def test_rounding_has_no_second_derivative() -> None:
    leaves = leaves_of(make_layer("conv", torch.float64))
    weight, _ = fold_bn_fake_quant(layer_of(leaves, make_layer("conv", torch.float64)), FixedPoint(8, 4))
    (grad,) = torch.autograd.grad(weight.square().sum(), leaves[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        grad.sum().backward()


def flat_arguments(layer: FoldLayer) -> tuple[Tensor, ...]:
    assert layer.norm is not None
    assert layer.bias is not None
    return (layer.weight, layer.bias, *layer.norm)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(device: str, dtype: torch.dtype) -> None:
    for kind in ("conv", "linear", "transposed groups"):
        layer = make_layer(kind, dtype, device=device)
        tensors, groups = flat_arguments(layer), layer.transposed_groups
        with_grad = tuple(x.clone().requires_grad_() for x in tensors)
        grads = (torch.randn_like(layer.weight), torch.randn_like(tensors[1]))
        for sample in (tensors, with_grad):
            torch.library.opcheck(ops.fold_bn, (*sample, 1e-5, groups))
            torch.library.opcheck(ops.fold_bn_backward, (*grads, *sample, 1e-5, groups))
        last = layer.weight.to(memory_format=torch.channels_last) if layer.weight.dim() == 4 else layer.weight
        torch.library.opcheck(ops.fold_bn, (last, *tensors[1:], 1e-5, groups))


@pytest.mark.parametrize("device", DEVICES)
def test_opcheck_of_many_layers(device: str) -> None:
    layers = [make_layer(kind, torch.float32, device=device) for kind in ("conv", "transposed")]
    for leaf in (False, True):
        columns = zip(*(flat_arguments(layer) for layer in layers), strict=True)
        lists = [[x.clone().requires_grad_(leaf) for x in column] for column in columns]
        rest = ([layer.frac for layer in layers], 1e-5, [layer.transposed_groups for layer in layers], 8, True, 0, 0)
        torch.library.opcheck(ops.fold_bn_fake_quant, (*lists, *rest))
        weights = [torch.randn_like(x) for x in lists[0]]
        biases = [torch.randn_like(x) for x in lists[1]]
        if not leaf:
            torch.library.opcheck(ops.fold_bn_fake_quant_backward, (weights, biases, *lists, *rest))
            torch.library.opcheck(ops.fold_bn_fake_quant_out, (*lists, *rest, weights, biases))


class Net(torch.nn.Module):
    """Two layers folded and quantised in one call."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = torch.nn.ParameterList([torch.randn(4, 3, 3, 3), torch.randn(2, 4)])
        self.gammas = torch.nn.ParameterList([torch.rand(4) + 0.5, torch.rand(2) + 0.5])

    def forward(self, x: Tensor) -> Tensor:
        layers = [
            FoldLayer(w, BatchNorm(g, torch.zeros_like(g), torch.ones_like(g), torch.ones_like(g)))
            for w, g in zip(self.weights, self.gammas, strict=True)
        ]
        weights, biases = fold_bn_fake_quant_layers(layers, FixedPoint(8, 5))
        pooled = torch.nn.functional.conv2d(x, weights[0], biases[0]).amax((2, 3))
        return torch.nn.functional.linear(pooled, weights[1], biases[1])


def test_compile_and_export() -> None:
    torch.manual_seed(0)
    net, x = Net(), torch.randn(2, 3, 5, 5)
    want = net(x)
    want.sum().backward()
    grads = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    assert len(grads) == 4
    net.zero_grad()
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    got = compiled(x)
    got.sum().backward()
    assert torch.equal(got, want)
    for p, grad in zip(net.parameters(), grads, strict=True):
        assert p.grad is not None
        assert torch.equal(p.grad, grad)
    exported = torch.export.export(net, (x,))
    assert "yolo_hw.fold_bn_fake_quant" in str(exported.graph)
    assert torch.equal(exported.module()(x), want)


VECTOR = torch.ones(2)
GOOD: dict[str, Any] = {"weight": torch.ones(2, 3), "bias": VECTOR, "gamma": VECTOR, "beta": VECTOR, "mean": VECTOR}
GOOD |= {"var": VECTOR, "frac": torch.zeros(1, dtype=torch.int32), "eps": 1e-5, "groups": 0}
GOOD |= {"bits": 8, "signed": True, "rounding": 0, "overflow": 0}
BAD_LAYER = [
    ({"weight": torch.ones(2, 3, dtype=torch.float16)}, "weight must be float32 or float64"),
    ({"weight": torch.ones(2)}, "weight must have at least 2 dimensions, got 1"),
    ({"bias": torch.ones(3)}, r"bias must have shape \[2\], got 1 dimensions and 3 values"),
    ({"gamma": torch.ones(0)}, r"gamma must have shape \[2\], got 1 dimensions and 0 values"),
    ({"beta": torch.ones(2, 1)}, r"beta must have shape \[2\], got 2 dimensions"),
    ({"mean": torch.ones(2, dtype=torch.float64)}, "mean must have the dtype of weight"),
    ({"var": torch.ones(1)}, r"var must have shape \[2\]"),
    ({"eps": 0.0}, "eps must be positive"),
    ({"eps": -1e-5}, "eps must be positive"),
    ({"eps": 1e-60}, "eps must be positive and finite in the dtype of weight"),
    ({"eps": float("nan")}, "eps must be positive"),
    ({"eps": float("inf")}, "eps must be positive and finite"),
    ({"groups": -1}, "transposed_groups must not be negative, got -1"),
    ({"groups": 3}, "must be a multiple of its 3 groups, got 2"),
]
BAD_FORMAT = [
    ({"frac": torch.zeros(1)}, "frac must be int32"),
    ({"frac": torch.zeros(3, dtype=torch.int32)}, "frac must have 1 or 2 values, got 3"),
    ({"frac": torch.full((2,), -65, dtype=torch.int32)}, r"frac must be in \[-64, 64\], got -65"),
    ({"bits": 17}, r"bits must be in \[2, 16\], got 17"),
    ({"bits": 16, "signed": False}, r"bits must be in \[2, 15\], got 16"),
    ({"rounding": 4}, r"rounding must be in \[0, 3\], got 4"),
    ({"overflow": 3}, r"overflow must be in \[0, 2\], got 3"),
]


def fold_arguments(change: dict[str, Any]) -> tuple[Any, ...]:
    values = GOOD | change
    return tuple(values[k] for k in ("weight", "bias", "gamma", "beta", "mean", "var", "eps", "groups"))


def layers_arguments(change: dict[str, Any]) -> tuple[Any, ...]:
    values = GOOD | change
    lists = [[values[k]] for k in ("weight", "bias", "gamma", "beta", "mean", "var", "frac")]
    return (*lists, values["eps"], [values["groups"]], *(values[k] for k in ("bits", "signed", "rounding", "overflow")))


@pytest.mark.parametrize(("change", "message"), BAD_LAYER)
def test_bad_layer_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(RuntimeError, match=f"fold_bn: .*{message}"):
        ops.fold_bn(*fold_arguments(change))
    with pytest.raises(RuntimeError, match=f"fold_bn_backward: .*{message}"):
        ops.fold_bn_backward(torch.ones(2, 3), VECTOR, *fold_arguments(change))


@pytest.mark.parametrize(("change", "message"), [*BAD_LAYER, *BAD_FORMAT])
def test_bad_argument_of_many_layers_is_named(change: dict[str, Any], message: str) -> None:
    grads = ([torch.ones(2, 3)], [torch.ones(2)])
    with pytest.raises(RuntimeError, match=f"fold_bn_fake_quant: .*{message}"):
        ops.fold_bn_fake_quant(*layers_arguments(change))
    with pytest.raises(RuntimeError, match=f"fold_bn_fake_quant_out: .*{message}"):
        ops.fold_bn_fake_quant_out(*layers_arguments(change), *grads)
    with pytest.raises(RuntimeError, match=f"fold_bn_fake_quant_backward: .*{message}"):
        ops.fold_bn_fake_quant_backward(*grads, *layers_arguments(change))


def test_good_arguments_pass() -> None:
    ops.fold_bn(*fold_arguments({}))
    ops.fold_bn_fake_quant(*layers_arguments({}))


def test_lists_outputs_and_gradients_must_match() -> None:
    good = layers_arguments({})
    with pytest.raises(RuntimeError, match="one entry per weight, 1, got 0"):
        ops.fold_bn_fake_quant(*good[:1], [], *good[2:])
    double = [[*column, *(x.double() for x in column)] for column in good[:6]]
    with pytest.raises(RuntimeError, match="all weights must have one dtype"):
        ops.fold_bn_fake_quant(*double, good[6] * 2, good[7], [0, 0], *good[9:])
    outputs = [
        ([torch.ones(3, 2)], [VECTOR.clone()], "out_weight must have the shape of weight"),
        ([torch.ones(2, 3, dtype=torch.float64)], [VECTOR.clone()], "out_weight must have the dtype of weight"),
        ([torch.ones(3, 2).t()], [VECTOR.clone()], "lie in memory as the dense weight does"),
        ([torch.ones(2, 3)], [torch.ones(4)[::2]], "out_bias must be contiguous"),
        ([torch.ones(2, 3)], [], "one output per weight, 1, got 1 and 0"),
    ]
    for weights, biases, message in outputs:
        with pytest.raises(RuntimeError, match=message):
            ops.fold_bn_fake_quant_out(*good, weights, biases)
    for grad in (torch.ones(3, 2), torch.ones(2, 3, dtype=torch.float64)):
        with pytest.raises(RuntimeError, match="grad_weight must have"):
            ops.fold_bn_fake_quant_backward([grad], [VECTOR], *good)
    with pytest.raises(RuntimeError, match="one gradient per weight, 1, got 0 and 1"):
        ops.fold_bn_fake_quant_backward([], [VECTOR], *good)
    layer = FoldLayer(torch.ones(2, 3).requires_grad_())
    with pytest.raises(RuntimeError, match="out= records no gradient"):
        fold_bn_fake_quant_layers([layer], FixedPoint(8, 0), out=([torch.ones(2, 3)], [torch.ones(2)]))
