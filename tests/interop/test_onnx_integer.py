# SPDX-License-Identifier: Apache-2.0
"""The pure integer form: onnxruntime gives the codes of the numpy reference and of the engine, on every tensor."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto
from support.data import REPOSITORY, data_path, real_network
from support.graph_builder import HEAD
from support.onnx_runs import all_tensors, element_types, run_codes, run_onnx
from support.random_graph import adversarial_inputs, random_graph, random_input
from support.random_layers import WORD_LENGTHS, random_layers

from yolo_hw.darknet.layers import Shape
from yolo_hw.errors import ExportError
from yolo_hw.fixedpoint import FixedPoint, Overflow, Rounding
from yolo_hw.geometry import Window
from yolo_hw.interop import onnx_integer
from yolo_hw.interop.onnx_graph import OnnxBuilder
from yolo_hw.interop.onnx_integer import export_integer_onnx, integer_model
from yolo_hw.interop.onnx_requant import emit_requant
from yolo_hw.intgraph import INPUT, IntGraph, NumericContract, Output, TensorInfo, check_graph, execute, run_outputs
from yolo_hw.intgraph import nodes as N
from yolo_hw.intgraph.engine import Engine
from yolo_hw.intgraph.nodes import NODE_TYPES
from yolo_hw.intgraph.requant import Requant

INTEGERS = {TensorProto.UINT8, TensorProto.INT8, TensorProto.UINT16, TensorProto.INT16, TensorProto.INT32}
INTEGERS |= {TensorProto.INT64, TensorProto.BOOL}


def assert_equal_codes(graph, inputs):
    """Every tensor of the graph has the reference's and the engine's codes, in its storage type."""
    graph = all_tensors(graph)
    model, engine = integer_model(graph), Engine(graph, threads=1, keep_all=True)
    assert {x.name for x in model.graph.initializer} <= {name for node in model.graph.node for name in node.input}
    for codes in inputs:
        found, compiled = run_codes(model, graph, codes), engine.run_all(codes)
        for name, expected in execute(graph, codes):
            assert found[name].dtype == graph.tensors[name].fmt.storage_dtype
            np.testing.assert_array_equal(found[name][0], expected.codes, err_msg=f"{graph.name}: {name}")
            np.testing.assert_array_equal(compiled[name], expected.codes, err_msg=f"{graph.name}: engine: {name}")


@pytest.mark.parametrize("rounding", list(Rounding))
@pytest.mark.parametrize("overflow", list(Overflow))
@pytest.mark.parametrize("bits", [tuple(range(2, 9)), tuple(range(9, 17)), (8, 16)])
def test_every_node_kind_rounding_overflow_and_word_length(rounding, overflow, bits):
    seed = 12 * list(Rounding).index(rounding) + 3 * list(Overflow).index(overflow) + len(bits) % 3
    graph = random_graph(seed, bits=bits, max_channels=9, rounding=rounding, overflow=overflow)
    assert {node.op for node in graph.nodes} == set(NODE_TYPES)
    assert_equal_codes(graph, [random_input(graph, seed), *adversarial_inputs(graph).values()])


@settings(max_examples=12)
@given(st.integers(0, 12 * len(WORD_LENGTHS) - 1))
def test_unusual_windows_and_shifts(seed):
    """Asymmetric padding, dilation, windows that end before the map, shifts at both limits, inputs of any format."""
    graph = random_layers(seed)
    assert_equal_codes(graph, [random_input(graph, seed)])


@st.composite
def requants(draw):
    signed = draw(st.booleans())
    code = FixedPoint(draw(st.integers(2, 16 if signed else 15)), 0, signed)
    shift = np.array(draw(st.lists(st.integers(-16, 47), min_size=3, max_size=3)))
    out = FixedPoint(draw(st.integers(2, 16)), 0)
    if code.bits <= 8 and draw(st.booleans()):
        table = np.random.default_rng(draw(st.integers(0, 99))).integers(out.lo, out.hi + 1, 1 << code.bits)
        return Requant(shift, code, code.lo, code.hi, table=table)
    mul, extra = draw(st.sampled_from([(1, 0), (51, 9), (1, 3), (3276, 15), (65535, 31)]))
    lo = 0 if draw(st.booleans()) else code.lo
    hi = draw(st.integers(0, code.hi))
    extra = min(extra, 47 - int(shift.max()))
    return Requant(shift, code, lo, hi, mul_pos=draw(st.sampled_from([1, mul])), mul_neg=mul, shift_neg=extra)


@settings(max_examples=150, deadline=None)
@given(requants(), st.sampled_from(list(Rounding)), st.sampled_from(list(Overflow)), st.integers(0, 2**32 - 1))
def test_requantisation_of_the_widest_accumulators(requant, rounding, overflow, seed):
    """Ties of every shift, their neighbours, and accumulators whose product just fits 64 bits."""
    contract, rng = NumericContract(rounding, overflow, 48), np.random.default_rng(seed)
    left = max(int(-requant.shift.min()), 0)
    room = min(48, 63 - max(requant.mul_pos, requant.mul_neg).bit_length() - left) - 1
    ties = (2 * rng.integers(-40, 40, (3, 4, 6)) + 1) << np.clip(requant.shift - 1, 0, 40).reshape(3, 1, 1)
    acc = np.concatenate([ties, ties - 1, ties + 1, rng.integers(-(1 << room), 1 << room, (3, 4, 6))], 1)
    acc = np.concatenate([acc.clip(-(1 << room), (1 << room) - 1), acc % 7 - 3], 1)
    b = OnnxBuilder("requant")
    ports = [onnx.helper.make_tensor_value_info(n, TensorProto.INT64, [1, *acc.shape]) for n in (INPUT, "codes")]
    b.rename_last(emit_requant(b, "node", INPUT, requant, contract), "codes")
    body = onnx.helper.make_graph(b.nodes, "g", ports[:1], ports[1:], list(b.constants.values()))
    model = onnx.helper.make_model(body, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=7)
    np.testing.assert_array_equal(run_onnx(model, acc[None])["codes"][0], requant.apply(acc, contract))


def test_there_is_no_float_anywhere():
    for bits in ((4, 8), (8, 16)):
        graph = all_tensors(random_graph(1, bits=bits, rounding=Rounding.HALF_EVEN))
        types = set(element_types(integer_model(graph)).values())
        assert types <= INTEGERS
        assert {TensorProto.INT8, TensorProto.INT64, TensorProto.BOOL} <= types


def test_convolutions_are_of_unsigned_bytes():
    """Whatever the signs: the kernel for unsigned maps and signed weights saturates on some processors."""
    model = integer_model(random_graph(2, bits=(8, 16)))
    types = element_types(model)
    operands = [node.input for node in model.graph.node if node.op_type == "ConvInteger"]
    assert len(operands) > 20
    assert {types[name] for names in operands for name in names} == {TensorProto.UINT8}


def one_conv(taps, x_bits, w_code, w_bits, signed=True):
    """A convolution that adds up a single column of `taps` channels."""
    x = TensorInfo(Shape(taps, 1, 1), FixedPoint(x_bits, 0, signed))
    weight = np.full((2, taps, 1, 1), w_code)
    conv = N.Conv2d(
        name="conv", inputs=(INPUT,), weight=weight, w_frac=np.array([22, 30]), bias=np.array([-5, 7]), w_bits=w_bits,
        window=Window((1, 1)),
    )  # fmt: skip
    tensors = {INPUT: x, "conv": TensorInfo(Shape(2, 1, 1), FixedPoint(16, 0))}
    graph = IntGraph("wide", NumericContract(acc_bits=48), (conv,), tensors, (Output("conv"),))
    check_graph(graph)
    return graph


def test_sums_of_bytes_beyond_int32_are_taken_apart(monkeypatch):
    """Low bytes of 255 on both sides: 40000 products are more than an int32 holds."""
    graph, codes = one_conv(40_000, 16, 255, 16), np.full((40_000, 1, 1), 255)
    (expected,) = run_outputs(graph, codes)
    np.testing.assert_array_equal(run_codes(integer_model(graph), graph, codes)["conv"][0], expected)
    monkeypatch.setattr(onnx_integer, "MAX_TAPS", 1 << 20)
    assert not np.array_equal(run_codes(integer_model(graph), graph, codes)["conv"][0], expected)


def test_the_limit_of_taps_is_the_largest_that_fits():
    assert onnx_integer.MAX_TAPS * 255 * 255 < 1 << 31 <= (onnx_integer.MAX_TAPS + 1) * 255 * 255


def test_any_number_of_images():
    graph = random_graph(5, max_channels=8)
    images = np.stack([random_input(graph, seed) for seed in range(3)]).astype(np.uint8)
    found = run_onnx(integer_model(graph, batch=None), images)
    fixed = run_onnx(integer_model(graph, batch=3), images)
    for i, image in enumerate(images):
        for output, expected in zip(graph.outputs, run_outputs(graph, image), strict=True):
            np.testing.assert_array_equal(found[output.tensor][i], expected)
            np.testing.assert_array_equal(fixed[output.tensor][i], expected)
    with pytest.raises(ExportError, match="random_5: batch must be at least 1"):
        integer_model(graph, batch=0)


def test_another_runtime_agrees():
    """The evaluator of the onnx package follows the operators' specification in numpy."""
    reference = pytest.importorskip("onnx.reference")
    graph = random_graph(6, max_channels=5, size=(6, 5), rounding=Rounding.HALF_AWAY, overflow=Overflow.WRAP)
    codes = random_input(graph, 0)
    found = reference.ReferenceEvaluator(integer_model(graph)).run(None, {INPUT: codes[None].astype(np.uint8)})
    for one, expected in zip(found, run_outputs(graph, codes), strict=True):
        np.testing.assert_array_equal(one[0], expected)


