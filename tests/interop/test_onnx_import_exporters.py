# SPDX-License-Identifier: Apache-2.0
"""What exporters write around the operators: casts of sizes, sequences, copies, and names of any kind."""

import numpy as np
import pytest
import torch
from support.onnx_exports import export
from support.onnx_models import assert_close, assert_imports, module_outputs, node, runtime, write_model
from torch import nn

from yolo_hw.errors import OnnxError
from yolo_hw.interop.onnx_import import import_onnx


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("like", [False, True])
def test_a_size_becomes_a_fraction(like, tmp_path):
    """Half of a width of 9 is 4.5: exporters compute grids from the sizes of maps, which are whole numbers."""
    cast = node("CastLike", ["w", "x"], "f") if like else node("Cast", ["w"], "f", to=1)
    nodes = [
        node("Shape", ["x"], "s"),
        node("Gather", ["s", "three"], "w"),
        cast,
        node("Div", ["f", "two"], "h"),
        node("Mul", ["x", "h"], "y"),
    ]
    given = {"three": np.array(3, np.int64), "two": np.float32(2)}
    path = write_model(tmp_path / "m.onnx", nodes, given, shape=("n", 4, "h", "w"))
    assert_imports(path, input_size=(6, 9))


def test_a_cast_like_a_constant(tmp_path):
    nodes = [node("CastLike", ["x", "two"], "f"), node("CastLike", ["three", "two"], "g"), node("Mul", ["f", "g"], "y")]
    given = {"three": np.array(3, np.int64), "two": np.float32(2)}
    assert_imports(write_model(tmp_path / "m.onnx", nodes, given))


@pytest.mark.parametrize("lengths", [np.array(3, np.int64), np.array([1, 3], np.int64)])
def test_parts_of_a_sequence(lengths, tmp_path):
    """How torch's newer exporter writes `chunk` if it does not optimise."""
    nodes = [
        node("SplitToSequence", ["x", "lengths"], "parts", axis=1),
        node("SequenceAt", ["parts", "first"], "a"),
        node("SequenceAt", ["parts", "last"], "b"),
        node("Relu", ["a"], "c"),
        node("Concat", ["b", "c", "b"], "y", axis=1),
    ]
    given = {"lengths": lengths, "first": np.array(0, np.int64), "last": np.array(-1, np.int64)}
    path = write_model(tmp_path / "m.onnx", nodes, given)
    assert_imports(path)
    with pytest.raises(OnnxError, match="output 'parts' must be one map, got a sequence"):
        import_onnx(path, outputs=["parts"])


class Chunked(nn.Module):
    """The split of YOLOv8's C2f."""

    def __init__(self) -> None:
        super().__init__()
        self.cv1, self.bn, self.cv2 = nn.Conv2d(3, 8, 1, bias=False), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        a, b = self.bn(self.cv1(x)).chunk(2, 1)
        return self.cv2(torch.cat([a.relu(), b], 1))


def test_the_export_that_keeps_batch_norms(tmp_path):
    imported = assert_imports(export(Chunked(), tmp_path / "m.onnx", (3, 8, 8), dynamo=True, optimize=False))
    assert sum(isinstance(module, nn.BatchNorm2d) for module in imported.model.modules()) == 1


@pytest.mark.parametrize("name", ["graph", "code", "recompile", "if", "lambda", "_modules", "forward", "0", "a b"])
def test_layers_of_any_name(name, tmp_path):
    nodes = [
        node("Conv", ["x", f"{name}.weight"], "a"),
        node("Conv", ["a", f"{name}.{name}.weight"], "b"),
        node("Add", ["b", name], "y"),
    ]
    given = {f"{name}.weight": numbers(4, 4, 1, 1), f"{name}.{name}.weight": numbers(4, 4, 1, 1), name: numbers(6, 8)}
    assert_imports(write_model(tmp_path / "m.onnx", nodes, given))


def test_a_bias_behind_a_copy_that_others_read(tmp_path):
    """The layer is one, with one weight to train, although another node reads it without the bias."""
    nodes = [
        node("Conv", ["x", "w"], "a"),
        node("Identity", ["a"], "b"),
        node("Add", ["b", "bias"], "c"),
        node("Relu", ["b"], "d"),
        node("Concat", ["c", "d"], "y", axis=1),
    ]
    path = write_model(tmp_path / "m.onnx", nodes, {"w": numbers(5, 4, 1, 1), "bias": numbers(5, 1, 1)})
    assert len(list(assert_imports(path).model.parameters())) == 1


def test_a_layer_that_got_its_bias_later_is_found_by_its_name(tmp_path):
    nodes = [node("Conv", ["x", "w"], "a"), node("Add", ["a", "bias"], "b"), node("Relu", ["b"], "y")]
    nodes[0].name = "head"
    path = write_model(tmp_path / "m.onnx", nodes, {"w": numbers(5, 4, 1, 1), "bias": numbers(5, 1, 1)})
    for name, biased in (("head", True), ("b", True), ("a", False)):
        (layer,) = (m for m in import_onnx(path, outputs=[name]).model.modules() if isinstance(m, nn.Conv2d))
        assert (layer.bias is not None) is biased


FIRST, LAST = [0, 3, 1, 2], [0, 2, 3, 1]


