# SPDX-License-Identifier: Apache-2.0
"""Sensitivity to word lengths against whole runs of the network with one unit quantised."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from support.random_net import calibrate_net, make_images, make_net, net_cfg, random_net

from yolo_hw.errors import QuantError, SearchError
from yolo_hw.fixedpoint import dequantise
from yolo_hw.quant import AdaRoundConfig, QuantConfig, calibrate
from yolo_hw.quant import partial_run as P
from yolo_hw.quant.bit_choices import ACTIVATIONS, WEIGHTS, Roundings, bit_units
from yolo_hw.quant.calibrate import make_plan
from yolo_hw.quant.execute import ConvParameters, float_finish, float_parameters, image_tensor, run_folded
from yolo_hw.quant.sensitivity import Metric, SensitivityConfig, scan_sensitivity
from yolo_hw.quant.sensitivity_plot import plot_sensitivity
from yolo_hw.quant.simulate import Simulation

PLAIN = QuantConfig(bias_correction=False)
FEW = SensitivityConfig(w_bits=(3, 8), a_bits=(4, 8))


def whole_run(graph, images, parameters, finish=float_finish):
    x = image_tensor(images)
    outputs = [name for name, _ in graph.outputs]
    with torch.inference_mode():
        found = {r.node.name: r.out for r in run_folded(graph, x, parameters, finish) if r.node.name in outputs}
    return [found[name].double() for name in outputs]


def relative(found, exact):
    return np.mean([float((a - b).square().sum() / b.square().sum()) for a, b in zip(found, exact, strict=True)])


def test_formats_cost_no_search_of_weights(monkeypatch):
    """Of the calibrations only the formats count, so that what the options would do behind them is left out."""
    model = make_net(net_cfg(["leaky", "mish"]))
    calibrated, images = calibrate_net(model, QuantConfig(adaround=AdaRoundConfig(iterations=1))), make_images(model)
    monkeypatch.setattr("yolo_hw.quant.corrections.adaround", lambda *_, **__: pytest.fail("AdaRound ran again"))
    found = scan_sensitivity(calibrated, [images], FEW)
    assert all(set(row) == {3, 8} or set(row) == {4, 8} for row in found.damage.values())


@pytest.mark.parametrize("seed", [3, 4])
def test_damage_is_that_of_a_whole_run_with_one_unit_rounded(seed):
    model = random_net(seed, 7)
    calibrated, images = calibrate_net(model, PLAIN), make_images(model)
    graph = calibrated.reference
    found = scan_sensitivity(calibrated, [images], FEW)
    exact = whole_run(graph, images, float_parameters(graph))
    same = replace(PLAIN, equalise=None)
    for bits in FEW.w_bits:
        arguments = {name: table.fmt for name, table in calibrated.plan.tables.items()}
        codes = make_plan(graph, calibrated.plan.formats, arguments, replace(same, w_bits=bits)).convs
        for unit in (u for u in found.units if u.kind == WEIGHTS):
            parameters, own = float_parameters(graph), codes[unit.name]
            weight = dequantise(own.weight, own.w_frac.reshape(-1, 1, 1, 1))
            bias = parameters[unit.name].bias
            parameters[unit.name] = ConvParameters(torch.from_numpy(weight).float(), bias)
            assert found.damage[unit.label][bits] == pytest.approx(
                relative(whole_run(graph, images, parameters), exact)
            )
    for bits in FEW.a_bits:
        simulation = Simulation(graph, calibrate(graph, [images], replace(same, a_bits=bits)).plan)
        for unit in (u for u in found.units if u.kind == ACTIVATIONS):

            def finish(node, pre, unit=unit, simulation=simulation):
                return (simulation.finish if node.name in unit.members else float_finish)(node, pre)

            whole = whole_run(graph, images, float_parameters(graph), finish)
            assert found.damage[unit.label][bits] == pytest.approx(relative(whole, exact))


def test_units_cover_every_weight_and_every_format_once():
    graph = calibrate_net(make_net(net_cfg(["spp", "se", "shortcut"]))).reference
    units = bit_units(graph, QuantConfig())
    assert len({unit.label for unit in units}) == len(units)
    members = [name for unit in units if unit.kind == ACTIVATIONS for name in unit.members]
    assert sorted(members) == sorted(node.name for node in graph.nodes if not node.moves)


def test_what_lies_before_a_change_is_not_computed_again(monkeypatch):
    model = make_net(net_cfg(["leaky", "relu", "leaky", "spp"]))
    calibrated, images = calibrate_net(model), make_images(model)
    roundings = Roundings(calibrated, [images], (4,), (8,))
    computed = []
    real = P.raw_result
    monkeypatch.setattr(P, "raw_result", lambda node, *rest: computed.append(node.name) or real(node, *rest))
    known = P.float_maps(roundings.reference, P.image_tensor(images), roundings.exact)
    names = [node.name for node in roundings.reference.nodes]
    unit = next(unit for unit in roundings.units if unit.label == "w:conv_2")
    with torch.inference_mode():
        found = P.outputs_with(roundings.reference, known, roundings.changes(unit, 4), roundings.exact)
        assert computed == names[names.index("conv_2") + 1 :]
        whole = P.outputs_with(
            roundings.reference, {"input": known["input"]}, roundings.changes(unit, 4), roundings.exact
        )
    assert all(torch.equal(a, b) for a, b in zip(found, whole, strict=True))


def test_rounded_weights_keep_the_means_where_biases_are_corrected():
    model = make_net(net_cfg(["relu", "leaky"]))
    images = make_images(model)
    for config, keeps in ((QuantConfig(), True), (PLAIN, False)):
        roundings = Roundings(calibrate_net(model, config), [images], (2,), (8,))
        node = roundings.reference.nodes[0]
        x = P.image_tensor(images)
        exact = P.float_maps(replace(roundings.reference, nodes=(node,), outputs=()), x, roundings.exact)
        linear = replace(node, activation="linear")
        found = roundings.rounded_sums(linear, [x], 2)
        pre = P.raw_result(linear, [x], roundings.exact)
        assert exact[node.name].shape == found.shape
        assert torch.allclose(found.mean((0, 2, 3)), pre.mean((0, 2, 3)), atol=1e-5) == keeps


def test_several_batches_and_a_bound_on_memory_change_nothing(monkeypatch):
    model = make_net(net_cfg(["leaky", "mish"]))
    calibrated, images = calibrate_net(model, PLAIN), make_images(model)
    whole = scan_sensitivity(calibrated, [images], FEW)
    monkeypatch.setattr(P, "MEMORY_BUDGET", 1)
    single = scan_sensitivity(calibrated, [images], FEW)
    for label, damages in whole.damage.items():
        for bits, value in damages.items():
            assert single.damage[label][bits] == pytest.approx(value, rel=1e-4)


def test_curvature_is_exact_behind_the_last_layer_and_ranks_like_the_measurement():
    model = random_net(3, 8)
    calibrated, images = calibrate_net(model), make_images(model)
    config = SensitivityConfig(w_bits=(2, 4, 8), a_bits=(4, 8))
    measured = scan_sensitivity(calibrated, [images], config)
    estimated = scan_sensitivity(calibrated, [images], replace(config, metric=Metric.CURVATURE))
    last = calibrated.reference.outputs[0][0]
    for kind in (WEIGHTS, ACTIVATIONS):  # the outputs' own change: J is the identity
        for bits, value in measured.damage[f"{kind}:{last}"].items():
            assert estimated.damage[f"{kind}:{last}"][bits] == pytest.approx(value, rel=1e-4)
    pairs = [(measured.damage[k][b], v) for k, row in estimated.damage.items() for b, v in row.items()]
    assert spearmanr(*zip(*pairs, strict=True)).statistic > 0.97


class Bits:
    """A score: how near the first head's map is to that of the float network."""

    identity = "bits"

    def __init__(self, images):
        self.images, self.exact, self.calls = images, None, 0

    def __call__(self, runner):
        self.calls += 1
        (found,) = runner.run(self.images)
        self.exact = found if self.exact is None else self.exact
        return 1 - float((found - self.exact).square().sum() / self.exact.square().sum())


