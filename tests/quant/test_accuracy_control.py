# SPDX-License-Identifier: Apache-2.0
"""Accuracy control with scores that are known functions of what is in 16 bits."""

import json
import math

import pytest
from support.random_net import calibrate_net, make_images, make_net, net_cfg

from yolo_hw.errors import QuantError, SearchError
from yolo_hw.quant import CorrectBy, QuantConfig, batch_norm_moments, fold_model, quantise_model
from yolo_hw.quant.accuracy_control import AccuracyTarget, control_accuracy
from yolo_hw.quant.bit_choices import ACTIVATIONS, WEIGHTS
from yolo_hw.quant.bit_files import encode_control, raised_rows, trial_rows
from yolo_hw.quant.fold import trace_model
from yolo_hw.quant.sensitivity import SensitivityConfig, scan_sensitivity

BASELINE = 50.0


class Penalties:
    """A score that loses a penalty for every unit below 16 bits."""

    identity = "penalties"

    def __init__(self, penalties, units):
        self.penalties, self.units, self.calls = penalties, {unit.label: unit for unit in units}, 0

    def __call__(self, graph):
        self.calls += 1
        return BASELINE - sum(p for label, p in self.penalties.items() if not self.in_16_bits(graph, label))

    def in_16_bits(self, graph, label):
        unit = self.units[label]
        if unit.kind == WEIGHTS:
            return graph.node(unit.name).w_bits == 16
        return all(graph.tensors[name].fmt.bits == 16 for name in unit.members)


@pytest.fixture(scope="module")
def scanned():
    model = make_net(net_cfg(["leaky", "spp", "shortcut", "mish"]))
    calibrated, images = calibrate_net(model), make_images(model)
    return (
        fold_model(model),
        images,
        scan_sensitivity(calibrated, [images], SensitivityConfig(w_bits=(8,), a_bits=(8,))),
    )


def control(scanned, score, max_drop=1.0, kinds=(WEIGHTS, ACTIVATIONS), **options):
    graph, images, sensitivity = scanned
    target = AccuracyTarget(baseline=BASELINE, max_drop=max_drop, kinds=kinds)
    return control_accuracy(graph, [images], score, target, **{"sensitivity": sensitivity, **options})


@pytest.mark.parametrize("places", [(0,), (3,), (0, 1), (2, 7), (1, 4, 9), (5, 6, 12)])
def test_exactly_the_units_that_matter_are_raised(scanned, places):
    order = scanned[2].ranked(8)
    wanted = [order[place] for place in places]
    score = Penalties({unit.label: 2.0 for unit in wanted}, scanned[2].units)
    found = control(scanned, score)
    assert found.reached
    assert {raised.unit for raised in found.raised} == set(wanted)
    assert found.score == BASELINE
    assert [raised.rank for raised in found.raised] == [place + 1 for place in places]
    for raised in found.raised:  # why: without it the score falls too far
        assert raised.without == BASELINE - 2 or len(places) == raised.rank == 1
        assert score.in_16_bits(found.graph, raised.unit.label)
    below = [unit for unit in scanned[2].units if unit not in wanted]
    assert not any(score.in_16_bits(found.graph, unit.label) for unit in below)
    assert len(found.trials) <= 2 + math.ceil(math.log2(len(order))) + max(places) + 1
    document = encode_control(found)
    assert sum(text.count("=16") for text in document["overrides"]) == sum(len(unit.members) for unit in wanted)
    json.dumps(document, allow_nan=False)
    assert len(trial_rows(found)) == len(found.trials)
    assert len(raised_rows(found)) == len(wanted)
    assert "falls by 0 of 1 allowed" in found.verdict


def test_a_single_unit_more_or_less(scanned):
    """Of three that hurt a little, the bound wants two; removing any further one would break it."""
    order = scanned[2].ranked(8)
    score = Penalties({order[p].label: 0.6 for p in (1, 3, 5)}, scanned[2].units)
    found = control(scanned, score)
    assert len(found.raised) == 2
    assert found.score == pytest.approx(BASELINE - 0.6)


