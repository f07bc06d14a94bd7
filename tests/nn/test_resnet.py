# SPDX-License-Identifier: Apache-2.0
"""The reference classifiers: shapes, traces, the published ResNet-20 against a plain forward pass and on images."""

import pickle

import pytest
import torch
import torch.nn.functional as F
from support.data import data_path
from torch import nn

from yolo_hw.data import open_classification
from yolo_hw.errors import WeightsError
from yolo_hw.nn import RESNETS, load_resnet, resnet18, resnet20
from yolo_hw.nn.resnet import IMAGENET_MEAN, IMAGENET_STD, PadShortcut, Standardise
from yolo_hw.train import measure_accuracy

CHECKPOINT = "weights/resnet_cifar10/resnet20-12fca82f.th"


@pytest.mark.parametrize("name", RESNETS)
def test_logits_have_the_classes_and_the_trace_computes_the_same(name):
    torch.manual_seed(0)
    model = RESNETS[name](7).eval()
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        y = model(x)
        traced = torch.fx.symbolic_trace(model)
        assert torch.equal(traced(x), y)
    assert y.shape == (2, 7)
    called = {node.target for node in traced.graph.nodes if node.op == "call_module"}
    assert {n for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.BatchNorm2d, nn.Linear))} <= called


@pytest.mark.parametrize("build", [resnet18, resnet20])
def test_export_computes_the_same(build):
    torch.manual_seed(0)
    model = build().eval()
    x = torch.rand(1, 3, 32, 32)
    exported = torch.export.export(model, (x,)).module()
    with torch.no_grad():
        torch.testing.assert_close(exported(x), model(x))


def test_maps_of_the_stages():
    sizes = {}
    for build in (resnet18, resnet20):
        model = build()
        for name, stage in model.named_children():
            stage.register_forward_hook(
                lambda module, x, y, key=(build.__name__, name): sizes.update({key: tuple(y.shape[1:])})
            )
        model(torch.rand(2, 3, 32, 32))
    assert [sizes["resnet18", f"layer{i}"] for i in (1, 2, 3, 4)] == [
        (64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2),
    ]  # fmt: skip
    assert [sizes["resnet20", f"layer{i}"] for i in (1, 2, 3)] == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]
    assert sizes["resnet18", "conv1"] == (64, 32, 32)


def test_parameters_have_torchvisions_names():
    names = set(resnet18().state_dict())
    assert {"conv1.weight", "bn1.running_var", "layer1.0.conv2.weight", "fc.bias"} <= names
    assert {"layer2.0.downsample.0.weight", "layer2.0.downsample.1.bias"} <= names
    assert not [name for name in names if name.startswith(("layer1.0.downsample", "standardise", "relu"))]


def test_the_parameter_free_shortcut():
    x = torch.arange(2 * 4 * 4, dtype=torch.float32).reshape(1, 2, 4, 4)
    y = PadShortcut(2, 5, 2)(x)
    assert torch.equal(y[:, 1:3], x[:, :, ::2, ::2])
    assert not y[:, [0, 3, 4]].any()


def plain_resnet20(state, image):
    """ResNet-20 from the paper's figure 3 and section 4.2, with the checkpoint's own names."""

    def conv_norm(x, conv, norm, stride=1):
        x = F.conv2d(x, state[f"module.{conv}.weight"], None, stride, 1)
        mean, var = state[f"module.{norm}.running_mean"], state[f"module.{norm}.running_var"]
        scale = state[f"module.{norm}.weight"] / (var + 1e-5).sqrt()
        shift = state[f"module.{norm}.bias"] - mean * scale
        return x * scale[:, None, None] + shift[:, None, None]

    mean, std = (torch.tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    x = conv_norm((image - mean) / std, "conv1", "bn1").clamp_min(0)
    for stage in (1, 2, 3):
        for block in range(3):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = conv_norm(x, f"{name}.conv1", f"{name}.bn1", stride).clamp_min(0)
            y = conv_norm(y, f"{name}.conv2", f"{name}.bn2")
            if stride == 2:
                zeros = torch.zeros(x.shape[0], x.shape[1] // 2, *y.shape[2:])
                x = torch.cat([zeros, x[:, :, ::2, ::2], zeros], 1)
            x = (y + x).clamp_min(0)
    return x.mean((2, 3)) @ state["module.linear.weight"].T + state["module.linear.bias"]


def test_the_published_resnet20_equals_a_plain_forward_pass():
    path = data_path(CHECKPOINT)
    model = resnet20().eval()
    load_resnet(model, path)
    state = torch.load(path, weights_only=True, map_location="cpu")["state_dict"]
    x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model(x), plain_resnet20(state, x), rtol=1e-4, atol=1e-4)


def test_the_published_resnet20_on_jpeg_images():
    """81.0 % on the whole re-encoded test set; a sample of 1000 has a standard deviation of 1.2 points."""
    model = resnet20()
    load_resnet(model, data_path(CHECKPOINT))
    found = measure_accuracy(model, open_classification(data_path("cifar10_subset")))
    assert found.images == 1000
    assert found.top1 == pytest.approx(0.81, abs=0.025)
    assert found.top5 > 0.97


def saved(folder, document):
    path = folder / "x.th"
    torch.save(document, path)
    return path


def test_a_checkpoint_goes_around(tmp_path):
    torch.manual_seed(1)
    model, other = resnet20(), resnet20()
    state = {f"module.{k}".replace("module.fc.", "module.linear."): v for k, v in model.state_dict().items()}
    load_resnet(other, saved(tmp_path, {"state_dict": state, "best": 0.9}))
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))
    load_resnet(other, saved(tmp_path, model.state_dict()))


class Exploit:
    def __reduce__(self):
        return (print, ("executed",))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda f: f / "none.th", "not a readable checkpoint: No such file"),
        (lambda f: saved(f, [1]), "must hold a state dict of tensors"),
        (lambda f: saved(f, {"state_dict": {"a": 1}}), "must hold a state dict of tensors"),
        (lambda f: saved(f, {}), r"conv1.weight must have shape \(16, 3, 3, 3\), found nothing"),
        (lambda f: saved(f, resnet18().state_dict()), r"conv1.weight must have shape \(16, 3, 3, 3\), found \(64, 3"),
        (lambda f: saved(f, {**resnet20().state_dict(), "extra": torch.ones(1)}), "extra does not belong"),
        (lambda f: saved(f, Exploit()), "not a readable checkpoint: UnpicklingError"),
    ],
)
def test_other_files_are_refused(tmp_path, capsys, make, message):
    with pytest.raises(WeightsError, match=message):
        load_resnet(resnet20(), make(tmp_path))
    assert capsys.readouterr().out == ""


def test_damaged_files_are_refused(tmp_path):
    path = saved(tmp_path, resnet20().state_dict())
    data = path.read_bytes()
    for damaged in (b"", data[: len(data) // 2], pickle.dumps({"a": 1}), b"\x89PNG"):
        path.write_bytes(damaged)
        with pytest.raises(WeightsError, match=r"x\.th: "):
            load_resnet(resnet20(), path)


def test_images_are_standardised_per_channel():
    x = torch.rand(1, 3, 2, 2)
    y = Standardise((0.1, 0.2, 0.3), (0.5, 0.25, 1.0))(x)
    torch.testing.assert_close(y[0, 1], (x[0, 1] - 0.2) / 0.25)
