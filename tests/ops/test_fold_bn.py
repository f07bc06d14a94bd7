# SPDX-License-Identifier: Apache-2.0
"""The compiled batch-norm folding equals the reference in every bit, for every layer kind, memory order and mode."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from support.cpu_paths import results_on_every_path
from support.fold_layers import DEVICES, DTYPES, KINDS, MODES, assert_same_bits, make_layer, on_cpu
from torch import Tensor

from yolo_hw.fixedpoint import FixedPoint
from yolo_hw.ops import fake_quant_pow2, reference_fold_bn
from yolo_hw.ops.fold_bn import BatchNorm, FoldLayer, fold_bn, fold_bn_fake_quant, fold_bn_fake_quant_layers


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_table_by_hand(device: str, dtype: torch.dtype) -> None:
    def vector(*values: float) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=device)

    # var + eps = 4, 1, 0.25, 0.25: f = gamma / (2, 1, 0.5, 0.5); the last variance is negative and counts as zero.
    norm = BatchNorm(vector(4, -1, 1, 2), vector(1, 2, 3, 4), vector(0.5, -1, 2, 1), vector(3.75, 0.75, 0, -9))
    weight = vector(1, -2, 3, 0.5, 0.25, -1, 0.75, 7).reshape(4, 2)
    folded, bias = fold_bn(weight, norm, vector(0, 1, 2, 3), eps=0.25)
    assert folded.tolist() == [[2, -4], [-3, -0.5], [0.5, -2], [3, 28]]
    assert bias.tolist() == [1 + 2 * -0.5, 2 - 1 * 2, 3 + 2 * 0, 4 + 4 * 2]
    layer = FoldLayer(weight, norm, frac=torch.tensor([0, 1, 0, -2], dtype=torch.int32, device=device))
    quantised, bias = fold_bn_fake_quant(layer, FixedPoint(4, 0), eps=0.25)
    assert quantised.tolist() == [[2, -4], [-3, -0.5], [1, -2], [4, 28]]  # 0.5 rounds up, 3 / 4 to 1, 28 / 4 to 7
    assert bias.tolist() == [1 - 1, 2 - 1, 3 - 4, 4 - 4]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bias", [True, False])
def test_fold_equals_reference(device: str, dtype: torch.dtype, kind: str, bias: bool) -> None:
    layer = make_layer(kind, dtype, bias=bias, device=device)
    host = on_cpu(layer)
    assert layer.norm is not None
    assert host.norm is not None
    found = fold_bn(layer.weight, layer.norm, layer.bias, transposed_groups=layer.transposed_groups)
    wanted = reference_fold_bn.fold_bn(host.weight, host.norm, host.bias, transposed_groups=host.transposed_groups)
    assert_same_bits(found, wanted)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_fused_equals_reference_and_the_two_steps(device: str, dtype: torch.dtype, kind: str) -> None:
    layer = make_layer(kind, dtype, device=device)
    fmt = FixedPoint(5, 0)
    for rounding, overflow in MODES:
        found = fold_bn_fake_quant(layer, fmt, rounding, overflow)
        assert_same_bits(found, reference_fold_bn.fold_bn_fake_quant(on_cpu(layer), fmt, rounding, overflow))
    if not layer.transposed_groups:
        assert layer.norm is not None
        folded, _ = fold_bn(layer.weight, layer.norm, layer.bias)
        assert_same_bits((found[0],), (fake_quant_pow2(folded, fmt, rounding, overflow, frac=layer.frac).cpu(),))


@pytest.mark.parametrize("device", DEVICES)
def test_layers_in_one_call_equal_single_calls(device: str) -> None:
    layers = [make_layer(kind, torch.float32, device=device, seed=i) for i, kind in enumerate(KINDS)]
    layers[1] = layers[1]._replace(norm=None)
    layers[3] = layers[3]._replace(norm=None, bias=None)
    layers[4] = layers[4]._replace(frac=None, bias=None)
    fmt = FixedPoint(8, 6)
    weights, biases = fold_bn_fake_quant_layers(layers, fmt)
    for layer, weight, bias in zip(layers, weights, biases, strict=True):
        assert_same_bits((weight.cpu(), bias.cpu()), tuple(x.cpu() for x in fold_bn_fake_quant(layer, fmt)))
    head = layers[1]
    assert_same_bits((weights[1],), (fake_quant_pow2(head.weight, fmt, frac=head.frac).cpu(),))
    assert head.bias is not None
    assert torch.equal(biases[1], head.bias)
    assert torch.equal(biases[3], torch.zeros_like(biases[3]))
    for rounding, overflow in MODES:
        out = ([torch.full_like(w, math.nan) for w in weights], [torch.full_like(b, math.nan) for b in biases])
        assert fold_bn_fake_quant_layers(layers, fmt, rounding, overflow, out=out) is out
        fresh = fold_bn_fake_quant_layers(layers, fmt, rounding, overflow)
        for a, b in zip(out[0] + out[1], fresh[0] + fresh[1], strict=True):
            assert_same_bits((a,), (b.cpu(),))
    assert fold_bn_fake_quant_layers([], fmt) == ([], [])


@pytest.mark.parametrize("device", DEVICES)
def test_memory_order_is_kept_or_made_contiguous(device: str) -> None:
    layer = make_layer("long", torch.float32, device=device)
    want = fold_bn_fake_quant(layer, FixedPoint(5, 0))[0]
    last = layer.weight.to(memory_format=torch.channels_last)
    got = fold_bn_fake_quant(layer._replace(weight=last), FixedPoint(5, 0))[0]
    assert got.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(got, want)
    for strided in (
        layer.weight.transpose(2, 3).contiguous().transpose(2, 3),
        layer.weight.repeat(1, 1, 1, 2)[..., :3],
    ):
        got = fold_bn_fake_quant(layer._replace(weight=strided), FixedPoint(5, 0))[0]
        assert got.is_contiguous()
        assert torch.equal(got, want)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_hard_statistics_give_no_nan(device: str, dtype: torch.dtype) -> None:
    """Zero, negative and denormal variances, dead channels: docs/numerics.md section 4."""
    tiny = torch.finfo(dtype).tiny
    var = torch.tensor([0.0, -0.0, -1.0, -1e30, tiny / 4, 1e30], dtype=dtype, device=device)
    one = torch.ones_like(var)
    for gamma in (one, torch.zeros_like(one), one * tiny / 2):
        norm = BatchNorm(gamma, one, one, var)
        layer = FoldLayer(torch.ones(6, 3, dtype=dtype, device=device), norm)
        folded, bias = fold_bn(layer.weight, norm)
        quantised, _ = fold_bn_fake_quant(layer, FixedPoint(8, 0))
        assert all(bool(x.isfinite().all()) for x in (folded, bias, quantised))
        assert torch.equal(folded[1:5], folded[:1].expand(4, 3))
    lost = norm._replace(var=var + math.nan)
    assert fold_bn(layer.weight, lost)[0].isnan().all()


@pytest.mark.parametrize("device", DEVICES)
def test_empty_weights(device: str) -> None:
    norm = BatchNorm(*torch.ones(4, 3, device=device))
    weight, bias = fold_bn_fake_quant(
        FoldLayer(torch.zeros(3, 0, 3, 3, device=device), norm), FixedPoint(8, 0), eps=3.0
    )
    assert weight.shape == (3, 0, 3, 3)
    assert bias.tolist() == [0.5] * 3
    none = BatchNorm(*torch.ones(4, 0, device=device))
    assert fold_bn(torch.zeros(0, 2, device=device), none)[0].shape == (0, 2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_threads_and_instruction_sets_do_not_change_a_bit(dtype: torch.dtype) -> None:
    layers = [make_layer(kind, dtype, seed=i) for i, kind in enumerate(KINDS)]
    generator = torch.Generator().manual_seed(3)
    layers.append(layers[1]._replace(weight=torch.randn(3, 17001, generator=generator, dtype=dtype)))
    for fmt, (rounding, overflow) in itertools.product((FixedPoint(5, 0), FixedPoint(7, 0, signed=False)), MODES):

        def run(fmt: FixedPoint = fmt, rounding: Any = rounding, overflow: Any = overflow) -> list[Tensor]:
            weights = [layer.weight.clone().requires_grad_() for layer in layers]
            norms = [BatchNorm(*(x.clone().requires_grad_() for x in layer.norm or ())) for layer in layers]
            leaves = [layer._replace(weight=w, norm=n) for layer, w, n in zip(layers, weights, norms, strict=True)]
            weights_out, biases_out = fold_bn_fake_quant_layers(leaves, fmt, rounding, overflow)
            folded = [*weights_out, *biases_out]
            torch.autograd.backward(folded, [(x * x).detach() for x in folded])
            grads = [x.grad for x in [*weights, *(x for norm in norms for x in norm)]]
            return [*folded, *(g for g in grads if g is not None)]

        first, *others = results_on_every_path(run)
        assert len(first) == 7 * len(layers)
        for other in others:
            assert_same_bits(tuple(other), tuple(first))
