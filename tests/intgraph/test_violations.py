# SPDX-License-Identifier: Apache-2.0
"""Every rule of a target catches what breaks it, and nothing else; the profiles say what their sources say."""

from dataclasses import fields, replace

import numpy as np
import pytest
from support.planted_targets import PLANTS, STRICT, strict_graph
from support.random_graph import random_graph

from yolo_hw.intgraph import check_graph
from yolo_hw.intgraph.quantities import range_bits
from yolo_hw.intgraph.target import Span, TargetProfile
from yolo_hw.intgraph.target_profiles import TARGETS
from yolo_hw.intgraph.violations import Violation, violations

RULES = [field.name for field in fields(TargetProfile) if field.name not in ("name", "about")]


def test_a_legal_graph_has_no_violation():
    check_graph(strict_graph())
    assert violations(strict_graph(), STRICT) == []


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_catches_its_planted_violations_and_no_other_does(rule):
    plants = PLANTS[rule](strict_graph())
    assert plants
    for plant in plants:
        assert violations(strict_graph(), plant.profile) == []
        found = violations(plant.graph, plant.profile)
        assert [(v.rule, v.node, v.channel, v.found) for v in found] == [(rule, plant.node, plant.channel, plant.found)]


@pytest.mark.parametrize("rule", RULES)
def test_a_wider_field_allows_what_its_rule_refused(rule):
    """Only the field itself stands between the planted graph and the target."""
    generic = getattr(TARGETS["generic"], rule)
    wider = {"acc_bits": 32, "bias_shift": Span(0, 4)}.get(rule, generic)
    wider = False if rule == "equal_concat" else wider
    for plant in PLANTS[rule](strict_graph()):
        assert violations(plant.graph, replace(plant.profile, **{rule: wider})) == []


def test_messages_name_node_rule_value_and_range():
    violation = Violation("conv_shift", "conv_3", 5, "-2", "in [0, 16]", 3)
    assert str(violation) == "conv_3: conv_shift must be in [0, 16], got -2 in channel 5 (and 2 channels more)"


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("bits", [(8,), (2, 3, 16)])
def test_the_contract_is_the_generic_target(seed, bits):
    assert violations(random_graph(seed, bits=bits), TARGETS["generic"]) == []


@pytest.mark.parametrize("hi", [0, 1, 127, 128, (1 << 31) - 1, 1 << 31, (1 << 47) - 1, 1 << 47])
@pytest.mark.parametrize("lo", [0, -1, -128, -129, -(1 << 31), -(1 << 31) - 1, -(1 << 47)])
def test_range_bits_are_exact(lo, hi):
    bits = int(range_bits(np.array([lo]), np.array([hi]))[0])
    assert -(1 << (bits - 1)) <= lo
    assert hi < 1 << (bits - 1)
    assert bits == 1 or lo < -(1 << (bits - 2)) or hi >= 1 << (bits - 2)
