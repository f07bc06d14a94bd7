# SPDX-License-Identifier: Apache-2.0
"""Selections are exact, regular, repeatable and no larger than a budget allows, with ties and zeros, too."""

import math
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolo_hw.errors import PruneError
from yolo_hw.prune.select import (
    Budget,
    Candidate,
    Narrow,
    Policy,
    Regular,
    Rounding,
    Scope,
    select_budget,
    select_ratio,
    select_votes,
    votes_of,
)

FREE = Regular()
"""With multiples of 1 nothing is rounded."""


@st.composite
def groups(draw, multiples=(1, 2, 4, 8, 16, 32), most=6):
    """Candidates with few different scores, so that ties are the rule; sometimes all are zero."""
    levels = draw(st.sampled_from([[0.0], [0.0, -0.0, 1.0], [0.0, 0.5, 1.0, 2.0], np.linspace(0, 1, 97).tolist()]))
    multiple = draw(st.sampled_from(multiples))
    found = []
    for i in range(draw(st.integers(1, most))):
        scores = draw(st.lists(st.sampled_from(levels), min_size=1, max_size=70))
        minimum, key = draw(st.sampled_from([1, 1, 3, 10])), draw(st.sampled_from("ab"))
        found.append(Candidate(f"g{i}", np.array(scores), multiple, minimum, key))
    return found


ratios = st.one_of(st.floats(0, 1, exclude_max=True), st.integers(0, 99).map(lambda n: n / 100))
regulars = st.builds(Regular, st.sampled_from(Rounding), st.sampled_from([Narrow.KEEP, Narrow.PAD]))


def ranked_alone(candidates, ratio, scope):
    """Return what the ranking keeps, by sorting plain tuples: the first of equal scores stays."""
    keys = {
        Scope.GLOBAL: lambda i: 0,
        Scope.LOCAL: lambda i: i,
        Scope.ISOMORPHIC: lambda i: candidates[i].shape_key,
    }
    kept = {candidate.name: [] for candidate in candidates}
    for key in {keys[scope](i) for i in range(len(candidates))}:
        members = [i for i in range(len(candidates)) if keys[scope](i) == key]
        units = [(-s, i, unit) for i in members for unit, s in enumerate(candidates[i].scores.tolist())]
        stay = len(units) - math.floor(len(units) * Fraction(repr(ratio)))
        for _, i, unit in sorted(units)[:stay]:
            kept[candidates[i].name].append(unit)
    return {name: sorted(units) for name, units in kept.items()}


@given(groups(multiples=(1,)), ratios, st.sampled_from(Scope))
def test_a_ratio_removes_exactly_its_share(candidates, ratio, scope):
    found = select_ratio(candidates, ratio, scope, FREE)
    for candidate in candidates:
        alone = ranked_alone(candidates, ratio, scope)[candidate.name]
        kept = found.kept[candidate.name]
        assert kept.dtype == np.int64
        if len(alone) >= min(candidate.minimum, candidate.units):
            assert kept.tolist() == alone
            assert candidate.name not in found.reasons
        else:
            assert len(kept) == min(candidate.minimum, candidate.units)
            assert set(alone) <= set(kept.tolist())
            assert found.reasons[candidate.name].startswith(f"raised from {len(alone)} to {len(kept)}")


def check_regular(candidates, selection, regular):
    """What holds for every selection, however it came to be."""
    assert list(selection.kept) == [candidate.name for candidate in candidates]
    for c in candidates:
        kept = selection.kept[c.name]
        real = kept[kept >= 0]
        assert real.tolist() == sorted(set(real.tolist()))
        assert len(real) >= 1
        assert real[-1] < c.units
        assert kept[: len(real)].tolist() == real.tolist()
        assert (kept[len(real) :] == -1).all()
        assert len(real) == min(len(kept), c.units)
        if regular.narrow is Narrow.KEEP and c.units < c.multiple:
            assert len(kept) == c.units
            assert c.name in selection.reasons
        else:
            assert len(kept) % c.multiple == 0
        if regular.narrow is not Narrow.PAD:
            assert (kept >= 0).all()


def check_best(candidate, kept):
    """No unit that went has a higher score than one that stays, and of equal ones the first stayed."""
    stays = np.isin(np.arange(candidate.units), kept)
    order = sorted(range(candidate.units), key=lambda unit: (-candidate.scores[unit], unit))
    assert stays[order].tolist() == sorted(stays.tolist(), reverse=True)