def test_the_order_is_measured_where_none_is_given(scanned):
    score = Penalties({scanned[2].ranked(8)[2].label: 2.0}, scanned[2].units)
    assert control(scanned, score, sensitivity=None).trials == control(scanned, score).trials


def test_nothing_is_raised_without_need(scanned):
    score = Penalties({scanned[2].units[0].label: 0.5}, scanned[2].units)
    found = control(scanned, score)
    assert (found.reached, found.raised, score.calls) == (True, (), 1)
    assert [trial.stage for trial in found.trials] == ["options"]


def test_out_of_reach_says_so(scanned):
    score = Penalties({}, scanned[2].units)
    found = control(scanned, lambda graph: score(graph) - 3)
    assert not found.reached
    assert "out of reach: with all units that may be raised in 16 bits the score still falls by 3" in found.verdict
    assert [trial.passed for trial in found.trials] == [False, False]
    assert len(found.raised) == len(scanned[2].units)


def test_only_what_is_allowed_is_raised(scanned):
    weights = [unit for unit in scanned[2].ranked(8) if unit.kind == WEIGHTS]
    activations = [unit for unit in scanned[2].ranked(8) if unit.kind == ACTIVATIONS]
    score = Penalties({weights[1].label: 2.0}, scanned[2].units)
    assert [r.unit for r in control(scanned, score, kinds=(WEIGHTS,)).raised] == [weights[1]]
    assert not control(scanned, score, kinds=(ACTIVATIONS,)).reached
    score = Penalties({activations[1].label: 2.0}, scanned[2].units)
    assert [r.unit for r in control(scanned, score, kinds=(ACTIVATIONS,)).raised] == [activations[1]]


def test_biases_may_be_corrected_by_batch_norms(scanned):
    model = make_net(net_cfg(["leaky", "shortcut"]))
    config = QuantConfig(w_bits=4, bias_correction_by=CorrectBy.BATCH_NORM)
    target = AccuracyTarget(baseline=BASELINE, max_drop=1, kinds=(WEIGHTS,))
    traced, images = trace_model(model), [make_images(model)]
    moments = batch_norm_moments(traced)
    found = control_accuracy(traced.graph, images, lambda graph: BASELINE, target, config=config, moments=moments)
    whole = quantise_model(model, images, config)
    for one, two in zip(found.graph.nodes, whole.nodes, strict=True):
        assert one.op != "conv2d" or one.bias.tolist() == two.bias.tolist()


def test_an_interrupted_control_goes_on(scanned, tmp_path):
    order = scanned[2].ranked(8)
    penalties = {order[p].label: 2.0 for p in (1, 6)}
    score, log = Penalties(penalties, scanned[2].units), tmp_path / "log.json"
    whole = control(scanned, score)
    again, seen = Penalties(penalties, scanned[2].units), []

    def stop(trial):
        seen.append(trial)
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        control(scanned, again, log=log, report=stop)
    found = control(scanned, again, log=log)
    assert found.trials == whole.trials
    assert found.raised == whole.raised
    assert again.calls == score.calls
    with pytest.raises(SearchError, match="other options"):
        control(scanned, again, log=log, config=QuantConfig(per_channel=False))


def test_what_is_refused(scanned):
    with pytest.raises(QuantError, match="max_drop must be at least 0, got -1"):
        AccuracyTarget(baseline=1.0, max_drop=-1.0)
    with pytest.raises(QuantError, match="kinds must be of 'w' and 'a'"):
        AccuracyTarget(baseline=1.0, max_drop=1.0, kinds=("b",))
    with pytest.raises(SearchError, match="score of the float network: must be a finite number"):
        AccuracyTarget(baseline=float("nan"), max_drop=1.0)
    with pytest.raises(QuantError, match="'dpu-like' must have activations of 16 bits, it has 8"):
        control(scanned, lambda graph: 0.0, kinds=(ACTIVATIONS,), config=QuantConfig(target="dpu-like"))
    with pytest.raises(QuantError, match="the sensitivity of w:conv_0 lacks 4 bits"):
        control(scanned, lambda graph: 0.0, config=QuantConfig(w_bits=4))
    with pytest.raises(SearchError, match="score of 'options': must be a finite number, got nan"):
        control(scanned, lambda graph: float("nan"))
