# SPDX-License-Identifier: Apache-2.0
"""A masked model runs with sparse convolutions and gives the same."""

from __future__ import annotations

import copy

import pytest
import torch
from support.tiny_training import detector

from yolo_hw.errors import PruneError
from yolo_hw.nn.sparse_conv import SparseConv2d
from yolo_hw.prune.magnitude import darknet_filters, filter_masks, weight_masks
from yolo_hw.prune.masks import apply_masks
from yolo_hw.prune.patterns import block_masks, group_masks
from yolo_hw.prune.sparse_form import sparse_form

KINDS = {
    "unstructured": lambda m: weight_masks(m, 0.8),
    "2:4": lambda m: group_masks(m, "2:4"),
    "1:4": lambda m: group_masks(m, "1:4"),
    "block(16x1)": lambda m: block_masks(m, 0.7, "block(16x1)"),
    "block(4x1)": lambda m: block_masks(m, 0.7, "block(4x1)"),
    "block(16x4)": lambda m: block_masks(m, 0.7, "block(16x4)"),
}


@pytest.mark.parametrize("pattern", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_outputs_are_those_of_the_masked_model(pattern, dtype):
    model, x = detector().to(dtype).eval(), torch.rand(2, 3, 32, 32, dtype=dtype)
    masks = KINDS[pattern](model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    sparse = sparse_form(model, masks, pattern)
    assert sparse.reports == {}
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    layers = {name: m for name, m in sparse.model.named_modules() if isinstance(m, SparseConv2d)}
    assert set(layers) == {name.removesuffix(".weight") for name, mask in masks.items() if not mask.all()}
    masked = copy.deepcopy(model)
    apply_masks(masked, masks)
    for name, layer in layers.items():
        assert layer.packed.nnz == int(masks[f"{name}.weight"].sum())
        assert torch.equal(layer.packed.to_dense(), masked.get_parameter(f"{name}.weight"))
    tolerance = 1e-5 if dtype is torch.float32 else 1e-12
    for a, b in zip(sparse.model(x), masked(x), strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_kept_weights_that_are_zero_stay_trainable():
    model = detector()
    masks = weight_masks(model, 0.5)
    model.get_parameter("blocks.conv_1.conv.weight").data.zero_()
    layer = sparse_form(model, masks).model.get_submodule("blocks.conv_1.conv")
    assert layer.values.numel() == int(masks["blocks.conv_1.conv.weight"].sum())


def test_a_layer_without_weights_gives_its_bias():
    model, x = detector().eval(), torch.rand(1, 3, 32, 32)
    masks = {"blocks.conv_3.conv.weight": torch.zeros(7, 24, 1, 1, dtype=torch.bool)}
    found = sparse_form(model, masks).model(x)[0]
    expected = model.get_parameter("blocks.conv_3.conv.bias")[None, :, None, None].expand_as(found)
    torch.testing.assert_close(found, expected)


def test_filter_masks_run_with_what_is_left():
    model, x = detector().eval(), torch.rand(1, 3, 32, 32)
    masks = filter_masks(model, 0.4, darknet_filters(model))
    masked = copy.deepcopy(model)
    apply_masks(masked, masks)
    torch.testing.assert_close(sparse_form(model, masks).model(x)[0], masked(x)[0], rtol=1e-5, atol=1e-5)


def test_the_faster_form_is_chosen_where_it_is_measured():
    model, x = detector(), torch.rand(1, 3, 32, 32)
    found = sparse_form(model, weight_masks(model, 0.9), example=x)
    assert set(found.reports) == {f"blocks.conv_{i}.conv" for i in range(4)}
    assert found.reports["blocks.conv_1.conv"].input_shape == (1, 12, 16, 16)
    for name, report in found.reports.items():
        assert found.model.get_submodule(name).backend == report.backend
    assert model.training
    assert found.model.training


@pytest.mark.parametrize(
    ("make", "pattern", "message"),
    [
        (lambda m: weight_masks(m, 0.5), "block(16x1)", r"blocks\.conv_0\.conv: weight does not have the pattern"),
        (lambda m: weight_masks(m, 0.5), "2:4", "does not have the pattern 2:4"),
        (lambda m: weight_masks(m, 0.5), "4x1", "pattern must be"),
        (lambda m: weight_masks(m, 0.0), "unstructured", "must leave out weights of a convolution"),
        (lambda m: {"conv": torch.ones(1) > 0}, "unstructured", "must name a parameter"),
    ],
)
def test_what_cannot_be_sparse_is_refused(make, pattern, message):
    model = detector()
    with pytest.raises(PruneError, match=message):
        sparse_form(model, make(model), pattern)
