# SPDX-License-Identifier: Apache-2.0
"""The report on layers against sums over the integer graph's own codes."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.random_net import calibrate_net, make_images, make_net, net_cfg, random_net

from yolo_hw.errors import QuantError
from yolo_hw.fixedpoint import FixedPoint
from yolo_hw.intgraph import image_codes
from yolo_hw.intgraph.execute import execute
from yolo_hw.nn.activations import activate
from yolo_hw.quant import Observer, Override, QuantConfig, calibrate, fold_model, lower_graph
from yolo_hw.quant.calibrate import make_plan
from yolo_hw.quant.execute import float_parameters, image_tensor, run_folded
from yolo_hw.quant.layer_report import image_db, measure_layers, sqnr_drop
from yolo_hw.quant.layer_statistics import HISTOGRAM_BINS, Histogram, Likeness
from yolo_hw.quant.recover_plan import recover_plan
from yolo_hw.quant.report_files import encode_report, read_report, table_rows, verdict, write_report
from yolo_hw.quant.report_pictures import ACROSS, DOWN, write_pictures


def measured(model, config=None, count=3, **options):
    calibrated = calibrate_net(model, config)
    images = make_images(model, count)
    return (
        calibrated,
        images,
        measure_layers(calibrated.reference, calibrated.plan, [images[:2], images[2:]], **options),
    )


def float_maps(calibrated, images):
    """Return name -> [N, C, H, W] of the float network, computed as one batch."""
    x = image_tensor(images, torch.float64)
    graph = calibrated.reference
    return {r.node.name: r.out.numpy() for r in run_folded(graph, x, float_parameters(graph, torch.float64))}


@pytest.mark.parametrize("seed", range(3))
def test_figures_are_those_of_the_integer_graphs_codes(seed):
    calibrated, images, report = measured(random_net(seed, 8), QuantConfig(w_bits=5, a_bits=6))
    graph = lower_graph(calibrated.graph, calibrated.plan)
    runs = [dict(execute(graph, image_codes(image))) for image in images]
    maps = float_maps(calibrated, images)
    assert [row.name for row in report.rows] == [n.name for n in calibrated.reference.nodes if not n.moves]
    for row in report.rows:
        codes = np.stack([run[row.name].codes for run in runs])
        x, y = maps[row.name], codes * row.fmt.step
        assert row.accumulated.noise == pytest.approx(((x - y) ** 2).sum(), rel=1e-9)
        assert row.accumulated.sqnr_db == pytest.approx(10 * np.log10((x**2).sum() / ((x - y) ** 2).sum()))
        cosine = (x * y).sum() / np.sqrt((x**2).sum() * (y**2).sum())
        assert row.accumulated.cosine == pytest.approx(cosine, abs=1e-12)
        assert row.clipping.unused == 1 - (codes.max() - codes.min() + 1) / 2**row.fmt.bits
        assert row.histogram.counts.sum() == x.size


def test_clipped_shares_are_those_of_the_accumulators():
    model = make_net(net_cfg(["leaky", "shortcut", "mish"]))
    calibrated = calibrate_net(model, QuantConfig(a_bits=4))
    shrunk = {
        name: replace(f, frac=f.frac + 1) if name in ("conv_1", "conv_5") else f
        for name, f in calibrated.plan.formats.items()
    }
    calibrated = calibrate_with(calibrated, shrunk)
    images = make_images(model, 2)
    report = {row.name: row for row in measure_layers(calibrated.reference, calibrated.plan, [images]).rows}
    graph = lower_graph(calibrated.graph, calibrated.plan)
    runs = [dict(execute(graph, image_codes(image))) for image in images]
    node, fmt = graph.node("conv_1"), graph.tensors["conv_1"].fmt
    frac = (node.w_frac + graph.inputs_of(node)[0].fmt.frac).reshape(-1, 1, 1)
    real = np.stack([run["conv_1"].acc for run in runs]) * 2.0**-frac
    real = np.where(real < 0, real * 51 / 512, real)
    high, low = (real > (fmt.hi + 0.5) * fmt.step).mean(), (real < (fmt.lo - 0.5) * fmt.step).mean()
    assert high > 0
    assert (report["conv_1"].clipping.high_share, report["conv_1"].clipping.low_share) == (high, low)
    node, fmt = graph.node("conv_5"), graph.node("conv_5").act.table_fmt
    frac = (node.w_frac + graph.inputs_of(node)[0].fmt.frac).reshape(-1, 1, 1)
    real = np.stack([run["conv_5"].acc for run in runs]) * 2.0**-frac
    assert report["conv_5"].argument.high_share == (real > (fmt.hi + 0.5) * fmt.step).mean()
    out = activate("mish", torch.from_numpy(real)).numpy()
    fmt = graph.tensors["conv_5"].fmt
    assert report["conv_5"].clipping.high_share == (out > (fmt.hi + 0.5) * fmt.step).mean()


def calibrate_with(calibrated, formats):
    arguments = {name: table.fmt for name, table in calibrated.plan.tables.items()}
    return replace(calibrated, plan=make_plan(calibrated.graph, formats, arguments, calibrated.plan.config))


def test_a_layer_alone_sees_float_inputs_and_its_own_bias():
    """16 bits everywhere but the weights of one layer: alone and in the network that layer errs alike."""
    model = make_net(net_cfg(["relu", "relu", "relu"]).replace("leaky", "relu"))
    config = QuantConfig(w_bits=16, a_bits=16, bias_correction=False, overrides=(Override("conv_2", w_bits=3),))
    _, _, report = measured(model, config)
    rows = {row.name: row for row in report.rows}
    assert rows["conv_2"].isolated.sqnr_db == pytest.approx(rows["conv_2"].accumulated.sqnr_db, abs=0.05)
    assert rows["conv_3"].isolated.sqnr_db > rows["conv_3"].accumulated.sqnr_db + 20
    assert rows["conv_1"].weights.sqnr_db > rows["conv_2"].weights.sqnr_db + 60


def test_a_corrected_bias_does_not_count_against_its_layer():
    """A bias that makes up for layers before it would be an error on float inputs."""
    model = make_net(net_cfg(["relu"] * 2))
    calibrated, images, report = measured(model)
    codes = calibrated.plan.convs["conv_1"]
    moved = replace(codes, bias=codes.bias + (1 << (calibrated.plan.formats["conv_0"].frac + codes.w_frac)))
    plan = replace(calibrated.plan, convs={**calibrated.plan.convs, "conv_1": moved})
    again = measure_layers(calibrated.reference, plan, [images])
    assert again.rows[1].isolated == report.rows[1].isolated
    assert again.rows[1].accumulated.sqnr_db < report.rows[1].accumulated.sqnr_db - 10


def test_the_first_layer_that_hurts_is_the_planted_one():
    model = make_net(net_cfg(["relu"] * 4).replace("leaky", "relu"))  # the integer slope of leaky costs precision, too
    for planted in ("conv_1", "conv_2", "conv_3"):
        config = QuantConfig(w_bits=16, a_bits=16, overrides=(Override(planted, w_bits=2),))
        _, _, report = measured(model, config, hurt_db=40)
        assert report.first_hurt.name == planted
        assert planted in verdict(report)
        assert [cells[0] for cells in table_rows(report) if "!" in cells[0]] == [f"{planted}!"]
    _, _, report = measured(model, QuantConfig(w_bits=16, a_bits=16), hurt_db=40)
    assert report.first_hurt is None
    assert verdict(report) == "every layer alone keeps 40 dB or more"


def test_a_layer_that_only_suffers_from_others_does_not_hurt():
    model = make_net(net_cfg(["relu"] * 4).replace("leaky", "relu"))
    config = QuantConfig(w_bits=16, a_bits=16, overrides=(Override("conv_0", w_bits=2), Override("conv_3", w_bits=2)))
    _, _, report = measured(model, config, hurt_db=40)
    assert [row.name for row in report.hurt] == ["conv_0", "conv_3"]
    assert report.rows[1].accumulated.sqnr_db < report.hurt_db
    assert verdict(report).endswith("; 2 of 6 layers are below")


def test_weights_are_counted_in_codes():
    model = make_net(net_cfg(["relu"]))
    calibrated, _, report = measured(model, QuantConfig(w_bits=4, w_observer=Observer.MAX, equalise=None))
    node, row = calibrated.graph.nodes[1], report.rows[1].weights
    scaled = node.weight * 2.0 ** calibrated.plan.convs[node.name].w_frac.reshape(-1, 1, 1, 1)
    assert row.histogram.counts.sum() == node.weight.size
    for low in (-8.0, -1.0, 0.0, 3.0):
        inside = (row.histogram.edges[:-1] >= low) & (row.histogram.edges[:-1] < low + 1)
        assert row.histogram.counts[inside].sum() == ((scaled >= low) & (scaled < low + 1)).sum()
    assert (row.fmt.lo, row.fmt.hi, row.fmt.step) == (-8, 7, 1.0)


@pytest.mark.parametrize(
    ("before", "after", "drop"),
    [
        ([30.0], 20.0, 10.0),
        ([30.0, 12.0], 20.0, -8.0),  # the worst input counts
        ([math.inf], 20.0, 28.0),  # no error: as the image
        ([math.inf, 12.0], 2.0, 10.0),
        ([math.inf], math.inf, 0.0),
        ([30.0], math.inf, 0.0),
        ([30.0], -math.inf, math.inf),
        ([-math.inf], -math.inf, 0.0),
        ([-math.inf], 3.0, 0.0),
    ],
)
def test_drops_are_defined(before, after, drop):
    assert sqnr_drop(before, after, 48.0) == drop


def test_zero_tensors_have_defined_figures(tmp_path):
    model = make_net(net_cfg(["relu"]))
    graph = fold_model(model)
    zero = replace(graph.nodes[1], weight=0 * graph.nodes[1].weight, bias=0 * graph.nodes[1].bias)
    graph, images = replace(graph, nodes=(graph.nodes[0], zero, *graph.nodes[2:])), make_images(model)
    calibrated = calibrate(graph, [images], QuantConfig())
    report = measure_layers(calibrated.reference, calibrated.plan, [images])
    row = report.rows[1]
    assert row.accumulated == Likeness()
    assert (row.accumulated.sqnr_db, row.accumulated.cosine) == (math.inf, 1.0)
    assert row.weights.sqnr_db == math.inf
    write_report(report, tmp_path / "report.json")
    document = read_report(tmp_path / "report.json")
    assert document["layers"][1]["accumulated"] == {"sqnr_db": None, "cosine": 1.0, "signal": 0.0, "noise": 0.0}
    assert len(write_pictures(report, tmp_path)) == 3
    assert Likeness(0.0, 2.0, 0.0, 2.0).sqnr_db == -math.inf
    assert Likeness(0.0, 2.0, 0.0, 2.0).cosine == 0.0


def test_histograms_widen_and_lose_nothing():
    rng = np.random.default_rng(0)
    histogram = Histogram.around(FixedPoint(4, 2))
    values = [rng.normal(0, scale, 500) for scale in (0.1, 1.0, 40.0, 3.0)]
    values[2][:2] = [-256.0, 255.9]
    for part in values:
        histogram.update(torch.from_numpy(part))
    expected, _ = np.histogram(np.concatenate(values), histogram.edges)
    assert histogram.counts.tolist() == expected.tolist()
    assert histogram.counts.sum() == 2000
    assert len(histogram.counts) == HISTOGRAM_BINS
    assert math.log2(histogram.width).is_integer()


def test_a_graph_without_its_plan_gives_the_same_report():
    model = make_net(net_cfg(["leaky", "mish", "se", "relu", "shortcut"]))
    calibrated, images, report = measured(model, QuantConfig(w_bits=6))
    graph = lower_graph(calibrated.graph, calibrated.plan)
    again = measure_layers(calibrated.reference, recover_plan(graph), [images])
    assert encode_report(again) == encode_report(report)


def test_a_plan_has_one_slope():
    calibrated, _, _ = measured(make_net(net_cfg(["leaky"])))
    graph = lower_graph(calibrated.graph, calibrated.plan)
    first = replace(graph.nodes[0], act=replace(graph.nodes[0].act, slope_mul=1, slope_shift=3))
    with pytest.raises(QuantError, match=r"one slope, got 1 / 2\*\*3 in conv_0 and 51 / 2\*\*9 in conv_1"):
        recover_plan(replace(graph, nodes=(first, *graph.nodes[1:])))


def test_a_damaged_report_is_refused(tmp_path):
    _, _, report = measured(make_net(net_cfg(["leaky"])))
    path = tmp_path / "report.json"
    write_report(report, path)
    document = json.loads(path.read_text())
    document["layers"][0]["output"]["unused"] = 2
    path.write_text(json.dumps(document))
    with pytest.raises(QuantError, match=r"report.json: \$.layers\[0\].output.unused"):
        read_report(path)


def test_pictures_have_pages_and_repeat(tmp_path):
    model = make_net(net_cfg(["leaky"] * (ACROSS * DOWN)))
    _, _, report = measured(model, count=1)
    paths = write_pictures(report, tmp_path / "one")
    pages = [f"{kind}_{page:02d}.png" for kind in ("histograms", "weights") for page in (1, 2)]
    assert [path.name for path in paths] == ["sqnr.png", *pages]
    again = write_pictures(report, tmp_path / "two")
    assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in again]


def test_what_cannot_be_measured():
    calibrated, images, _ = measured(make_net(net_cfg(["leaky"])))
    with pytest.raises(QuantError, match="at least one image"):
        measure_layers(calibrated.reference, calibrated.plan, [])
    other, _, _ = measured(make_net(net_cfg(["shortcut"])))
    with pytest.raises(QuantError, match="no format for"):
        measure_layers(other.reference, calibrated.plan, [images])
    assert image_db(calibrated.plan) == pytest.approx(48.16, abs=0.01)
