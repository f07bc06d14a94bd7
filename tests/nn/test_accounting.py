# SPDX-License-Identifier: Apache-2.0
"""Published figures come out of the profiles that are named after where they come from."""

import json

import pytest
import torch
from support.cli_runs import run
from support.kitti import kitti_yolov3
from support.networks import YOLOV3_ANCHORS, build, yolov3, yolov3_tiny, yolov4, yolov4_tiny
from torch import nn

from yolo_hw.errors import YoloHwError
from yolo_hw.nn import PROFILES, Darknet, Profile, account, resnet18, resnet20, resnet34, resnet50, resnet101

CIFAR = (3, 32, 32)


# what the tables print: M FLOPs, M parameters; the last layers of 34, 50 and 101 still have ImageNet's 1000 outputs
@pytest.mark.parametrize(
    ("model", "flops", "params"),
    [
        (resnet18(), 281.70, 11.17),
        (resnet34(1000), 585.32, 21.79),
        (resnet50(1000), 661.00, 25.55),
    ],
)
def test_resnets_of_reconstruction_pruning(model, flops, params):
    found = account(model, CIFAR, "ptflops")
    assert (round(found.flops / 1e6, 2), round(found.params / 1e6, 2)) == (flops, params)


def test_resnet101_of_reconstruction_pruning_is_printed_a_little_lower():
    """1267.58 M in the table; the rule that gives its other three rows gives 0.16 % more."""
    found = account(resnet101(1000), CIFAR, "ptflops")
    assert found.flops == pytest.approx(1267.58e6, rel=2e-3)
    assert round(found.params / 1e6, 2) == 44.54


def test_yolov3_of_reconstruction_pruning():
    network = kitti_yolov3()
    assert f"anchors={YOLOV3_ANCHORS}" in yolov3(416, 20)
    found = account(Darknet(network), network.input, "ptflops-half")
    assert found.params == 61_626_499
    assert found.flops == pytest.approx(16.414e9, abs=1e6)
    assert found.macs == 32_713_987_072  # four times less than 2 FLOPs per multiply-accumulate


# "Total BFLOPS" of the networks in AlexeyAB/darknet, and the floats of their published weights
@pytest.mark.parametrize(
    ("text", "printed", "floats"),
    [
        (yolov3(416), 65.879, 62_001_757),
        (yolov3_tiny(416), 5.571, 8_858_734),
        (yolov4(608), 128.459, 64_429_405),
        (yolov4_tiny(416), 6.910, 6_062_814),
    ],
    ids=["yolov3", "yolov3-tiny", "yolov4", "yolov4-tiny"],
)
def test_darknet_prints_these(text, printed, floats):
    network = build(text)
    found = account(Darknet(network), network.input, "darknet")
    assert round(found.flops / 1e9, 3) == printed
    assert found.params == network.num_params == floats


# 2 x thop.profile(...) of version 0.1.1 on the same modules
@pytest.mark.parametrize(
    ("model", "flops"),
    [(resnet18(), 282_000_384), (resnet50(1000), 662_933_504), (resnet20(), 82_617_728)],
    ids=["resnet18", "resnet50", "resnet20"],
)
def test_thop_gives_these(model, flops):
    assert account(model, CIFAR, "thop").flops == flops


def test_every_profile_on_a_network_small_enough_to_count():
    """Convolution 2 -> 3 of 3x3 with bias on 4x4, batch norm, ReLU, pool 2x2, fully connected 12 -> 5."""
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3, 1, 1), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 5)
    )
    conv, fc, cells = 2 * 3 * 9 * 16, 60, 3 * 16
    learned = 3 * 18 + 3 + 6 + 65
    expected = {
        "macs": (2 * (conv + fc), learned),
        "keras": (2 * (conv + fc), learned + 6),
        "ptflops": (2 * (conv + cells + 2 * cells + cells + cells + fc + 5), learned),
        "ptflops-half": ((conv + cells + 2 * cells + cells + cells + fc + 5) / 2, learned),
        "thop": (2 * (conv + 4 * cells + fc), learned),
        "darknet": (2 * conv + cells, learned + 6),
    }
    for name, (flops, params) in expected.items():
        found = account(model, (2, 4, 4), name)
        assert (found.flops, found.params, found.macs) == (flops, params, conv + fc), name
    assert set(expected) == set(PROFILES)


