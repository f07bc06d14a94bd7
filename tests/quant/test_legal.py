# SPDX-License-Identifier: Apache-2.0
"""The legaliser: its choice is the best of all, legal on the integer graph, and equal on every rung of the ladder."""

import contextlib
import itertools
import math
import random
from dataclasses import replace

import numpy as np
import pytest
from support.data import data_path, real_network
from support.ladder import assert_ladder
from support.random_net import COMMON_BLOCKS, calibrate_net, make_images, make_net, net_cfg

from yolo_hw.data import load_batches
from yolo_hw.errors import QuantError
from yolo_hw.fixedpoint import Overflow, Rounding
from yolo_hw.intgraph.graph import INPUT
from yolo_hw.intgraph.target import Slope, Span, TargetProfile
from yolo_hw.intgraph.target_profiles import TARGETS
from yolo_hw.intgraph.violations import violations
from yolo_hw.nn.darknet import load_darknet
from yolo_hw.quant import QuantConfig, calibrate, fold_model, lower_graph
from yolo_hw.quant.calibrate import make_plan
from yolo_hw.quant.execute import float_parameters, image_tensor, run_folded
from yolo_hw.quant.groups import format_groups
from yolo_hw.quant.legal import Legaliser, cast_image
from yolo_hw.quant.legal.solver import solve
from yolo_hw.quant.lower import build_graph


def narrow(seed):
    """Return a target that asks for other formats than a network of this size gets: every limit may bind."""
    rng = random.Random(seed)
    low = rng.randint(3, 9)
    return TargetProfile(
        name="narrow",
        about="random",
        roundings=(rng.choice(list(Rounding)),),
        overflows=(Overflow.SATURATE,),
        per_channel=rng.random() < 0.5,
        image_bytes=rng.random() < 0.5,
        unsigned=rng.random() < 0.5,
        equal_add=rng.random() < 0.3,
        conv_shift=Span(low, low + rng.randint(2, 6)),
        element_shift=Span(rng.randint(-3, 0), rng.randint(0, 3)),
        align_shift=Span(0, rng.randint(0, 4)),
        acc_bits=rng.choice([16, 18, 20, 24]),
        bias_bits=rng.choice([8, 12, 16]),
        bias_shift=Span(rng.randint(0, 2), 8),
        a_frac=Span(rng.randint(1, 3), rng.randint(6, 9)),
        w_frac=Span(2, rng.randint(6, 12)),
        leaky=(Slope(1, 3),),
    )


def random_common_net(seed, blocks=3):
    return make_net(net_cfg(random.Random(seed).choices(COMMON_BLOCKS, k=blocks), (8, 8)), seed)


def measured(model, profile, **options):
    """Return a graph, the config, the observers' choice and a legaliser that has seen images."""
    config = QuantConfig(target=profile, **options)
    graph = cast_image(fold_model(model), config)
    loose = replace(
        TARGETS["generic"], name="loose", equal_add=profile.equal_add, unsigned=profile.unsigned,
        image_bytes=profile.image_bytes, roundings=profile.roundings,
    )  # fmt: skip
    chosen = calibrate_net(model, QuantConfig(target=loose, equalise=None, bias_correction=False, **options)).plan
    groups = format_groups(graph, config)
    formats = {name: fmt for name, fmt in chosen.formats.items() if name != INPUT}
    arguments = {name: table.fmt for name, table in chosen.tables.items()}
    legaliser = Legaliser(groups, formats, arguments, config)
    images = make_images(model)
    x = image_tensor(images)
    legaliser.measure(run_folded(graph, x, float_parameters(graph)), [images])
    return graph, config, legaliser


def is_legal(graph, config, legaliser, fracs):
    """Ask the checker about the integer graph that these fraction bits make."""
    formats = {
        name: replace(variable.wanted, frac=frac)
        for variable, frac in zip(legaliser.variables, fracs, strict=True)
        for name in variable.members
    }
    try:
        plan = make_plan(graph, formats, {}, config)
    except QuantError:
        return False
    return violations(build_graph(graph, plan), config.profile) == []


def small_case(seed):
    """Return a problem of a few thousand combinations, wide limits in some cases, so that not all are illegal."""
    profile = narrow(seed)
    low = 2 + seed % 3
    profile = replace(profile, a_frac=Span(low, low + 3))
    if seed % 2:
        profile = replace(profile, acc_bits=24, bias_bits=16, conv_shift=Span(2, 9))
    graph, _, legaliser = measured(make_net(net_cfg([COMMON_BLOCKS[seed % 4]], (8, 8)), seed), profile)
    return legaliser._problem(graph)


OUTCOMES = {}


