# SPDX-License-Identifier: Apache-2.0
"""Our quantised models as Brevitas models: equal codes on every output."""

import operator
from collections import OrderedDict

import numpy as np
import pytest
import torch
from support.qat import trained_qat
from support.random_graph import adversarial_inputs, random_input
from support.random_net import BLOCKS, calibrate_net, make_images, make_net, net_cfg, random_net
from torch import nn

from yolo_hw.errors import QuantError
from yolo_hw.fixedpoint import Overflow, Rounding
from yolo_hw.intgraph import INPUT, image_codes, run_outputs
from yolo_hw.quant import LeakySlope, Override, QuantConfig, lower_graph
from yolo_hw.quant.qat import QatConfig, ScaleMethod, lower_model, prepare_qat

qnn = pytest.importorskip("brevitas.nn", reason="needs brevitas")

from yolo_hw.interop.brevitas_in import from_brevitas  # noqa: E402 - behind the check
from yolo_hw.interop.brevitas_out import to_brevitas  # noqa: E402


def assert_equal_codes(graph, brevitas, image):
    """Check that the Brevitas model in float64 returns the integer graph's codes."""
    for codes in (image_codes(image), random_input(graph, 3), *adversarial_inputs(graph).values()):
        with torch.inference_mode():
            outputs = brevitas(torch.from_numpy(np.asarray(codes, np.float64))[None] / 255)
        expected = run_outputs(graph, codes)
        assert len(outputs) == len(expected)
        for output, values, wanted in zip(graph.outputs, outputs, expected, strict=True):
            found = np.ldexp(values[0].numpy(), graph.tensors[output.tensor].fmt.frac)
            np.testing.assert_array_equal(found, wanted, err_msg=output.tensor)


def check(model, config, qat=None):
    trained = trained_qat(model, config, qat or QatConfig(), steps=2)
    assert_equal_codes(lower_model(trained), to_brevitas(trained), make_images(model, 1, seed=9)[0])


HALF_EVEN = QuantConfig(rounding=Rounding.HALF_EVEN)


@pytest.mark.parametrize("block", sorted(BLOCKS))
def test_every_layer_kind_and_activation(block):
    check(make_net(net_cfg([block])), HALF_EVEN)


@pytest.mark.parametrize("rounding", [Rounding.HALF_EVEN, Rounding.FLOOR])
@pytest.mark.parametrize("overflow", [Overflow.SATURATE, Overflow.SATURATE_SYMMETRIC])
@pytest.mark.parametrize("bits", [4, 8, 16])
def test_word_lengths_and_arithmetic(bits, rounding, overflow):
    config = QuantConfig(w_bits=bits, a_bits=bits, rounding=rounding, overflow=overflow, leaky=LeakySlope(1, 3))
    check(random_net(bits + 20 * rounding.number + 40 * overflow.number), config)


def test_per_layer_word_lengths_and_one_scale_per_layer():
    overrides = (Override("conv_0", w_bits=4), Override("conv_1*", a_bits=16))
    config = QuantConfig(rounding=Rounding.HALF_EVEN, per_channel=False, overrides=overrides, unsigned=False)
    check(random_net(7), config, QatConfig(w_scale=ScaleMethod.LSQ, a_scale=ScaleMethod.FIXED))


def test_post_training_quantisation():
    model = random_net(8)
    calibrated = calibrate_net(model, HALF_EVEN)
    graph = lower_graph(calibrated.graph, calibrated.plan)
    assert_equal_codes(graph, to_brevitas(calibrated), make_images(model, 1, seed=9)[0])


def test_it_is_made_of_layers_of_brevitas_and_comes_back():
    """Brevitas' own quantisers say what ours are: reading the result gives the graph that was written."""
    blocks = ["leaky", "spp", "shortcut", "mish", "depthwise", "relu6", "down_and_up"]
    qat = trained_qat(make_net(net_cfg(blocks)), HALF_EVEN, QatConfig(), steps=1)
    graph, written = lower_model(qat), to_brevitas(qat)
    convs = [layer for layer in written.modules() if isinstance(layer, qnn.QuantConv2d)]
    assert len(convs) == sum(node.op == "conv2d" for node in graph.nodes)
    (factor,) = [node for node in written.graph.nodes if node.target is operator.truediv]
    factor.replace_all_uses_with(factor.args[0])  # from here on it reads pixels / 256
    written.graph.erase_node(factor)
    written.recompile()
    back = from_brevitas(written, torch.rand(1, *graph.input_shape).double(), leaky=qat.config.leaky)
    assert back.tensors[INPUT] == graph.tensors[INPUT]
    codes = random_input(graph, 4)
    for expected, found in zip(run_outputs(graph, codes), run_outputs(back, codes), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_module_of_torch():
    """A network that is no darknet's; its parts are called like methods of the module that is written."""
    torch.manual_seed(0)
    model = nn.Sequential(OrderedDict(code=nn.Conv2d(3, 8, 3, padding=1), act=nn.SiLU(), pool=nn.MaxPool2d(2),
                                      meta=nn.Conv2d(8, 4, 1), up=nn.Upsample(scale_factor=2)))  # fmt: skip
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    qat = prepare_qat(model.eval(), HALF_EVEN, batches=[images])
    assert_equal_codes(lower_model(qat), to_brevitas(qat), images[0])


@pytest.mark.parametrize(
    ("config", "match"),
    [
        (QuantConfig(), "Brevitas has no rounding half_up; quantise with rounding half_even or floor"),
        (QuantConfig(rounding=Rounding.HALF_AWAY), "Brevitas has no rounding half_away"),
        (QuantConfig(rounding=Rounding.HALF_EVEN, overflow=Overflow.WRAP), "activations saturate; .* got wrap"),
    ],
)
def test_other_arithmetic_is_refused(config, match):
    with pytest.raises(QuantError, match=match):
        to_brevitas(calibrate_net(random_net(8), config))


def test_brevitas_exports_it(tmp_path, monkeypatch):
    """Brevitas' own QONNX exporter takes the model; qonnx' executor computes what the model does in float32."""
    onnx = pytest.importorskip("onnx", reason="needs onnx")
    executor = pytest.importorskip("qonnx.core.onnx_exec", reason="needs qonnx, of the extra 'test'")
    pytest.importorskip("onnxoptimizer", reason="Brevitas' exporter needs onnxoptimizer")
    from brevitas.export import export_qonnx
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.transformation.infer_shapes import InferShapes

    monkeypatch.setattr(onnx, "IR_VERSION", 8)  # qonnx wraps each node in a model of onnx's newest version
    qat = trained_qat(make_net(net_cfg(["leaky", "spp", "shortcut"])), HALF_EVEN, QatConfig(), steps=1)
    model, path = to_brevitas(qat).float(), tmp_path / "model.onnx"
    image = torch.rand(1, *qat.graph.input_shape)
    expected = [y.detach().numpy() for y in model(image)]
    export_qonnx(model, args=image, export_path=str(path), opset_version=13, dynamo=False)
    exported = ModelWrapper(str(path)).transform(InferShapes())
    quants = [node for node in exported.graph.node if node.op_type == "Quant"]
    convs = sum(node.op_type == "Conv" for node in exported.graph.node)
    assert len(quants) >= 3 * convs  # weight, bias and output of each
    found = executor.execute_onnx(exported, {exported.graph.input[0].name: image.numpy()})
    assert len(found) == len(expected)
    for mine, other in zip(expected, found.values(), strict=True):
        np.testing.assert_array_equal(other, mine)
