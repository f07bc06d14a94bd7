# SPDX-License-Identifier: Apache-2.0
"""Word lengths within a budget: against brute force, and against what the quantised network then costs."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from support.random_net import calibrate_net, make_images, make_net, net_cfg, random_net

from yolo_hw.errors import QuantError
from yolo_hw.intgraph import image_codes
from yolo_hw.intgraph.engine import Engine
from yolo_hw.intgraph.execute import execute
from yolo_hw.intgraph.graph import INPUT
from yolo_hw.intgraph.target_profiles import GENERIC
from yolo_hw.quant import QuantConfig, calibrate, fold_model, lower_graph
from yolo_hw.quant.bit_choices import ACTIVATIONS, WEIGHTS, Unit
from yolo_hw.quant.bit_files import choice_rows, override_texts
from yolo_hw.quant.config import Override
from yolo_hw.quant.mixed import (
    COSTS,
    BudgetKind,
    LayerWork,
    choose_bits,
    layer_bytes,
    layer_macbits,
    layer_works,
    uniform_cost,
)
from yolo_hw.quant.output_error import output_damage
from yolo_hw.quant.sensitivity import Metric, Sensitivity, SensitivityConfig, scan_sensitivity
from yolo_hw.quant.simulate import Simulation


def instance(seed, layers=4, w_bits=(2, 4, 8), a_bits=(4, 8), whole=False):
    """Return a random sensitivity and layers; with `whole` numbers, so that sums tie and meet budgets exactly."""
    rng = np.random.default_rng(seed)
    groups = [Unit(ACTIVATIONS, f"g{i}", (f"g{i}",)) for i in range(3)]
    weights = [Unit(WEIGHTS, f"l{i}", (f"l{i}",)) for i in range(layers)]
    draw = (lambda: float(rng.integers(0, 4))) if whole else (lambda: float(rng.lognormal(0, 3)))
    damage = {u.label: {b: draw() for b in (w_bits if u.kind == WEIGHTS else a_bits)} for u in (*weights, *groups)}
    works = []
    for i, unit in enumerate(weights):
        reads = None if i == 0 else groups[int(rng.integers(0, 3))].label
        works.append(LayerWork(unit.name, reads, int(rng.integers(1, 50)), 1, int(rng.integers(1, 1000))))
    return Sensitivity(Metric.OUTPUT_ERROR, 0.0, (*weights, *groups), damage), works


def every_choice(sensitivity, works, cost, group_cost=lambda unit, bits: 0):
    """Yield (damage, cost) of every choice there is."""
    units = sensitivity.units
    for bits in itertools.product(*(sensitivity.damage[unit.label] for unit in units)):
        chosen = {unit.label: b for unit, b in zip(units, bits, strict=True)}
        parts = [cost(w, chosen[f"w:{w.name}"], chosen[w.reads] if w.reads else 8) for w in works]
        parts += [group_cost(unit, chosen[unit.label]) for unit in units if unit.kind == ACTIVATIONS]
        yield math.fsum(sensitivity.damage[label][b] for label, b in chosen.items()), math.fsum(parts)


@pytest.mark.parametrize("kind", [BudgetKind.BYTES, BudgetKind.MACBITS, BudgetKind.CYCLES])
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_the_choice_is_the_best_of_all(seed, whole, kind):
    sensitivity, works = instance(seed, whole=whole)
    rng = np.random.default_rng(seed)
    table = {(w.name, b, a): float(rng.integers(1, 9)) for w in works for b in (2, 4, 8) for a in (4, 8)}
    cost = COSTS.get(kind, lambda layer, w, a: table[layer.name, w, a])
    moves = {(f"a:g{i}", a): float(rng.integers(1, 30)) for i in range(3) for a in (4, 8)}
    groups = (lambda unit, a: moves[unit.label, a]) if kind is BudgetKind.CYCLES else (lambda unit, a: 0)
    choices = list(every_choice(sensitivity, works, cost, groups))
    prices = sorted({price for _, price in choices})
    previous = math.inf
    for budget in (prices[0], prices[1], prices[len(prices) // 3], np.mean(prices), prices[-1], 1e9):
        found = choose_bits(sensitivity, works, cost, budget, group_cost=groups)
        best = min(damage for damage, price in choices if price <= budget)
        assert found.damage == pytest.approx(best, rel=1e-12)
        assert found.cost <= budget
        assert found.gap == 0
        assert any(price == found.cost and damage == pytest.approx(found.damage) for damage, price in choices)
        assert found.damage <= previous
        previous = found.damage
    with pytest.raises(QuantError, match=f"the smallest cost that can be reached {prices[0]:.6g}"):
        choose_bits(sensitivity, works, cost, prices[0] * (1 - 1e-9), group_cost=groups)


def test_budgets_within_the_solvers_tolerance_are_kept():
    """A budget one part in 10**10 below a price excludes that price."""
    sensitivity, works = instance(0)
    choices = list(every_choice(sensitivity, works, layer_bytes))
    for price in sorted({price for _, price in choices})[1::40]:
        found = choose_bits(sensitivity, works, layer_bytes, price * (1 - 1e-10))
        assert found.cost < price
        best = min(damage for damage, p in choices if p < price)
        assert found.damage == pytest.approx(best, rel=1e-12)


def test_small_damages_count_beside_huge_ones():
    """The differences that matter are 12 orders below the largest damage, far below the solver's tolerance."""
    sensitivity, works = instance(5)
    rng = np.random.default_rng(0)
    damage = {
        label: {b: (1e6 if b == min(row) else 1e-6 * float(rng.random())) for b in row}
        for label, row in sensitivity.damage.items()
    }
    tiny = replace(sensitivity, damage=damage)
    budget = uniform_cost(works, layer_bytes, 8, 8) - 10
    best = min(d for d, price in every_choice(tiny, works, layer_bytes) if price <= budget)
    assert choose_bits(tiny, works, layer_bytes, budget).damage == pytest.approx(best, rel=1e-12)
    assert best < 1e-3


