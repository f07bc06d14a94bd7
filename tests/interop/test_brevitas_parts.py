# SPDX-License-Identifier: Apache-2.0
"""Layers of Brevitas one by one: those with an integer form have equal codes, the others are refused by name."""

import pytest
import torch
from torch import nn

from yolo_hw.errors import QuantError
from yolo_hw.fixedpoint import Overflow, Rounding
from yolo_hw.intgraph import run_outputs
from yolo_hw.intgraph.execute import input_codes
from yolo_hw.quant import LeakySlope, lower_graph

qnn = pytest.importorskip("brevitas.nn", reason="needs brevitas")

from brevitas.inject.enum import FloatToIntImplType, RestrictValueType  # noqa: E402 - behind the check
from brevitas.quant import Int8ActPerTensorFloatMinMaxInit, Int8WeightPerTensorFloat, ShiftedUint8ActPerTensorFloat  # noqa: E402
from brevitas.quant.scaled_int import RoundTo8bit  # noqa: E402
from brevitas.quant_tensor import IntQuantTensor, QuantTensor  # noqa: E402
from support.brevitas_models import (  # noqa: E402
    OwnBias,
    PerTensor,
    Signed,
    Unsigned,
    assert_equal_codes,
    codes_of,
    conv,
    identity,
    relu,
    trained,
)

from yolo_hw.interop.brevitas_in import from_brevitas, read_brevitas  # noqa: E402

SIZE = (2, 3, 8, 8)


class Net(nn.Module):
    """A quantised image, a convolution, and the layer in question."""

    def __init__(self, *layers, inp=None):
        super().__init__()
        self.inp = inp or identity()
        self.body = nn.Sequential(*layers)

    def forward(self, x):
        return self.body(self.inp(x))


class Join(nn.Module):
    """Two branches, joined."""

    def __init__(self, join, *branches):
        super().__init__()
        self.join, self.branches = join, nn.ModuleList(branches)

    def forward(self, x):
        return self.join([branch(x) for branch in self.branches])


class Value(nn.Module):
    """A QuantTensor as a plain tensor."""

    def forward(self, x):
        return getattr(x, "value", x)


def added(tensors):
    return tensors[0] + tensors[1]


def multiplied(tensors):
    return tensors[0] * tensors[1]


def concatenated(tensors):
    return torch.cat(tensors, 1)


def act(layer, quant=Signed, **options):
    return layer(act_quant=quant, return_quant_tensor=True, **options)


