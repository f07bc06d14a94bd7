# SPDX-License-Identifier: Apache-2.0
"""QONNX, computed by qonnx's own executor: equal codes where promised, the predicted share elsewhere."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from support.onnx_runs import all_tensors, codes_of, exact_nodes, small_biases
from support.random_graph import random_graph, random_input
from support.rounding_probe import probe_codes, rounding_probe

from yolo_hw.errors import ExportError
from yolo_hw.fixedpoint import FixedPoint, Overflow, Rounding
from yolo_hw.interop.onnx_graph import OPSET
from yolo_hw.interop.qonnx import DOMAIN, export_qonnx, qonnx_model, qonnx_report
from yolo_hw.intgraph import INPUT, Activation, TensorInfo, execute, run_outputs

RUNTIME_IR = 10
"""Every onnxruntime that qonnx accepts reads it."""


@pytest.fixture
def run(monkeypatch):
    """Run a model on an image's codes with qonnx; return the outputs by name."""
    executor = pytest.importorskip("qonnx.core.onnx_exec", reason="needs qonnx, of the extra 'test'")
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.transformation.infer_shapes import InferShapes

    monkeypatch.setattr(onnx, "IR_VERSION", RUNTIME_IR)  # qonnx wraps each node in a model of onnx's newest version

    def call(model, graph, codes):
        wrapped = ModelWrapper(model).transform(InferShapes())
        real = np.ldexp(codes[None].astype(np.float32), -graph.tensors[INPUT].fmt.frac)
        return executor.execute_onnx(wrapped, {INPUT: real})

    return call


@pytest.mark.parametrize("rounding", list(Rounding))
@pytest.mark.parametrize("overflow", [Overflow.SATURATE, Overflow.SATURATE_SYMMETRIC])
def test_promised_codes_are_equal(run, rounding, overflow):
    seed = list(Rounding).index(rounding)
    graph = random_graph(seed, bits=(2, 3, 4, 5), size=(6, 7), max_channels=6, rounding=rounding, overflow=overflow)
    graph = all_tensors(small_biases(graph))
    promised = exact_nodes(graph, qonnx_report(graph))
    codes = random_input(graph, seed)
    found = run(qonnx_model(graph), graph, codes)
    for name, expected in execute(graph, codes):
        if name in promised:
            np.testing.assert_array_equal(codes_of(found[name], graph, name), expected.codes, err_msg=name)
    assert {"conv2d", "maxpool"} <= {graph.node(name).op for name in promised}


LEAKY = Activation("leaky", slope_mul=1, slope_shift=3)


@pytest.mark.parametrize("half_up_as", [Rounding.HALF_AWAY, Rounding.HALF_EVEN])
@pytest.mark.parametrize("shift", [2, 5])
@pytest.mark.parametrize("act", [None, LEAKY, Activation("relu", cap=32767)], ids=["linear", "leaky", "relu"])
def test_half_up_differs_as_often_as_predicted(run, half_up_as, shift, act):
    graph, codes = rounding_probe(Rounding.HALF_UP, shift, act), probe_codes()
    (found,) = run(qonnx_model(graph, half_up_as), graph, codes).values()
    measured = (codes_of(found, graph, "conv") != run_outputs(graph, codes)[0]).mean()
    predicted = sum(mismatch.share for mismatch in qonnx_report(graph, half_up_as).mismatches)
    assert measured == pytest.approx(predicted, rel=0.15, abs=0)
    never_negative = act is not None and act.function == "relu"
    assert (measured == 0) == (never_negative and half_up_as is Rounding.HALF_AWAY)


@pytest.mark.parametrize("rounding", [Rounding.HALF_EVEN, Rounding.HALF_AWAY, Rounding.FLOOR])
def test_the_other_roundings_have_a_name(run, rounding):
    graph, codes = rounding_probe(rounding, 3), probe_codes()
    symmetric = replace(graph.contract, overflow=Overflow.SATURATE_SYMMETRIC)  # of sums; the input has its lowest code
    graph = replace(graph, contract=symmetric)
    assert qonnx_report(graph).exact
    (found,) = run(qonnx_model(graph), graph, codes).values()
    np.testing.assert_array_equal(codes_of(found, graph, "conv"), run_outputs(graph, codes)[0])


def attributes(node):
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def test_quant_nodes_state_formats(tmp_path):
    """Word lengths are the graph's own, 5 bits as 5; `narrow` is symmetric saturation of signed codes."""
    graph = random_graph(3, bits=(5,), rounding=Rounding.HALF_AWAY, overflow=Overflow.SATURATE_SYMMETRIC)
    export_qonnx(graph, tmp_path / "net.onnx")
    model = onnx.load(tmp_path / "net.onnx")
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": OPSET, DOMAIN: 1}
    constants = {c.name: onnx.numpy_helper.to_array(c) for c in model.graph.initializer}
    quants = {node.output[0]: node for node in model.graph.node if node.domain == DOMAIN}
    for node in graph.nodes:
        fmt, quant = graph.tensors[node.name].fmt, quants[node.name]
        scale, zero, bits = (constants[name] for name in quant.input[1:])
        assert (scale, zero, bits) == (2.0**-fmt.frac, 0, fmt.bits)
        assert attributes(quant)["signed"] == fmt.signed
        assert attributes(quant)["rounding_mode"] == b"HALF_UP"
        if node.op == "add" and node.act.table is None:
            assert attributes(quant)["narrow"] == fmt.signed
        if node.op == "conv2d":
            values, scale, _, bits = (constants[name] for name in quants[f"{node.name}/weight"].input)
            assert bits == node.w_bits
            np.testing.assert_array_equal(values / scale, node.weight)
            np.testing.assert_array_equal(scale.reshape(-1), np.ldexp(1.0, -node.w_frac))


def test_what_cannot_be_expressed(tmp_path):
    graph = rounding_probe(Rounding.HALF_UP, 3)
    with pytest.raises(ExportError, match=r"strict qonnx must give equal codes.*rounding in 1 nodes"):
        export_qonnx(graph, tmp_path / "net.onnx", strict=True)
    wrapping = replace(graph, contract=replace(graph.contract, rounding=Rounding.FLOOR, overflow=Overflow.WRAP))
    with pytest.raises(ExportError, match="overflow in 1 nodes"):
        export_qonnx(wrapping, tmp_path / "net.onnx", strict=True)
    with pytest.raises(ExportError, match="half_up_as must be half_away or half_even, got floor"):
        export_qonnx(graph, tmp_path / "net.onnx", half_up_as=Rounding.FLOOR)
    assert not any(tmp_path.iterdir())
    unsigned = {**graph.tensors, "conv": TensorInfo(graph.tensors["conv"].shape, FixedPoint(15, 0, signed=False))}
    export_qonnx(replace(graph, tensors=unsigned), tmp_path / "net.onnx", strict=True)  # ties below 0 become 0
