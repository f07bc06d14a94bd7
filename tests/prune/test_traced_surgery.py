# SPDX-License-Identifier: Apache-2.0
"""Compact equals masked, in float64, for every architecture of the zoo and every odd way to write channels."""

import io
import json

import numpy as np
import pytest
import torch
from support.random_plans import random_plan
from support.zoo import ZOO, example_input, flat_outputs, make, settle
from support.zoo_odd import PRUNABLE
from torch import fx, nn

from yolo_hw.errors import PruneError
from yolo_hw.nn.resnet import resnet20
from yolo_hw.prune.plan import DeadBias, PrunePlan
from yolo_hw.prune.torch_graph import trace_model
from yolo_hw.prune.traced_surgery import masked_module, prune_traced, rebuild, traced_groups

TOLERANCE = 1e-10
"""Of the largest output; float64 sums of a few hundred terms in another order differ by less than 1e-13."""


def prune(model, plan_of, way="fx", dead_bias=DeadBias.CARRY):
    channels = trace_model(model, example_input(), way)
    pruned = prune_traced(channels, plan_of(traced_groups(channels)), dead_bias)
    return pruned, masked_module(channels, pruned.surgery)


def difference(a, b, x):
    with torch.no_grad():
        wanted, found = flat_outputs(a(x)), flat_outputs(b(x))
    assert wanted.abs().max() > 1e-3
    return float((wanted - found).abs().max() / wanted.abs().max())


def size(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ZOO)
def test_compact_equals_masked(name, seed):
    model = make(name, 16, seed)
    pruned, masked = prune(model, lambda groups: random_plan(groups, seed))
    assert size(pruned.model) < 0.95 * size(model)
    assert difference(masked, pruned.model, example_input(batch=3, seed=seed)) <= TOLERANCE
    assert difference(model, masked, example_input()) > 1e-6, "masking changed nothing"


@pytest.mark.parametrize("name", ZOO)
def test_compact_equals_masked_when_exported(name):
    pruned, masked = prune(make(name, 16), lambda groups: random_plan(groups, 4), "export")
    assert difference(masked, pruned.model, example_input(batch=3)) <= TOLERANCE


@pytest.mark.parametrize("way", ["fx", "export"])
@pytest.mark.parametrize("name", PRUNABLE)
def test_compact_equals_masked_however_the_code_is_written(name, way):
    torch.manual_seed(0)
    model = settle(PRUNABLE[name]())
    for seed in range(3):
        pruned, masked = prune(model, lambda groups, seed=seed: random_plan(groups, seed), way)
        assert difference(masked, pruned.model, example_input(seed=seed)) <= TOLERANCE
        assert {type(model), fx.GraphModule} & set(type(pruned.model).__mro__)


@pytest.mark.parametrize("name", ["resnet_basic", "densenet", "yolov8", "mobilenet_v3"])
def test_zero_channels_fill_up_to_a_multiple(name):
    pruned, masked = prune(make(name, 16), lambda groups: random_plan(groups, 1, multiple=4))
    assert difference(masked, pruned.model, example_input()) <= TOLERANCE
    widths = [m.out_channels for n, m in pruned.model.named_modules() if isinstance(m, nn.Conv2d) and "heads" not in n]
    if name != "yolov8":  # two groups of one convolution may leave carriers of their own
        assert all(width % 4 == 0 for width in widths)


@pytest.mark.parametrize("name", ["resnet_basic", "yolov5", "efficientnet", "layer_scale"])
def test_constants_in_biases_are_exact_but_at_reported_borders(name):
    pruned, masked = prune(make(name, 16), lambda groups: random_plan(groups, 0), dead_bias=DeadBias.TRANSFER)
    error = difference(masked, pruned.model, example_input())
    assert error <= TOLERANCE or (pruned.surgery.inexact and error < 0.5)
    assert bool(pruned.surgery.inexact) == (name in ("resnet_basic", "yolov5"))


def test_the_resnet_with_padded_channels_is_pruned():
    model = settle(resnet20())
    pruned, masked = prune(model, lambda groups: random_plan(groups, 0))
    assert difference(masked, pruned.model, example_input()) <= TOLERANCE
    assert [name for name in pruned.rewritten if not name.startswith("pad")] == []