@given(groups(), ratios, st.sampled_from(Scope), regulars)
def test_counts_are_regular_with_ties_and_zeros(candidates, ratio, scope, regular):
    found = select_ratio(candidates, ratio, scope, regular)
    check_regular(candidates, found, regular)
    alone = ranked_alone(candidates, ratio, scope)
    for candidate in candidates:
        kept = found.kept[candidate.name]
        check_best(candidate, kept)
        if len(kept) != len(alone[candidate.name]) or -1 in kept:
            assert candidate.name in found.reasons
        elif len(kept) % candidate.multiple == 0:
            assert candidate.name not in found.reasons
        if regular.rounding is Rounding.UP:
            whole = candidate.units // candidate.multiple * candidate.multiple
            limit = candidate.units if regular.narrow is Narrow.PAD else whole
            assert len(kept) >= min(len(alone[candidate.name]), limit)


@pytest.mark.parametrize("multiple", [1, 2, 4, 8, 16, 32])
@pytest.mark.parametrize("scope", Scope)
def test_all_zero_scores_keep_their_multiple(multiple, scope):
    candidates = [Candidate(f"g{i}", np.zeros(128), multiple) for i in range(3)]
    found = select_ratio(candidates, 0.6, scope)
    check_regular(candidates, found, FREE)
    if scope is Scope.LOCAL:
        expected = -(-(128 - 76) // multiple) * multiple
        assert found.counts == {f"g{i}": expected for i in range(3)}
        assert all(kept.tolist() == list(range(expected)) for kept in found.kept.values())


@pytest.mark.parametrize(("ratio", "gone"), [(0.29, 29), (0.57, 57), (0.58, 58), (0.07, 7), (0.289, 28), (0.999, 99)])
def test_a_ratio_is_the_number_that_was_typed(ratio, gone):
    """0.29 * 100 is 28.999999999999996 in floating point."""
    candidate = Candidate("g", np.arange(100.0))
    assert select_ratio([candidate], ratio).kept["g"].tolist() == list(range(gone, 100))


def test_ratios_of_each_group():
    candidates = [Candidate(name, np.arange(10.0)) for name in "abc"]
    found = select_ratio(candidates, {"b": 0.5, "a": 0.0, "c": 0.93}, Scope.LOCAL)
    assert found.counts == {"a": 10, "b": 5, "c": 1}
    assert found.reasons == {}


def test_scopes_differ():
    scores = {"big": [10.0, 11, 12, 13], "small": [1.0, 2, 3, 4], "other": [0.1, 0.2, 0.3, 20]}
    candidates = [Candidate(n, np.array(s), shape_key=n == "other") for n, s in scores.items()]
    assert select_ratio(candidates, 0.5, Scope.LOCAL).counts == {"big": 2, "small": 2, "other": 2}
    assert select_ratio(candidates, 0.5, Scope.GLOBAL).counts == {"big": 4, "small": 1, "other": 1}
    found = select_ratio(candidates, 0.5, Scope.ISOMORPHIC)
    assert found.counts == {"big": 4, "small": 1, "other": 2}
    assert found.reasons == {"small": "raised from 0 to 1 (at least 1)"}


WEIGHTS = np.array([7.0, 1.0, 3.0, 2.0, 5.0, 4.0])


def linear_cost(counts):
    return float(sum(n * WEIGHTS[int(name[1:])] for name, n in counts.items()))


def product_cost(counts):
    """Like a chain of layers: a count multiplies its neighbours."""
    widths = [3, *counts.values(), 5]
    return float(sum(a * b for a, b in pairwise(widths)))


def all_prefixes(candidates, cost, scope, regular):
    """Return the counts and costs of every length of the order, found by plain sorting of (share, -class, ...)."""
    keys = {Scope.GLOBAL: lambda i: 0, Scope.LOCAL: lambda i: i, Scope.ISOMORPHIC: lambda i: candidates[i].shape_key}
    classes = list(dict.fromkeys(keys[scope](i) for i in range(len(candidates))))
    events = []
    for place, key in enumerate(classes):
        members = [i for i in range(len(candidates)) if keys[scope](i) == key]
        units = sorted((s, -i, -unit) for i in members for unit, s in enumerate(candidates[i].scores.tolist()))
        events += [(Fraction(n + 1, len(units)), -place, n, -i) for n, (_, i, _) in enumerate(units)]
    left = [candidate.units for candidate in candidates]
    states = []
    for event in [None, *sorted(events)]:
        if event is not None:
            left[event[3]] -= 1
        counts = {c.name: c.width.regular_count(n, regular) for c, n in zip(candidates, left, strict=True)}
        states.append((counts, cost(counts)))
    return states


@given(groups(), st.floats(0.05, 1), st.sampled_from(Scope), regulars, st.sampled_from([linear_cost, product_cost]))
def test_a_budget_is_met_and_one_unit_more_would_not_fit(candidates, share, scope, regular, cost):
    states = all_prefixes(candidates, cost, scope, regular)
    full = cost({candidate.name: candidate.units for candidate in candidates})
    budget = Budget("macs", share, relative=True)
    if states[-1][1] > share * full:
        with pytest.raises(PruneError, match=r"budget of macs: .* the least these groups can reach is"):
            select_budget(candidates, budget, cost, scope, regular)
        return
    found = select_budget(candidates, budget, cost, scope, regular)
    check_regular(candidates, found, regular)
    assert cost(found.counts) <= share * full
    assert found.counts == next(counts for counts, price in states if price <= share * full)
    for candidate in candidates:
        check_best(candidate, found.kept[candidate.name])
    absolute = select_budget(candidates, Budget("macs", share * full), cost, scope, regular)
    assert absolute.counts == found.counts


@pytest.mark.parametrize("scope", Scope)
def test_of_equal_groups_the_last_one_loses_first(scope):
    candidates = [Candidate(f"g{i}", np.zeros(10), shape_key=i) for i in range(3)]
    found = select_budget(candidates, Budget("channels", 28), lambda counts: sum(counts.values()), scope)
    assert found.counts == ({"g0": 10, "g1": 10, "g2": 8} if scope is Scope.GLOBAL else {"g0": 10, "g1": 9, "g2": 9})


def test_a_budget_takes_few_evaluations():
    candidates = [
        Candidate(f"g{i % 6}" if i < 6 else f"g{i}", np.random.default_rng(i).random(1024)) for i in range(20)
    ]
    calls = []

    def cost(counts):
        calls.append(counts)
        return float(sum(counts.values()))

    found = select_budget(candidates, Budget("channels", 5000), cost)
    assert sum(found.counts.values()) == 5000
    assert len(calls) <= 2 + math.ceil(math.log2(20 * 1024 + 1))


def test_a_budget_that_is_met_already_removes_nothing():
    candidate = Candidate("g0", np.zeros(16), 8)
    assert select_budget([candidate], Budget("channels", 112), linear_cost).counts == {"g0": 16}
    assert select_budget([candidate], Budget("channels", 111), linear_cost).counts == {"g0": 8}


def test_a_budget_out_of_reach_says_what_can_be_reached():
    candidates = [Candidate("g0", np.zeros(64), 8, 16), Candidate("g1", np.zeros(64))]
    with pytest.raises(PruneError, match=r"of params: at most 112 is wanted, the least these groups can reach is 113"):
        select_budget(candidates, Budget("params", 112), linear_cost)
    assert select_budget(candidates, Budget("params", 113), linear_cost).counts == {"g0": 16, "g1": 1}


def test_a_cost_that_jumps_is_still_met():
    """Cycles of a tiled accelerator can rise where a count falls; the result keeps within the budget all the same."""
    candidate = Candidate("g0", np.arange(64.0))
    found = select_budget(
        [candidate], Budget("cycles", 50), lambda counts: counts["g0"] + 40 * (counts["g0"] % 16 != 0)
    )
    assert found.counts["g0"] in (*range(1, 11), 16, 32, 48)


VOTES = np.array([[1, 1, 0, 0, 0, 0], [1, 0, 1, 0, 0, 0], [1, 1, 0, 0, 1, 0]], bool)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [(Policy.UNION, [0, 1, 2, 4]), (Policy.INTERSECTION, [0]), (Policy.AVERAGE, [0, 1])],
)
def test_votes(policy, expected):
    found = select_votes([Candidate("g", np.zeros(6))], {"g": VOTES}, policy)
    assert found.kept["g"].tolist() == expected
    assert found.reasons == {}