def test_layers_add_up_and_name_the_modules():
    model = resnet20()
    found = account(model, CIFAR, "ptflops")
    rows = {layer.name: layer for layer in found.layers}
    assert rows["conv1"].macs == 3 * 16 * 9 * 1024
    assert (rows["conv1"].kind, rows["conv1"].params, rows["conv1"].param_bytes) == ("Conv2d", 432, 4 * 432)
    assert rows["conv1"].activation_bytes == 4 * 16 * 1024
    assert (rows["bn1"].params, rows["bn1"].statistics, rows["bn1"].macs) == (32, 32, 0)
    assert found.params == sum(p.numel() for p in model.parameters()) == sum(r.params for r in found.layers)
    assert found.flops == sum(found.flops_of(r.operations) for r in found.layers)


def test_rows_of_any_depth_have_the_same_sums():
    deep, flat = account(resnet20(), CIFAR), account(resnet20(), CIFAR, depth=1)
    assert [layer.name for layer in flat.layers if layer.params] == "conv1 bn1 layer1 layer2 layer3 fc".split()
    for name in ("params", "macs", "flops", "statistics", "param_bytes"):
        assert getattr(deep, name) == getattr(flat, name)


def test_bytes():
    model = nn.Sequential(nn.Conv2d(3, 5, 3, bias=True), nn.BatchNorm2d(5))
    found = account(model, (3, 8, 8))
    assert (found.params, found.statistics, found.weights) == (150, 10, 135)
    assert found.param_bytes == 4 * 160
    assert found.packed_bytes(8) == 135 + 4 * 15
    assert found.packed_bytes(4) == 68 + 4 * 15  # 67.5 bytes of weights
    assert account(model.half(), (3, 8, 8)).param_bytes == 2 * 160


def test_shared_parameters_count_once_and_unused_ones_count():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Conv2d(4, 4, 1, bias=False)
            self.b = nn.Conv2d(4, 4, 1, bias=False)
            self.b.weight = self.a.weight
            self.unused = nn.Linear(10, 10)
            self.register_buffer("constant", torch.zeros(7), persistent=False)

        def forward(self, x):
            return self.b(self.a(x))

    found = account(Shared(), (4, 2, 2))
    assert (found.params, found.macs, found.statistics) == (16 + 110, 2 * 64, 0)


def test_a_profile_of_ones_own():
    profile = Profile("additions", "the residual additions", {"add": lambda op: op.outputs}, 1.0)
    assert account(resnet20(), CIFAR, profile).flops == 3 * (16 * 1024 + 32 * 256 + 64 * 64)


def test_an_unknown_profile_is_named():
    with pytest.raises(
        YoloHwError, match=r"profile must be one of macs, keras, .*got 'ptflop'; did you mean 'ptflops'"
    ):
        account(resnet20(), CIFAR, "ptflop")


@pytest.mark.parametrize("profile", PROFILES)
def test_info_counts_by_profile(tmp_path, profile):
    cfg = tmp_path / "net.cfg"
    cfg.write_text(yolov4_tiny(64))
    network = build(yolov4_tiny(64))
    result = run("info", "--cfg", cfg, "--profile", profile, "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    found = account(Darknet(network), network.input, profile)
    assert (document["params"], document["flops"]) == (found.params, found.flops)
    assert document["macs"] == network.macs == sum(layer["macs"] for layer in document["layers"])
    assert document["flops"] == pytest.approx(sum(layer["flops"] for layer in document["layers"]))
    assert {layer["name"] for layer in document["layers"]} <= {layer.name for layer in network.layers}
    assert document["packed_bytes"]["8"] == found.packed_bytes(8)
    table = run("info", "--cfg", cfg, "--profile", profile).stdout
    assert f"profile {profile}: " in table
    assert profile in run("info", "--help").stdout