def test_a_tensor_may_leave_twice_and_the_image_too():
    graph = random_graph(7, max_channels=6)
    head = graph.outputs[0]
    graph = replace(graph, outputs=(head, Output(INPUT), Output(head.tensor)))
    codes = random_input(graph, 0)
    found = run_codes(integer_model(graph), graph, codes)
    assert list(found) == [head.tensor, f"{INPUT}/output1", f"{head.tensor}/output2"]
    (expected,) = run_outputs(replace(graph, outputs=(head,)), codes)
    for one, wanted in zip(found.values(), (expected, codes, expected), strict=True):
        np.testing.assert_array_equal(one[0], wanted)


def test_a_host_can_decode_from_the_metadata_alone(tmp_path):
    graph = random_graph(8, max_channels=8)
    export_integer_onnx(graph, tmp_path / "net.onnx")
    model = onnx.load(tmp_path / "net.onnx")
    document = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert document["yolo_hw.form"] == "integer"
    assert document["yolo_hw.contract"] == {"rounding": "half_up", "overflow": "saturate", "acc_bits": 32}
    assert document["yolo_hw.input"] == {
        "name": INPUT, "shape": list(graph.input_shape), "bits": 8, "frac": 8, "signed": False,
    }  # fmt: skip
    assert [value.name for value in model.graph.output] == [entry["name"] for entry in document["yolo_hw.outputs"]]
    for output, entry in zip(graph.outputs, document["yolo_hw.outputs"], strict=True):
        info = graph.tensors[output.tensor]
        assert (entry["bits"], entry["frac"], entry["signed"]) == (info.fmt.bits, info.fmt.frac, info.fmt.signed)
        assert entry["shape"] == list(info.shape)
    head = document["yolo_hw.outputs"][0]["head"]
    assert (head["kind"], head["classes"], head["anchors"]) == ("yolo", HEAD.classes, [list(a) for a in HEAD.anchors])
    assert document["yolo_hw.outputs"][1]["head"] is None


def test_equal_graphs_give_equal_files_and_failures_none(tmp_path):
    paths = [tmp_path / name for name in ("one.onnx", "other.onnx")]
    for path in paths:
        export_integer_onnx(random_graph(9), path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    with pytest.raises(ExportError):
        export_integer_onnx(random_graph(9), tmp_path / "none.onnx", batch=-1)
    assert sorted(tmp_path.iterdir()) == paths


@pytest.mark.parametrize("module", ["onnx_integer", "onnx_qdq", "qonnx"])
def test_integer_graphs_are_exported_without_torch(module):
    code = f"import sys, yolo_hw.interop.{module}\nsys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True, timeout=120)


@pytest.mark.slow
@pytest.mark.parametrize("bits", [8, 16])
def test_yolo_fastest(bits):
    from yolo_hw import QuantConfig, image_codes, load_batches, load_darknet, quantise_model

    model = load_darknet(*real_network("yolo-fastest-1.1"))
    batches = load_batches(data_path("coco_calib_train48") / "images", model.network.input, limit=2)
    graph = quantise_model(model, batches, QuantConfig(w_bits=bits, a_bits=bits))
    assert_equal_codes(graph, [image_codes(batches[0][0])])
