# SPDX-License-Identifier: Apache-2.0
"""Masks by magnitude: exact counts, scores against loops, what stays."""

from __future__ import annotations

import pytest
import torch
from support.tiny_training import detector
from torch import nn

from yolo_hw.errors import PruneError
from yolo_hw.nn.resnet import resnet18
from yolo_hw.prune.magnitude import (
    FilterLayer,
    FilterOptions,
    FilterScore,
    ShareOf,
    darknet_filters,
    filter_masks,
    filter_scores,
    traced_filters,
    weight_masks,
)
from yolo_hw.prune.masks import apply_masks
from yolo_hw.prune.ranking import Scope


def masked(masks):
    return sum(int((~mask).sum()) for mask in masks.values())


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.37, 0.5, 0.9, 0.999999])
@pytest.mark.parametrize("scope", [Scope.GLOBAL, Scope.LOCAL])
@pytest.mark.parametrize("ties", [False, True])
def test_weights_go_by_one_threshold_with_an_exact_count(ratio, scope, ties):
    model = detector()
    weights = {name: p.detach() for name, p in model.named_parameters() if p.ndim >= 2}
    if ties:
        for weight in weights.values():
            weight.copy_((weight * 20).round() / 20)
    masks = weight_masks(model, ratio, scope=scope)
    assert masks.keys() == weights.keys()
    groups = [list(masks)] if scope is Scope.GLOBAL else [[name] for name in masks]
    for names in groups:
        sizes = torch.cat([weights[name].abs().reshape(-1) for name in names])
        kept = torch.cat([masks[name].reshape(-1) for name in names])
        count = min(round(ratio * len(sizes)), len(sizes) - 1)
        assert int((~kept).sum()) == count
        if count:
            assert sizes[~kept].max() <= sizes[kept].min()


def test_only_the_named_weights_are_compared():
    masks = weight_masks(detector(), 0.5, ["blocks.conv_[01]"])
    assert list(masks) == ["blocks.conv_0.conv.weight", "blocks.conv_1.conv.weight"]
    assert masked(masks) == round(0.5 * (12 * 27 + 24 * 108))


@pytest.mark.parametrize("ratio", [1.0, 1.5, -0.1, float("nan")])
def test_ratio_must_leave_something(ratio):
    model = detector()
    with pytest.raises(PruneError, match=r"ratio must be in \[0, 1\)"):
        weight_masks(model, ratio)
    with pytest.raises(PruneError, match=r"ratio must be in \[0, 1\)"):
        filter_masks(model, ratio, darknet_filters(model))


def test_unknown_name_and_no_number_are_refused():
    model = detector()
    with pytest.raises(PruneError, match=r"'blocks\.conv_9' must name a weight"):
        weight_masks(model, 0.5, ["blocks.conv_9"])
    with torch.no_grad():
        model.get_parameter("blocks.conv_0.conv.weight")[0, 0, 0, 0] = float("nan")
    with pytest.raises(PruneError, match="NaN"):
        weight_masks(model, 0.5)


def one_at_a_time(weights):
    """The order in which filters go when scores are taken anew after each, by a plain loop."""
    squares = [w.double().flatten(1).square().mean(1) for w in weights]
    left = [list(range(len(s))) for s in squares]
    order = []
    while any(len(rows) > 1 for rows in left):
        best = None
        for layer, rows in enumerate(left):
            norm = squares[layer][rows].square().sum().sqrt()
            for row in rows if len(rows) > 1 else []:
                score = float(squares[layer][row] / norm)
                if best is None or score < best[0]:
                    best = (score, layer, row)
        _, layer, row = best
        left[layer].remove(row)
        order.append((layer, row))
    return order


def test_one_filter_at_a_time_needs_no_loop():
    torch.manual_seed(0)
    weights = [torch.randn(6, 3, 3, 3) * 3, torch.randn(9, 6, 1, 1), torch.rand(4, 9, 3, 3)]
    model = nn.Sequential(*(nn.Conv2d(w.shape[1], len(w), w.shape[2], bias=False) for w in weights))
    for conv, weight in zip(model, weights, strict=True):
        conv.weight.data.copy_(weight)
    layers = [FilterLayer(str(i), None, False) for i in range(3)]
    order = one_at_a_time(weights)
    options = FilterOptions(score=FilterScore.REMAINING_NORM)
    for count in range(len(order) + 1):
        masks = filter_masks(model, count / 19, layers, options)
        gone = {(i, row) for i in range(3) for row in range(len(weights[i])) if not masks[f"{i}.weight"][row].any()}
        assert gone == set(order[:count]), count