def test_a_score_gives_the_same_damage_and_goes_on_from_its_log(tmp_path):
    model = make_net(net_cfg(["leaky", "relu"]))
    calibrated, images = calibrate_net(model, PLAIN), make_images(model)
    config, score = replace(FEW, metric=Metric.SCORE), Bits(images)
    found = scan_sensitivity(calibrated, [images], config, score=score, log=tmp_path / "log.json")
    assert found.baseline == 1
    measured = scan_sensitivity(calibrated, [images], FEW)
    for label, damages in measured.damage.items():
        assert found.damage[label] == pytest.approx(damages, rel=1e-3, abs=1e-6)
    assert score.calls == 1 + 2 * len(found.units)
    document = json.loads((tmp_path / "log.json").read_text())
    document["rows"] = document["rows"][:5]
    (tmp_path / "log.json").write_text(json.dumps(document))
    again = scan_sensitivity(calibrated, [images], config, score=score, log=tmp_path / "log.json")
    assert again == found
    assert score.calls == 2 * (1 + 2 * len(found.units)) - 5
    with pytest.raises(SearchError, match="other options"):
        scan_sensitivity(calibrated, [images], replace(config, w_bits=(4,)), score=score, log=tmp_path / "log.json")


@pytest.mark.parametrize("metric", [Metric.OUTPUT_ERROR, Metric.CURVATURE])
def test_an_interrupted_scan_goes_on(tmp_path, metric):
    model = make_net(net_cfg(["leaky", "relu"]))
    calibrated, images = calibrate_net(model), make_images(model)
    config = replace(FEW, metric=metric)

    def stop(progress):
        assert progress.total == 1 + len(bit_units(calibrated.reference, QuantConfig()))
        if progress.done == 3:
            raise KeyboardInterrupt

    whole = scan_sensitivity(calibrated, [images], config)
    with pytest.raises(KeyboardInterrupt):
        scan_sensitivity(calibrated, [images], config, log=tmp_path / "log.json", report=stop)
    assert len(json.loads((tmp_path / "log.json").read_text())["rows"]) == 3
    assert scan_sensitivity(calibrated, [images], config, log=tmp_path / "log.json") == whole
    with pytest.raises(SearchError, match="other images"):
        scan_sensitivity(calibrated, [images[:2]], config, log=tmp_path / "log.json")


