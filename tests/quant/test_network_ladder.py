# SPDX-License-Identifier: Apache-2.0
"""Whole networks, after calibration and after training: float64 = integer graph = engine, whatever the options are."""

import itertools

import pytest
from support.ladder import assert_calibrated, assert_qat_ladder
from support.pairwise import pairwise
from support.qat import trained_qat
from support.quantised_networks import QUANTISED, special_needs
from support.random_net import calibrate_net, make_images

from yolo_hw.fixedpoint import Overflow, Rounding
from yolo_hw.intgraph.target_profiles import TARGETS
from yolo_hw.intgraph.violations import violations
from yolo_hw.quant import QuantConfig
from yolo_hw.quant.qat import QatConfig, ScaleMethod

OPTIONS = {
    "network": list(QUANTISED),
    "target": list(TARGETS),
    "method": ["calibrated", "trained"],
    "w_bits": [4, 8, 16],
    "a_bits": [4, 8, 16],
    "rounding": list(Rounding),
    "overflow": list(Overflow),
}


def possible(row):
    profile = TARGETS[row["target"]]
    allowed = {"w_bits": profile.w_bits, "a_bits": profile.a_bits}
    allowed |= {"rounding": profile.roundings, "overflow": profile.overflows}
    return QUANTISED[row["network"]].runs_on(profile) and all(row[name] in values for name, values in allowed.items())


def every_row():
    return [dict(zip(OPTIONS, values, strict=True)) for values in itertools.product(*OPTIONS.values())]


def cases(every_combination):
    """Every two options together; fast is the first of each method on each network that is not large."""
    seen = set()
    for row in filter(possible, every_row()) if every_combination else pairwise(OPTIONS, possible):
        kind = row["network"], row["method"]
        slow = QUANTISED[row["network"]].large or kind in seen
        seen.add(kind)
        name = "-".join(str(getattr(value, "value", value)) for value in row.values())
        yield pytest.param(row, id=name, marks=[pytest.mark.slow] if slow else [])


def pytest_generate_tests(metafunc):
    if "row" in metafunc.fixturenames:
        metafunc.parametrize("row", list(cases(metafunc.config.getoption("--every-combination"))))


def test_not_one_code_differs(row):
    model = QUANTISED[row["network"]].model()
    config = QuantConfig(**{name: row[name] for name in ("target", "w_bits", "a_bits", "rounding", "overflow")})
    image = make_images(model, 1, seed=9)[0]
    dead = 4 in (row["w_bits"], row["a_bits"])  # random weights may vanish; test_real_ladder.py has trained ones
    if row["method"] == "calibrated":
        graph = assert_calibrated(calibrate_net(model, config), image, may_be_dead=dead)
    else:
        scale = ScaleMethod.RANGE if config.overflow is Overflow.WRAP else ScaleMethod.TQT
        qat = trained_qat(model, config, QatConfig(w_scale=scale, a_scale=scale), steps=2)
        graph = assert_qat_ladder(qat, image, may_be_dead=dead)
    assert special_needs(graph) == QUANTISED[row["network"]].needs
    assert {node.w_bits for node in graph.nodes if node.op == "conv2d"} == {row["w_bits"]}
    assert violations(graph, config.profile) == []


def test_the_cases_hold_every_two_options():
    chosen, rows = pairwise(OPTIONS, possible), every_row()
    wanted, found = (
        {pair for row in some if possible(row) for pair in itertools.combinations(row.items(), 2)}
        for some in (rows, chosen)
    )
    assert wanted == found
    assert len(chosen) < 0.02 * len(rows)
