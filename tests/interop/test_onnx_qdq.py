# SPDX-License-Identifier: Apache-2.0
"""Quantise-dequantise: equal codes where the report promises them, and about the predicted share where it does not."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from support.data import data_path, real_network
from support.graph_builder import HEAD
from support.networks import tiny_detector
from support.onnx_runs import all_tensors, codes_of, exact_nodes, run_onnx, small_biases
from support.random_graph import random_graph, random_input
from support.random_layers import random_layers
from support.random_net import calibrate_net, make_images, make_net
from support.rounding_probe import probe_codes, rounding_probe

from yolo_hw.errors import ExportError
from yolo_hw.evaluate import IntRunner, OnnxRunner
from yolo_hw.fixedpoint import FixedPoint, Overflow, Rounding
from yolo_hw.interop.mismatch import Reason
from yolo_hw.interop.onnx_qdq import export_qdq_onnx, qdq_model, qdq_report
from yolo_hw.intgraph import INPUT, Activation, TensorInfo, execute, run_outputs
from yolo_hw.quant import LeakySlope, QuantConfig, lower_graph


def assert_promise_is_kept(graph, seed, optimise):
    graph = all_tensors(small_biases(graph))
    promised = exact_nodes(graph, qdq_report(graph))
    codes = random_input(graph, seed)
    x = codes[None].astype(graph.tensors[INPUT].fmt.storage_dtype)
    found = run_onnx(qdq_model(graph), x, optimise=optimise)
    for name, expected in execute(graph, codes):
        assert found[name].dtype == np.float32
        if name in promised:
            got = codes_of(found[name], graph, name)
            np.testing.assert_array_equal(got, expected.codes, err_msg=f"{graph.name}: {name}")
    return promised


@pytest.mark.parametrize("optimise", [False, True])
@pytest.mark.parametrize("overflow", [Overflow.SATURATE, Overflow.SATURATE_SYMMETRIC])
@pytest.mark.parametrize("bits", [(2, 3, 4, 5), (6, 7, 8), (8, 16)])
def test_promised_codes_are_equal(optimise, overflow, bits):
    """Whether onnxruntime computes as the form says, or fuses it into integer kernels."""
    kinds = set()
    for seed in range(3):
        graph = random_graph(seed, bits=bits, max_channels=8, overflow=overflow, rounding=Rounding.HALF_EVEN)
        kinds |= {graph.node(name).op for name in assert_promise_is_kept(graph, seed, optimise)}
    assert {"conv2d"} <= kinds
    if bits[-1] < 6:
        assert {"add", "mul", "maxpool", "concat", "slice", "upsample", "reorg"} <= kinds


@pytest.mark.parametrize("seed", [4, 16, 52])
def test_unusual_windows_and_inputs_of_any_format(seed):
    graph = random_layers(seed)
    graph = replace(graph, contract=replace(graph.contract, rounding=Rounding.HALF_EVEN, overflow=Overflow.SATURATE))
    assert assert_promise_is_kept(graph, seed, optimise=False)


LEAKY = Activation("leaky", slope_mul=1, slope_shift=3)


@pytest.mark.parametrize("rounding", list(Rounding))
@pytest.mark.parametrize("shift", [1, 3, 6])
@pytest.mark.parametrize("act", [None, LEAKY, Activation("relu", cap=32767)], ids=["linear", "leaky", "relu"])
def test_other_roundings_differ_as_often_as_predicted(rounding, shift, act):
    graph, codes = rounding_probe(rounding, shift, act), probe_codes()
    report = qdq_report(graph)
    (found,) = run_onnx(qdq_model(graph), codes[None].astype(np.int8)).values()
    measured = (codes_of(found, graph, "conv") != run_outputs(graph, codes)[0]).mean()
    predicted = sum(mismatch.share for mismatch in report.mismatches)
    assert measured == pytest.approx(predicted, rel=0.15, abs=0)
    assert (measured > 0) == (rounding is not Rounding.HALF_EVEN)


@pytest.mark.parametrize(("bias", "equal"), [((1 << 23) + 513, True), ((1 << 24) + 513, False)])
def test_sums_beyond_24_bits_lose_their_last_bit(bias, equal):
    """513 of 1024 parts go up; without the last bit they are a tie and go to the even code below."""
    graph = rounding_probe(Rounding.HALF_EVEN, 10)
    node = replace(graph.nodes[0], weight=np.zeros_like(graph.nodes[0].weight), bias=np.full(8, bias))
    graph = replace(graph, nodes=(node,))
    (found,) = run_onnx(qdq_model(graph), probe_codes()[None].astype(np.int8)).values()
    (expected,) = run_outputs(graph, probe_codes())
    assert set(expected.reshape(-1).tolist()) == {(bias >> 10) + 1}
    assert np.array_equal(codes_of(found, graph, "conv"), expected) == equal == qdq_report(graph).exact


def test_strict_refuses_and_writes_nothing(tmp_path):
    with pytest.raises(ExportError, match=r"probe: strict qdq must give equal codes.*rounding in 1 nodes, first conv"):
        export_qdq_onnx(rounding_probe(Rounding.HALF_UP, 3), tmp_path / "net.onnx", strict=True)
    assert not any(tmp_path.iterdir())
    report = export_qdq_onnx(rounding_probe(Rounding.HALF_EVEN, 3), tmp_path / "net.onnx", strict=True)
    assert report.exact
    assert (tmp_path / "net.onnx").exists()


def test_the_form_is_the_standard_one(tmp_path):
    """Scales are powers of two, per output channel for weights; biases are int32; 8 bits need opset 13 only."""
    graph = random_graph(0, bits=(8,))
    export_qdq_onnx(graph, tmp_path / "net.onnx")
    model = onnx.load(tmp_path / "net.onnx")
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 13)]
    constants = {c.name: onnx.numpy_helper.to_array(c) for c in model.graph.initializer}
    node = next(node for node in graph.nodes if node.op == "conv2d")
    makers = {entry.output[0]: entry for entry in model.graph.node}
    conv = makers[f"{node.name}/exact"]
    for name, codes, dtype in ((conv.input[1], node.weight, np.int8), (conv.input[2], node.bias, np.int32)):
        quantised, scale = (constants[part] for part in makers[name].input[:2])
        assert quantised.dtype == dtype
        np.testing.assert_array_equal(quantised, codes)
        frac = node.w_frac + (graph.inputs_of(node)[0].fmt.frac if dtype is np.int32 else 0)
        np.testing.assert_array_equal(scale, np.ldexp(1.0, -frac))
    wide = qdq_model(random_graph(0, bits=(8, 16)))
    assert [entry.version for entry in wide.opset_import] == [21]


def test_outputs_are_what_a_detector_takes():
    graph = random_graph(1, max_channels=6)
    outputs = qdq_model(graph, batch=None).graph.output
    dims = outputs[0].type.tensor_type.shape.dim
    shape = graph.tensors[graph.outputs[0].tensor].shape
    assert [dims[0].dim_param, *(d.dim_value for d in dims[1:])] == ["N", HEAD.channels, *shape[1:]]


def test_the_evaluator_runs_the_file(tmp_path):
    """Bytes of images in, real head maps out: equal to the integer engine's, number by number."""
    model = make_net(tiny_detector())
    calibrated = calibrate_net(model, QuantConfig(rounding=Rounding.HALF_EVEN, leaky=LeakySlope(1, 3)))
    graph = lower_graph(calibrated.graph, calibrated.plan)
    assert export_qdq_onnx(graph, tmp_path / "net.onnx", strict=True, batch=None).exact
    pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")
    images = make_images(model, 3)
    runner = OnnxRunner(tmp_path / "net.onnx", model.network, threads=1)
    for one, other in zip(runner.run(images), IntRunner(graph, threads=1).run(images), strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


def test_steps_that_are_no_float32_are_refused():
    graph = rounding_probe(Rounding.HALF_EVEN, 3)
    node = replace(graph.nodes[0], w_frac=np.full(8, 127))
    tensors = {**graph.tensors, "conv": TensorInfo(graph.tensors["conv"].shape, FixedPoint(16, 64))}
    with pytest.raises(ExportError, match=r"conv/weight: the step 2\*\*-127 is no float32"):
        qdq_model(replace(graph, nodes=(node,), tensors=tensors))


def fastest(config):
    """Return Yolo-Fastest-1.1 in integers, and the codes of a real image."""
    from yolo_hw import image_codes, load_batches, load_darknet, quantise_model

    model = load_darknet(*real_network("yolo-fastest-1.1"))
    batches = load_batches(data_path("coco_calib_train48") / "images", model.network.input, limit=2)
    return quantise_model(model, batches, config), image_codes(batches[0][0])


def differing_heads(graph, codes, *, optimise=True):
    found = run_onnx(qdq_model(graph), codes[None].astype(np.uint8), optimise=optimise)
    return [
        (codes_of(found[output.tensor], graph, output.tensor) != expected).mean()
        for output, expected in zip(graph.outputs, run_outputs(graph, codes), strict=True)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("optimise", [False, True])
def test_yolo_fastest_is_equal_where_the_contract_fits(optimise):
    """Half to even and a slope of 1/8: every node is promised, on a real network and image."""
    graph, codes = fastest(QuantConfig(rounding=Rounding.HALF_EVEN, leaky=LeakySlope(1, 3)))
    assert qdq_report(graph).exact
    assert differing_heads(graph, codes, optimise=optimise) == [0, 0]


@pytest.mark.slow
def test_small_shares_add_up():
    """What docs/interop.md says of the default contract."""
    graph, codes = fastest(QuantConfig())
    shares = [mismatch.share for mismatch in qdq_report(graph).by_reason()[Reason.ROUNDING]]
    assert 0.03 < np.mean(shares) < 0.04
    assert np.mean(differing_heads(graph, codes)) > 0.5
