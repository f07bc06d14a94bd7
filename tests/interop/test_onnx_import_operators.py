# SPDX-License-Identifier: Apache-2.0
"""Every supported operator, written by hand with ordinary and odd attributes, against onnxruntime."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from support.data import REPOSITORY
from support.onnx_models import SHAPE, assert_close, assert_imports, module_outputs, node, runtime, write_model
from torch import nn

from yolo_hw.interop.onnx_import import OPERATORS, import_onnx

pytestmark = pytest.mark.filterwarnings("error")


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def integers(*values):
    return np.array(values, np.int64)


@dataclass
class Case:
    """One operator on the image and constants."""

    name: str
    op: str
    constants: Sequence = ()
    attributes: dict = field(default_factory=dict)
    shape: Sequence = SHAPE
    opset: int = 17
    outputs: int = 1
    first: bool = True  # whether the image is the first input

    def write(self, folder):
        names = [f"c{i}" if value is not None else "" for i, value in enumerate(self.constants)]
        inputs = ["x", *names] if self.first else [*names, "x"]
        made = node(self.op, inputs, [f"y{i}" for i in range(self.outputs)], **self.attributes)
        constants = {name: value for name, value in zip(names, self.constants, strict=True) if name}
        return write_model(folder / "m.onnx", [made], constants, shape=self.shape, opset=self.opset)


W33, W1 = numbers(6, 4, 3, 3), numbers(6, 4, 1, 1)
POSITIVE = np.abs(numbers(4)) + 0.5
NORM = (POSITIVE, numbers(4, seed=1), numbers(4, seed=2), POSITIVE)

CASES = [
    Case("conv", "Conv", [W33, numbers(6)], {"pads": [1, 1, 1, 1]}),
    Case("conv_no_bias", "Conv", [W33]),
    Case("conv_asymmetric", "Conv", [W33], {"pads": [0, 1, 2, 0], "strides": [2, 1]}),
    Case("conv_pads_differ_by_axis", "Conv", [W33], {"pads": [2, 0, 2, 0]}),
    Case("conv_dilated_grouped", "Conv", [numbers(8, 2, 3, 3)], {"dilations": [2, 1], "group": 2, "pads": [2] * 4}),
    Case("conv_depthwise", "Conv", [numbers(4, 1, 3, 5)], {"group": 4, "kernel_shape": [3, 5], "pads": [1, 2, 1, 2]}),
    Case("conv_same_upper", "Conv", [W33], {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    Case("conv_same_lower", "Conv", [numbers(6, 4, 2, 2)], {"auto_pad": "SAME_LOWER"}),
    Case("conv_valid", "Conv", [W33], {"auto_pad": "VALID"}, opset=9),
    Case("conv_transpose", "ConvTranspose", [numbers(4, 3, 2, 2), numbers(3)], {"strides": [2, 2]}),
    Case("conv_transpose_odd", "ConvTranspose", [numbers(4, 1, 3, 3)],
         {"strides": [2, 3], "group": 2, "pads": [1, 0, 1, 0], "output_padding": [1, 2], "dilations": [1, 2]}),
    Case("norm", "BatchNormalization", NORM, {"epsilon": 1e-3, "momentum": 0.97}),
    Case("norm_opset_9", "BatchNormalization", NORM, opset=9),
    Case("relu", "Relu"),
    Case("leaky", "LeakyRelu", attributes={"alpha": 0.1}),
    Case("leaky_default", "LeakyRelu"),
    Case("clip_6", "Clip", attributes={"min": 0.0, "max": 6.0}, opset=9),
    Case("clip_inputs", "Clip", [np.float32(0), np.float32(6)]),
    Case("clip_other", "Clip", [np.float32(-0.5), np.float32(1.5)]),
    Case("clip_low", "Clip", [np.float32(0), None]),
    Case("clip_high", "Clip", [None, np.float32(1)]),
    Case("sigmoid", "Sigmoid"),
    Case("hard_sigmoid", "HardSigmoid", attributes={"alpha": 1 / 6, "beta": 0.5}),
    Case("hard_swish", "HardSwish", opset=14),
    Case("mish", "Mish", opset=18),
    Case("tanh", "Tanh"),
    Case("elu", "Elu", attributes={"alpha": 0.7}),
    Case("celu", "Celu", attributes={"alpha": 0.7}),
    Case("softplus", "Softplus"),
    Case("gelu", "Gelu", opset=20),
    Case("gelu_tanh", "Gelu", attributes={"approximate": "tanh"}, opset=20),
    Case("prelu", "PRelu", [numbers(4, 1, 1)]),
    Case("prelu_rank_4", "PRelu", [numbers(1, 4, 1, 1)]),
    Case("prelu_one", "PRelu", [numbers(1)]),
    Case("add_number", "Add", [np.float32(1.5)]),
    Case("add_channels", "Add", [numbers(1, 4, 1, 1)]),
    Case("sub_from", "Sub", [numbers(4, 1, 1)], first=False),
    Case("sub_number_from", "Sub", [np.float32(2)], first=False),
    Case("mul_map", "Mul", [numbers(6, 8)]),
    Case("div", "Div", [POSITIVE.reshape(1, 4, 1, 1)]),
    Case("add_rank_5", "Add", [numbers(1, 1, 1, 1, 1)]),
    Case("pow", "Pow", [np.float32(2)]),
    Case("sum", "Sum", [numbers(4, 1, 1), numbers(1)]),
    Case("matmul", "MatMul", [numbers(8, 5)]),
    Case("matmul_left", "MatMul", [numbers(5, 6)], first=False),
    Case("matmul_vector", "MatMul", [numbers(8)]),
    Case("max_pool", "MaxPool", attributes={"kernel_shape": [2, 2], "strides": [2, 2]}),
    Case("max_pool_stride_1", "MaxPool", attributes={"kernel_shape": [2, 2], "pads": [0, 0, 1, 1]}),
    Case("max_pool_same", "MaxPool", attributes={"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    Case("max_pool_ceil", "MaxPool", attributes={"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1},
         shape=(1, 4, 6, 9)),
    Case("max_pool_ceil_padded", "MaxPool",
         attributes={"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1, "pads": [1, 1, 1, 1]}),
    Case("max_pool_dilated", "MaxPool", attributes={"kernel_shape": [2, 2], "dilations": [2, 3]}),
    Case("max_pool_wide_pads", "MaxPool", attributes={"kernel_shape": [3, 3], "pads": [2, 2, 2, 2]}),
    Case("average_pool", "AveragePool", attributes={"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    Case("average_pool_counted", "AveragePool",
         attributes={"kernel_shape": [3, 3], "pads": [1, 0, 0, 1], "count_include_pad": 1}),
    Case("average_pool_ceil", "AveragePool", attributes={"kernel_shape": [2, 2], "strides": [4, 3], "ceil_mode": 1},
         shape=(1, 4, 6, 8), opset=19),
    Case("global_average", "GlobalAveragePool"),
    Case("global_max", "GlobalMaxPool"),
    Case("mean", "ReduceMean", attributes={"axes": [2, 3], "keepdims": 0}),
    Case("mean_input", "ReduceMean", [integers(-1, -2)], opset=18),
    Case("reduce_sum", "ReduceSum", [integers(1)], {"keepdims": 0}),
    Case("reduce_max", "ReduceMax", attributes={"axes": [-1]}),
    Case("softmax", "Softmax", attributes={"axis": 1}),
    Case("softmax_last_before_13", "Softmax", attributes={"axis": -1}, opset=11),
    Case("abs", "Abs"), Case("neg", "Neg"), Case("exp", "Exp"), Case("erf", "Erf"),
    Case("concat_constant", "Concat", [numbers(1, 2, 6, 8)], {"axis": 1}),
    Case("split_equal", "Split", attributes={"axis": 1}, outputs=2),
    Case("split_sizes", "Split", [integers(1, 3)], {"axis": 1}, outputs=2),
    Case("split_attribute", "Split", attributes={"axis": -3, "split": [3, 1]}, opset=11, outputs=2),
    Case("split_rest", "Split", attributes={"axis": 3, "num_outputs": 3}, opset=18, outputs=3, shape=(1, 4, 6, 7)),
    Case("slice", "Slice", [integers(1), integers(3), integers(1)]),
    Case("slice_strided", "Slice", [integers(0, 1), integers(2**63 - 1, -1), integers(2, 3), integers(2, 3)]),
    Case("slice_negative", "Slice", [integers(-3), integers(100), integers(-1)]),
    Case("slice_opset_9", "Slice", attributes={"starts": [0, 1], "ends": [4, 5], "axes": [1, 2]}, opset=9),
    Case("slice_whole", "Slice", [integers(0), integers(4), integers(1)]),
    Case("reshape", "Reshape", [integers(0, 2, -1, 8)]),
    Case("reshape_flat", "Reshape", [integers(1, -1)]),
    Case("reshape_allowzero", "Reshape", [integers(1, 32, 6)], {"allowzero": 1}),
    Case("flatten", "Flatten"),
    Case("flatten_2", "Flatten", attributes={"axis": -1}),
    Case("transpose", "Transpose", attributes={"perm": [0, 2, 3, 1]}),
    Case("squeeze", "Squeeze", [integers(1)], shape=(1, 1, 6, 8)),
    Case("squeeze_attribute", "Squeeze", attributes={"axes": [-3]}, shape=(1, 1, 6, 8), opset=11),
    Case("unsqueeze", "Unsqueeze", [integers(1, -1)]),
    Case("pad", "Pad", [integers(0, 0, 1, 2, 0, 0, 0, 3), np.float32(0.5)]),
    Case("pad_channels", "Pad", [integers(0, 1, 0, 0, 0, 2, 0, 0)]),
    Case("pad_attribute", "Pad", attributes={"pads": [0, 0, 1, 1, 0, 0, 1, 1], "value": -1.0}, opset=9),
    Case("pad_reflect", "Pad", [integers(0, 0, 2, 1, 0, 0, 1, 3)], {"mode": "reflect"}),
    Case("pad_edge_axes", "Pad", [integers(1, 2), None, integers(3)], {"mode": "edge"}, opset=18),
    Case("pad_axes", "Pad", [integers(1, 0, 0, 2), None, integers(3, 2)], opset=18),
    Case("expand", "Expand", [integers(1, 4, 6, 8)], shape=(1, 1, 6, 1)),
    Case("expand_rank", "Expand", [integers(2, 1, 4, 1, 1)]),
    Case("tile", "Tile", [integers(1, 2, 1, 3)]),
    Case("gather_one", "Gather", [np.int64(-1)], {"axis": 1}),
    Case("gather_list", "Gather", [integers(2, 0, 3)], {"axis": 1}),
    Case("gather_range", "Gather", [integers(0, 2, 4)], {"axis": 2}),
    Case("depth_to_space", "DepthToSpace", attributes={"blocksize": 2}, shape=(1, 8, 3, 5)),
    Case("depth_to_space_crd", "DepthToSpace", attributes={"blocksize": 2, "mode": "CRD"}, shape=(1, 8, 3, 5)),
    Case("space_to_depth", "SpaceToDepth", attributes={"blocksize": 2}),
    Case("resize_scales", "Resize", [None, np.float32([1, 1, 2, 3])],
         {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}),
    Case("resize_sizes", "Resize", [None, None, integers(1, 4, 18, 16)]),
    Case("resize_half_pixel", "Resize", [None, np.float32([1, 1, 3, 3])]),
    Case("resize_asymmetric_round", "Resize", [None, np.float32([1, 1, 2, 2])],
         {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "round_prefer_floor"}),
    Case("resize_tf", "Resize", [np.zeros(0, np.float32), np.float32([1, 1, 2, 2])],
         {"coordinate_transformation_mode": "tf_half_pixel_for_nn", "nearest_mode": "floor"}, opset=11),
    Case("resize_axes", "Resize", [None, np.float32([2, 2])], {"axes": [2, 3]}, opset=18),
    Case("resize_roi", "Resize", [np.zeros(0, np.float32), np.float32([1, 1, 2, 2])]),
    Case("resize_opset_10", "Resize", [np.float32([1, 1, 2, 2])], opset=10),
    Case("upsample", "Upsample", [np.float32([1, 1, 2, 2])], opset=9),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_operator_is_what_onnxruntime_computes(case, tmp_path):
    assert_imports(case.write(tmp_path))


@pytest.mark.parametrize(("op", "low"), [("Log", 0.1), ("Sqrt", 0.0)])
def test_functions_of_positive_numbers(op, low, tmp_path):
    assert_imports(write_model(tmp_path / "m.onnx", [node(op, ["x"], "y")]), low=low)


def test_same_padding_counts_the_dilated_window(tmp_path):
    """onnxruntime has no such convolution, but the one with these pads."""
    options = {"dilations": [2, 3], "strides": [1, 2]}
    found = []
    for name, pads in (("same", {"auto_pad": "SAME_UPPER"}), ("pads", {"pads": [2, 2, 2, 3]})):
        path = write_model(tmp_path / f"{name}.onnx", [node("Conv", ["x", "w"], "y", **options, **pads)], {"w": W33})
        found.append(module_outputs(import_onnx(path).model, numbers(*SHAPE)))
    assert_imports(path)
    assert_close(*found)


GEMMS = {
    "plain": {},
    "transposed": {"transB": 1},
    "scaled": {"alpha": 0.5, "beta": 2.0},
}


@pytest.mark.parametrize("bias", [None, (5,), (1, 5), (1,), ()], ids=str)
@pytest.mark.parametrize("attributes", GEMMS.values(), ids=GEMMS)
def test_gemm(attributes, bias, tmp_path):
    weight = numbers(5, 192) if attributes.get("transB") else numbers(192, 5)
    constants = {"w": weight} | ({} if bias is None else {"b": numbers(*bias)})
    nodes = [node("Flatten", ["x"], "flat"), node("Gemm", ["flat", *constants], "y", **attributes)]
    imported = assert_imports(write_model(tmp_path / "m.onnx", nodes, constants))
    assert [type(m) for m in imported.model.children()] == [nn.Linear]


def test_a_norm_of_vectors_is_one_of_torch(tmp_path):
    nodes = [node("GlobalAveragePool", ["x"], "a"), node("Flatten", ["a"], "b"),
             node("BatchNormalization", ["b", *"stuv"], "y")]  # fmt: skip
    imported = assert_imports(write_model(tmp_path / "m.onnx", nodes, dict(zip("stuv", NORM, strict=True))))
    assert any(isinstance(m, nn.BatchNorm1d) for m in imported.model.modules())


def test_norms_keep_epsilon_and_momentum(tmp_path):
    made = node("BatchNormalization", ["x", *"stuv"], "y", epsilon=0.25, momentum=0.75)
    imported = assert_imports(write_model(tmp_path / "m.onnx", [made], dict(zip("stuv", NORM, strict=True))))
    (norm,) = imported.model.children()
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.eps == 0.25
    assert norm.momentum == 0.25  # torch's is the weight of the new batch


COMPOSED = {
    "silu": ([("Sigmoid", "x"), ("Mul", "x", 0)], nn.SiLU),
    "silu_turned": ([("Sigmoid", "x"), ("Mul", 0, "x")], nn.SiLU),
    "mish": ([("Softplus", "x"), ("Tanh", 0), ("Mul", "x", 1)], nn.Mish),
    "mish_by_log": ([("Exp", "x"), ("Add", 0, 1.0), ("Log", 1), ("Tanh", 2), ("Mul", 3, "x")], nn.Mish),
    "hard_swish": ([("Add", "x", 3.0), ("Clip", 0, 0.0, 6.0), ("Mul", "x", 1), ("Div", 2, 6.0)], nn.Hardswish),
    "hard_swish_gate": ([("Add", "x", 3.0), ("Clip", 0, 0.0, 6.0), ("Div", 1, 6.0), ("Mul", "x", 2)], nn.Hardswish),
    "hard_swish_factor": ([("Add", 3.0, "x"), ("Clip", 0, 0.0, 6.0), ("Mul", 1, 1 / 6), ("Mul", 2, "x")], nn.Hardswish),
    "hard_sigmoid": ([("Add", "x", 3.0), ("Clip", 0, 0.0, 6.0), ("Div", 1, 6.0)], nn.Hardsigmoid),
    "gelu": ([("Div", "x", 2**0.5), ("Erf", 0), ("Add", 1, 1.0), ("Mul", "x", 2), ("Mul", 3, 0.5)], nn.GELU),
    "gelu_half_first": ([("Mul", "x", 0.5), ("Div", "x", 2**0.5), ("Erf", 1), ("Add", 2, 1.0), ("Mul", 0, 3)], nn.GELU),
    "near_miss": ([("Add", "x", 3.0), ("Clip", 0, 0.0, 5.0), ("Mul", "x", 1), ("Div", 2, 6.0)], None),
    "other_map": ([("Relu", "x"), ("Sigmoid", 0), ("Mul", "x", 1)], None),
}


@pytest.mark.parametrize("name", COMPOSED)
def test_activations_made_of_operators_are_modules(name, tmp_path):
    steps, kind = COMPOSED[name]
    nodes, constants = [], {}
    for i, (op, *operands) in enumerate(steps):
        inputs = []
        for operand in operands:
            if isinstance(operand, float):
                constants[f"c{len(constants)}"] = np.float32(operand)
            inputs.append({str: operand, int: f"t{operand}", float: f"c{len(constants) - 1}"}[type(operand)])
        nodes.append(node(op, inputs, f"t{i}"))
    imported = assert_imports(write_model(tmp_path / "m.onnx", nodes, constants))
    kinds = [type(m) for m in imported.model.children()]
    assert kinds == [kind] if kind is not None else not {nn.SiLU, nn.Hardswish} & set(kinds)


def test_a_joined_activation_whose_parts_are_used_elsewhere(tmp_path):
    nodes = [node("Sigmoid", ["x"], "s"), node("Mul", ["x", "s"], "y"), node("Add", ["y", "s"], "z")]
    assert_imports(write_model(tmp_path / "m.onnx", nodes))


@pytest.mark.parametrize("shape", [(6,), (1, 6, 1, 1), (6, 1, 1)])
def test_a_bias_that_is_added_later_belongs_to_the_layer(shape, tmp_path):
    """[6] is no bias here: it lies along the width."""
    nodes = [node("Conv", ["x", "w"], "a"), node("Add", ["a", "b"], "y")]
    path = write_model(tmp_path / "m.onnx", nodes, {"w": W33, "b": numbers(*shape)}, shape=(1, 4, 6, 8))
    imported = assert_imports(path)
    (conv,) = (m for m in imported.model.modules() if isinstance(m, nn.Conv2d))
    assert (conv.bias is not None) == (len(shape) > 1)


def test_matmul_with_a_bias_is_a_linear_layer(tmp_path):
    nodes = [node("MatMul", ["x", "w"], "a"), node("Add", ["b", "a"], "y")]
    imported = assert_imports(write_model(tmp_path / "m.onnx", nodes, {"w": numbers(8, 5), "b": numbers(5)}))
    (linear,) = imported.model.children()
    assert isinstance(linear, nn.Linear)
    assert linear.bias is not None


def test_two_maps(tmp_path):
    nodes = [node("Relu", ["x"], "a"), node("Tanh", ["x"], "b")]
    for op in ("Add", "Sub", "Mul", "Concat", "Sum", "MatMul", "Div"):
        inputs = ["a", "b"] if op != "MatMul" else ["a", "turned"]
        turned = [node("Transpose", ["b"], "turned", perm=[0, 1, 3, 2])] if op == "MatMul" else []
        made = node(op, inputs, "y", axis=1 if op == "Concat" else None)
        assert_imports(write_model(tmp_path / f"{op}.onnx", [*nodes, *turned, made]))


def test_copies_vanish(tmp_path):
    nodes = [node("Identity", ["x"], "a"), node("Dropout", ["a"], "b"), node("Cast", ["b"], "c", to=1),
             node("Relu", ["c"], "y"), node("Identity", ["y"], "z")]  # fmt: skip
    imported = assert_imports(write_model(tmp_path / "m.onnx", nodes))
    assert [n.op for n in imported.model.graph.nodes] == ["placeholder", "call_module", "output"]


def test_constants_that_are_cast_like_a_map(tmp_path):
    nodes = [node("CastLike", ["six", "x"], "c"), node("Relu", ["x"], "r"), node("Div", ["r", "c"], "y"),
             node("CastLike", ["y", "x"], "z")]  # fmt: skip
    path = write_model(tmp_path / "m.onnx", nodes, {"six": np.int64(6)})
    assert assert_imports(path).outputs[0].tensor == "y"


def test_weights_that_are_used_twice_stay_one_layer(tmp_path):
    nodes = [node("Conv", ["x", "w"], "a", pads=[1] * 4), node("Relu", ["a"], "b"),
             node("Conv", ["b", "w"], "y", pads=[1] * 4)]  # fmt: skip
    imported = assert_imports(write_model(tmp_path / "m.onnx", nodes, {"w": numbers(4, 4, 3, 3)}))
    assert len(list(imported.model.parameters())) == 1


@pytest.mark.parametrize("other", [{"alpha": 2.0}, {"transB": 1}], ids=str)
def test_weights_that_are_used_in_two_ways_are_two_layers(other, tmp_path):
    nodes = [node("GlobalAveragePool", ["x"], "p"), node("Flatten", ["p"], "a"), node("Gemm", ["a", "w"], "b"),
             node("Gemm", ["b", "w"], "y", **other)]  # fmt: skip
    imported = assert_imports(write_model(tmp_path / "m.onnx", nodes, {"w": numbers(4, 4)}))
    assert len(list(imported.model.parameters())) == 2


def test_names_that_torch_would_misunderstand(tmp_path):
    """Methods of modules, a layer inside of a layer, digits, blanks."""
    weight, row = numbers(4, 4, 1, 1), numbers(4, 1, 1)
    constants = {"type.weight": weight, "type.float.weight": weight, "9:1/a b": row, "training": row}
    nodes = [node("Conv", ["x", "type.weight"], "a"), node("Conv", ["a", "type.float.weight"], "b"),
             node("Mul", ["b", "9:1/a b"], "c"), node("Add", ["c", "training"], "constants"),
             node("Relu", ["constants"], "forward"), node("Tanh", ["forward"], "0")]  # fmt: skip
    imported = assert_imports(write_model(tmp_path / "m.onnx", nodes, constants))
    keys = {"type_.conv.weight", "type_.float_.weight", "constants.9_1_a_b", "constants.training_"}
    assert set(imported.model.state_dict()) == keys


def test_a_file_for_several_images(tmp_path):
    nodes = [node("Reshape", ["x", "s"], "a"), node("Softmax", ["a"], "y", axis=1)]
    path = write_model(tmp_path / "m.onnx", nodes, {"s": integers(3, 4, -1)}, shape=(3, 4, 6, 8))
    imported = import_onnx(path, keep_tail=True)
    assert imported.batch is None
    x = numbers(3, 4, 6, 8)
    assert_close(runtime(path, x), module_outputs(imported.model, x))
    assert_close([runtime(path, x)[0][:2]], module_outputs(imported.model, x[:2]))


def test_shapes_are_computed(tmp_path):
    """Shape, Gather, Unsqueeze, Concat, Cast, ConstantOfShape, Range as exporters write them with free sizes."""
    constants = {"zero": np.int64(0), "one": np.int64(1), "axis": integers(0), "rest": integers(-1), "w": np.int64(3)}
    nodes = [
        node("Shape", ["x"], "s"),
        node("Gather", ["s", "zero"], "n", axis=0),
        node("Unsqueeze", ["n", "axis"], "n1"),
        node("Concat", ["n1", "rest"], "sizes", axis=0),
        node("Gather", ["s", "w"], "width", axis=0),
        node("Range", ["zero", "width", "one"], "columns"),
        node("Cast", ["columns"], "xs", to=1),
        node("ConstantOfShape", ["s"], "zeros", value=onnx_one()),
        node("Add", ["x", "xs"], "a"),
        node("Mul", ["a", "zeros"], "b"),
        node("Reshape", ["b", "sizes"], "y"),
    ]
    path = write_model(tmp_path / "m.onnx", nodes, constants, shape=["n", 4, "h", "w"], infer=[False])
    imported = assert_imports(path, input_size=(5, 7))
    assert imported.batch is None
    assert {n.op for n in imported.model.graph.nodes} <= {"placeholder", "get_attr", "call_function", "output"}


def onnx_one():
    from onnx import numpy_helper

    return numpy_helper.from_array(np.ones(1, np.float32))


def test_sizes_that_fix_the_number_of_images_are_reported(tmp_path):
    free = write_model(tmp_path / "free.onnx", [node("Reshape", ["x", "s"], "y")], {"s": integers(1, 8, 24)})
    assert assert_imports(free).batch is None
    fixed = write_model(tmp_path / "fixed.onnx", [node("Reshape", ["x", "s"], "y")], {"s": integers(4, 48)})
    imported = assert_imports(fixed)
    assert imported.batch == 1
    assert "made for 1 images at a time" in imported.notes[0]


def test_every_operator_has_a_case():
    own = {"Silu", "Relu6", "Hardsigmoid", "Linear"}
    elsewhere = {"Gemm", "Log", "Sqrt", "SplitToSequence", "SequenceAt"}
    assert set(OPERATORS) - own - {case.op for case in CASES} == elsewhere


def test_the_page_names_every_operator():
    page = (REPOSITORY / "docs" / "onnx_import.md").read_text("utf-8").split("## Operators")[1]
    named = {word for row in re.findall(r"^\| ([^|]+) \|", page, re.MULTILINE) for word in row.split()}
    own = {"Silu", "Relu6", "Hardsigmoid", "Linear"}
    vanish = {"Constant", "Identity", "Dropout", "Cast", "CastLike", "Shape", "Size"}
    assert named - {"operators", "---"} == set(OPERATORS) - own | vanish
