# SPDX-License-Identifier: Apache-2.0
"""The whole way of a network of another framework: ONNX, pruned, trained, quantised, lowered, run by the engine."""

import numpy as np
import pytest
import torch
from support.ladder import assert_qat_ladder
from support.onnx_exports import export
from support.zoo import INPUT_SIZE, ZOO, make

from yolo_hw.darknet.layers import Shape
from yolo_hw.interop.onnx_import import InputConvention, import_onnx
from yolo_hw.intgraph import execute, image_codes
from yolo_hw.intgraph.engine import Engine
from yolo_hw.nn.resnet import Standardise
from yolo_hw.prune import PruneConfig, prune_module
from yolo_hw.quant import QuantConfig, fold_model, quantise_model
from yolo_hw.quant.execute import float_parameters, run_folded
from yolo_hw.quant.folding import PIXEL_GAIN
from yolo_hw.quant.qat import prepare_qat

SHAPE = Shape(3, INPUT_SIZE, INPUT_SIZE)
PIXELS = InputConvention(scale=255.0, mean=(110.0, 120.0, 130.0), std=(60.0, 61.0, 62.0))
WITHOUT_INTEGER_FORM = {
    "layer_scale": "the exact GELU of ConvNeXt",
    "flattened_prelu": "torch's exporters refuse its adaptive maximum",
}


def images(count=4, seed=0):
    """Return smooth random images [N, H, W, C] uint8."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 8, 8, 3)).repeat(4, 1).repeat(4, 2)
    return (coarse + rng.integers(-20, 21, coarse.shape)).clip(0, 255).astype(np.uint8)


def as_tensor(batch, dtype=torch.float64):
    return torch.from_numpy(batch).permute(0, 3, 1, 2).to(dtype) / 255


def imported(name, folder, convention=None, **options):
    return import_onnx(export(make(name, 16), folder / f"{name}.onnx", SHAPE, **options), convention=convention).model


WITH_NORMS = {"do_constant_folding": False, "training": torch.onnx.TrainingMode.PRESERVE}
"""What keeps torch's older exporter from folding batch norms."""


def flat(outputs):
    return torch.cat([y.flatten() for y in ([outputs] if isinstance(outputs, torch.Tensor) else outputs)])


@pytest.mark.parametrize("name", [name for name in ZOO if name not in WITHOUT_INTEGER_FORM])
def test_the_folded_graph_is_the_imported_module(name, tmp_path):
    model = imported(name, tmp_path, PIXELS).double()
    graph = fold_model(model, SHAPE)
    assert graph.name == name
    x = as_tensor(images())
    with torch.no_grad():
        wanted = model(x)
        maps = {r.node.name: r.out for r in run_folded(graph, x / PIXEL_GAIN, float_parameters(graph, torch.float64))}
    found = flat([maps[tensor] for tensor, _ in graph.outputs])
    assert float((found - flat(wanted)).abs().max()) <= 1e-9 * float(found.abs().max())


def check_post_training(model, bits):
    """Compare the engine's codes with the integer graph's, for images and every layer."""
    graph = quantise_model(model, [images()], QuantConfig(w_bits=bits, a_bits=bits))
    engine = Engine(graph, threads=1, keep_all=True)
    for image in images(2, seed=7):
        codes = image_codes(image)
        compiled = engine.run_all(codes)
        for name, expected in execute(graph, codes):
            np.testing.assert_array_equal(compiled[name], expected.codes, err_msg=name)


def trained(model):
    """Quantise a model and make some steps that pull its outputs toward other ones."""
    qat = prepare_qat(model, QuantConfig(), batches=[images()]).train()
    optimizer = torch.optim.Adam(qat.parameters(), lr=0.01)
    for step in range(3):
        found = flat(qat(as_tensor(images(seed=step), torch.float32)))
        loss = (found - torch.linspace(-0.1, 0.1, found.numel())).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return qat.eval()


@pytest.mark.parametrize(
    ("name", "method", "options"),
    [
        ("yolov8_decoded", "regular", WITH_NORMS),
        ("yolov8", "filters", {}),
        ("mobilenet_v3", "slim", WITH_NORMS),
        ("mobilenet_v3", "l2", {}),
    ],
)
def test_pruned_trained_quantised_lowered(name, method, options, tmp_path):
    model = imported(name, tmp_path, PIXELS, **options)
    config = PruneConfig(method=method, ratio=0.3)
    pruned = prune_module(model, as_tensor(images(2), torch.float32), config).model
    before, after = (sum(p.numel() for p in m.parameters()) for m in (model, pruned))
    assert after < 0.9 * before
    check_post_training(pruned, 8)
    check_post_training(pruned, 16)
    qat = trained(pruned)
    graph = assert_qat_ladder(qat, images(1, seed=9)[0])
    with torch.no_grad():
        outputs = pruned(as_tensor(images(1), torch.float32))
    shapes = [tuple(y.shape[1:]) for y in ([outputs] if isinstance(outputs, torch.Tensor) else outputs)]
    found = [tuple(graph.tensors[output.tensor].shape) for output in graph.outputs]
    assert found == [(*shape, 1, 1)[:3] for shape in shapes]


def test_the_layer_in_front_is_part_of_the_integer_network(tmp_path):
    """And quantised codes follow the float network: a lost convention would be off by a factor of 255."""
    model = imported("resnet_basic", tmp_path, PIXELS)
    assert any(isinstance(m, Standardise) for m in model.modules())
    graph = quantise_model(model, [images()], QuantConfig(a_bits=16, w_bits=16))
    name = graph.outputs[0].tensor
    codes = dict(execute(graph, image_codes(images(1)[0])))[name].codes
    real = np.ldexp(codes.astype(np.float64), -graph.tensors[name].fmt.frac).reshape(-1)
    with torch.no_grad():
        wanted = model(as_tensor(images(1), torch.float32))[0].numpy()
    assert np.abs(real - wanted).max() <= 0.01 * np.abs(wanted).max()