@pytest.mark.xdist_group("brute_force")  # the test after it looks at all of them
@pytest.mark.parametrize("seed", range(24))
def test_the_solution_is_the_best_of_all(seed):
    """Brute force over every combination of fraction bits, with the same costs."""
    problem = small_case(seed)
    candidates = [variable.candidates(problem.profile) for variable in problem.variables]
    assert math.prod(map(len, candidates)) <= 20_000
    best = OUTCOMES[seed] = min(map(problem.cost, itertools.product(*candidates)))
    if best == math.inf:
        with pytest.raises(QuantError, match="must be"):
            solve(problem)
        return
    found = solve(problem)
    assert found.cost == problem.cost(found.fracs)
    assert found.cost == pytest.approx(best, rel=1e-6)
    assert found.gap == pytest.approx(0, abs=1e-6)


@pytest.mark.xdist_group("brute_force")
def test_brute_force_saw_both_outcomes():
    """The cases above hold legal and illegal networks, and moves that cost something."""
    if len(OUTCOMES) < 24:
        pytest.skip("needs the cases above in the same process")
    assert math.inf in OUTCOMES.values()
    assert sum(1e-6 < cost < math.inf for cost in OUTCOMES.values()) >= 6


@pytest.mark.parametrize("seed", range(6))
def test_the_problem_and_the_checker_agree_on_what_is_legal(seed):
    """On every node alone and on the whole, for random combinations near the observers' choice."""
    profile = narrow(100 + seed)
    graph, config, legaliser = measured(random_common_net(seed), profile)
    problem = legaliser._problem(graph)
    rng = random.Random(seed)
    verdicts = set()
    tried = [tuple(v.wanted.frac + rng.randint(-1, 1) for v in problem.variables) for _ in range(30)]
    with contextlib.suppress(QuantError):
        tried.append(solve(problem).fracs)
    for fracs in tried:
        legal = problem.cost(fracs) < math.inf
        assert legal == is_legal(graph, config, legaliser, fracs)
        verdicts.add(legal)
    assert False in verdicts


def test_the_price_of_a_convolution_is_the_noise_of_its_rounding():
    """With white input, the squared error of the sum is that of weights and bias."""
    profile = replace(narrow(3), a_frac=Span(-20, 20), acc_bits=48, bias_shift=Span(0, 20), per_channel=False)
    graph, config, legaliser = measured(make_net(net_cfg(["linear"], (8, 8)), 5), profile)
    problem = legaliser._problem(graph)
    factor = next(f for f in problem.factors if f.name == "conv_1")
    shape = factor.node.weight.shape
    rng = np.random.default_rng(0)
    x = rng.standard_normal((shape[1], 20000)) * np.sqrt(legaliser.power.tensors[factor.node.inputs[0]])[:, None]
    priced = 0
    for fracs in itertools.product(range(0, 9), repeat=len(factor.scope)):
        choice = factor.weights.choose(factor.context(fracs))
        if choice.broken:
            assert factor.cost(fracs) == math.inf
            continue
        context = factor.context(fracs)
        codes = factor.weights.weights(choice.w_frac)
        error = codes * 2.0 ** -choice.w_frac.reshape(-1, 1, 1, 1) - factor.node.weight
        found = ((error.reshape(shape[0], -1) @ x) ** 2).mean(1)
        bias = np.floor(factor.node.bias * 2.0 ** (choice.w_frac + context.x.frac) + 0.5)
        fits = np.abs(bias).max() < 2 ** (profile.bias_bits - 1)
        if fits and config.rounding is Rounding.HALF_UP:
            found = found + (bias / 2.0 ** (choice.w_frac + context.x.frac) - factor.node.bias) ** 2
            np.testing.assert_allclose(choice.noise, found, rtol=0.1)
        expected = max(choice.noise.mean() - factor.weights.own_noise, 0) / factor.signal
        assert factor.cost(fracs) == pytest.approx(expected)
        priced += expected > 0
    assert priced


def test_what_cannot_be_legal_names_layer_and_rule():
    model = make_net(net_cfg(["weighted_shortcut"]), 0)
    impossible = replace(TARGETS["generic"], name="tiny", acc_bits=6)
    with pytest.raises(QuantError, match=r"shortcut_2: acc_bits must be at most 6, got \d+: no fraction bits"):
        calibrate_net(model, QuantConfig(target=impossible))
    impossible = replace(TARGETS["generic"], name="far", a_frac=Span(30, 40))
    with pytest.raises(QuantError, match=r"conv_0: a_frac must be in \[30, 40\] on target 'far'"):
        calibrate_net(model, QuantConfig(target=impossible))


