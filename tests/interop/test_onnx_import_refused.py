# SPDX-License-Identifier: Apache-2.0
"""Files that must not be read, models that are none, and operators without a form: one clear error each."""

import os

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support.onnx_models import assert_imports, node, write_model

from yolo_hw.errors import OnnxError
from yolo_hw.interop.from_onnx import constants, document
from yolo_hw.interop.onnx_import import InputConvention, import_onnx


def integers(*values):
    return np.array(values, np.int64)


def weights(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def refused(path, message, **options):
    with pytest.raises(OnnxError, match=message) as caught:
        import_onnx(path, **options)
    assert str(path) in str(caught.value)


CONV = node("Conv", ["x", "w"], "y")

NODES = {
    "conv_weights_from_a_map": ([node("Conv", ["x", "x"], "y")], {}, r"input 1 \('x'\) must be a constant"),
    "pool_indices": ([node("MaxPool", ["x"], ["y", "i"], kernel_shape=[2, 2])], {}, "indices of the maxima"),
    "pool_asymmetric_uncounted": (
        [node("AveragePool", ["x"], "y", kernel_shape=[2, 2], pads=[0, 0, 1, 1])], {}, "differs on opposite sides"),
    "hard_sigmoid": ([node("HardSigmoid", ["x"], "y")], {}, "must be 1/6 and 1/2, got 0.2 and 0.5"),
    "resize_linear": (
        [node("Resize", ["x", "", "s"], "y", mode="linear")], {"s": np.float32([1, 1, 2, 2])}, "mode must be nearest"),
    "resize_fraction": ([node("Resize", ["x", "", "s"], "y")], {"s": np.float32([1, 1, 1.5, 2])}, "whole factor"),
    "resize_shifted": (
        [node("Resize", ["x", "", "s"], "y", nearest_mode="floor")], {"s": np.float32([1, 1, 2, 2])},
        "half_pixel and floor it does not repeat each pixel 2 times"),
    "resize_channels": ([node("Resize", ["x", "", "s"], "y")], {"s": np.float32([1, 2, 1, 1])}, "height and width"),
    "slice_backwards": (
        [node("Slice", ["x", "a", "b", "c", "d"], "y")],
        {"a": integers(3), "b": integers(0), "c": integers(2), "d": integers(-1)}, "steps must be positive, got -1"),
    "whole_numbers": ([node("Cast", ["x"], "i", to=7), node("Cast", ["i"], "y", to=1)], {}, "not supported"),
    "norm_in_training": (
        [node("BatchNormalization", ["x", *"stuv"], ["y", "m", "n"], training_mode=1)],
        {key: np.ones(4, np.float32) for key in "stuv"}, r"training_mode must be 0: call model.eval\(\)"),
    "transposed_padding": (
        [node("ConvTranspose", ["x", "w"], "y", pads=[1, 0, 0, 0])], {"w": weights(4, 2, 3, 3)}, "output_shape"),
    "gemm_transposed": (
        [node("Flatten", ["x"], "f"), node("Gemm", ["f", "w"], "y", transA=1)], {"w": weights(1, 5)}, "without transA"),
    "prelu_per_pixel": ([node("PRelu", ["x", "w"], "y")], {"w": weights(6, 8)}, "one slope, or one per channel"),
    "pad_wrap": ([node("Pad", ["x", "p"], "y", mode="wrap")], {"p": integers(*[0] * 7, 1)}, "must have a mode"),
    "gather_images": ([node("Gather", ["x", "i"], "y", axis=0)], {"i": integers(0)}, "other than that of the images"),
    "gather_beyond": (
        [node("Gather", ["x", "i"], "y", axis=1)], {"i": integers(1, 4)}, r"must be from -4 to 3, got \[1, 4\]"),
    "group_of_no_channels": (
        [node("Conv", ["x", "w"], "y", group=2)], {"w": weights(3, 2, 1, 1)}, "must divide the 3 channels .*, got 2"),
    "bias_of_other_length": (
        [node("Conv", ["x", "w", "b"], "y")], {"w": weights(5, 4, 1, 1), "b": weights(4)}, r"shape \[5\], got \[4\]"),
    "resize_by_infinity": (
        [node("Resize", ["x", "", "s"], "y")], {"s": np.float32([1, 1, np.inf, 2])}, "must have finite sizes"),
    "resize_too_far": (
        [node("Resize", ["x", "", "s"], "y", coordinate_transformation_mode="asymmetric", nearest_mode="floor")],
        {"s": np.float32([1, 1, 2**15, 1])}, "to less than 65536"),
    "old_softmax": ([node("Softmax", ["x"], "y", axis=1)], {}, "before opset 13 the axis must be the last one"),
    "not_finite": ([CONV], {"w": np.full((2, 4, 1, 1), np.nan, np.float32)}, "finite numbers, got 8 others"),
}  # fmt: skip
OPSETS = {"old_softmax": 11, "pad_wrap": 19}


@pytest.mark.parametrize("name", NODES)
def test_a_node_without_a_form_is_named(name, tmp_path):
    nodes, given, message = NODES[name]
    path = write_model(tmp_path / "m.onnx", nodes, given, opset=OPSETS.get(name, 17), outputs=["y"], infer=[False])
    refused(path, rf"node '\w+' \(\w+\): .*{message}", keep_tail=True)


def test_convolutions_of_one_axis(tmp_path):
    nodes = [node("Squeeze", ["x", "a"], "s"), node("Conv", ["s", "w"], "y")]
    path = write_model(tmp_path / "m.onnx", nodes, {"a": integers(2), "w": weights(2, 4, 3)}, shape=(1, 4, 1, 8))
    refused(path, r"node 'y' \(Conv\): must work on images \[N, C, H, W\], got 1 spatial axes on 3")


def test_all_unsupported_nodes_are_named_at_once(tmp_path):
    nodes = [
        node("Sin", ["x"], "a"),
        node("Relu", ["a"], "b"),
        node("Own", ["b"], "c", domain="com.example"),
        node("HardSigmoid", ["x"], "d"),
        node("LRN", ["c"], "e", size=3),
        node("Add", ["e", "d"], "y"),
    ]
    path = write_model(tmp_path / "m.onnx", nodes, domains={"": 17, "com.example": 1}, infer=[False])
    with pytest.raises(OnnxError) as caught:
        import_onnx(path, keep_tail=True)
    message = str(caught.value)
    assert (
        "node 'a' (Sin): this operator is not supported; node 'c' (com.example::Own): operators of the domain"
        in message
    )
    assert "node 'd' (HardSigmoid)" in message
    assert "node 'e' (LRN)" in message
    assert "'b'" not in message
    assert "Supported: Abs, Add, AveragePool" in message
    assert "Silu" not in message


DOMAINS = {"": 17, "my": 1}
NAMESAKES = {
    "Identity": [node("Identity", ["x"], "a", domain="my"), node("Conv", ["a", "w"], "y")],
    "Add": [node("Conv", ["x", "w"], "c"), node("Add", ["c", "b"], "a", domain="my"), node("Relu", ["a"], "y")],
    "Shape": [node("Shape", ["x"], "a", domain="my"), node("Reshape", ["x", "a"], "y")],
    "Constant": [node("Constant", [], "a", domain="my", value_float=2.0), node("Mul", ["x", "a"], "y")],
}


@pytest.mark.parametrize("op", NAMESAKES)
def test_operators_of_other_domains_with_a_standard_name(op, tmp_path):
    given = {"w": weights(2, 4, 1, 1), "b": weights(2, 1, 1)}
    path = write_model(tmp_path / "m.onnx", NAMESAKES[op], given, domains=DOMAINS, infer=[False])
    refused(path, rf"node 'a' \(my::{op}\): operators of the domain 'my' are not supported", keep_tail=True)


def test_supported_operators_are_listed_where_one_is_not(tmp_path):
    refused(write_model(tmp_path / "m.onnx", *NODES["hard_sigmoid"][:2]), "got 0.2 and 0.5$", keep_tail=True)


def test_a_name_of_several_nodes_stands_for_none(tmp_path):
    nodes = [node("Conv", ["x", "w"], "a"), node("Relu", ["a"], "b"), node("Conv", ["b", "v"], "c")]
    nodes[0].name = nodes[2].name = "Conv"
    path = write_model(tmp_path / "m.onnx", nodes, {"w": weights(4, 4, 1, 1), "v": weights(2, 4, 1, 1)})
    refused(path, "2 nodes are called 'Conv'; name one of their tensors, a, c", outputs=["Conv"])
    assert [end.tensor for end in import_onnx(path, outputs=["Con*"]).outputs] == ["a", "c"]
    assert [end.tensor for end in import_onnx(path, outputs=["a"]).outputs] == ["a"]


def test_what_does_not_reach_an_output_may_be_anything(tmp_path):
    nodes = [node("Relu", ["x"], "y"), node("Sin", ["y"], "z")]
    path = write_model(tmp_path / "m.onnx", nodes, outputs=["y", "z"])
    assert [end.tensor for end in import_onnx(path, outputs=["y"]).outputs] == ["y"]


def test_files_that_are_none(tmp_path):
    refused(tmp_path / "none.onnx", "no such ONNX file")
    (tmp_path / "text.onnx").write_text("this is no model at all, but long enough to look at")
    refused(tmp_path / "text.onnx", "no ONNX file, or it is truncated")
    whole = write_model(tmp_path / "m.onnx", [CONV], {"w": weights(2, 4, 3, 3)}).read_bytes()
    (tmp_path / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    refused(tmp_path / "cut.onnx", "truncated")
    (tmp_path / "empty.onnx").write_bytes(b"")
    refused(tmp_path / "empty.onnx", "has no nodes")


def of_itself(model):
    """Call a function that calls itself."""
    imports = [helper.make_opsetid(*pair) for pair in DOMAINS.items()]
    body = [node("Own", ["a"], "b", domain="my")]
    model.functions.append(helper.make_function("my", "Own", ["a"], ["b"], body, imports))
    model.opset_import.append(imports[1])
    model.graph.node[0].CopyFrom(node("Own", ["x"], "y", domain="my"))


FORGED = {
    "no outputs": (lambda model: model.graph.ClearField("output"), "the model has no outputs"),
    "unknown type": (lambda model: setattr(model.graph.initializer[0], "data_type", 77), "not a valid ONNX .*77"),
    "unknown input": (
        lambda model: setattr(model.graph.input[0].type.tensor_type, "elem_type", 77), "got an unknown type 77"),
    "text": (lambda model: setattr(model.graph.node[0].attribute[0], "s", b"\xff"), "auto_pad must be text"),
    "function of itself": (of_itself, "its functions cannot be put in place: Cycle"),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGED)
def test_forged_models(name, tmp_path):
    change, message = FORGED[name]
    nodes = [node("Conv", ["x", "w"], "y", auto_pad="VALID")]
    model = onnx.load(write_model(tmp_path / "m.onnx", nodes, {"w": weights(2, 4, 3, 3)}))
    change(model)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    refused(tmp_path / "m.onnx", message)


def test_a_file_that_is_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(document, "MAX_BYTES", 200)
    refused(write_model(tmp_path / "m.onnx", [CONV], {"w": weights(2, 4, 3, 3)}), "at most 200 bytes, got 389")


@pytest.mark.parametrize("opset", [8, 23])
def test_opsets_outside_of_the_known_ones(opset, tmp_path):
    refused(write_model(tmp_path / "m.onnx", [node("Relu", ["x"], "y")], opset=opset), f"must be 9 to 22, got {opset}")


def test_models_that_contradict_themselves(tmp_path):
    broken = write_model(tmp_path / "a.onnx", [node("Relu", ["z"], "y")], infer=[False])
    refused(broken, "not a valid ONNX model")
    shapes = write_model(tmp_path / "b.onnx", [CONV], {"w": weights(2, 5, 3, 3)}, infer=[False])
    refused(shapes, r"node 'y' \(Conv\): its inputs do not fit|not a valid ONNX model")


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 4, 6), r"must be images \[N, C, H, W\], got 3"),
        ((1, "c", 6, 8), "number of channels must be fixed"),
        ((1, 4, "h", 8), "height and width are free"),
        ((1, 4, 1 << 17, 8), "every extent must be from 1 to 65535"),
    ],
)
def test_inputs_that_are_no_images(shape, message, tmp_path):
    refused(write_model(tmp_path / "m.onnx", [node("Relu", ["x"], "y")], shape=shape), message)


