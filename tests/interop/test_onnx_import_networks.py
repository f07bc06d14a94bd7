# SPDX-License-Identifier: Apache-2.0
"""Whole networks, written by torch's exporters, against onnxruntime on the same file."""

import random

import numpy as np
import pytest
import torch
from support.networks import (
    build,
    random_cfg,
    random_weights,
    tiny_detector,
    yolov3_mobilenet,
    yolov3_tiny,
    yolov4_tiny,
)
from support.onnx_exports import export
from support.onnx_models import assert_imports
from support.yolo_fastest import yolo_fastest
from support.zoo import INPUT_SIZE, ZOO, make, settle
from support.zoo_odd import PRUNABLE
from torch import nn

from yolo_hw.errors import OnnxError
from yolo_hw.interop.onnx_import import import_onnx
from yolo_hw.nn.darknet import Darknet
from yolo_hw.nn.resnet import resnet18, resnet20, resnet50

ZOO_SHAPE = (3, INPUT_SIZE, INPUT_SIZE)
NOT_EXPORTED = {
    (False, "flattened_prelu"): "an adaptive maximum over windows of unequal size",
    (True, "flattened_prelu"): "an adaptive maximum",
}
"""(By torch.export, network) -> what the exporter itself refuses."""


def exported(name, folder, *, dynamo=False, **options):
    if (dynamo, name) in NOT_EXPORTED:
        pytest.skip(f"torch.onnx.export refuses {NOT_EXPORTED[dynamo, name]}")
    return export(make(name), folder / "m.onnx", ZOO_SHAPE, dynamo=dynamo, **options)


@pytest.mark.parametrize("name", ZOO)
def test_the_zoo(name, tmp_path):
    assert assert_imports(exported(name, tmp_path)).batch is None


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_the_zoo_by_torch_export(name, tmp_path):
    assert assert_imports(exported(name, tmp_path, dynamo=True)).batch is None


REFUSED = {
    "along_width": "got 1 spatial axes",
    "instance": "InstanceNormalization.*not supported",
    "no_statistics": "InstanceNormalization.*not supported",
}
"""Ways that have no form here -> what the error says."""


@pytest.mark.parametrize("name", PRUNABLE)
def test_odd_ways_to_write_channels(name, tmp_path):
    module = settle(PRUNABLE[name]())
    try:
        path = export(module, tmp_path / "m.onnx", ZOO_SHAPE, opset_version=17)
    except torch.onnx.errors.OnnxExporterError as error:
        pytest.skip(f"torch.onnx.export refuses: {str(error).splitlines()[0]}")
    if name in REFUSED:
        with pytest.raises(OnnxError, match=REFUSED[name]):
            import_onnx(path)
    else:
        assert_imports(path)


@pytest.mark.parametrize("opset", [9, 10, 11, 12, 13, 15, 17, 18, 20])
@pytest.mark.parametrize("name", ["mobilenet_v3", "yolov8_split"])
def test_every_opset(name, opset, tmp_path):
    assert_imports(exported(name, tmp_path, opset_version=opset))


@pytest.mark.parametrize("name", ["shufflenet_v2", "cspnet", "yolov8"])
def test_free_sizes(name, tmp_path):
    axes = {0: "n", 2: "h", 3: "w"}
    path = exported(name, tmp_path, dynamic_axes={"x": axes}, input_names=["x"])
    imported = assert_imports(path, input_size=(64, 32))
    assert imported.input_shape == (3, 64, 32)
    assert imported.batch is None


@pytest.mark.parametrize("dynamo", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_norms_that_are_not_folded_stay_norms(dynamo, tmp_path):
    options = {} if dynamo else {"do_constant_folding": False, "training": torch.onnx.TrainingMode.PRESERVE}
    path = exported("mobilenet_v2", tmp_path, dynamo=dynamo, **(options | ({"optimize": False} if dynamo else {})))
    imported = assert_imports(path)
    original = make("mobilenet_v2").float()
    wanted = {name: type(m) for name, m in original.named_modules() if isinstance(m, (nn.Conv2d, nn.BatchNorm2d))}
    found = {name: type(m) for name, m in imported.model.named_modules()}
    assert wanted.items() <= found.items()
    state = imported.model.state_dict()
    for key, tensor in original.state_dict().items():
        assert torch.equal(tensor, state[key])


@pytest.mark.parametrize("make_network", [resnet18, resnet20, resnet50], ids=lambda f: f.__name__)
@pytest.mark.parametrize("dynamo", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_residual_networks(make_network, dynamo, tmp_path):
    torch.manual_seed(0)
    module = settle(make_network())
    imported = assert_imports(export(module, tmp_path / "m.onnx", (3, 32, 32), dynamo=dynamo), low=0.0, high=1.0)
    assert imported.outputs[0].shape == (10,)


def darknet(text):
    network = build(text)
    model = Darknet(network)
    model.load_weights(random_weights(network))
    return model


DARKNETS = {
    "tiny_detector": tiny_detector,
    "yolov3_tiny": lambda: yolov3_tiny(64, 4),
    "yolov4_tiny": lambda: yolov4_tiny(64, 4),
    "yolov3_mobilenet": lambda: yolov3_mobilenet(64, 4),
    "yolo_fastest": lambda: yolo_fastest(64, 4),
}


@pytest.mark.parametrize("name", DARKNETS)
def test_darknet_networks(name, tmp_path):
    model = darknet(DARKNETS[name]())
    imported = assert_imports(export(model, tmp_path / "m.onnx", model.network.input), low=0.0, high=1.0)
    assert len(imported.outputs) == len(model.network.outputs)
    assert not import_onnx(tmp_path / "m.onnx").dropped


@pytest.mark.parametrize("seed", range(10))
def test_random_darknet_networks(seed, tmp_path):
    model = darknet(random_cfg(random.Random(seed)))
    assert_imports(export(model, tmp_path / "m.onnx", model.network.input, opset_version=18), low=0.0, high=1.0)


def test_names_are_those_of_the_modules(tmp_path):
    """Even where folding left the weights without names."""
    found = dict(import_onnx(exported("mobilenet_v3", tmp_path)).model.named_modules())
    assert isinstance(found["features.0.0"], nn.Conv2d)
    assert isinstance(found["features.0.2"], nn.Hardswish)
    assert isinstance(found["features.2.body.2.reduce"], nn.Conv2d)
    assert isinstance(found["classifier.3"], nn.Linear)


def test_an_imported_module_trains(tmp_path):
    model = import_onnx(exported("yolov8_decoded", tmp_path)).model.train()
    outputs = model(torch.rand(2, *ZOO_SHAPE))
    torch.cat([y.flatten() for y in outputs]).square().sum().backward()
    gradients = [p.grad for p in model.parameters()]
    assert gradients
    assert all(g is not None and np.isfinite(g.numpy()).all() for g in gradients)