PARTS = {
    "relu, signed": lambda: (conv(3, 4), act(qnn.QuantReLU)),
    "identity, unsigned": lambda: (conv(3, 4), act(qnn.QuantIdentity, Unsigned)),
    "relu6": lambda: (conv(3, 4), nn.ReLU6(), identity(bit_width=6)),
    "hard tanh": lambda: (conv(3, 4), act(qnn.QuantHardTanh, min_val=-1.0, max_val=1.0)),
    "narrow": lambda: (conv(3, 4), act(qnn.QuantIdentity, bit_width=4)),
    "16 bits": lambda: (conv(3, 4, weight_bit_width=16), identity(bit_width=16), conv(4, 4), identity()),
    "output_quant": lambda: (conv(3, 4, output_quant=Signed), conv(4, 4, input_quant=None), identity()),
    "input_quant": lambda: (conv(3, 4), Value(), relu(), conv(4, 2, input_quant=Signed, input_bit_width=4), identity()),
    "sigmoid": lambda: (conv(3, 4), identity(), act(qnn.QuantSigmoid, Unsigned)),
    "sigmoid with its own input": lambda: (conv(3, 4), act(qnn.QuantSigmoid, Unsigned, input_quant=Signed)),
    "tanh": lambda: (conv(3, 4), identity(bit_width=6), act(qnn.QuantTanh)),
    "hard swish": lambda: (conv(3, 4), identity(), act(qnn.QuantHardSwish)),
    "silu": lambda: (conv(3, 4), identity(), Value(), nn.SiLU(), identity()),
    "table read twice": lambda: (conv(3, 4), identity(), Join(added, nn.Sequential(nn.SiLU(), identity()), Value()),
                                 identity()),
    "squeeze and excite": lambda: (conv(3, 4), relu(), Join(
        multiplied, Value(), nn.Sequential(nn.AdaptiveAvgPool2d(1), identity(), conv(4, 4, 1), identity(),
                                           act(qnn.QuantSigmoid, Unsigned), Value())), identity()),
    "trunc pool, rounded": lambda: (conv(3, 4), relu(), qnn.TruncAvgPool2d(2, trunc_quant=RoundTo8bit)),
    "trunc pool of the map": lambda: (conv(3, 4), identity(), qnn.TruncAdaptiveAvgPool2d(1, trunc_quant=RoundTo8bit)),
    "average pool": lambda: (conv(3, 4), relu(), nn.AvgPool2d(2), Value(), identity()),
    "quant upsample": lambda: (conv(3, 4), identity(), qnn.QuantUpsample(scale_factor=2, mode="nearest")),
    "quant concat": lambda: (Join(qnn.QuantCat(input_quant=Signed, output_quant=None, return_quant_tensor=True),
                                  conv(3, 4), conv(3, 2)), conv(6, 3), identity()),
    "concat of formats": lambda: (Join(concatenated, nn.Sequential(conv(3, 4), relu(bit_width=4), Value()),
                                       nn.Sequential(conv(3, 2), identity(), Value())),
                                  conv(6, 3, bias=False, return_quant_tensor=False), identity()),
    "rounded behind a concat": lambda: (Join(concatenated, nn.Sequential(conv(3, 4), Value()),
                                             nn.Sequential(conv(3, 2), relu(), Value())), identity()),
    "rounded behind a pool": lambda: (conv(3, 4), Value(), nn.MaxPool2d(3, 2, 1), identity(), conv(4, 2), identity()),
    "rounded behind a pool, relu": lambda: (conv(3, 4), nn.MaxPool2d(2), relu()),
    "rounded twice": lambda: (conv(3, 4), identity(), identity(bit_width=4), conv(4, 2), identity()),
    "sum without quantiser": lambda: (Join(added, nn.Sequential(conv(3, 4), identity(), Value()),
                                           nn.Sequential(conv(3, 4), relu(), Value())),
                                      conv(4, 2, bias=False, return_quant_tensor=False), identity()),
    "relu of codes": lambda: (conv(3, 4), identity(), nn.ReLU(), conv(4, 2), identity()),
    "add with two formats": lambda: (Join(added, nn.Sequential(conv(3, 4), identity(), Value()),
                                          nn.Sequential(conv(3, 4), relu(bit_width=5), Value())), identity()),
    "depth from space": lambda: (conv(3, 4), identity(), nn.PixelUnshuffle(2), conv(16, 4, 1), identity()),
    "same padding, stride 2": lambda: (qnn.QuantConv2d(3, 4, 3, stride=2, padding="same", weight_quant=PerTensor,
                                                       bias_quant=OwnBias), identity()),
    "accumulators as output": lambda: (conv(3, 2, 1, weight_bit_width=4, bias=False),),
}  # fmt: skip


@pytest.mark.parametrize("part", PARTS)
def test_a_layer(part, monkeypatch):
    # QuantCat of Brevitas 0.13.4 calls a method that it has only in the class below.
    monkeypatch.setattr(QuantTensor, "cat", staticmethod(IntQuantTensor.cat), raising=False)
    torch.manual_seed(0)
    assert_equal_codes(trained(Net(*PARTS[part]()), SIZE), SIZE)


def refuse(match, *layers, inp=None, model=None, **options):
    torch.manual_seed(0)
    model = (model or Net(*layers, inp=inp)).eval()
    with pytest.raises(QuantError, match=match):
        from_brevitas(model, torch.rand(SIZE), **options)