def test_integers_are_no_float_model(tmp_path):
    path = write_model(tmp_path / "m.onnx", [node("Abs", ["x"], "y")], dtype=TensorProto.INT8)
    refused(path, "must be floating point, got INT8: export the float model")


def test_a_model_with_two_inputs(tmp_path):
    model = onnx.load(write_model(tmp_path / "m.onnx", [node("Relu", ["x"], "y")]))
    model.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [1]))
    onnx.save(model, tmp_path / "m.onnx")
    refused(tmp_path / "m.onnx", r"must have one input, got \['x', 'z'\]")


def test_the_input_size_must_be_that_of_the_file(tmp_path):
    fixed = write_model(tmp_path / "a.onnx", [node("Relu", ["x"], "y")])
    refused(fixed, "made for 6x8, got input_size 8x8", input_size=(8, 8))
    assert import_onnx(fixed, input_size=(6, 8)).input_shape == (4, 6, 8)
    free = write_model(tmp_path / "b.onnx", [node("Relu", ["x"], "y")], shape=("n", 4, "h", "w"))
    assert assert_imports(free, input_size=(5, 9)).input_shape == (4, 5, 9)


def external(folder, location, **entries):
    """Write a model whose weight lies in another file."""
    path = write_model(folder / "m.onnx", [CONV], {"w": weights(2, 4, 3, 3)})
    model = onnx.load(path)
    tensor = model.graph.initializer[0]
    (folder / "w.bin").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    path.write_bytes(model.SerializeToString())
    return path