def test_rules_that_only_conflict_together_name_the_second_layer():
    """The first convolution asks for few fraction bits of its output, the second for many of its input."""
    model = make_net(net_cfg(["linear"]), 0)
    profile = replace(
        TARGETS["generic"], name="torn", image_bytes=True, w_frac=Span(7, 7), conv_shift=Span(11, 11), per_channel=False
    )
    graph, _, legaliser = measured(model, profile)
    problem = legaliser._problem(graph)
    fracs = {v.name: v.wanted.frac for v in problem.variables}
    assert all(
        any(factor.cost(c) < math.inf for c in itertools.product(range(-2, 10), repeat=len(factor.scope)))
        for factor in problem.factors
    ), fracs
    torn = replace(profile, a_frac=Span(1, 4))  # 8 + 7 - 4 = 11 for the first, 4 + 7 - y = 11 only for y = 0
    graph, _, legaliser = measured(model, torn)
    with pytest.raises(QuantError, match=r"conv_1: conv_shift must be in \[11, 11\].*together with the layers before"):
        solve(legaliser._problem(graph))


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("mish", "conv_1: activations must be one of linear, leaky, relu"),
        ("reorg", "reorg_1: ops must be one of"),
    ],
)
def test_what_no_fraction_bits_can_mend_is_refused_at_once(block, message):
    with pytest.raises(QuantError, match=f"{message}.*target 'dpu-like' cannot compute this layer"):
        calibrate_net(make_net(net_cfg([block])), QuantConfig(target="dpu-like"))


@pytest.mark.parametrize("seed", range(12))
def test_narrow_targets_are_exact_on_every_rung(seed):
    profile = replace(
        narrow(200 + seed), conv_shift=Span(-4, 14), element_shift=Span(-6, 6), acc_bits=24, a_frac=Span(-4, 12),
        w_frac=Span(-2, 16),
    )  # fmt: skip
    bits = [2, 3, 4, 8, 16][seed % 5]
    profile = replace(profile, acc_bits=48, bias_bits=24) if bits == 16 else profile
    graph = assert_ladder(random_common_net(seed), QuantConfig(target=profile, w_bits=bits, a_bits=min(bits + 1, 8)))
    assert violations(graph, profile) == []


def test_what_moved_is_reported():
    profile = replace(TARGETS["generic"], name="coarse", a_frac=Span(-8, 3), conv_shift=Span(2, 6))
    calibrated = calibrate_net(make_net(net_cfg(["leaky", "shortcut"]), 1), QuantConfig(target=profile))
    report = calibrated.legal
    moved = [change for change in report.changes if change.what == "output"]
    assert moved
    for change in moved:
        assert change.after <= 3 < change.before
        assert change.sqnr_after < change.sqnr_before
        assert calibrated.plan.formats[change.layer].frac == change.after
    weights = [change for change in report.changes if change.what == "weights"]
    assert weights
    assert all(change.sqnr_after <= change.sqnr_before and change.channels > 0 for change in weights)
    assert 0 < report.added_noise < 1
    assert report.gap < 1e-6
    assert [str(change) for change in report.changes] == calibrated.plan.notes
    assert report.to_json()["changes"][0]["layer"] == report.changes[0].layer


@pytest.mark.parametrize("seed", range(8))
def test_a_target_that_asks_for_nothing_moves_nothing(seed):
    """A narrower profile that the observers' choice meets gives the generic plan, code by code."""
    model = random_common_net(seed, blocks=4)
    plain = calibrate_net(model)
    same = calibrate_net(model, QuantConfig(target=replace(TARGETS["generic"], name="wide", conv_shift=Span(-8, 30))))
    assert same.legal.changes == plain.legal.changes == ()
    assert same.plan.formats == plain.plan.formats
    for name, codes in plain.plan.convs.items():
        np.testing.assert_array_equal(codes.weight, same.plan.convs[name].weight)
        np.testing.assert_array_equal(codes.bias, same.plan.convs[name].bias)


def test_inputs_of_an_add_share_a_format_where_the_target_cannot_align():
    graph = assert_ladder(
        make_net(net_cfg(["shortcut", "shortcut"])), QuantConfig(target=replace(TARGETS["generic"], equal_add=True))
    )
    adds = [node for node in graph.nodes if node.op == "add"]
    assert adds
    assert all(node.alignment(graph.inputs_of(node)) == [0] * len(node.inputs) for node in adds)


def test_narrow_biases_are_multiples_of_their_step():
    graph = assert_ladder(random_common_net(1), QuantConfig(target="dpu-like"))
    for node in graph.nodes:
        if node.op == "conv2d":
            assert any((node.bias % (1 << s) == 0).all() and (np.abs(node.bias) >> s).max() <= 128 for s in range(16))


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_a_real_network_is_exact_on_every_rung(target):
    cfg, weights = real_network("yolo-fastest-1.1")
    model = load_darknet(cfg, weights)
    images = load_batches(data_path("coco_calib_train48") / "images", model.network.input, limit=8)
    calibrated = calibrate(fold_model(model), images, QuantConfig(target=target))
    graph = lower_graph(calibrated.graph, calibrated.plan)
    assert violations(graph, TARGETS[target]) == []
    assert calibrated.legal.gap < 1e-3
    assert_ladder(model, QuantConfig(target=target), calibrated)
