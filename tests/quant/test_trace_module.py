# SPDX-License-Identifier: Apache-2.0
"""Any torch module to the folded graph: it computes what the module does, whole networks and operator by operator."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support import zoo, zoo_odd
from support.traced import SIZE, WIDTH, Coded, assert_traced_equals_module, coded
from torch import nn

from yolo_hw.darknet.layers import Shape
from yolo_hw.errors import QuantError
from yolo_hw.nn import resnet18, resnet20, resnet34, resnet50
from yolo_hw.quant import QuantConfig, fold_model, quantise_model
from yolo_hw.quant import folded as G
from yolo_hw.quant.source import norm_vectors
from yolo_hw.quant.trace_module import trace_module

SQUARE = Shape(3, zoo.INPUT_SIZE, zoo.INPUT_SIZE)
WITHOUT_INTEGERS = {"yolov8_decoded": r"head \(softmax\)", "flattened_prelu": r"features.5 \(adaptive_max_pool2d\)"}


def kinds(traced):
    return [type(node).__name__.removeprefix("Folded") for node in traced.graph.nodes]


@pytest.mark.parametrize("name", sorted(set(zoo.ZOO) - set(WITHOUT_INTEGERS)))
def test_every_network_of_the_zoo(name):
    assert_traced_equals_module(zoo.make(name), SQUARE)


@pytest.mark.parametrize("name", WITHOUT_INTEGERS)
def test_networks_without_an_integer_form_say_where(name):
    with pytest.raises(QuantError, match=WITHOUT_INTEGERS[name]):
        trace_module(zoo.make(name), SQUARE)


@pytest.mark.parametrize("build", [resnet18, resnet20, resnet34, resnet50])
def test_residual_networks(build):
    torch.manual_seed(0)
    assert_traced_equals_module(zoo.settle(build()), SQUARE)


ODD_WITHOUT_INTEGERS = {"along_width", "coordinates", "no_statistics", "instance", "reflected"}


@pytest.mark.parametrize("name", sorted(set(zoo_odd.PRUNABLE) - ODD_WITHOUT_INTEGERS))
def test_every_way_of_writing_channels(name):
    torch.manual_seed(0)
    assert_traced_equals_module(zoo.settle(zoo_odd.PRUNABLE[name]()), SQUARE)


def conv(cout=WIDTH, k=3, **options):
    return nn.Conv2d(WIDTH, cout, k, **options)


def per_channel(seed=0):
    return torch.randn(WIDTH, 1, 1, generator=torch.manual_seed(seed))


ACTIVATIONS = {
    "relu": F.relu, "relu6": F.relu6, "clamp_0_6": lambda x: x.clamp(0, 6), "clamp_min": lambda x: x.clamp(min=0),
    "clamp": lambda x: x.clamp(-0.25, 1.5), "clamp_max": lambda x: x.clamp(max=0.5), "hardtanh": F.hardtanh,
    "leaky_darknet": lambda x: F.leaky_relu(x, 0.1), "leaky_torch": F.leaky_relu,
    "leaky_steep": lambda x: F.leaky_relu(x, 0.2), "silu": F.silu, "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid, "sigmoid": torch.sigmoid, "mish": F.mish, "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"), "tanh": torch.tanh, "elu": F.elu,
    "elu_half": lambda x: F.elu(x, 0.5), "selu": F.selu, "softplus": F.softplus,
    "by_hand": lambda x: x * F.relu6(x + 3) / 6, "twice": lambda x: F.silu(F.relu(x)),
}  # fmt: skip


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name):
    assert_traced_equals_module(coded(lambda m, x: ACTIVATIONS[name](x)))


OPERATORS = {
    "same_padding": (lambda m, x: m.a(x), {"a": conv(5, 4, padding="same", dilation=2)}),
    "valid_padding": (lambda m, x: m.a(x), {"a": conv(5, 3, padding="valid", stride=2)}),
    "rectangle": (lambda m, x: m.a(x), {"a": conv(4, (3, 5), padding=(0, 2), stride=(2, 1), groups=2)}),
    "padded_on_one_side": (lambda m, x: m.a(F.pad(x, (0, 1, 0, 1))), {"a": conv(4, 3, stride=2)}),
    "padded_too_far": (lambda m, x: m.a(F.pad(x, (4, 1, 3, 2))), {"a": conv(4, 3)}),
    "pad_and_pool": (lambda m, x: F.max_pool2d(F.pad(x, (1, 1, 0, 2)), 2), {}),
    "crop": (lambda m, x: x[:, :, 1:-1, 2:-3], {}),
    "crop_at_the_end": (lambda m, x: x[:, 2:5, :-1, :-2], {}),
    "thin": (lambda m, x: x[:, :, ::2, ::2], {}),
    "thin_odd": (lambda m, x: x[..., ::3, ::3], {}),
    "thin_with_offset": (lambda m, x: x[:, :, 1::2, ::2] + x[:, :, ::2, 1::2], {}),
    "thin_to_one_side": (lambda m, x: x[:, :, 1::3, 2::3], {}),
    "max_ceil": (lambda m, x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True), {}),
    "max_rectangle": (lambda m, x: F.max_pool2d(x, (2, 3), (1, 2), (1, 0)), {}),
    "max_global": (lambda m, x: F.adaptive_max_pool2d(x, 1), {}),
    "max_adaptive": (lambda m, x: F.adaptive_max_pool2d(x, (4, 3)), {}),
    "average": (lambda m, x: F.avg_pool2d(x, 3, 2, 1), {}),
    "average_divisor": (lambda m, x: F.avg_pool2d(x, 3, 2, 1, divisor_override=5), {}),
    "average_ceil_that_fits": (lambda m, x: F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False), {}),
    "average_adaptive": (lambda m, x: F.adaptive_avg_pool2d(x, (2, 3)), {}),
    "average_whole": (lambda m, x: F.avg_pool2d(x, (8, 12)), {}),
    "average_negative_dims": (lambda m, x: x.mean((-1, -2)), {}),
    "average_flat": (lambda m, x: x.flatten(2).mean(-1, keepdim=True), {}),
    "average_channels_last": (lambda m, x: x.permute(0, 2, 3, 1).mean((1, 2)), {}),
    "average_twice": (lambda m, x: F.adaptive_avg_pool2d(x.mean((2, 3), keepdim=True), 1), {}),
    "average_rows": (lambda m, x: x.mean(2, keepdim=True) * x.mean((2, 3), keepdim=True), {}),
    "up": (lambda m, x: F.interpolate(x, scale_factor=3), {}),
    "up_to_size": (lambda m, x: F.interpolate(x, size=(16, 24), mode="nearest"), {}),
    "repeat_interleave": (lambda m, x: x.repeat_interleave(2, 2).repeat_interleave(2, 3), {}),
    "pixel_shuffle": (lambda m, x: F.pixel_shuffle(x, 2), {}),
    "pixel_unshuffle": (lambda m, x: F.pixel_unshuffle(x, 2), {}),
    "darknet_reorg": (lambda m, x: x.reshape(-1, 12, 4, 2, 6, 2).permute(0, 3, 5, 1, 2, 4).reshape(-1, 48, 4, 6), {}),
    "pad_channels": (lambda m, x: F.pad(x, (0, 0, 0, 0, 3, 5)), {}),
    "pad_channels_by_cat": (lambda m, x: torch.cat([x, torch.zeros_like(x[:, :3])], 1), {}),
    "flip_channels": (lambda m, x: x.flip(1), {}),
    "every_other_channel": (lambda m, x: torch.cat([x[:, ::2], x[:, 1::2]], 1), {}),
    "cat_of_cats": (lambda m, x: torch.cat([torch.cat([m.a(x), x], 1), F.relu(x)], 1), {"a": conv(3, 1)}),
    "linear_flat": (lambda m, x: m.a(x.flatten(1)), {"a": nn.Linear(WIDTH * 96, 5)}),
    "linear_last": (lambda m, x: m.a(x.permute(0, 2, 3, 1).flatten(1)), {"a": nn.Linear(WIDTH * 96, 5)}),
    "linear_across": (lambda m, x: m.a(x.permute(0, 3, 1, 2).flatten(1)), {"a": nn.Linear(WIDTH * 96, 5, bias=False)}),
    "linear_norm": (lambda m, x: F.relu(m.n(m.a(x.mean((2, 3))))), {"a": nn.Linear(WIDTH, 7), "n": nn.BatchNorm1d(7)}),
    "linear_of_part": (lambda m, x: m.a(x.mean((2, 3))[:, 2:8]), {"a": nn.Linear(6, 4)}),
    "conv1d": (lambda m, x: m.a(F.relu(x.mean(3))), {"a": nn.Conv1d(WIDTH, 6, 3, padding=1)}),
    "norm_alone": (lambda m, x: m.n(F.relu(x)), {"n": nn.BatchNorm2d(WIDTH)}),
    "norm_of_read": (lambda m, x: m.n(x) + x, {"n": nn.BatchNorm2d(WIDTH)}),
    "norm_twice": (lambda m, x: m.n(m.n(m.a(x))), {"a": conv(), "n": nn.BatchNorm2d(WIDTH)}),
    "norm_of_permuted": (lambda m, x: m.n(m.a(x).flip(1)), {"a": conv(), "n": nn.BatchNorm2d(WIDTH)}),
    "constants": (lambda m, x: (2 - (x - m.s) / m.t) * 3 + 1, {"s": per_channel(), "t": per_channel(1).abs() + 1}),
    "last_constants": (lambda m, x: x.permute(0, 2, 3, 1) * m.s + m.t,
                       {"s": per_channel().flatten(), "t": per_channel(1).flatten()}),
    "negative": (lambda m, x: -x, {}),
    "weighted_sum": (lambda m, x: torch.sub(x, m.a(x), alpha=0.5), {"a": conv(k=1)}),
    "doubled": (lambda m, x: x + x, {}),
    "square": (lambda m, x: x**2, {}),
    "gate_of_channels": (lambda m, x: torch.sigmoid(m.a(x.mean((2, 3), True))) * x, {"a": conv(k=1)}),
    "gate_of_pixels": (lambda m, x: x * m.a(x), {"a": conv(1, 1)}),
    "outer": (lambda m, x: m.a(x) * F.adaptive_avg_pool2d(x, 1), {"a": conv(1, 1)}),
    "add_of_pixels": (lambda m, x: x + m.a(x), {"a": conv(1, 1)}),
    "matrices": (lambda m, x: F.relu(x.flatten(2)) * x.flatten(2), {}),
    "prelu": (lambda m, x: m.p(x), {"p": nn.PReLU(WIDTH)}),
    "prelu_one": (lambda m, x: m.p(x), {"p": nn.PReLU()}),
    "identity": (lambda m, x: F.dropout(x.contiguous().clone().detach(), 0.5, m.training).to(x.dtype), {}),
    "split": (lambda m, x: x.split((5, 4, 3), 1), {}),
    "nested": (lambda m, x: {"a": [x, F.relu(x)], "b": (x.flatten(1), None, x.mean((2, 3)))}, {}),
    "anchors": (lambda m, x: torch.cat([x.flatten(2), F.max_pool2d(x, 2).flatten(2)], 2).transpose(1, 2), {}),
}  # fmt: skip


@pytest.mark.parametrize("name", OPERATORS)
def test_operators(name):
    code, parts = OPERATORS[name]
    assert_traced_equals_module(coded(code, **copy.deepcopy(parts)))


def test_pieces_move_without_arithmetic():
    """Halves are slices, joined in one concat; thinning is a pool of one pixel, offsets are channels of a reorg."""
    halves = assert_traced_equals_module(coded(lambda m, x: torch.cat([*x.chunk(2, 1), F.relu(x)], 1)))
    assert kinds(halves) == ["Conv", "Add", "Concat"]
    assert halves.graph.nodes[-1].inputs == ("stem.0", "relu")
    assert kinds(assert_traced_equals_module(coded(lambda m, x: x[:, 2:5]))) == ["Conv", "Slice"]
    assert kinds(assert_traced_equals_module(coded(lambda m, x: x[..., ::2, ::2]))) == ["Conv", "MaxPool"]
    assert kinds(assert_traced_equals_module(coded(lambda m, x: x[..., 1::2, ::2]))) == ["Conv", "Reorg", "Slice"]
    assert kinds(assert_traced_equals_module(coded(lambda m, x: F.interpolate(x, scale_factor=2)))) == [
        "Conv",
        "Upsample",
    ]


def test_what_follows_alone_is_part_of_the_node():
    code = coded(lambda m, x: F.relu(m.n(m.a(F.relu(x))) + x), a=conv(padding=1), n=nn.BatchNorm2d(WIDTH))
    traced = assert_traced_equals_module(code)
    assert [(node.name, node.activation) for node in traced.graph.nodes] == [
        ("stem.0", "linear"),
        ("relu", "relu"),
        ("a", "linear"),
        ("add", "relu"),
    ]
    assert traced.sources["a"].norm is code.n


def test_what_others_read_too_stays_as_it_is():
    code = coded(lambda m, x: (m.n(m.a(x)), m.a(x), F.relu(x)), a=conv(), n=nn.BatchNorm2d(WIDTH))
    traced = assert_traced_equals_module(code)
    assert {name: source.norm is None for name, source in traced.sources.items()} == {
        "stem.0": False,
        "a": False,
        "a_1": True,
    }
    read = coded(lambda m, x: m.n(m.y(x)) + F.relu(m.y(x)), y=nn.Identity(), n=nn.BatchNorm2d(WIDTH))
    assert kinds(assert_traced_equals_module(read)) == ["Conv", "Conv", "Add", "Add"]


def test_writing_in_place_is_what_it_is():
    def code(m, x):
        y = m.a(x)
        kept = y[:, :3]
        y.mul_(2)
        return F.relu_(kept) + y[:, :3]

    assert_traced_equals_module(coded(code, a=conv()))


def test_standardising_the_image_is_one_convolution():
    """A dense one: the accelerator reads images by no other, `hls_export` says so."""
    traced = assert_traced_equals_module(zoo.settle(resnet20()), SQUARE)
    first = traced.graph.nodes[0]
    assert (first.name, first.groups) == ("standardise", 1)
    np.testing.assert_array_equal(first.weight[:, :, 0, 0], np.diag(np.diag(first.weight[:, :, 0, 0])))
    assert [node.name for node in traced.graph.nodes if "input" in node.inputs] == [first.name]


def test_the_image_itself_is_handed_on_by_a_convolution():
    class Pooled(nn.Module):
        def forward(self, x):
            return F.max_pool2d(x, 2) + F.interpolate(x[:, :, ::4, ::4], scale_factor=2), torch.cat([x, x.flip(1)], 1)

    traced = assert_traced_equals_module(Pooled())
    assert {type(node) for node in traced.graph.nodes if "input" in node.inputs} == {G.FoldedConv}


def test_sources_are_the_modules_own_tensors():
    module = coded(lambda m, x: m.a(m.s * x.mean((2, 3), True) + m.t).flatten(1), a=conv(5, 1),
                   s=nn.Parameter(per_channel() + 3), t=nn.Parameter(per_channel(1)))  # fmt: skip
    sources = assert_traced_equals_module(module).sources
    assert sources["stem.0"].weight is module.stem[0].weight
    assert sources["stem.0"].norm is module.stem[1]
    assert (sources["a"].weight is module.a.weight, sources["a"].bias is module.a.bias) == (True, True)
    assert sources["mul"].weight.data_ptr() == module.s.data_ptr()
    assert sources["add"].bias.data_ptr() == module.t.data_ptr()
    assert [(s.fixed, s.fixed_bias) for s in (sources["mul"], sources["add"])] == [(False, True), (True, False)]
    for source in sources.values():
        norm = None if source.norm is None else copy.deepcopy(source.norm)
        source.load(source.weight.detach() + 1, norm, None if source.bias is None else source.bias.detach() + 1)
    torch.testing.assert_close(module.t, per_channel(1).double() + 1)
    assert_traced_equals_module(module)


def test_norms_of_raw_tensors_share_them():
    torch.manual_seed(0)
    module = zoo.settle(zoo_odd.PRUNABLE["functional"]())
    norm = trace_module(module, SQUARE).sources["conv2d_1"].norm
    for mine, own in zip(norm_vectors(norm), norm_vectors(module.norm), strict=True):
        assert mine.data_ptr() == own.data_ptr()


def test_the_module_is_not_changed():
    module = coded(lambda m, x: F.dropout(m.n(F.relu_(x)), 0.5, m.training), n=nn.BatchNorm2d(WIDTH)).train()
    module.n.eval()
    state, modes = copy.deepcopy(module.state_dict()), [part.training for part in module.modules()]
    trace_module(module, torch.zeros(1, *SIZE))
    assert [part.training for part in module.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())


REFUSED = {
    "softmax": (lambda m, x: m.a(x.softmax(1)), {"a": conv()}, r"^Coded \(softmax\): has no integer form; supported: "),
    "layer_norm": (lambda m, x: m.n(x), {"n": nn.LayerNorm([WIDTH, 8, 12])}, r"^n \(layer_norm\): has no integer"),
    "batch_statistics": (lambda m, x: F.batch_norm(x, None, None, training=True), {}, "must use running statistics"),
    "dilated_pool": (lambda m, x: F.max_pool2d(x, 2, dilation=2), {}, "dilation must be 1"),
    "border": (lambda m, x: F.avg_pool2d(x, 3, 1, 1, count_include_pad=False), {}, "count fewer pixels at the border"),
    "border_ceil": (lambda m, x: F.avg_pool2d(x, 3, 2, ceil_mode=True), {}, "count fewer pixels at the border"),
    "channel_mean": (lambda m, x: x.mean(1), {}, "must be over whole channels, rows or columns"),
    "position": (lambda m, x: x + m.p, {"p": torch.randn(WIDTH, 8, 12)}, "differs from pixel to pixel"),
    "constant_part": (lambda m, x: torch.cat([x, torch.ones_like(x)], 1), {}, "only zeros can be joined"),
    "padded_with_one": (lambda m, x: F.pad(x, (1, 1), value=1.0), {}, "padding must be zero, got 1.0"),
    "quotient": (lambda m, x: x / (x * x + 1), {}, "only constants can divide"),
    "computed_filter": (lambda m, x: F.conv2d(x, x.mean((0, 2, 3)).reshape(1, WIDTH, 1, 1)), {}, "images or channels"),
    "mixed_images": (lambda m, x: x.flip(0), {}, "images of a batch must stay apart"),
    "images_apart": (lambda m, x: x[torch.tensor([[0], [1]]), torch.tensor([[0, 1], [1, 0]])], {}, "images of a batch"),
    "folded_batch": (lambda m, x: m.a(x.reshape(-1, 6, 8, 12)), {"a": nn.Conv2d(6, 1, 1)}, "of a batch must stay"),
    "transposed_map": (lambda m, x: m.a(x.transpose(2, 3)), {"a": conv()}, "no nodes bring elements into this order"),
    "nothing": (lambda m, x: m.b, {"b": torch.zeros(3)}, "every output must be computed from the image"),
    "data_dependent": (lambda m, x: x if x.sum() > 0 else -x, {}, "torch.export cannot follow its forward"),
    "bilinear": (lambda m, x: F.interpolate(x, scale_factor=2, mode="bilinear"), {}, r"\(upsample_bilinear2d\)"),
    "power": (lambda m, x: x**3, {}, "exponent must be 2, got 3"),
    "limits": (lambda m, x: torch.clamp(x, min=m.b), {"b": torch.zeros(1)}, "limits must be numbers"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_integer_form_is_named(name):
    code, parts, message = REFUSED[name]
    with pytest.raises(QuantError, match=message):
        trace_module(coded(code, **copy.deepcopy(parts)), SIZE)


def test_sizes_of_images_are_asked_for():
    with pytest.raises(QuantError, match="ResNet: the size of the images is not known"):
        fold_model(resnet20())
    with pytest.raises(QuantError, match="at least one image"):
        quantise_model(resnet20(), [])
    images = np.zeros((1, 32, 32, 3), np.uint8)
    assert quantise_model(resnet20().eval(), [images], QuantConfig()).tensors["input"].shape == SQUARE


def test_names_are_those_of_modules_once():
    traced = trace_module(Coded(lambda m, x: m.r(m.r(x) + x), r=nn.ReLU()), SIZE)
    assert [node.name for node in traced.graph.nodes] == ["stem.0", "r", "add"]
    assert traced.graph.name == "Coded"
