# SPDX-License-Identifier: Apache-2.0
"""Masks: applying, counting, checking."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.tiny_training import detector

from yolo_hw.errors import PruneError
from yolo_hw.prune.masks import apply_masks, join_masks, lowest, mask_report

WEIGHT = "blocks.conv_1.conv.weight"


def some_masks(model, share=0.5):
    torch.manual_seed(1)
    return {name: torch.rand(p.shape) >= share for name, p in model.named_parameters() if p.ndim == 4}


def test_masked_weights_become_zero_and_the_others_stay():
    model = detector()
    with torch.no_grad():
        model.get_parameter(WEIGHT)[0, 0, 0, 0] = float("nan")  # a product with the mask would keep it
    masks = some_masks(model)
    masks[WEIGHT][0, 0, 0, 0] = False
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    apply_masks(model, masks)
    for name, parameter in model.named_parameters():
        mask = masks.get(name, torch.ones_like(parameter, dtype=torch.bool))
        assert torch.equal(parameter[mask], before[name][mask])
        assert not parameter[~mask].any()


def test_report_counts_and_finds_what_is_not_zero():
    model = detector()
    masks = some_masks(model)
    masks[WEIGHT][3] = False
    assert not mask_report(model, masks).is_consistent
    apply_masks(model, masks)
    report = mask_report(model, masks)
    assert report.is_consistent
    assert [row.name for row in report.rows] == list(masks)
    for row in report.rows:
        assert row.masked == int((~masks[row.name]).sum())
        assert row.total == masks[row.name].numel()
        assert row.rate == row.masked / row.total
    assert report.rows[1].kept_filters == 23
    assert report.total.masked == sum(row.masked for row in report.rows)
    with torch.no_grad():
        model.get_parameter(WEIGHT)[3, 2, 1, 0] = 1e-30
    assert [row.alive for row in mask_report(model, masks).rows] == [0, 1, 0, 0]
    assert "| blocks.conv_1.conv.weight |" in str(report)
    assert str(report).count("\n") == 1 + len(masks) + 1


def test_joined_masks_keep_what_all_keep():
    a, b = {"x": torch.tensor([True, True, False])}, {"x": torch.tensor([True, False, False]), "y": torch.ones(1) > 0}
    joined = join_masks(a, b)
    assert joined["x"].tolist() == [True, False, False]
    assert joined["y"].tolist() == [True]
    assert a["x"].tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("name", "mask", "message"),
    [
        ("blocks.conv_1.conv.weigth", torch.ones(24, 12, 3, 3) > 0, "did you mean 'blocks.conv_1.conv.weight'"),
        (WEIGHT, torch.ones(24, 12, 3, 3), r"must be bool \[24, 12, 3, 3\], got torch.float32"),
        (WEIGHT, torch.ones(24) > 0, r"got torch.bool \[24\]"),
    ],
)
def test_masks_of_another_model_are_refused(name, mask, message):
    for use in (apply_masks, mask_report):
        with pytest.raises(PruneError, match=message):
            use(detector(), {name: mask})


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.floats(0, 1))
def test_exactly_so_many_of_the_lowest_the_first_of_equals(values, share):
    count = round(share * len(values))
    expected = sorted(range(len(values)), key=lambda i: (values[i], i))[:count]
    assert lowest(torch.tensor(values).float(), count).nonzero()[:, 0].tolist() == sorted(expected)


def test_no_number_has_no_rank():
    with pytest.raises(PruneError, match="NaN"):
        lowest(torch.tensor([1.0, float("nan")]), 1)