def test_the_picture_repeats(tmp_path):
    model = make_net(net_cfg(["relu"]))
    found = scan_sensitivity(calibrate_net(model), [make_images(model)], FEW)
    for name in ("one.png", "two.png"):
        plot_sensitivity(tmp_path / name, found)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_what_cannot_be_scanned():
    model = make_net(net_cfg(["relu"]))
    calibrated, images = calibrate_net(model), make_images(model)
    for bad in ({"w_bits": (1,)}, {"a_bits": ()}, {"a_bits": (8, 8)}, {"probes": 0}, {"images": 0}):
        with pytest.raises(QuantError, match=f"sensitivity: {next(iter(bad))} must be"):
            SensitivityConfig(**bad)
    with pytest.raises(QuantError, match="a score belongs to metric 'score', got 'output-error'"):
        scan_sensitivity(calibrated, [images], FEW, score=lambda runner: 0.0)
    with pytest.raises(QuantError, match="a score belongs to metric 'score', got 'score'"):
        scan_sensitivity(calibrated, [images], replace(FEW, metric=Metric.SCORE))
    with pytest.raises(QuantError, match="at least one image"):
        scan_sensitivity(calibrated, [], FEW)
    with pytest.raises(SearchError, match="score in float: must be a finite number, got nan"):
        scan_sensitivity(calibrated, [images], replace(FEW, metric=Metric.SCORE), score=lambda runner: float("nan"))
    silent = [replace(n, weight=0 * n.weight, bias=0 * n.bias) for n in calibrated.reference.nodes]
    silenced = replace(calibrated, reference=replace(calibrated.reference, nodes=tuple(silent)))
    with pytest.raises(QuantError, match="must not all be zero"):
        scan_sensitivity(silenced, [images], FEW)