def test_half_of_the_votes_is_enough_for_the_average():
    votes = {"g": np.array([[1, 1, 0], [1, 0, 0]], bool)}
    assert select_votes([Candidate("g", np.zeros(3))], votes, Policy.AVERAGE).kept["g"].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("rounding", "expected", "reason"),
    [
        (Rounding.UP, [0, 1, 2, 3, 4, 5], "rounded up from 4 to 6 (multiple of 3)"),
        (Rounding.DOWN, [0, 2, 4], "rounded down from 4 to 3 (multiple of 3)"),
    ],
)
def test_rounding_changes_votes_by_score(rounding, expected, reason):
    candidate = Candidate("g", np.array([3.0, 1.0, 2.0, 9.0, 8.0, 0.0, 0.0]), 3)
    found = select_votes([candidate], {"g": VOTES[:, [0, 1, 2, 3, 4, 5, 5]]}, Policy.UNION, Regular(rounding))
    assert found.kept["g"].tolist() == expected
    assert found.reasons == {"g": reason}


@given(groups(), regulars, st.sampled_from(Policy), st.integers(0, 2**32 - 1))
def test_votes_are_heard_before_scores(candidates, regular, policy, seed):
    rng = np.random.default_rng(seed)
    votes = {c.name: rng.random((rng.integers(1, 4), c.units)) < 0.4 for c in candidates}
    found = select_votes(candidates, votes, policy, regular)
    check_regular(candidates, found, regular)
    for c in candidates:
        agreed = {
            Policy.UNION: votes[c.name].any(0),
            Policy.INTERSECTION: votes[c.name].all(0),
            Policy.AVERAGE: votes[c.name].mean(0) >= 0.5,
        }[policy]
        stays = np.isin(np.arange(c.units), found.kept[c.name])
        assert not (agreed & ~stays).any() or not (stays & ~agreed).any()
        for part in (agreed, ~agreed):
            order = sorted(np.flatnonzero(part), key=lambda unit: (-c.scores[unit], unit))
            assert stays[order].tolist() == sorted(stays[order].tolist(), reverse=True)


