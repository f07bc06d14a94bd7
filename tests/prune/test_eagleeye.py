# SPDX-License-Identifier: Apache-2.0
"""EagleEye: the best of all candidates, the same however often it was interrupted."""

import json

import numpy as np
import pytest
import torch
from support.searches import AgreesWith, image_batches, residual_detector

from yolo_hw.darknet.layers import SqueezeExcite
from yolo_hw.errors import PruneError, SearchError
from yolo_hw.prune.adapt_bn import adapt_batch_norms
from yolo_hw.prune.config import PruneConfig
from yolo_hw.prune.eagleeye import EagleEyeConfig, EagleEyeSearch, eagleeye
from yolo_hw.prune.plan import DeadBias
from yolo_hw.prune.random_widths import Band
from yolo_hw.prune.ranking import Scope
from yolo_hw.prune.select import Budget, Policy

BAND = Band(share=0.5, delta=0.05)


def config(candidates=6, band=BAND, **channels):
    return EagleEyeConfig(
        band=band, candidates=candidates, channels=PruneConfig(**{"method": "eagleeye", "seed": 1, **channels})
    )


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("multiple", [1, 4])
def test_the_best_candidate_is_returned_with_adapted_batch_norms(multiple):
    model = residual_detector()
    full = model.network.macs - 16 * 16 * 16
    state = {key: value.clone() for key, value in model.state_dict().items()}
    score, seen = AgreesWith(model), []
    options = config(multiple_of=multiple)
    result = eagleeye(model, image_batches(), score, options, report=seen.append)
    assert same(model.state_dict(), state)
    assert [row["candidate"] for row in result.rows] == list(range(6))
    assert result.row["score"] == max(row["score"] for row in result.rows)
    assert len({row["score"] for row in result.rows}) > 1
    assert score(result.best.model) == result.row["score"]
    small = result.best.model.network
    gates = next(layer for layer in small.layers if isinstance(layer, SqueezeExcite))
    assert small.macs - gates.shape.numel == result.row["macs"]  # scaling by gates is no product of matrices
    assert sum(p.numel() for p in result.best.model.parameters()) == result.row["params"]
    assert all(abs(row["share"] - 0.5) <= 0.05 for row in result.rows)
    assert all(row["macs"] == round(row["share"] * full) for row in result.rows)
    assert all(layer.shape.c % multiple == 0 for layer in result.best.model.network.layers[:-2] if layer.params)
    assert [(p.done, p.total) for p in seen] == [(i, 6) for i in range(1, 7)]
    assert seen[-1].seconds_left == 0 < seen[0].seconds_left
    adapted = {key: value.clone() for key, value in result.best.model.state_dict().items()}
    assert same(adapt_batch_norms(result.best.model, image_batches()).state_dict(), adapted)


def test_units_with_the_largest_norms_stay_and_joined_layers_share_them():
    model = residual_detector()
    search = EagleEyeSearch(model, config(1))
    plan = search.space.plan(search.counts(0))
    joined = next(group for group in search.space.groups.prunable if group.joined)
    norms = [model.state_dict()[m.filters.weight].abs().flatten(1).sum(1) for m in joined.members if m.filters]
    mean = torch.stack(norms).mean(0).numpy()
    kept = plan.kept[joined.name]
    assert np.array_equal(kept, np.sort(np.argsort(-mean, kind="stable")[: len(kept)]))


def test_the_same_search_gives_the_same_rows_wherever_it_was_interrupted(tmp_path):
    model, log = residual_detector(), tmp_path / "search.json"
    whole = eagleeye(model, image_batches(), AgreesWith(model), config())
    score = AgreesWith(model)

    def interrupted(candidate):
        if score.calls == 2:
            raise KeyboardInterrupt
        return score(candidate)

    with pytest.raises(KeyboardInterrupt):
        eagleeye(model, image_batches(), interrupted, config(), log=log)
    assert len(json.loads(log.read_text())["rows"]) == 2
    rest = AgreesWith(model)
    resumed = eagleeye(model, image_batches(), rest, config(), log=log)
    assert rest.calls == 4
    assert resumed.rows == whole.rows == tuple(json.loads(log.read_text())["rows"])
    assert same(resumed.best.model.state_dict(), whole.best.model.state_dict())
    more = AgreesWith(model)
    longer = eagleeye(model, image_batches(), more, config(8), log=log)
    assert more.calls == 2
    assert longer.rows[:6] == whole.rows
    assert eagleeye(model, image_batches(), more, config(3), log=log).rows == whole.rows[:3]


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 2},
        {"multiple_of": 2},
        {"min_channels": 2},
        {"dead_bias": DeadBias.ZERO},
        {"importance": "l2"},
        {"exclude": ("conv_9",)},
        {"band": Band(share=0.5, delta=0.04)},
    ],
)
def test_the_log_of_another_search_is_refused(tmp_path, other):
    model, log = residual_detector(), tmp_path / "search.json"
    eagleeye(model, image_batches(), AgreesWith(model), config(1), log=log)
    text = log.read_text()
    with pytest.raises(SearchError, match=r"search.json: is of a search 'eagleeye' of another model"):
        eagleeye(model, image_batches(), AgreesWith(model), config(1, **other), log=log)
    with pytest.raises(SearchError, match="another model"):
        eagleeye(model, image_batches(seed=1), AgreesWith(model), config(1), log=log)
    with pytest.raises(SearchError, match="another model"):
        eagleeye(residual_detector(seed=1), image_batches(), AgreesWith(model), config(1), log=log)
    others = AgreesWith(model)
    others.identity = "other held-out images"
    with pytest.raises(SearchError, match="another model, other images"):
        eagleeye(model, image_batches(), others, config(1), log=log)
    assert log.read_text() == text
    for broken in ("[]", text.replace('"rows": [', '"rows": [7, ')):
        log.write_text(broken)
        with pytest.raises(SearchError, match="not the log of a search"):
            eagleeye(model, image_batches(), AgreesWith(model), config(1), log=log)


def test_included_and_excluded_layers_are_heeded():
    model = residual_detector()
    rows = eagleeye(
        model, image_batches(1), AgreesWith(model), config(2, Band(share=0.8, delta=0.15), exclude=("conv_8",))
    ).rows
    assert "conv_8" not in rows[0]["channels"]
    assert "conv_9" in rows[0]["channels"]


def test_requests_that_make_no_sense():
    model = residual_detector()
    for name, value in (
        ("ratio", 0.5),
        ("budget", Budget("macs", 0.5, relative=True)),
        ("policy", Policy.UNION),
        ("scope", Scope.LOCAL),
        ("blocks", 1),
    ):
        with pytest.raises(PruneError, match=f"eagleeye: {name} has no meaning"):
            config(**{name: value})
    with pytest.raises(PruneError, match="candidates must be at least 1"):
        config(0)
    with pytest.raises(SearchError, match=r"the score of candidate 0: must be a finite number, got nan"):
        eagleeye(model, image_batches(), lambda _: float("nan"), config())
    with pytest.raises(PruneError, match="at least one batch"):
        eagleeye(model, [], AgreesWith(model), config())
