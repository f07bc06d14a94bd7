# SPDX-License-Identifier: Apache-2.0
"""The integer convolution equals numpy in every code, for every layout, size and mode."""

import itertools

import numpy as np
import pytest
import torch
from support.cpu_paths import results_on_every_path
from support.int_conv import Case, accumulators, expected, random_case

from yolo_hw.fixedpoint import FixedPoint, Overflow, Rounding
from yolo_hw.ops.int_conv2d import OutputCodes, int_conv2d

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=needs_cuda)]
INT8, UINT8 = FixedPoint(8, 0), FixedPoint(8, 0, signed=False)


def ints(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


def scalar_case(acc: list[int], shift: int, output: OutputCodes, **options) -> Case:
    """A 1 x 1 convolution of zeros whose accumulators are the biases."""
    k = len(acc)
    zeros = torch.zeros(1, 1, 1, 1, dtype=torch.uint8), torch.zeros(k, 1, 1, 1, dtype=torch.int8)
    return Case(*zeros, ints(*acc), torch.full((k,), shift, dtype=torch.int32), output, options)


def assert_codes(case: Case, device: str) -> None:
    want, got = expected(case), case.run(device).cpu()
    assert got.dtype == want.dtype
    assert torch.equal(got, want)
    assert got.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("seed", range(8))
def test_random_layers(device, seed):
    rng = np.random.default_rng(seed)
    codes = set()
    for _ in range(25):
        case = random_case(rng)
        assert_codes(case, device)
        codes |= set(expected(case).unique().tolist())
    assert len(codes) > 50  # not all of them saturated


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("rounding", Rounding)
def test_tie_table(device, rounding):
    """docs/numerics.md section 2: v / 2**s = -1.5, -0.5, 0.5, 1.5, 2.5."""
    want = {
        Rounding.HALF_UP: [-1, 0, 1, 2, 3],
        Rounding.HALF_EVEN: [-2, 0, 0, 2, 2],
        Rounding.HALF_AWAY: [-2, -1, 1, 2, 3],
        Rounding.FLOOR: [-2, -1, 0, 1, 2],
    }[rounding]
    for shift in (1, 4, 20, 29):
        acc = (
            [v << (shift - 1) for v in (-3, -1, 1, 3, 5)]
            if shift < 29
            else [-3 << 28, -1 << 28, 1 << 28, 3 << 28, 5 << 28]
        )
        case = scalar_case(acc, shift, OutputCodes(INT8, rounding=rounding))
        assert case.run(device).flatten().tolist() == want, shift


@pytest.mark.parametrize("device", DEVICES)
def test_shifts_of_0_31_and_the_limits(device):
    ends = [-(2**31), -(2**31) + 1, -(2**30), -129, -128, -1, 0, 1, 127, 128, 2**30, 2**31 - 1]
    for shift, rounding, overflow in itertools.product((-16, -1, 0, 1, 30, 31, 32, 47), Rounding, Overflow):
        output = OutputCodes(INT8, rounding=rounding, overflow=overflow)
        assert_codes(scalar_case(ends, shift, output), device)
    leaky = OutputCodes(INT8, None, 32767, -32767, 9)
    assert_codes(scalar_case(ends, 31, leaky), device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kernel", [1, 3])
def test_extreme_sums(device, kernel):
    """-128 x -128 and 255 x -128 in every product, of one group and of a depthwise convolution."""
    for c, groups in ((64, 1), (37, 1), (32, 2), (24, 24)):
        for code, dtype in ((-128, torch.int8), (127, torch.int8), (255, torch.uint8)):
            x = torch.full((2, c, 5, 6), code, dtype=dtype)
            weight = torch.full((c, c // groups, kernel, kernel), -128, dtype=torch.int8)
            depth = c // groups * kernel**2
            shift = torch.full((c,), max(0, int(np.log2(depth)) + 8), dtype=torch.int32)
            bias = torch.zeros(c, dtype=torch.int32)
            case = Case(x, weight, bias, shift, OutputCodes(INT8), {"padding": kernel // 2, "groups": groups})
            assert accumulators(case)[0, 0, 2, 2] == -128 * code * depth
            assert_codes(case, device)


@pytest.mark.parametrize("device", DEVICES)
def test_accumulators_wrap(device):
    """Three steps beyond the largest accumulator is one below, as in the int32 adder of the datapath."""
    x = torch.full((1, 3, 1, 1), 1, dtype=torch.uint8)
    weight = torch.ones(2, 3, 1, 1, dtype=torch.int8)
    case = Case(x, weight, ints(2**31 - 1, 2**31 - 3), ints(24, 24), OutputCodes(INT8))
    assert case.run(device).flatten().tolist() == [-128, -128]
    assert_codes(case, device)


@pytest.mark.parametrize("device", DEVICES)
def test_first_layer_by_hand(device):
    x = torch.tensor([[[[1, 2], [3, 4]]]], dtype=torch.uint8)
    weight = torch.tensor([[[[0, 1, 0], [1, -4, 1], [0, 1, 0]]]], dtype=torch.int8)  # padding has code 0
    laplace = torch.tensor([1 * -4 + 2 + 3, 1 - 8 + 4, 1 - 12 + 4, 2 + 3 - 16])
    got = int_conv2d(
        x.to(device), weight.to(device), ints(0).to(device), ints(0).to(device), OutputCodes(INT8), padding=1
    )
    assert torch.equal(got.flatten().cpu(), laplace.to(torch.int8))
    relu = OutputCodes(UINT8)
    got = int_conv2d(x.to(device), weight.to(device), ints(8).to(device), ints(1).to(device), relu, padding=1)
    assert got.flatten().tolist() == [(v + 9) // 2 if v > -8 else 0 for v in laplace.tolist()]
    assert got.dtype == torch.uint8


@pytest.mark.parametrize("device", DEVICES)
def test_layouts_and_empty(device):
    case = random_case(np.random.default_rng(5))
    want = case.run(device)
    for layout in (torch.contiguous_format, torch.channels_last):
        x, weight = (t.contiguous(memory_format=layout) for t in (case.x, case.weight))
        assert torch.equal(Case(x, weight, case.bias, case.shift, case.output, case.options).run(device), want)
    flipped = case.x.transpose(2, 3).contiguous().transpose(2, 3)
    assert torch.equal(Case(flipped, case.weight, case.bias, case.shift, case.output, case.options).run(device), want)
    empty = Case(case.x[:0], case.weight, case.bias, case.shift, case.output, case.options).run(device)
    assert empty.shape == (0, *want.shape[1:])


@pytest.mark.parametrize("device", DEVICES)
def test_unaligned_memory(device):
    """A view that begins at an odd address is read byte by byte."""
    rng = np.random.default_rng(6)
    storage = torch.from_numpy(rng.integers(0, 256, 1 + 2 * 7 * 9 * 32)).to(torch.uint8)
    x = storage[1:].view(2, 7, 9, 32).permute(0, 3, 1, 2)
    weight = torch.from_numpy(rng.integers(-128, 128, (32, 32, 3, 3))).to(torch.int8)
    bias, shift = torch.zeros(32, dtype=torch.int32), torch.full((32,), 12, dtype=torch.int32)
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert x.data_ptr() % 4
    assert_codes(Case(x, weight, bias, shift, OutputCodes(INT8), {"padding": 1}), device)
    depthwise = torch.from_numpy(rng.integers(-128, 128, (32, 1, 3, 3))).to(torch.int8)
    assert_codes(Case(x, depthwise, bias, shift - 4, OutputCodes(INT8), {"padding": 1, "groups": 32}), device)


@pytest.mark.parametrize("device", DEVICES)
def test_large_tiles(device):
    """Enough pixels and channels that the CUDA kernel takes its large tiles, with tails in every direction."""
    rng = np.random.default_rng(7)
    for c, k, dtype in ((16, 130, torch.uint8), (3, 100, torch.int8), (20, 129, torch.uint8)):
        low = torch.iinfo(dtype).min
        x = torch.from_numpy(rng.integers(low, low + 256, (1, c, 113, 101))).to(dtype)
        weight = torch.from_numpy(rng.integers(-128, 128, (k, c, 1, 1))).to(torch.int8)
        bias, shift = torch.zeros(k, dtype=torch.int32), torch.full((k,), 9, dtype=torch.int32)
        assert_codes(Case(x, weight, bias, shift, OutputCodes(INT8)), device)


def test_every_path_and_thread_count():
    for seed in range(40):
        case = random_case(np.random.default_rng((8, seed)))
        want = expected(case)
        for (got,) in results_on_every_path(lambda case=case: [case.run()]):
            assert torch.equal(got, want), seed


def test_arguments_that_the_tiles_do_not_take():
    """The plain loop of csrc/cpu/int_conv2d.cpp: a clamp beyond all codes, and very many products."""
    rng = np.random.default_rng(9)
    x = torch.from_numpy(rng.integers(-128, 128, (2, 5, 4, 3))).to(torch.int8)
    weight = torch.from_numpy(rng.integers(-128, 128, (6, 5, 3, 3))).to(torch.int8)
    bias, shift = torch.zeros(6, dtype=torch.int32), torch.full((6,), 13, dtype=torch.int32)
    for clamp in ((100, 120), (3, 120), (4, 4), (-100, -90), (-100, 0)):
        output = OutputCodes(FixedPoint(3, 0), clamp)
        assert_codes(Case(x, weight, bias, shift, output, {"padding": 1}), "cpu")
    deep = torch.from_numpy(rng.integers(-128, 128, (1, (1 << 16) + 1, 1, 2))).to(torch.int8)
    row = torch.from_numpy(rng.integers(-128, 128, (1, (1 << 16) + 1, 1, 1))).to(torch.int8)
    case = Case(deep, row, bias[:1], shift[:1] + 4, OutputCodes(INT8))
    assert torch.equal(case.run(), expected(case))


def test_an_input_without_rows_is_all_padding():
    x, weight = torch.empty(1, 3, 0, 4, dtype=torch.int8), torch.ones(4, 3, 1, 1, dtype=torch.int8)
    for groups in (1, 3):
        k = 4 if groups == 1 else 3
        w = weight if groups == 1 else weight[:3, :1]
        case = Case(x, w, ints(*range(k)), ints(*[0] * k), OutputCodes(INT8), {"padding": (2, 1), "groups": groups})
        want = torch.arange(k, dtype=torch.int8).view(1, -1, 1, 1).expand(1, k, 4, 6)
        assert torch.equal(case.run(), want)


def arguments() -> dict:
    zeros = torch.zeros(1, 4, 5, 6, dtype=torch.uint8), torch.zeros(8, 2, 3, 3, dtype=torch.int8)
    vectors = torch.zeros(8, dtype=torch.int32), torch.zeros(8, dtype=torch.int32)
    names = ["x", "weight", "bias", "shift", "stride", "padding", "dilation", "groups", "requant", "table"]
    numbers = OutputCodes(INT8).numbers()
    return dict(zip(names, [*zeros, *vectors, [1, 1], [1, 1], [1, 1], 2, numbers, torch.empty(0)], strict=True))


def requant(**changes: int) -> list[int]:
    names = "mul_pos mul_neg shift_neg code_lo code_hi code_bits clamp_lo clamp_hi rounding overflow".split()
    return list((dict(zip(names, OutputCodes(INT8).numbers(), strict=True)) | changes).values())


BAD = [
    ({"x": torch.zeros(1, 4, 5, 6)}, "x must be uint8 or int8"),
    ({"x": torch.zeros(4, 5, 6, dtype=torch.int8)}, "x must have 4 dimensions, got 3"),
    ({"weight": torch.zeros(8, 2, 3, 3, dtype=torch.uint8)}, "weight must be int8"),
    ({"weight": torch.zeros(8, 2, 9, dtype=torch.int8)}, "weight must have 4 dimensions, got 3"),
    ({"weight": torch.zeros(8, 3, 3, 3, dtype=torch.int8)}, "2 input channels per group, got 3"),
    ({"weight": torch.zeros(8, 2, 0, 3, dtype=torch.int8)}, "no dimension of 0"),
    ({"weight": torch.zeros(8, 2, 8, 3, dtype=torch.int8)}, "kernel must not be larger than the padded input, got 8"),
    ({"groups": 3}, "groups must divide 4 and 8 channels, got 3"),
    ({"groups": 0}, "groups must divide"),
    ({"bias": torch.zeros(8)}, "bias must be int32"),
    ({"shift": torch.zeros(7, dtype=torch.int32)}, r"shift must have shape \[8\]"),
    ({"shift": torch.full((8,), 48, dtype=torch.int32)}, r"\[-16, 47\], got 48"),
    ({"shift": torch.full((8,), -17, dtype=torch.int32)}, r"\[-16, 47\], got -17"),
    ({"stride": [1]}, r"stride must be 2 numbers in \[1, 32767\]"),
    ({"stride": [0, 1]}, "stride"),
    ({"padding": [0, -1]}, r"padding must be 2 numbers in \[0, 32767\]"),
    ({"dilation": [1, 0]}, "dilation"),
    ({"requant": [1]}, "10 numbers, got 1"),
    ({"requant": requant(mul_neg=32768)}, r"mul_pos, mul_neg must be in \[-32767, 32767\], got 32768"),
    ({"requant": requant(shift_neg=48)}, "got 0 and 48"),
    ({"requant": requant(shift_neg=64)}, "shift_neg must be in"),
    ({"requant": requant(code_hi=126)}, "must be a format of 2 to 16 bits"),
    ({"requant": requant(code_lo=-(2**16), code_hi=2**16 - 1, code_bits=17)}, "must be a format of 2 to 16 bits"),
    ({"requant": requant(clamp_lo=-129)}, r"ascending in \[-128, 127\], got -129"),
    ({"requant": requant(clamp_lo=3, clamp_hi=2)}, "ascending"),
    ({"requant": requant(code_lo=0, code_hi=255, clamp_lo=0, clamp_hi=256)}, r"\[0, 255\], got 0, 256"),
    ({"requant": requant(rounding=4)}, "rounding"),
    ({"requant": requant(overflow=3)}, "overflow"),
    ({"table": torch.zeros(255, dtype=torch.int8)}, r"table must have shape \[256\]"),
    ({"table": torch.zeros(256)}, "table must be int8, uint8 or int16"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_bad_argument_is_named(change, message):
    good = arguments()
    assert torch.ops.yolo_hw.int_conv2d(*good.values()).shape == (1, 8, 5, 6)
    with pytest.raises(RuntimeError, match=f"int_conv2d: .*{message}"):
        torch.ops.yolo_hw.int_conv2d(*(good | change).values())


@pytest.mark.parametrize("device", DEVICES)
def test_opcheck(device):
    for seed in range(3):
        case = random_case(np.random.default_rng(seed))
        o = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1} | case.options
        table = o.get("table", torch.empty(0, dtype=torch.int8)).to(device)
        tensors = [t.to(device) for t in (case.x, case.weight, case.bias, case.shift)]
        pairs = [list(o[name]) for name in ("stride", "padding", "dilation")]
        torch.library.opcheck(
            torch.ops.yolo_hw.int_conv2d, (*tensors, *pairs, o["groups"], case.output.numbers(), table)
        )


def test_compile_and_export():
    case = random_case(np.random.default_rng(2))

    class Layer(torch.nn.Module):
        def forward(self, x):
            return int_conv2d(x, case.weight, case.bias, case.shift, case.output, **case.options) + 1

    want = Layer()(case.x)
    assert torch.equal(torch.compile(Layer(), backend="aot_eager", fullgraph=True)(case.x), want)
    exported = torch.export.export(Layer(), (case.x,))
    assert torch.equal(exported.module()(case.x), want)
    assert any("int_conv2d" in str(node.target) for node in exported.graph.nodes)