def channels_last(tmp_path, *, readers=1, **options):
    """A file as tf2onnx writes it: the image and the output have their channels last."""
    maps = [node("Transpose", ["x"], f"first{i}", perm=FIRST) for i in range(readers)]
    convs = [node("Conv", [f"first{i}", "w"], f"map{i}") for i in range(readers)]
    nodes = [*maps, *convs, node("Sum", [f"map{i}" for i in range(readers)], "sum"), node("Relu", ["sum"], "relu")]
    nodes += [node("Transpose", ["relu"], "y", perm=LAST)]
    given = {"w": numbers(5, 3, 3, 3)}
    return write_model(tmp_path / "m.onnx", nodes, given, **{"shape": (1, 9, 7, 3)} | options)


@pytest.mark.parametrize("readers", [1, 2])
def test_images_with_channels_last(readers, tmp_path):
    path = channels_last(tmp_path, readers=readers)
    imported = import_onnx(path, keep_tail=True)
    assert tuple(imported.input_shape) == (3, 9, 7)
    assert imported.notes == ("the file's 'x' is [N, H, W, C], the module's [N, C, H, W]",)
    x = numbers(1, 9, 7, 3)
    (wanted,) = runtime(path, x)
    (found,) = module_outputs(imported.model, np.ascontiguousarray(x.transpose(FIRST)))
    assert_close([wanted], [found])
    assert [tuple(end.shape) for end in import_onnx(path).outputs] == [(5, 7, 5)]


def test_channels_last_of_any_size(tmp_path):
    path = channels_last(tmp_path, shape=("n", "h", "w", 3))
    assert tuple(import_onnx(path, input_size=(9, 7)).input_shape) == (3, 9, 7)


def test_a_transposed_image_that_is_also_read_as_it_is(tmp_path):
    """Then the file takes the order it says."""
    nodes = [node("Transpose", ["x"], "first", perm=FIRST), node("Relu", ["first"], "a"), node("Relu", ["x"], "b")]
    path = write_model(tmp_path / "m.onnx", nodes, shape=(1, 4, 6, 8), outputs=["a", "b"])
    imported = assert_imports(path)
    assert tuple(imported.input_shape) == (4, 6, 8)
    assert imported.notes == ()


@pytest.mark.parametrize("shape", [(), (1,), (3,), (1, 1, 1, 3)])
def test_channels_last_behind_a_scaling(shape, tmp_path):
    """How Keras' own networks take pixels: the same constants may scale maps elsewhere."""
    nodes = [
        node("Mul", ["x", "factor"], "scaled"),
        node("Sub", ["mean", "scaled"], "centred"),
        node("Transpose", ["centred"], "first", perm=FIRST),
        node("Conv", ["first", "w"], "map"),
        node("Transpose", ["map"], "last", perm=LAST),
        node("Mul", ["last", "factor"], "y"),
    ]
    given = {"w": numbers(3, 3, 3, 3), "factor": np.float32(np.full(shape, 0.5)), "mean": numbers(3)}
    path = write_model(tmp_path / "m.onnx", nodes, given, shape=(1, 9, 7, 3))
    imported = import_onnx(path, keep_tail=True)
    assert tuple(imported.input_shape) == (3, 9, 7)
    x = numbers(1, 9, 7, 3)
    found = module_outputs(imported.model, np.ascontiguousarray(x.transpose(FIRST)))
    assert_close(runtime(path, x), found)


@pytest.mark.parametrize("constant", [numbers(7, 1), numbers(1, 1, 1, 1, 3)])
def test_a_scaling_of_more_than_channels_keeps_the_file_s_order(constant, tmp_path):
    nodes = [node("Mul", ["x", "c"], "a"), node("Transpose", ["a"], "first", perm=[*FIRST, 4][: max(4, constant.ndim)])]
    nodes += [node("Relu", ["first"], "y")]
    path = write_model(tmp_path / "m.onnx", nodes, {"c": constant}, shape=(1, 9, 7, 3))
    assert tuple(import_onnx(path, keep_tail=True).input_shape) == (9, 7, 3)


def test_a_constant_that_scales_an_image_twice(tmp_path):
    nodes = [node("Mul", ["x", "c"], "a"), node("Add", ["a", "c"], "b"), node("Transpose", ["b"], "first", perm=FIRST)]
    path = write_model(
        tmp_path / "m.onnx", [*nodes, node("Relu", ["first"], "y")], {"c": numbers(3)}, shape=(1, 9, 7, 3)
    )
    x = numbers(1, 9, 7, 3)
    found = module_outputs(import_onnx(path, keep_tail=True).model, np.ascontiguousarray(x.transpose(FIRST)))
    assert_close(runtime(path, x), found)


@pytest.mark.parametrize("cycle", [False, True])
def test_no_image_is_followed_in_a_file_that_is_none(cycle, tmp_path):
    """Three extents turned as if they were four; a tensor that is made of itself."""
    if cycle:
        nodes = [node("Mul", ["x", "c"], "a"), node("Mul", ["a", "c"], "b"), node("Mul", ["b", "c"], "a")]
        nodes += [node("Relu", ["c"], "y")]
    else:
        nodes = [node("Transpose", ["x"], "y", perm=FIRST)]
    shape = (1, 9, 7, 3) if cycle else (1, 9, 7)
    path = write_model(tmp_path / "m.onnx", nodes, {"c": numbers(3)}, shape=shape, infer=[False])
    with pytest.raises(OnnxError, match=r"m\.onnx: (not a valid ONNX model|input 'x': must be images)"):
        import_onnx(path, keep_tail=True)