def test_scores_are_mean_squares_over_the_figure_of_the_layer():
    weight = torch.tensor([[1.0, 1.0], [2.0, 0.0], [0.0, 0.0]])[:, :, None, None]
    squares = torch.tensor([1.0, 2.0, 0.0]).double()
    torch.testing.assert_close(filter_scores(weight), squares / 5**0.5)
    torch.testing.assert_close(filter_scores(weight, FilterScore.LAYER_MAX), squares / 2)
    remaining = torch.tensor([1 / 5**0.5, 1.0, 0.0]).double()
    torch.testing.assert_close(filter_scores(weight, FilterScore.REMAINING_NORM), remaining)
    for score in FilterScore:
        assert filter_scores(torch.zeros(3, 2, 1, 1), score).tolist() == [0, 0, 0]


@pytest.mark.parametrize("score", list(FilterScore))
@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.5, 0.9])
def test_filters_go_with_their_batch_norm_and_in_exact_number(ratio, score):
    model = detector().eval()
    masks = filter_masks(model, ratio, darknet_filters(model), FilterOptions(score=score))
    names = [name for name in masks if name.endswith("conv.weight")]
    assert names == [f"blocks.conv_{i}.conv.weight" for i in range(3)]  # conv_3 is the head
    gone = 0
    for name in names:
        kept = masks[name].flatten(1)
        assert torch.equal(kept.any(1), kept.all(1))
        assert kept.any()
        gone += int((~kept[:, 0]).sum())
        for role in ("weight", "bias"):
            assert torch.equal(masks[name.replace("conv.weight", f"bn.{role}")], kept[:, 0])
    assert gone == round(ratio * 60)
    apply_masks(model, masks)
    maps = model.blocks["conv_0"]([torch.rand(1, 3, 32, 32)])
    assert torch.equal(maps.detach().flatten(2).abs().amax((0, 2)) == 0, ~masks["blocks.conv_0.bn.weight"])


def test_ties_and_zeros_keep_the_exact_count_and_a_filter_in_each_layer():
    model = detector()
    for name, parameter in model.named_parameters():
        if name.endswith("conv.weight"):
            parameter.data.fill_(0.0 if "conv_1" in name else 0.5)
    masks = filter_masks(model, 0.9, darknet_filters(model))
    rows = [masks[f"blocks.conv_{i}.conv.weight"].flatten(1).any(1) for i in range(3)]
    assert sum(int((~row).sum()) for row in rows) == 54
    assert rows[1].nonzero()[:, 0].tolist() == [23]  # of equal ones the last stays


def test_what_is_protected_stays():
    model = detector()
    layers = darknet_filters(model)
    masks = filter_masks(model, 0.5, layers, FilterOptions(protect_first=1, exclude=("blocks.conv_2",)))
    assert list(masks) == [f"blocks.conv_1.{role}" for role in ("conv.weight", "bn.weight", "bn.bias")]
    assert int(masks["blocks.conv_1.bn.weight"].sum()) == 12
    with_head = filter_masks(model, 0.5, layers, FilterOptions(protect_first=3, heads=True))
    assert list(with_head) == ["blocks.conv_3.conv.weight", "blocks.conv_3.conv.bias"]


def test_the_budget_can_be_weights():
    model = detector()
    layers = darknet_filters(model)
    total = sum(model.get_parameter(f"{layer.conv}.weight").numel() for layer in layers if not layer.is_head)
    for ratio in (0.0, 0.2, 0.6):
        masks = filter_masks(model, ratio, layers, FilterOptions(share_of=ShareOf.WEIGHTS))
        gone = masked({name: mask for name, mask in masks.items() if mask.ndim == 4})
        assert ratio * total <= gone < ratio * total + 216 + (ratio == 0)
        assert ratio > 0 or gone == 0


def test_what_cannot_be_met_is_refused():
    model = detector()
    layers = darknet_filters(model)
    for budget in ShareOf:
        with pytest.raises(PruneError, match="may: every layer keeps its best"):
            filter_masks(model, 0.99, layers, FilterOptions(share_of=budget))
    with pytest.raises(PruneError, match="of 4, 3 are excluded and 1 are heads"):
        filter_masks(model, 0.5, layers, FilterOptions(protect_first=3))
    with pytest.raises(PruneError, match=r"'blocks\.conv_7' must name a convolution"):
        filter_masks(model, 0.5, layers, FilterOptions(exclude=("blocks.conv_7",)))
    with pytest.raises(PruneError, match="protect_first must be at least 0"):
        FilterOptions(protect_first=-1)


def test_tracing_finds_what_the_description_says():
    model = detector()
    assert traced_filters(model, torch.zeros(1, 3, 32, 32)) == darknet_filters(model)
    assert model.training


def test_tracing_pairs_every_convolution_of_a_resnet_with_its_norm():
    model = resnet18()
    found = traced_filters(model, torch.zeros(1, 3, 32, 32))
    assert len(found) == sum(isinstance(m, nn.Conv2d) for m in model.modules())
    assert all(layer.norm is not None and not layer.is_head for layer in found)
    for layer in found:
        assert model.get_submodule(layer.norm).num_features == model.get_submodule(layer.conv).out_channels
    assert len({layer.norm for layer in found}) == len(found)
