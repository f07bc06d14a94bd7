# SPDX-License-Identifier: Apache-2.0
"""The search over options: never worse than what it was given, within its budget, resumable."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.random_net import make_images, make_net, net_cfg

from yolo_hw.errors import QuantError, SearchError
from yolo_hw.intgraph import image_codes, run_outputs
from yolo_hw.quant import AdaRoundConfig, EqualiseBy, Observer, QuantConfig, fold_model, lower_graph, quantise_model
from yolo_hw.quant.execute import float_parameters, image_tensor, run_folded
from yolo_hw.quant.ptq_search import AXES, HeadNoise, search_ptq

ENOUGH = 1e9
DONE = QuantConfig(w_bits=4, adaround=AdaRoundConfig(iterations=1))
"""Has AdaRound already, so the search does not end with a long one."""


def net():
    return make_net(net_cfg(["leaky", "relu"]))


class Favourite:
    """Scores by the options alone: counts calls, knows the best answer."""

    identity = "favourite"

    def __init__(self):
        self.calls = 0

    def __call__(self, graph):
        self.calls += 1
        return float(sum(int(node.weight.sum()) for node in graph.nodes if node.op == "conv2d"))


def test_the_first_trial_is_the_configuration_as_given_and_the_result_is_never_worse():
    model = net()
    config = replace(DONE, a_observer=Observer.MAX, equalise_by=EqualiseBy.WEIGHTS)
    found = search_ptq(model, [make_images(model, 8)], ENOUGH, config=config)
    assert found.trials[0].config == config
    assert found.trials[0].setting == "as given"
    assert found.best.score == max(trial.score for trial in found.trials)
    assert found.best.score > found.trials[0].score
    assert len(found.trials) >= sum(len(axis) - 1 for axis in AXES)
    assert len({trial.config for trial in found.trials}) == len(found.trials)


def test_what_is_returned_is_what_was_scored():
    model = net()
    images = make_images(model, 8)
    found = search_ptq(model, [images[:5], images[5:]], ENOUGH, config=DONE)
    score = HeadNoise(fold_model(model), images[-2:])
    assert score(lower_graph(found.calibrated.graph, found.calibrated.plan)) == found.best.score


def test_the_default_score_is_the_noise_of_the_heads():
    model = net()
    images = make_images(model, 3)
    graph = quantise_model(model, [images])
    x = image_tensor(images, torch.float64)
    folded = fold_model(model)
    wanted = {r.node.name: r.out for r in run_folded(folded, x, float_parameters(folded, torch.float64))}["conv_3"]
    step = graph.tensors["conv_3"].fmt.step
    found = np.stack([run_outputs(graph, image_codes(image))[0] for image in images]) * step
    noise = ((found - wanted.detach().numpy()) ** 2).sum()
    expected = 10 * np.log10((wanted.detach().numpy() ** 2).sum() / noise)
    assert HeadNoise(folded, images)(graph) == pytest.approx(expected, abs=1e-3)


def test_a_score_of_ones_own_decides():
    model, score = net(), Favourite()
    found = search_ptq(model, [make_images(model, 2)], ENOUGH, score, config=DONE)
    assert score.calls == len(found.trials)
    best = quantise_model(model, [make_images(model, 2)], found.best.config)
    assert score(best) == found.best.score == max(trial.score for trial in found.trials)


def test_adaround_comes_last_on_the_best():
    model, seen = net(), []
    found = search_ptq(model, [make_images(model, 2)], ENOUGH, Favourite(), report=seen.append)
    *others, last = found.trials
    assert all(trial.config.adaround is None for trial in others)
    best = max(others, key=lambda trial: trial.score)
    assert last.config == replace(best.config, adaround=AdaRoundConfig())
    assert [done.trials for done in seen] == list(range(1, len(found.trials) + 1))
    assert seen[-1].best == found.best
    assert 0 < seen[-1].seconds_left < ENOUGH


def test_a_spent_budget_still_gives_the_configuration_as_given():
    model = net()
    found = search_ptq(model, [make_images(model, 4)], 1e-9, config=DONE)
    assert [trial.config for trial in found.trials] == [DONE]
    assert found.best.config == DONE


def test_an_interrupted_search_goes_on_where_it_was(tmp_path):
    model, log = net(), tmp_path / "search.json"
    arguments = (model, [make_images(model, 2)], ENOUGH)
    whole = search_ptq(*arguments, Favourite(), config=DONE)

    def stop(done):
        if done.trials == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search_ptq(*arguments, Favourite(), config=DONE, log=log, report=stop)
    assert len(json.loads(log.read_text())["rows"]) == 4
    score = Favourite()
    resumed = search_ptq(*arguments, score, config=DONE, log=log)
    assert score.calls == len(whole.trials) - 4
    assert [(t.config, t.score) for t in resumed.trials] == [(t.config, t.score) for t in whole.trials]
    score = Favourite()
    again = search_ptq(*arguments, score, config=DONE, log=log)
    assert score.calls == 0
    for name, codes in whole.calibrated.plan.convs.items():
        np.testing.assert_array_equal(codes.weight, again.calibrated.plan.convs[name].weight)


def test_the_budget_counts_what_the_log_holds(tmp_path):
    model, log = net(), tmp_path / "search.json"
    arguments = (model, [make_images(model, 2)])
    search_ptq(*arguments, ENOUGH, Favourite(), config=DONE, log=log)
    rows = json.loads(log.read_text())["rows"]
    document = {**json.loads(log.read_text()), "rows": [{**row, "seconds": 10.0} for row in rows[:3]]}
    log.write_text(json.dumps(document))
    score = Favourite()
    search_ptq(*arguments, 25.0, score, config=DONE, log=log)
    assert score.calls == 0


def test_a_log_of_other_options_is_refused(tmp_path):
    model, log = net(), tmp_path / "search.json"
    search_ptq(model, [make_images(model, 2)], 1e-9, Favourite(), config=DONE, log=log)
    with pytest.raises(SearchError, match="of a search 'ptq' of another model"):
        search_ptq(model, [make_images(model, 2)], 1e-9, Favourite(), config=QuantConfig(), log=log)
    with pytest.raises(SearchError, match="another model"):
        search_ptq(model, [make_images(model, 2, seed=3)], 1e-9, Favourite(), config=DONE, log=log)


def test_bad_arguments_are_refused():
    model = net()
    with pytest.raises(QuantError, match="at least 2 calibration images, got 1"):
        search_ptq(model, [make_images(model, 1)], 1.0)
    with pytest.raises(QuantError, match="at least 1 calibration images, got 0"):
        search_ptq(model, [], 1.0, Favourite())
    with pytest.raises(SearchError, match="the score of 'as given': must be a finite number"):
        search_ptq(model, [make_images(model, 2)], 1.0, lambda graph: float("nan"))
