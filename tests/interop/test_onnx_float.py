# SPDX-License-Identifier: Apache-2.0
"""The float form computes what the torch model computes, with batch norms folded and kept."""

import json

import numpy as np
import onnx
import pytest
import torch
from support import zoo
from support.data import data_path, real_network
from support.networks import CfgWriter, tiny_detector
from support.onnx_runs import run_onnx
from support.random_net import BLOCKS, make_images, make_net, net_cfg, random_net
from torch.utils._pytree import tree_leaves

from yolo_hw.darknet.layers import ACTIVATIONS, Shape
from yolo_hw.errors import ExportError, QuantError
from yolo_hw.evaluate import FloatRunner, OnnxRunner
from yolo_hw.interop.onnx_activations import FORMULAS, emit_activation
from yolo_hw.interop.onnx_float import export_float_onnx, float_model
from yolo_hw.interop.onnx_graph import OnnxBuilder, Port
from yolo_hw.nn.activations import activate
from yolo_hw.quant import QuantConfig, fold_model
from yolo_hw.quant.qat import prepare_qat

TOLERANCE = 1e-4
"""Relative to the largest value of a map; float32 sums in another order differ by far less."""


def pixels(images):
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def assert_close(found, expected):
    found = torch.from_numpy(found).to(expected.dtype)
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= TOLERANCE * float(expected.abs().max())


def assert_equals_torch(model, images, *, keep_batch_norm=False):
    exported = float_model(model, keep_batch_norm=keep_batch_norm, batch=None)
    x = pixels(images).float() / 255
    with torch.inference_mode():
        expected = model(x)
    found = run_onnx(exported, x.numpy())
    for one, other in zip(found.values(), expected, strict=True):
        assert_close(one, other)
    return exported


@pytest.mark.parametrize("keep_batch_norm", [False, True])
@pytest.mark.parametrize("block", sorted(BLOCKS))
def test_every_layer_kind_and_activation(block, keep_batch_norm):
    model = make_net(net_cfg([block]))
    exported = assert_equals_torch(model, make_images(model), keep_batch_norm=keep_batch_norm)
    kinds = {node.op_type for node in exported.graph.node}
    assert ("BatchNormalization" in kinds) == keep_batch_norm


@pytest.mark.parametrize("seed", range(3))
def test_random_networks(seed):
    model = random_net(seed)
    assert_equals_torch(model, make_images(model))


@pytest.mark.parametrize("keep_batch_norm", [False, True])
def test_connected_layers(keep_batch_norm):
    cfg = CfgWriter(6, 10)
    cfg.conv(4, 3, 2)
    cfg.section("connected", output=7, activation="leaky", batch_normalize=1)
    cfg.section("connected", output=3, activation="linear")
    model = make_net(cfg.text())
    assert_equals_torch(model, make_images(model), keep_batch_norm=keep_batch_norm)


@pytest.mark.parametrize("function", ACTIVATIONS)
def test_activations_over_their_whole_range(function):
    """Also at the corners of those that are made of pieces."""
    x = torch.linspace(-8, 8, 4 * 16 * 16 + 1)[:-1].reshape(1, 4, 16, 16)
    b = OnnxBuilder("activation")
    b.emit("Identity", [emit_activation(b, function, "input", "f")], "out")
    ports = [Port(name, np.float32, Shape(4, 16, 16)) for name in ("input", "out")]
    found = run_onnx(b.finish(ports[:1], ports[1:], {}), x.numpy())["out"]
    expected = activate(function, x.double()).numpy()
    np.testing.assert_allclose(found, expected, rtol=TOLERANCE, atol=2e-6)


def test_every_activation_has_a_formula():
    assert list(FORMULAS) == list(ACTIVATIONS)


def test_pixels_are_counted_in_255ths_or_256ths():
    """A Darknet takes pixels / 255 as in training, a folded graph pixels / 256 as the hardware."""
    model = make_net(tiny_detector())
    images = make_images(model, 1)
    with torch.inference_mode():
        expected = model(pixels(images).float() / 255)
    for source, scale in ((model, 1 / 255), (fold_model(model), 1 / 256)):
        exported = float_model(source)
        found = run_onnx(exported, (pixels(images).float() * scale).numpy())
        for one, other in zip(found.values(), expected, strict=True):
            assert_close(one, other)
        document = {entry.key: json.loads(entry.value) for entry in exported.metadata_props}
        assert document["yolo_hw.input"]["scale"] == pytest.approx(scale, rel=1e-15)
        assert document["yolo_hw.outputs"][0]["head"]["kind"] == "yolo"
        assert document["yolo_hw.form"] == "float"


def test_the_evaluator_runs_the_file(tmp_path):
    model = make_net(tiny_detector())
    images = make_images(model, 3)
    for batch in (None, 1, 2):
        export_float_onnx(model, tmp_path / "net.onnx", batch=batch)
        pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")
        runner = OnnxRunner(tmp_path / "net.onnx", model.network, threads=1)
        for one, other in zip(runner.run(images), FloatRunner(model).run(images), strict=True):
            assert_close(one.numpy(), other)


def test_outputs_are_called_like_layers_and_nothing_is_copied():
    model = make_net(tiny_detector())
    graph = float_model(model).graph
    assert [output.name for output in graph.output] == [tensor for tensor, _ in fold_model(model).outputs]
    assert "Identity" not in {node.op_type for node in graph.node}
    assert {node.name for node in fold_model(model).nodes} <= {node.name for node in graph.node}


def test_a_folded_graph_keeps_no_batch_norms(tmp_path):
    folded = fold_model(make_net(tiny_detector()))
    with pytest.raises(ExportError, match="only a Darknet model has batch norms that can be kept, got FoldedGraph"):
        export_float_onnx(folded, tmp_path / "net.onnx", keep_batch_norm=True)
    cfg = CfgWriter(8, 8)
    cfg.conv(4)
    cfg.section("local_avgpool", size=2, stride=2)
    with pytest.raises(QuantError, match="local_avgpool_1"):
        export_float_onnx(make_net(cfg.text()), tmp_path / "net.onnx")
    assert not any(tmp_path.iterdir())


def test_versions_are_stated():
    model = float_model(make_net(tiny_detector()))
    assert (model.ir_version, model.opset_import[0].version) == (7, 13)
    onnx.checker.check_model(model, full_check=True)


@pytest.mark.slow
@pytest.mark.parametrize("keep_batch_norm", [False, True])
def test_yolo_fastest(keep_batch_norm):
    from yolo_hw import load_batches, load_darknet

    model = load_darknet(*real_network("yolo-fastest-1.1"))
    images = load_batches(data_path("coco_calib_train48") / "images", model.network.input, limit=2)[0]
    assert_equals_torch(model, images, keep_batch_norm=keep_batch_norm)


@pytest.mark.parametrize("name", ["mobilenet_v3", "yolov8"])
def test_modules_of_torch(name, tmp_path):
    model = zoo.make(name).float()
    images = make_images(model, 1)
    x = pixels(images).float() / 255
    with torch.inference_mode():
        expected = tree_leaves(model(x))
    qat = prepare_qat(model, QuantConfig(equalise=None, bias_correction=False), batches=[images])
    for given, shape in ((model, Shape(*x.shape[1:])), (qat, None)):
        found = run_onnx(float_model(given, input_shape=shape), x.numpy())
        for one, other in zip(found.values(), expected, strict=True):
            assert_close(one.reshape(other.shape), other)
    with pytest.raises(QuantError, match="the size of the images is not known: give input_shape"):
        export_float_onnx(model, tmp_path / "net.onnx")
