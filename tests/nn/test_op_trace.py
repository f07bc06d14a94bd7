# SPDX-License-Identifier: Apache-2.0
"""The operators of a module, their sizes and the modules that ran them."""

import pytest
import torch
import torch.nn.functional as F
from support.networks import build, yolov3_tiny, yolov4_tiny
from torch import nn

from yolo_hw.nn import Darknet
from yolo_hw.nn.op_trace import Op, trace_ops


def only(module, shape):
    (op,) = trace_ops(module, shape)
    return op


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.Conv2d(4, 6, 3, 2, 1), {"kind": "conv", "macs": 6 * 4 * 9 * 16, "outputs": 96, "bias": True}),
        (nn.Conv2d(4, 8, 3, groups=4, bias=False), {"kind": "conv", "macs": 8 * 9 * 36, "outputs": 288}),
        (nn.ConvTranspose2d(4, 6, 2, 2), {"kind": "conv", "macs": 4 * 64 * 6 * 4, "outputs": 6 * 256, "bias": True}),
        (nn.BatchNorm2d(4), {"kind": "batch_norm", "macs": 0, "outputs": 256, "bias": True}),
        (nn.BatchNorm2d(4, affine=False), {"kind": "batch_norm", "macs": 0, "outputs": 256}),
        (nn.MaxPool2d(3, 2, 1), {"kind": "max_pool", "macs": 0, "outputs": 64, "window": 9}),
        (nn.AvgPool2d((2, 4)), {"kind": "avg_pool", "macs": 0, "outputs": 32, "window": 8}),
        (nn.AdaptiveAvgPool2d(1), {"kind": "global_pool", "macs": 0, "outputs": 4, "window": 64}),
        (nn.AdaptiveAvgPool2d(2), {"kind": "global_pool", "macs": 0, "outputs": 16, "window": 16}),
        (nn.Upsample(scale_factor=2), {"kind": "upsample", "macs": 0, "outputs": 1024}),
        (nn.ReLU(inplace=True), {"kind": "relu", "macs": 0, "outputs": 256}),
        (nn.LeakyReLU(0.1), {"kind": "relu", "macs": 0, "outputs": 256}),
        (nn.ReLU6(), {"kind": "relu", "macs": 0, "outputs": 256}),
        (nn.PReLU(), {"kind": "relu", "macs": 0, "outputs": 256}),
        (nn.Mish(), {"kind": "activation", "macs": 0, "outputs": 256}),
        (nn.SiLU(inplace=True), {"kind": "activation", "macs": 0, "outputs": 256}),
    ],
    ids=lambda value: value.__class__.__name__ if isinstance(value, nn.Module) else "",
)
def test_one_operator(module, expected):
    assert only(module, (4, 8, 8)) == Op(layer="", inputs=256, **expected)


class Products(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(12, 5)
        self.plain = nn.Linear(5, 7, bias=False)

    def forward(self, x):
        y = self.plain(self.fc(x.flatten(1)))
        return torch.bmm(y[:, :, None], y[:, None, :])


def test_matrix_products_and_where_they_ran():
    found = [(op.layer, op.kind, op.macs, op.bias) for op in trace_ops(Products(), (3, 2, 2))]
    assert found == [("fc", "linear", 60, True), ("plain", "linear", 35, False), ("", "matmul", 49, False)]


class Residual(nn.Module):
    def forward(self, x):
        return F.relu(x + 1) + x * 2 + x.mean((2, 3), keepdim=True)


def test_functions_count_and_only_sums_of_maps_are_additions():
    kinds = [op.kind for op in trace_ops(Residual(), (3, 4, 4))]
    assert kinds == ["relu", "add", "global_pool"]


@pytest.mark.parametrize("make", [yolov3_tiny, yolov4_tiny])
def test_a_darknet_has_the_macs_of_its_description(make):
    network = build(make(64))
    by_layer = {}
    for op in trace_ops(Darknet(network), network.input):
        name = op.layer.split(".")[1]
        by_layer[name] = by_layer.get(name, 0) + op.macs
    assert {name: macs for name, macs in by_layer.items() if macs} == {
        layer.name: layer.macs for layer in network.layers if layer.macs
    }


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout())
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trace_ops(model, (3, 8, 8))
    assert [module.training for module in model] == [True, False, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model)


def test_an_error_of_the_model_is_passed_on_and_leaves_no_hooks():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(5, 4, 1))
    with pytest.raises(RuntimeError, match="5"):
        trace_ops(model, (3, 8, 8))
    assert model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model)


def test_nothing_is_computed():
    """A network of 33 G multiply-accumulates and 10 GB of maps takes no memory for them."""
    big = nn.Sequential(*(nn.Conv2d(3, 3, 3, 1, 1) for _ in range(10)))
    ops = trace_ops(big, (3, 6400, 6400))
    assert sum(op.macs for op in ops) == 10 * 81 * 6400**2
