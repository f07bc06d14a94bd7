# SPDX-License-Identifier: Apache-2.0
"""Every criterion equals its definition in plain numpy."""

import numpy as np
import pytest
import torch

from yolo_hw.errors import PruneError
from yolo_hw.prune.importance import IMPORTANCES, MemberTensors, find_importance, score_member


def member(shape=(12, 5, 3, 3), **more):
    return MemberTensors("conv_1", torch.randn(shape, generator=torch.Generator().manual_seed(1)), **more)


def filters(layer):
    return [w.double().numpy() for w in layer.weight]


def lamp_by_definition(layer):
    """Equation 2 of the paper, over squared filter norms: sums over all that come no earlier in ascending order."""
    norms = [float((w**2).sum()) for w in filters(layer)]
    ascending = sorted(range(len(norms)), key=lambda k: (norms[k], k))
    scores = np.zeros(len(norms))
    for place, k in enumerate(ascending):
        rest = sum(norms[j] for j in ascending[place:])
        scores[k] = norms[k] / rest if rest else 0
    return scores


def l2_normalised_by_definition(layer):
    scores = np.array([(w**2).sum() / w.size for w in filters(layer)])
    return scores / np.sqrt((scores**2).sum())


ORACLES = {
    "l1": lambda layer: [np.abs(w).sum() for w in filters(layer)],
    "l2": lambda layer: [np.sqrt((w**2).sum()) for w in filters(layer)],
    "mean-square": lambda layer: [(w**2).mean() for w in filters(layer)],
    "l2-normalised": l2_normalised_by_definition,
    "fpgm": lambda layer: [sum(np.linalg.norm(a - b) for b in filters(layer)) for a in filters(layer)],
    "lamp": lamp_by_definition,
    "nuclear": lambda layer: [np.linalg.svd(w.reshape(w.shape[0], -1), compute_uv=False).sum() for w in filters(layer)],
}


@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize("shape", [(12, 5, 3, 3), (1, 1, 1, 1), (9, 4), (6, 1, 5, 5), (4, 16, 1, 1)])
def test_criteria_of_weights_equal_their_definition(name, shape):
    layer = member(shape)
    scores = score_member(find_importance(name), layer)
    assert scores.dtype == torch.float64
    np.testing.assert_allclose(scores, ORACLES[name](layer), rtol=1e-12)


@pytest.mark.parametrize("name", ORACLES)
def test_a_dead_layer_scores_zero(name):
    layer = MemberTensors("conv_1", torch.zeros(7, 3, 3, 3))
    assert score_member(find_importance(name), layer).tolist() == [0] * 7


def test_every_criterion_is_tested():
    assert set(IMPORTANCES) == {*ORACLES, "bn", "taylor", "taylor-gate", "activation", "random"}


def test_criteria_of_other_tensors():
    numbers = torch.arange(12.0) - 4
    layer = member(gamma=numbers, taylor=numbers + 10, gate=numbers + 20, activation_mean=numbers + 30)
    assert score_member(find_importance("bn"), layer).tolist() == numbers.abs().tolist()
    assert score_member(find_importance("taylor"), layer).tolist() == (numbers + 10).tolist()
    assert score_member(find_importance("taylor-gate"), layer).tolist() == (numbers + 20).tolist()
    assert score_member(find_importance("activation"), layer).tolist() == (numbers + 30).tolist()


@pytest.mark.parametrize(
    ("name", "missing"),
    [("bn", "batch norm"), ("taylor", "taylor"), ("taylor-gate", "gate"), ("activation", "activations")],
)
def test_what_a_layer_lacks_is_named(name, missing):
    with pytest.raises(PruneError, match=rf"conv_1: has no .*{missing}"):
        score_member(find_importance(name), member())


def test_lamp_ranks_the_largest_filter_of_every_layer_above_all_others():
    large, small = member(), MemberTensors("conv_2", member().weight * 1e-6)
    scores = torch.stack([score_member(find_importance("lamp"), layer) for layer in (large, small)])
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-6)
    assert scores.max(1).values.tolist() == [1, 1]
    assert (scores == 1).sum() == 2


def test_lamp_of_equal_filters_leaves_one_at_the_top():
    layer = MemberTensors("conv_1", torch.ones(4, 2))
    np.testing.assert_allclose(score_member(find_importance("lamp"), layer), [1 / 4, 1 / 3, 1 / 2, 1], rtol=1e-15)


def test_random_scores_depend_on_the_seed_and_the_name_only():
    def draw(seed, name):
        return score_member(find_importance("random", seed), MemberTensors(name, torch.ones(50, 2))).tolist()

    assert draw(1, "a") == draw(1, "a")
    assert len({tuple(draw(seed, name)) for seed in (0, 1) for name in ("a", "b")}) == 4
    assert all(0 <= score < 1 for score in draw(1, "a"))


def test_a_callable_is_a_criterion():
    layer = member(gradient=torch.full((12, 5, 3, 3), 2.0))
    scores = score_member(lambda m: (m.gradient * m.weight).flatten(1).abs().sum(1), layer)
    np.testing.assert_allclose(scores, 2 * np.array(ORACLES["l1"](layer)), rtol=1e-5)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (torch.zeros(3), r"must return \[12\] for conv_1, returned \[3\]"),
        ([0.0] * 12, r"must return \[12\] for conv_1, returned list"),
        (torch.tensor([0.0] * 4 + [float("nan")] + [0.0] * 7), "channel 4 of conv_1 has nan"),
        (torch.full((12,), float("inf")), "channel 0 of conv_1 has inf"),
    ],
)
def test_what_a_callable_returns_is_checked(returned, message):
    with pytest.raises(PruneError, match=message):
        score_member(lambda m: returned, member())


def test_an_unknown_criterion_is_an_error_with_the_nearest_name():
    with pytest.raises(PruneError, match=r"must be one of bn, l1, .*did you mean 'fpgm'"):
        find_importance("fpg")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"weight": torch.zeros(3)}, r"weight must be \[K, C, ...\], it is \[3\]"),
        ({"weight": torch.zeros(0, 3)}, "weight must be"),
        ({"gamma": torch.zeros(11)}, r"gamma must be \[12\], it is \[11\]"),
        ({"activation_mean": torch.zeros(12, 1)}, r"activation_mean must be \[12\], it is \[12, 1\]"),
        ({"gradient": torch.zeros(12, 5)}, r"gradient must be \[12, 5, 3, 3\]"),
    ],
)
def test_shapes_are_checked(fields, message):
    with pytest.raises(PruneError, match=message):
        MemberTensors(**{"name": "conv_1", "weight": member().weight, **fields})