def test_votes_come_from_what_layers_keep():
    candidates = [Candidate(f"layer{i}", np.array(s)) for i, s in enumerate([[3.0, 2, 1], [1.0, 2, 3]])]
    kept = select_ratio(candidates, 0.5, Scope.LOCAL).kept
    votes = votes_of([*kept.values(), np.array([0, -1])], 3)
    assert votes.tolist() == [[True, True, False], [False, True, True], [True, False, False]]


@given(groups(), ratios, st.sampled_from(Scope), regulars, st.integers(0, 2**32 - 1))
def test_without_ties_the_order_of_groups_does_not_matter(candidates, ratio, scope, regular, seed):
    rng = np.random.default_rng(seed)
    scores = np.split(rng.permutation(sum(c.units for c in candidates)), np.cumsum([c.units for c in candidates])[:-1])
    given = [replace(c, scores=s) for c, s in zip(candidates, scores, strict=True)]
    one, two = (select_ratio(order, ratio, scope, regular) for order in (given, given[::-1]))
    assert {name: kept.tolist() for name, kept in one.kept.items()} == {n: k.tolist() for n, k in two.kept.items()}
    assert one.reasons == two.reasons


@pytest.mark.parametrize("ratio", [1.0, -0.1, 1.5, float("nan"), {"a": 0.5, "b": 1.0}])
def test_ratios_out_of_range_are_refused(ratio):
    candidates = [Candidate(name, np.zeros(4)) for name in "ab"]
    with pytest.raises(PruneError, match=r"ratio of group '[ab]': must be at least 0 and below 1, got"):
        select_ratio(candidates, ratio, Scope.LOCAL)


def narrow(counts=(24, 64)):
    return [Candidate(f"g{i}", np.zeros(n), 32) for i, n in enumerate(counts)]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: select_ratio([], 0.5), "at least one group"),
        (lambda: select_ratio([Candidate("a", np.zeros(2))] * 2, 0.5), "group 'a' is there twice"),
        (lambda: select_ratio(narrow(), 0.5), "group 'g0': 24 channels are fewer than the multiple 32"),
        (lambda: select_budget(narrow(), Budget("macs", 1e9), linear_cost), "fewer than the multiple 32"),
        (lambda: select_votes(narrow((24,)), {"g0": np.ones((1, 24))}, Policy.UNION), "fewer than the multiple 32"),
        (lambda: select_ratio(narrow(), {"g0": 0.5}, Scope.LOCAL), "group 'g1' has none"),
        (lambda: select_ratio(narrow(), {"g": 0.5}, Scope.LOCAL), "no group 'g'; did you mean"),
        (lambda: select_ratio(narrow(), {"g0": 0.5}), "needs the local scope, this one is global"),
        (lambda: select_votes(narrow(), {"g0": np.ones((1, 24))}, Policy.UNION), "group 'g1': has no votes"),
        (lambda: select_votes(narrow((24,)), {"g0": np.ones((2, 23))}, Policy.UNION), r"votes must be \[layers, 24\]"),
        (lambda: select_votes(narrow((24,)), {"g0": np.ones((0, 24))}, Policy.UNION), r"are \[0, 24\]"),
        (lambda: Candidate("a", np.array([1.0, float("nan")])), "group 'a': scores must be finite"),
        (lambda: Candidate("a", np.zeros((2, 2))), r"scores must be finite numbers \[units\]"),
        (lambda: Candidate("a", np.zeros(0)), "group 'a': units must be at least 1, got 0"),
        (lambda: Candidate("a", np.zeros(3), multiple=0), "multiple must be at least 1"),
        (lambda: Budget("macs", 0), "finite number above 0, got 0"),
        (lambda: Budget("macs", float("nan")), "finite number above 0, got nan"),
        (lambda: Budget("macs", float("inf")), "finite number above 0, got inf"),
        (lambda: Budget("macs", 1.1, relative=True), "above 0 and at most 1, got 1.1"),
    ],
)
def test_what_cannot_be_met_is_an_error(call, message):
    with pytest.raises(PruneError, match=message):
        call()