REFUSED = {
    "weights with a float scale": (
        r"body.0.weight_quant: the scale must be a power of two, got 0\.\d+; use .*Int8WeightPerTensorFixedPoint",
        lambda: (conv(3, 4, weight_quant=Int8WeightPerTensorFloat, bias=False), identity()),
    ),
    "activations with a float scale": (
        r"body.1.act_quant: the scale must be a power of two, got .*; use .*Int8ActPerTensorFixedPoint",
        lambda: (conv(3, 4), qnn.QuantIdentity(act_quant=Int8ActPerTensorFloatMinMaxInit, min_val=-0.9, max_val=0.9)),
    ),
    "float weights": (
        "body.0: its weights are not quantised; use weight_quant=",
        lambda: (conv(3, 4, weight_quant=None, bias_quant=None, return_quant_tensor=False), identity()),
    ),
    "a layer of torch": ("body.0: has float weights", lambda: (nn.Conv2d(3, 4, 3), identity())),
    "a float bias": (
        "body.0: the bias must be a multiple of the step of the accumulators.*use bias_quant=brevitas.quant.Int32Bias",
        lambda: (conv(3, 4, bias_quant=None), identity()),
    ),
    "a batch norm": (
        "body.0: a batch norm behind it .* merge it into the layer",
        lambda: (conv(3, 4), nn.BatchNorm2d(4), identity()),
    ),
    "accumulators read by a layer": (
        "body.0: body.1 reads its accumulators, which need 19 bits of at most 16; put a quantiser behind it",
        lambda: (conv(3, 4), conv(4, 2, bias=False, return_quant_tensor=False), identity()),
    ),
    "accumulators as output": ("body.0: the output reads its accumulators", lambda: (conv(3, 4),)),
    "a table of accumulators": (
        "'swish' is a table of codes in hardware, but reads accumulators here; put a quantiser in front",
        lambda: (conv(3, 4), nn.SiLU(), identity()),
    ),
    "accumulators rounded to two formats": (
        "its accumulators are rounded to s8f.* and to s4f",
        lambda: (
            conv(3, 4),
            Join(added, nn.Sequential(identity(), Value()), nn.Sequential(identity(bit_width=4), Value())),
            identity(),
        ),
    ),
    "a sum rounded nowhere in front of leaky": (
        "reads its result, which no quantiser rounds",
        lambda: (conv(3, 4), nn.LeakyReLU(0.25), conv(4, 2, bias=False, return_quant_tensor=False), identity()),
    ),
    "two roundings": (
        "all activations must have one float_to_int_impl_type.*body.1.act_quant and body.2.act_quant|inp.act_quant",
        lambda: (conv(3, 4), identity(float_to_int_impl_type=FloatToIntImplType.FLOOR)),
    ),
    "a rounding hardware has not": (
        "float_to_int_impl_type must be one of ROUND, FLOOR, got CEIL",
        lambda: (conv(3, 4), identity(float_to_int_impl_type=FloatToIntImplType.CEIL)),
    ),
    "two ranges": (
        "all activations must have one narrow_range",
        lambda: (conv(3, 4), identity(narrow_range=True)),
    ),
    "a narrow unsigned range": (
        "narrow_range of an unsigned activation has no integer form",
        lambda: (conv(3, 4), relu(narrow_range=True)),
    ),
    "one bit": ("word length must be an integer of at least 2", lambda: (conv(3, 4), relu(bit_width=1))),
    "17 bits": ("at most 16 signed or 15 unsigned bits, got 16", lambda: (conv(3, 4), relu(bit_width=16))),
    "an average that rounds otherwise": (
        r"the average over 49 elements multiplies by \d+ / 2\*\*20, which .* gives another code",
        lambda: (conv(3, 4), identity(), nn.Upsample(size=(7, 7)), nn.AdaptiveAvgPool2d(1), identity(bit_width=16)),
    ),
    "two slopes": (
        "all leaky activations must have one slope, got \\[0.125, 0.25\\]",
        lambda: (conv(3, 4), nn.LeakyReLU(0.25), identity(), conv(4, 4), nn.LeakyReLU(0.125), identity()),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_equal_form_is_refused(case):
    match, layers = REFUSED[case]
    refuse(match, *layers())


def test_an_image_that_no_quantiser_reads_is_refused():
    layers = conv(3, 4, bias=False, return_quant_tensor=False), identity()
    refuse("reads the image as it is; put a QuantIdentity in front", *layers, inp=nn.Identity())


def test_a_zero_point_is_refused():
    shifted = ShiftedUint8ActPerTensorFloat.let(restrict_scaling_type=RestrictValueType.POWER_OF_TWO)
    model = trained(Net(conv(3, 4), qnn.QuantIdentity(act_quant=shifted)), SIZE)
    refuse("body.1.act_quant: the zero point must be 0, got ", model=model)


def test_a_module_that_quantises_by_itself_is_refused():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.quant = identity().act_quant

        def forward(self, x):
            return self.quant(x).value

    refuse("body.1: Own of Brevitas has no integer form here", conv(3, 4), Own())


def test_a_model_in_training_is_refused():
    with pytest.raises(QuantError, match="must be in evaluation mode"):
        from_brevitas(Net(conv(3, 4), identity()), torch.rand(SIZE))


def test_a_model_without_quantisers_is_refused():
    refuse("no quantiser of Brevitas", model=nn.Conv2d(3, 4, 1))


def test_a_slope_that_is_no_integer_is_refused_or_replaced_on_request():
    torch.manual_seed(0)
    model = trained(Net(conv(3, 4), nn.LeakyReLU(0.1), identity()), SIZE)
    refuse(r"the slope of leaky must be mul / 2\*\*shift, got 0.1; .*leaky=LeakySlope\(51, 9\)", model=model)
    graph = from_brevitas(model, torch.rand(SIZE), leaky=LeakySlope(51, 9))
    (act,) = {node.act.function for node in graph.nodes}
    assert act == "leaky"


def test_floor_and_narrow_ranges():
    floor = {"float_to_int_impl_type": FloatToIntImplType.FLOOR}
    graph = assert_equal_codes(trained(Net(conv(3, 4), relu(**floor), nn.AvgPool2d(2), identity(**floor),
                                           inp=identity(**floor)), SIZE), SIZE)  # fmt: skip
    assert graph.contract.rounding is Rounding.FLOOR
    narrow = {"narrow_range": True}
    graph = assert_equal_codes(trained(Net(conv(3, 4), identity(**narrow), conv(4, 2), identity(**narrow),
                                           inp=identity(**narrow)), SIZE), SIZE)  # fmt: skip
    assert graph.contract.overflow is Overflow.SATURATE_SYMMETRIC


def test_what_is_added_is_noted():
    torch.manual_seed(0)
    first = conv(3, 4, bias_quant=OwnBias, weight_bit_width=4)
    model = trained(Net(first, identity(), nn.ReLU(), conv(4, 2), identity()), SIZE)
    with torch.no_grad():
        first.bias *= 0.01
    calibrated = read_brevitas(model, torch.rand(SIZE))
    assert lower_graph(calibrated.graph, calibrated.plan)
    notes = " ".join(calibrated.plan.notes)
    assert "body.0: weights have" in notes
    assert "has no quantiser; keeps its accumulators as u7f" in notes


def test_the_model_is_not_changed():
    torch.manual_seed(0)
    model = trained(Net(conv(3, 4), nn.LeakyReLU(0.125), identity()), SIZE)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    image = torch.rand(SIZE)
    expected = model(image).value
    from_brevitas(model, image)
    assert all(torch.equal(before[name], x) for name, x in model.state_dict().items())
    assert torch.equal(model(image).value, expected)
    assert not any(module._forward_hooks for module in model.modules())


def test_a_formula_that_differs_is_found():
    """The comparison itself: a graph with one weight changed has other codes."""
    torch.manual_seed(0)
    model = trained(Net(conv(3, 4), identity()), SIZE)
    graph = from_brevitas(model, torch.rand(SIZE))
    graph.nodes[0].weight[0] += 1
    image = torch.rand(SIZE[1:]).double().numpy()
    wanted = codes_of(model.double()(torch.from_numpy(image)[None]), graph)
    assert (run_outputs(graph, input_codes(graph, image))[0] != wanted[0]).any()