def test_choices_repeat():
    sensitivity, works = instance(7, whole=True)
    budget = uniform_cost(works, layer_bytes, 4, 8)
    assert len({str(choose_bits(sensitivity, works, layer_bytes, budget)) for _ in range(3)}) == 1


@pytest.fixture(scope="module")
def scanned():
    model = make_net(net_cfg(["spp", "leaky", "shortcut", "se", "mish"]))
    calibrated, images = calibrate_net(model), make_images(model)
    config = SensitivityConfig(w_bits=(2, 3, 4, 6, 8), a_bits=(4, 6, 8))
    return model, calibrated, images, scan_sensitivity(calibrated, [images], config)


@pytest.mark.parametrize("kind", [BudgetKind.BYTES, BudgetKind.MACBITS])
@pytest.mark.parametrize("share", [0.9, 0.6, 0.45])
def test_the_quantised_network_has_the_bits_the_cost_and_about_the_damage(scanned, kind, share):
    model, calibrated, images, sensitivity = scanned
    works = layer_works(calibrated.reference)
    budget = share * uniform_cost(works, COSTS[kind], 8, 8)
    choice = choose_bits(sensitivity, works, COSTS[kind], budget)
    done = calibrate(fold_model(model), [images], QuantConfig(overrides=choice.overrides))
    graph = lower_graph(done.graph, done.plan)
    price = 0
    for node in graph.nodes:
        if node.op == "conv2d":
            x = graph.inputs_of(node)[0].fmt.bits
            assert x == 8 or node.inputs[0] != INPUT
            price += {
                BudgetKind.BYTES: -(-node.weight.size * node.w_bits // 8) + 4 * node.bias.size,
                BudgetKind.MACBITS: node.macs(graph.inputs_of(node), graph.output_of(node)) * node.w_bits * x,
            }[kind]
    assert price == choice.cost <= budget
    for unit, bits in choice.bits.items():
        for name in unit.members:
            assert bits == (graph.node(name).w_bits if unit.kind == WEIGHTS else graph.tensors[name].fmt.bits)
    codes = image_codes(images[0])
    engine = Engine(graph, threads=1, keep_all=True).run_all(codes)
    for (name, reference), (_, simulated) in zip(
        execute(graph, codes), Simulation(done.graph, done.plan).codes(codes), strict=True
    ):
        np.testing.assert_array_equal(reference.codes, simulated)
        np.testing.assert_array_equal(reference.codes, engine[name])
    measured = output_damage(done.reference, graph, [images])
    assert choice.damage / 8 < measured < choice.damage * 8  # interactions, and biases corrected on the whole
    assert [row[2] for row in choice_rows(choice, sensitivity)] == [str(bits) for bits in choice.bits.values()]


def test_a_target_on_which_additions_join_groups():
    model = make_net(net_cfg(["leaky", "shortcut", "leaky"]))
    config = QuantConfig(target=replace(GENERIC, name="joined", equal_add=True))
    calibrated, images = calibrate_net(model, config), make_images(model)
    sensitivity = scan_sensitivity(calibrated, [images], SensitivityConfig(w_bits=(4, 8), a_bits=(4, 8)))
    works = layer_works(calibrated.reference)
    choice = choose_bits(sensitivity, works, layer_macbits, 0.6 * uniform_cost(works, layer_macbits, 8, 8))
    done = calibrate(fold_model(model), [images], replace(config, overrides=choice.overrides))
    graph = lower_graph(done.graph, done.plan)
    (add,) = (node for node in graph.nodes if node.op == "add")
    assert len({graph.tensors[name].fmt for name in add.inputs}) == 1
    for unit, bits in choice.bits.items():
        assert unit.kind == WEIGHTS or all(graph.tensors[name].fmt.bits == bits for name in unit.members)


def test_mixtures_beat_equal_bits_of_the_same_size():
    """Measured, over several networks; the activations keep 16 bits, so that only the weights' errors count."""
    ratios = []
    for seed in range(4):
        model = random_net(seed, 7)
        images, config = make_images(model), QuantConfig(w_bits=4, a_bits=16)
        calibrated = calibrate_net(model, config)
        sensitivity = scan_sensitivity(
            calibrated, [images], SensitivityConfig(w_bits=(2, 3, 4, 5, 6, 7, 8), a_bits=(16,))
        )
        works = layer_works(calibrated.reference)
        choice = choose_bits(sensitivity, works, layer_bytes, uniform_cost(works, layer_bytes, 4, 16))
        damages = []
        for options in (replace(config, overrides=choice.overrides), config):
            done = calibrate(fold_model(model), [images], options)
            damages.append(output_damage(done.reference, lower_graph(done.graph, done.plan), [images]))
        ratios.append(damages[0] / damages[1])
    assert np.exp(np.mean(np.log(ratios))) < 0.5


def test_overrides_as_text():
    given = [Override("a", w_bits=4), Override("b", a_bits=8), Override("a", a_bits=16)]
    assert override_texts(given) == ["a:w=4,a=16", "b:a=8"]
    assert [Override.parse(text) for text in override_texts(given)] == [Override("a", 4, 16), Override("b", None, 8)]


def test_output_damage_needs_the_same_outputs(scanned):
    _, calibrated, images, _ = scanned
    graph = lower_graph(calibrated.graph, calibrated.plan)
    other = replace(calibrated.reference, outputs=(("conv_0", None),))
    with pytest.raises(QuantError, match="the outputs must be those of the float network, conv_0"):
        output_damage(other, graph, [images])
