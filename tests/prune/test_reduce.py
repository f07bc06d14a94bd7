# SPDX-License-Identifier: Apache-2.0
"""Scores of layers become scores of units, on scales that no constant or empty layer breaks."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from yolo_hw.errors import PruneError
from yolo_hw.prune.reduce import Normalisation, Reduction, normalise, reduce_scores

SCORES = st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=30)

ORACLES = {
    Normalisation.NONE: lambda s: s,
    Normalisation.MEAN: lambda s: s / np.abs(s).mean(),
    Normalisation.MAX: lambda s: s / np.abs(s).max(),
    Normalisation.SUM: lambda s: s / np.abs(s).sum(),
    Normalisation.L2: lambda s: s / np.linalg.norm(s),
    Normalisation.STANDARD: lambda s: (s - s.mean()) / s.std(),
    Normalisation.LINEAR: lambda s: (s - s.min()) / (s.max() - s.min()),
    Normalisation.SOFTMAX: lambda s: np.exp(s) / np.exp(s).sum(),
}


@pytest.mark.parametrize("how", Normalisation)
def test_scales_follow_their_formula(how):
    scores = np.array([3.0, -1.0, 0.5, 7.0, 0.0])
    np.testing.assert_allclose(normalise(scores, how), ORACLES[how](scores), rtol=1e-14, atol=1e-16)
    np.testing.assert_array_equal(normalise(torch.from_numpy(scores), how), normalise(scores, how))


@pytest.mark.parametrize("how", Normalisation)
@given(scores=SCORES)
def test_scales_are_finite_and_keep_the_order(how, scores):
    found = normalise(np.array(scores), how)
    assert np.isfinite(found).all()
    order = np.argsort(scores, kind="stable")
    assert (np.diff(found[order]) >= 0).all()
    equal = np.diff(np.array(scores)[order]) == 0
    assert (np.diff(found[order])[equal] == 0).all()


CONSTANT = {
    Normalisation.MEAN: 1,
    Normalisation.MAX: 1,
    Normalisation.SUM: 1 / 7,
    Normalisation.L2: 1 / np.sqrt(7),
    Normalisation.STANDARD: 0,
    Normalisation.LINEAR: 0.5,
    Normalisation.SOFTMAX: 1 / 7,
}


@pytest.mark.parametrize("how", CONSTANT)
@pytest.mark.parametrize("value", [0.1, 3.0, 1e-300, 5e-324, 1e300])
def test_constant_scores_have_a_defined_scale(how, value):
    """The computed variance of seven times 0.1 is not zero, and the square of 1e300 not finite."""
    np.testing.assert_allclose(normalise(np.full(7, value), how), np.full(7, CONSTANT[how]), rtol=1e-15)


@pytest.mark.parametrize("how", Normalisation)
def test_all_zero_scores_stay_zero(how):
    expected = 1 / 7 if how is Normalisation.SOFTMAX else 0
    np.testing.assert_allclose(normalise(np.zeros(7), how), np.full(7, expected), rtol=1e-15)


def test_gaussian_is_another_name_of_standard():
    assert Normalisation("gaussian") is Normalisation.STANDARD
    with pytest.raises(ValueError, match="nothing"):
        Normalisation("nothing")


def by_hand(members, units, how):
    """One unit after the other."""
    scores = []
    for unit in range(units):
        own = [float(s) for values, of in members for s, u in zip(values, of, strict=True) if u == unit]
        scores.append({"sum": sum(own), "mean": sum(own) / len(own), "max": max(own), "first": own[0]}[how.value])
    return scores


@pytest.mark.parametrize("how", Reduction)
def test_reductions_with_several_channels_of_a_unit_in_one_layer(how):
    members = [
        (torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64), np.array([2, 0, 1])),
        (np.array([-10.0, 20.0, 40.0, 5.0, 100.0]), np.array([0, 0, 2, 1, -1])),
    ]
    assert reduce_scores(members, 3, how).tolist() == by_hand(members, 3, how)


@given(st.data())
def test_reductions_equal_those_by_hand(data):
    units = data.draw(st.integers(1, 6))
    members = []
    for _ in range(data.draw(st.integers(1, 4))):
        of = data.draw(st.permutations([*range(units), *data.draw(st.lists(st.integers(-1, units - 1), max_size=5))]))
        values = data.draw(st.lists(st.integers(-100, 100), min_size=len(of), max_size=len(of)))
        members.append((np.array(values, np.float64), np.array(of)))
    for how in Reduction:
        np.testing.assert_allclose(reduce_scores(members, units, how), by_hand(members, units, how), rtol=1e-15)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([], "unit 0 of 3 has no channel"),
        ([(np.ones(2), np.array([0, 2]))], "unit 1 of 3 has no channel"),
        ([(np.ones(3), np.array([0, 1, 3]))], r"units must be -1..2, found 0..3"),
        ([(np.ones(3), np.array([0, -2, 1]))], r"units must be -1..2, found -2..1"),
        ([(np.ones(3), np.array([0, 1]))], "3 scores and 2 units"),
    ],
)
def test_units_without_scores_are_errors(members, message):
    with pytest.raises(PruneError, match=message):
        reduce_scores(members, 3, Reduction.SUM)