def test_external_data_beside_the_model_is_read(tmp_path):
    assert_imports(external(tmp_path, "w.bin"))
    assert_imports(external(tmp_path, "w.bin", offset=0, length=288))


def test_external_data_elsewhere_is_not_read(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(288))
    for location in ("../secret", str(tmp_path / "secret"), "sub/../../secret", "", "a\0b"):
        refused(external(folder, location), "must lie in the model's folder or below")
    os.symlink(tmp_path / "secret", folder / "link")
    refused(external(folder, "link"), "must lie in the model's folder or below, got 'link'")


def test_external_data_of_a_function(tmp_path, monkeypatch):
    """It is that beside the model, whatever lies in the current folder."""
    folder, elsewhere = tmp_path / "model", tmp_path / "elsewhere"
    for place in (folder, elsewhere):
        place.mkdir()
    monkeypatch.chdir(elsewhere)
    (elsewhere / "w.bin").write_bytes(bytes(288))
    path = external(folder, "w.bin")
    model = onnx.load(path, load_external_data=False)
    body = [helper.make_node("Constant", [], ["v"], value=model.graph.initializer[0]), node("Conv", ["a", "v"], "b")]
    imports = [helper.make_opsetid(*pair) for pair in DOMAINS.items()]
    model.functions.append(helper.make_function("my", "Own", ["a"], ["b"], body, imports[:1]))
    model.opset_import.append(imports[1])
    model.graph.node[0].CopyFrom(node("Own", ["x"], "y", domain="my"))
    model.graph.ClearField("initializer")
    path.write_bytes(model.SerializeToString())
    (weight,) = import_onnx(path).model.parameters()
    np.testing.assert_array_equal(weight.detach(), weights(2, 4, 3, 3))


