# SPDX-License-Identifier: Apache-2.0
"""Sums of distances equal those of two plain loops, filters that nearly coincide included."""

import numpy as np
import pytest
import torch

from yolo_hw.prune import fpgm
from yolo_hw.prune.fpgm import distance_sums


def loops(weight):
    filters = weight.double().flatten(1).numpy()
    return np.array([sum(np.sqrt(np.sum((a - b) ** 2)) for b in filters) for a in filters])


@pytest.mark.parametrize("shape", [(1, 3, 3, 3), (7, 5), (40, 16, 1, 1), (37, 4, 3, 3)])
@pytest.mark.parametrize("block", [8, 256])
def test_the_sums_are_those_of_the_definition(shape, block, monkeypatch):
    monkeypatch.setattr(fpgm, "BLOCK", block)
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))
    np.testing.assert_allclose(distance_sums(weight), loops(weight), rtol=1e-12)


@pytest.mark.parametrize("block", [4, 256])
@pytest.mark.parametrize("apart", [1e-3, 1e-6, 1e-9])
def test_close_filters_lose_no_digits(block, apart, monkeypatch):
    """The filters differ far less than they are large, which the product of matrices alone cannot resolve."""
    monkeypatch.setattr(fpgm, "BLOCK", block)
    generator = torch.Generator().manual_seed(3)
    base = torch.randn(1, 64, 3, 3, generator=generator, dtype=torch.float64)
    weight = base + apart * torch.randn(11, 64, 3, 3, generator=generator, dtype=torch.float64)
    np.testing.assert_allclose(distance_sums(weight), loops(weight), rtol=1e-9)


def test_equal_and_zero_filters():
    weight = torch.randn(1, 8, 3, 3, generator=torch.Generator().manual_seed(0)).repeat(6, 1, 1, 1)
    assert distance_sums(weight).tolist() == [0] * 6
    assert distance_sums(torch.zeros(5, 4)).tolist() == [0] * 5
    weight[2] = 0
    norm = float(weight[0].double().norm())
    np.testing.assert_allclose(distance_sums(weight), [norm, norm, 5 * norm, norm, norm, norm], rtol=1e-14)


def test_a_filter_and_its_negative_are_far_apart():
    a = torch.tensor([[3.0, 4.0]])
    np.testing.assert_allclose(distance_sums(torch.cat([a, -a])), [10, 10], rtol=1e-15)


def test_the_filter_at_the_geometric_median_goes_first():
    weight = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1], [0.05, 0.02]])
    assert int(distance_sums(weight).argmin()) == 4
