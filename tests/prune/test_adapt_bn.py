# SPDX-License-Identifier: Apache-2.0
"""Adaptive batch norm: exact averages, deterministic, nothing else of the model touched."""

import copy

import pytest
import torch
from support.searches import image_batches, residual_detector
from torch import nn

from yolo_hw.errors import PruneError
from yolo_hw.prune.adapt_bn import adapt_batch_norms


def test_statistics_are_the_average_over_batches_weighted_by_images():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 4, 1), nn.BatchNorm2d(4))
    model = model.double()
    batches = [torch.rand(n, 3, 8, 8, dtype=torch.float64) for n in (4, 4, 1)]
    means, variances = [], []
    with torch.no_grad():
        for batch in batches:
            first = model[0](batch)
            inner = model[3](torch.relu(nn.functional.batch_norm(first, None, None, *model[1].parameters(), True)))
            for norm, y in ((0, first), (1, inner)):
                means.append((norm, len(batch), y.mean((0, 2, 3))))
                variances.append((norm, len(batch), y.var((0, 2, 3))))
    assert adapt_batch_norms(model.train(), batches) is model
    for i, norm in enumerate((model[1], model[4])):
        for found, parts in ((norm.running_mean, means), (norm.running_var, variances)):
            expected = sum(n * value for which, n, value in parts if which == i) / 9
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert not any(m.training for m in model.modules())
    assert [m.momentum for m in (model[1], model[4])] == [0.1, 0.1]


def test_it_is_repeatable_forgets_the_past_and_changes_statistics_only():
    model, other = residual_detector(), residual_detector()
    for norm in (m for m in other.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_mean.fill_(7)
        norm.running_var.fill_(9)
    before = copy.deepcopy(model.state_dict())
    adapt_batch_norms(model, image_batches())
    adapt_batch_norms(other, image_batches())
    for key, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key
        assert torch.equal(value, before[key]) != ("running" in key or "num_batches" in key), key


def test_dropout_stays_off_and_batches_take_the_models_type():
    model = nn.Sequential(nn.Dropout(0.9), nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)).double()
    adapt_batch_norms(model, image_batches())
    expected = torch.stack([model[1](batch.double()).mean((0, 2, 3)) for batch in image_batches()]).mean(0)
    torch.testing.assert_close(model[2].running_mean, expected)


def test_what_cannot_adapt_is_refused():
    with pytest.raises(PruneError, match="must have batch norms with running statistics, it has none"):
        adapt_batch_norms(nn.Conv2d(3, 2, 1), image_batches())
    with pytest.raises(PruneError, match="at least one batch of images is needed"):
        adapt_batch_norms(residual_detector(), [])
    model = nn.Sequential(nn.Conv2d(3, 2, 8), nn.BatchNorm2d(2))
    with pytest.raises(PruneError, match=r"a single value per channel of a batch \[1, 3, 8, 8\]"):
        adapt_batch_norms(model.train(), [torch.rand(1, 3, 8, 8)])
    assert not model[1].training
    assert model[1].momentum == 0.1
    with pytest.raises(ValueError, match="expected 4D"):
        adapt_batch_norms(nn.Sequential(nn.Identity(), nn.BatchNorm2d(2)), [torch.rand(1, 2, 3)])