def test_external_data_of_another_length(tmp_path):
    refused(external(tmp_path, "missing.bin"), r"missing.bin is missing")
    refused(
        external(tmp_path, "w.bin", offset=100, length=288), "must end within .* of 288 bytes, got bytes 100 to 388"
    )
    refused(external(tmp_path, "w.bin", offset="many"), "whole numbers, got 'many'")
    refused(external(tmp_path, "w.bin", length=40), "cannot be read|not a valid")


def test_a_constant_of_absurd_size_is_not_computed(tmp_path):
    use = [node("ReduceMax", ["c"], "r", keepdims=0), node("Mul", ["x", "r"], "y")]
    nodes = [node("ConstantOfShape", ["s"], "c"), *use]
    path = write_model(tmp_path / "m.onnx", nodes, {"s": integers(1 << 20, 1 << 20)}, infer=[False])
    refused(path, f"at most {constants.MAX_ELEMENTS} numbers, got {1 << 40}")
    nodes = [node("Add", ["a", "b"], "c"), *use]
    columns = {"a": weights(1 << 14, 1), "b": weights(1, 1 << 14)}
    refused(write_model(tmp_path / "n.onnx", nodes, columns, infer=[False]), f"numbers, got {1 << 28}")
    nodes = [node("Range", list("deg"), "c"), *use]
    ends = {"d": np.float32(0), "e": np.float32(1e9), "g": np.float32(1)}
    refused(write_model(tmp_path / "o.onnx", nodes, ends, infer=[False]), "numbers, got 1000000000")


def test_wider_and_narrower_floats_become_float32(tmp_path):
    model = write_model(tmp_path / "m.onnx", [CONV], {"w": weights(2, 4, 3, 3).astype(np.float16)},
                        dtype=TensorProto.FLOAT16)  # fmt: skip
    imported = import_onnx(model)
    assert {str(p.dtype) for p in imported.model.parameters()} == {"torch.float32"}
    assert imported.notes == ("float16 numbers are float32 in the module",)


ODD_CONVENTIONS = [
    {"scale": 0.0},
    {"scale": np.inf},
    {"std": (1.0, -1.0, 1.0)},
    {"std": (np.nan,)},
    {"mean": (0.0, np.nan)},
]


@pytest.mark.parametrize("options", ODD_CONVENTIONS)
def test_conventions_that_are_none(options):
    with pytest.raises(OnnxError, match=r"must be (positive|finite)"):
        InputConvention(**options)


def test_a_convention_for_other_channels(tmp_path):
    path = write_model(tmp_path / "m.onnx", [node("Relu", ["x"], "y")])
    with pytest.raises(OnnxError, match="mean must have 1 or 4 numbers, got 3"):
        import_onnx(path, convention=InputConvention(mean=(0.5, 0.5, 0.5)))
