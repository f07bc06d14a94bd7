# SPDX-License-Identifier: Apache-2.0
"""Where imported networks end: by default before their decoding, or where they are told to."""

import warnings

import numpy as np
import pytest
import torch
from support.onnx_models import assert_close, module_outputs, node, runtime, write_model

from yolo_hw.errors import OnnxError
from yolo_hw.interop.onnx_import import (
    InputConvention,
    OnnxCutWarning,
    OutputMap,
    import_onnx,
    load_onnx,
    suggest_outputs,
)


def weights(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def integers(*values):
    return np.array(values, np.int64)


BINS = 4
BOX, CLS = 4 * BINS, 3


def head(level, source):
    """Nodes of a YOLOv8 head: boxes as distributions, classes beside them, flattened."""
    name = f"/head.{level}"
    return [
        node("Conv", [source, f"box{level}"], f"{name}/box/Conv"),
        node("Conv", [source, f"cls{level}"], f"{name}/cls/Conv"),
        node("Concat", [f"{name}/box/Conv", f"{name}/cls/Conv"], f"{name}/Concat", axis=1),
        node("Reshape", [f"{name}/Concat", "flat"], f"{name}/Reshape"),
    ]


def yolov8_like(folder):
    """A detector of two levels whose decoding holds a convolution with the weights 0, 1, 2, 3."""
    nodes = [
        node("Conv", ["x", "stem"], "a", pads=[1] * 4),
        node("Relu", ["a"], "b"),
        node("MaxPool", ["b"], "c", kernel_shape=[2, 2], strides=[2, 2]),
        *head(0, "b"),
        *head(1, "c"),
        node("Concat", ["/head.0/Reshape", "/head.1/Reshape"], "all", axis=2),
        node("Split", ["all", "parts"], ["boxes", "classes"], axis=1),
        node("Reshape", ["boxes", "bins"], "d"),
        node("Transpose", ["d"], "e", perm=[0, 2, 1, 3]),
        node("Softmax", ["e"], "f", axis=1),
        node("Conv", ["f", "expectation"], "g"),
        node("Reshape", ["g", "four"], "h"),
        node("Sigmoid", ["classes"], "i"),
        node("Concat", ["h", "i"], "output0", axis=1),
    ]
    constants = {
        "stem": weights(8, 3, 3, 3), "flat": integers(1, BOX + CLS, -1), "parts": integers(BOX, CLS),
        "bins": integers(1, 4, BINS, -1), "four": integers(1, 4, -1),
        "expectation": np.arange(BINS, dtype=np.float32).reshape(1, BINS, 1, 1),
    }  # fmt: skip
    for level in (0, 1):
        constants |= {f"box{level}": weights(BOX, 8, 1, 1, seed=level), f"cls{level}": weights(CLS, 8, 1, 1)}
    return write_model(folder / "v8.onnx", nodes, constants, shape=(1, 3, 8, 8))


def test_a_decoded_detector_ends_at_its_last_convolutions(tmp_path):
    path = yolov8_like(tmp_path)
    imported = import_onnx(path)
    assert imported.outputs == (
        OutputMap("/head.0/box/Conv", "/head.0/box/Conv", (BOX, 8, 8)),
        OutputMap("/head.0/cls/Conv", "/head.0/cls/Conv", (CLS, 8, 8)),
        OutputMap("/head.1/box/Conv", "/head.1/box/Conv", (BOX, 4, 4)),
        OutputMap("/head.1/cls/Conv", "/head.1/cls/Conv", (CLS, 4, 4)),
    )
    assert suggest_outputs(path) == imported.outputs
    assert imported.dropped["Conv"] == 1
    assert imported.dropped["Softmax"] == 1
    assert "ends at /head.0/box/Conv [16, 8, 8], " in imported.notes[0]
    assert "goes on with 4 Concat, Conv" in imported.notes[0]


def test_the_same_maps_by_pattern_and_the_rest_of_the_file(tmp_path):
    path = yolov8_like(tmp_path)
    x = np.random.default_rng(0).random((1, 3, 8, 8)).astype(np.float32)
    by_default = import_onnx(path).model
    by_name = import_onnx(path, outputs=["/head.*/*/Conv"]).model
    assert_close(module_outputs(by_default, x), module_outputs(by_name, x))
    whole = import_onnx(path, keep_tail=True)
    assert whole.dropped == {}
    assert_close(runtime(path, x), module_outputs(whole.model, x))
    assert_close(module_outputs(whole.model, x), module_outputs(import_onnx(path, outputs=["output0"]).model, x))


def test_a_cut_is_never_silent(tmp_path):
    path = yolov8_like(tmp_path)
    with pytest.warns(OnnxCutWarning, match="the module ends at /head.0/box/Conv"):
        load_onnx(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_onnx(path, keep_tail=True)
        load_onnx(path, outputs=["a"])


def test_names_that_stand_for_nothing(tmp_path):
    path = yolov8_like(tmp_path)
    with pytest.raises(OnnxError, match=r"no tensor or node '/head.0/bux/Conv'; did you mean '/head.0/box/Conv'\?"):
        import_onnx(path, outputs=["/head.0/bux/Conv"])
    with pytest.raises(OnnxError, match=r"no tensor or node 'q\*'; the outputs are output0"):
        import_onnx(path, outputs=["q*"])
    with pytest.raises(OnnxError, match="at least one"):
        import_onnx(path, outputs=[])
    with pytest.raises(OnnxError, match="give outputs, or keep_tail"):
        import_onnx(path, outputs=["a"], keep_tail=True)


def ends(path):
    return [end.tensor for end in import_onnx(path).outputs]


CONV = node("Conv", ["x", "w"], "a")
W = {"w": weights(6, 4, 3, 3), "two": np.float32(2), "each": weights(1, 6, 1, 1), "sizes": integers(1, -1)}
AS_IT_IS = {
    "activation": [node("Relu", ["a"], "y")],
    "sigmoid": [node("Sigmoid", ["a"], "y")],
    "sum": [node("Relu", ["a"], "b"), node("Add", ["a", "b"], "y")],
    "pooled": [node("GlobalAveragePool", ["a"], "b"), node("Flatten", ["b"], "y")],
    "concatenated": [node("Relu", ["a"], "b"), node("Concat", ["a", "b"], "y", axis=1)],
}
CUT = {
    "softmax": ([node("Softmax", ["a"], "y", axis=1)], ["a"]),
    "flattened": ([node("Reshape", ["a", "sizes"], "y")], ["a"]),
    "after_the_activation": ([node("Relu", ["a"], "b"), node("Softmax", ["b"], "y", axis=1)], ["b"]),
    "before_the_sigmoid": ([node("Sigmoid", ["a"], "b"), node("Reshape", ["b", "sizes"], "y")], ["a"]),
    "before_a_scaling": ([node("Sigmoid", ["a"], "b"), node("Mul", ["b", "two"], "c"), node("Exp", ["c"], "y")], ["a"]),
    "after_a_factor_per_channel": ([node("Mul", ["a", "each"], "b"), node("Exp", ["b"], "y")], ["b"]),
    "after_a_sum": ([node("Relu", ["a"], "b"), node("Add", ["a", "b"], "c"), node("Exp", ["c"], "y")], ["c"]),
    "both_branches": (
        [node("Exp", ["a"], "b"), node("Sigmoid", ["a"], "c"), node("Concat", ["b", "c"], "y", axis=1)], ["a"]),
}  # fmt: skip


@pytest.mark.parametrize("name", AS_IT_IS)
def test_outputs_with_an_integer_form_stay(name, tmp_path):
    path = write_model(tmp_path / "m.onnx", [CONV, *AS_IT_IS[name]], W)
    assert ends(path) == ["y"]
    assert import_onnx(path).dropped == {}


@pytest.mark.parametrize("name", CUT)
def test_outputs_without_one_are_cut(name, tmp_path):
    nodes, wanted = CUT[name]
    assert ends(write_model(tmp_path / "m.onnx", [CONV, *nodes], W)) == wanted


def test_maps_that_are_joined_with_themselves_many_times(tmp_path):
    """Every path to the convolution is one of 2**40."""
    joins = [
        node("Concat", [name, name], f"a{i}", axis=1) for i, name in enumerate(["a", *[f"a{i}" for i in range(39)]])
    ]
    nodes = [node("Slice", [f"a{i}", "zero", "six", "one"], f"b{i}") for i in range(40)]
    chain = [CONV]
    for i, (join, cut) in enumerate(zip(joins, nodes, strict=True)):
        join.input[:] = [f"b{i - 1}" if i else "a"] * 2
        chain += [join, cut]
    ends_in = [node("Exp", ["b39"], "y")]
    numbers = {"zero": integers(0), "six": integers(6), "one": integers(1)}
    assert ends(write_model(tmp_path / "m.onnx", [*chain, *ends_in], W | numbers)) == ["a"]


def test_each_output_is_looked_at_alone(tmp_path):
    nodes = [CONV, node("Relu", ["a"], "y"), node("Conv", ["y", "v"], "b"), node("Softmax", ["b"], "z", axis=1)]
    path = write_model(tmp_path / "m.onnx", nodes, W | {"v": weights(3, 6, 1, 1)}, outputs=["y", "z"])
    assert ends(path) == ["y", "b"]


def test_attention_inside_is_no_tail(tmp_path):
    """What a trained layer follows belongs to the network, softmax or not."""
    nodes = [CONV, node("Softmax", ["a"], "b", axis=1), node("Conv", ["b", "v"], "y")]
    path = write_model(tmp_path / "m.onnx", nodes, W | {"v": weights(3, 6, 1, 1)})
    assert ends(path) == ["y"]


def test_a_model_without_layers_is_left_as_it_is(tmp_path):
    assert ends(write_model(tmp_path / "m.onnx", [node("Softmax", ["x"], "y", axis=1)])) == ["y"]


def test_outputs_in_the_order_they_are_asked_for(tmp_path):
    path = write_model(tmp_path / "m.onnx", [CONV, node("Relu", ["a"], "b"), node("Tanh", ["b"], "y")], W)
    assert [end.tensor for end in import_onnx(path, outputs=["y", "a", "b"]).outputs] == ["y", "a", "b"]


@pytest.mark.parametrize(
    ("scale", "mean", "std"),
    [
        (255.0, (0.0,), (1.0,)),
        (255.0, (104.0, 117.0, 123.0, 1.0), (58.0,)),
        (1.0, (0.5, 0.4, 0.3, 0.2), (0.2, 0.3, 0.4, 0.5)),
    ],
)
def test_a_layer_in_front_makes_what_the_network_takes(scale, mean, std, tmp_path):
    path = write_model(tmp_path / "m.onnx", [CONV, node("Relu", ["a"], "y")], W)
    imported = import_onnx(path, convention=InputConvention(scale=scale, mean=mean, std=std))
    x = np.random.default_rng(0).random((1, 4, 6, 8)).astype(np.float32)
    column = [np.broadcast_to(np.float32(values), 4).reshape(1, 4, 1, 1) for values in (mean, std)]
    assert_close(runtime(path, (scale * x - column[0]) / column[1]), module_outputs(imported.model, x))
    assert set(imported.model.state_dict()) == {"a.weight"}


def test_no_layer_where_none_is_needed(tmp_path):
    path = write_model(tmp_path / "m.onnx", [CONV], W)
    imported = import_onnx(path, convention=InputConvention())
    assert [type(m) for m in imported.model.children()] == [torch.nn.Conv2d]