def test_code_that_needs_no_change_keeps_its_class():
    model = make("resnet_bottleneck", 16)
    pruned, _ = prune(model, lambda groups: random_plan(groups, 0))
    assert type(pruned.model) is type(model)
    assert pruned.rewritten == ()
    assert pruned.model.blocks[0].reduce[0].out_channels == len(pruned.model.blocks[0].reduce[0].weight)


def kept_halves(first, second):
    def plan(groups):
        names = [name for name in groups if name.startswith("stage3.1.open.0")]
        return PrunePlan(groups, dict(zip(names, (np.arange(first), np.arange(second)), strict=True)))

    return plan


def test_halves_of_equal_length_need_no_change_and_others_do():
    model = make("yolov8", 16)
    equal, _ = prune(model, kept_halves(5, 5))
    assert type(equal.model) is type(model)
    unequal, _ = prune(model, kept_halves(3, 7))
    assert isinstance(unequal.model, fx.GraphModule)
    assert unequal.rewritten == ("chunk",)
    assert "torch.functional.split" in unequal.model.code or "torch.split" in unequal.model.code


def test_numbers_that_cannot_be_fitted_are_an_error(monkeypatch):
    """Even where the wrong halves would have shapes that run."""
    monkeypatch.setattr("yolo_hw.prune.traced_rewrite.REWRITES", {})
    with pytest.raises(PruneError, match=r"chunk \(chunk\): its numbers cannot be fitted to the kept channels"):
        prune(make("yolov8", 16), kept_halves(6, 7))
    prune(make("yolov8", 16), kept_halves(6, 6))


def test_the_module_itself_is_not_changed():
    model = make("yolov8", 16)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    prune(model, lambda groups: random_plan(groups, 0))
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["resnet_basic", "yolov8", "yolov8_decoded", "densenet", "shuffle_literal"])
def test_a_state_dict_and_the_document_rebuild_the_model(name):
    pruned, _ = prune(make(name, 16), lambda groups: random_plan(groups, 2))
    file = io.BytesIO()
    torch.save({"state": pruned.model.state_dict(), "plan": json.loads(json.dumps(pruned.document()))}, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    again = rebuild(make(name, 16, seed=7), loaded["plan"])
    again.load_state_dict(loaded["state"])
    assert type(again).__name__ == type(pruned.model).__name__
    assert difference(pruned.model, again, example_input()) == 0


def test_a_document_of_another_format_or_module_is_an_error():
    pruned, _ = prune(make("resnet_basic", 16), lambda groups: random_plan(groups, 2))
    with pytest.raises(PruneError, match="format must be 1, got 2"):
        rebuild(make("resnet_basic", 16), {**pruned.document(), "format": 2})
    with pytest.raises(PruneError, match="there is no group"):
        rebuild(make("resnet_bottleneck", 16), pruned.document())


@pytest.mark.parametrize("name", ["yolov8", "ghostnet", "mobilenet_v3_linear"])
def test_a_pruned_model_trains(name):
    pruned, _ = prune(make(name, 16), lambda groups: random_plan(groups, 0))
    pruned.model.train()
    outputs = pruned.model(example_input(4))
    flat_outputs(outputs).square().sum().backward()
    assert all(parameter.grad is not None for parameter in pruned.model.parameters())


@pytest.mark.parametrize("name", ["yolov8", "flattened_prelu", "layer_scale", "densenet"])
def test_single_precision_and_training_mode(name):
    model = make(name, 16).float().train()
    channels = trace_model(model, example_input().float())
    pruned = prune_traced(channels, random_plan(traced_groups(channels), 0), DeadBias.CARRY)
    assert pruned.model.training
    masked = masked_module(channels, pruned.surgery).eval()
    assert difference(masked, pruned.model.eval(), example_input().float()) < 1e-3
    assert {tensor.dtype for tensor in pruned.model.parameters()} == {torch.float32}


def test_other_image_sizes_still_run():
    pruned, masked = prune(make("yolov8", 16), lambda groups: random_plan(groups, 0))
    x = torch.rand(1, 3, 64, 96, dtype=torch.float64)
    assert difference(masked, pruned.model, x) <= TOLERANCE
