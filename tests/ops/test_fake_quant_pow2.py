# SPDX-License-Identifier: Apache-2.0
"""The compiled fake quantisation equals exact rational arithmetic and the torch reference, bit for bit."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from yolo_hw.fixedpoint import FixedPoint, Overflow, Rounding
from yolo_hw.ops import reference
from yolo_hw.ops.fake_quant_pow2 import fake_quant_pow2, quantise_codes

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=needs_cuda)]
MODES = list(itertools.product(Rounding, Overflow))
FORMATS = [FixedPoint(8, 3), FixedPoint(4, -2), FixedPoint(16, 9), FixedPoint(2, 0), FixedPoint(7, 1, signed=False)]

# docs/numerics.md section 2, written out: the value and its codes half_up, half_even, half_away, floor.
TIES = [
    (-2.5, -2, -2, -3, -3),
    (-1.5, -1, -2, -2, -2),
    (-0.5, 0, 0, -1, -1),
    (0.5, 1, 0, 1, 0),
    (1.5, 2, 2, 2, 1),
    (2.5, 3, 2, 3, 2),
    (-0.75, -1, -1, -1, -1),
    (-0.25, 0, 0, 0, -1),
    (0.25, 0, 0, 0, 0),
    (0.75, 1, 1, 1, 0),
]


def exact_code(x: float, fmt: FixedPoint, rounding: Rounding, overflow: Overflow) -> int:
    """The code by rational arithmetic, after the definitions of docs/numerics.md."""
    scaled = Fraction(x) * Fraction(2) ** fmt.frac
    below = math.floor(scaled)
    rest = scaled - below
    up_on_tie = {
        Rounding.HALF_UP: True,
        Rounding.HALF_EVEN: below % 2 == 1,
        Rounding.HALF_AWAY: scaled > 0,
        Rounding.FLOOR: False,
    }[rounding]
    up = rounding is not Rounding.FLOOR and (rest > Fraction(1, 2) or (rest == Fraction(1, 2) and up_on_tie))
    code = below + int(up)
    if overflow is Overflow.WRAP:
        return (code - fmt.lo) % 2**fmt.bits + fmt.lo
    low = -fmt.hi if fmt.signed and overflow is Overflow.SATURATE_SYMMETRIC else fmt.lo
    return min(max(code, low), fmt.hi)


def hard_values(fmt: FixedPoint, dtype: torch.dtype) -> Tensor:
    """Grid points, ties and their neighbours, range ends, multiples of the wrap length and huge values.

    No value is so small that its scaled form underflows: that counts as zero, which exact arithmetic does not know.
    """
    quarters = torch.arange(-40, 41, dtype=torch.float64) / 4
    edges = [quarters, quarters + fmt.lo, quarters + fmt.hi, quarters - fmt.hi]
    edges += [quarters + k * 2.0**fmt.bits for k in (-3, -1, 1, 5)]
    edges += [sign * 2.0**20 + quarters for sign in (-1, 1)]
    edges += [sign * (2.0**24 - 1 - torch.arange(8, dtype=torch.float64)) for sign in (-1, 1)]
    edges += [sign * torch.tensor([3e9, 2.0**31, 2.0**33 + 2048, 2.0**52 - 0.5, 1e19, 2.0**63]) for sign in (-1, 1)]
    x = (torch.cat([e.double() for e in edges]) * 2.0**-fmt.frac).to(dtype)
    beside = [torch.nextafter(x, torch.full_like(x, end)) for end in (-math.inf, math.inf)]
    beside = [b[b.abs() > 1e-37] for b in beside]
    return torch.cat([x, *beside, torch.tensor([0.0, -0.0, 1e-30, -1e-30], dtype=dtype)])


def bits_of(x: Tensor) -> Tensor:
    """The bit pattern, so that -0 and +0 differ."""
    return x.cpu().view(torch.int32 if x.dtype == torch.float32 else torch.int64)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tie_table(device: str, dtype: torch.dtype) -> None:
    x = torch.tensor([row[0] for row in TIES], dtype=dtype, device=device)
    for column, rounding in enumerate(Rounding, start=1):
        for frac in (0, 5, -3):
            got = fake_quant_pow2(x * 2.0**-frac, FixedPoint(8, frac), rounding) * 2.0**frac
            assert got.tolist() == [row[column] for row in TIES], (rounding, frac)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("fmt", FORMATS, ids=str)
def test_equals_rational_arithmetic(device: str, dtype: torch.dtype, fmt: FixedPoint) -> None:
    x = hard_values(fmt, dtype)
    for rounding, overflow in MODES:
        expected = [exact_code(v, fmt, rounding, overflow) for v in x.tolist()]
        got = fake_quant_pow2(x.to(device), fmt, rounding, overflow)
        assert got.dtype == dtype
        want = torch.tensor(expected, dtype=torch.float64) * 2.0**-fmt.frac
        wrong = got.cpu().double() != want
        assert not wrong.any(), (rounding, overflow, x[wrong][:4].tolist(), got.cpu()[wrong][:4], want[wrong][:4])
        assert torch.equal(quantise_codes(x, fmt, rounding, overflow).double(), want * 2.0**fmt.frac)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_reference_in_every_bit(device: str, dtype: torch.dtype) -> None:
    special = torch.tensor([math.inf, -math.inf, math.nan, -0.0, 0.0, 1e38, -1e38], dtype=dtype)
    for fmt, (rounding, overflow) in itertools.product(FORMATS, MODES):
        x = torch.cat([hard_values(fmt, dtype), special])
        want = reference.fake_quant_pow2(x, fmt, rounding, overflow)
        got = fake_quant_pow2(x.to(device), fmt, rounding, overflow)
        assert torch.equal(want.isnan(), got.isnan().cpu())
        assert torch.equal(bits_of(want.nan_to_num(7.0)), bits_of(got.nan_to_num(7.0))), (fmt, rounding, overflow)


@pytest.mark.parametrize("device", DEVICES)
def test_nan_and_infinity(device: str) -> None:
    x = torch.tensor([math.nan, math.inf, -math.inf], device=device)
    fmt = FixedPoint(8, 0)
    for rounding in Rounding:
        saturated = fake_quant_pow2(x, fmt, rounding)
        assert saturated[0].isnan()
        assert saturated[1:].tolist() == [127.0, -128.0]
        assert fake_quant_pow2(x, fmt, rounding, Overflow.SATURATE_SYMMETRIC)[1:].tolist() == [127.0, -127.0]
        assert fake_quant_pow2(x, fmt, rounding, Overflow.WRAP).isnan().all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("shape", "axis"), [((3, 4), 0), ((3, 4), 1), ((2, 3, 5, 7), 1), ((2, 3, 4), -1), ((5,), 0)])
def test_one_frac_per_channel(device: str, shape: tuple[int, ...], axis: int) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(shape, generator=generator) * 40
    frac = torch.randint(-3, 9, (shape[axis],), generator=generator, dtype=torch.int32)
    got = fake_quant_pow2(x.to(device), FixedPoint(8, 0), frac=frac.to(device), axis=axis).cpu()
    assert torch.equal(got, reference.fake_quant_pow2(x, FixedPoint(8, 0), frac=frac, axis=axis))
    for channel, f in enumerate(frac.tolist()):
        part = x.select(axis, channel)
        assert torch.equal(got.select(axis, channel), fake_quant_pow2(part, FixedPoint(8, f)))


@pytest.mark.parametrize("device", DEVICES)
def test_layouts_and_empty(device: str) -> None:
    x = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(2)).to(device) * 30
    want = fake_quant_pow2(x, FixedPoint(8, 2))
    for other in (x.to(memory_format=torch.channels_last), x.transpose(1, 3).contiguous().transpose(1, 3)):
        got = fake_quant_pow2(other, FixedPoint(8, 2))
        assert torch.equal(got, want)
        assert got.stride() == other.stride()
    assert torch.equal(fake_quant_pow2(x[1:, :, 1], FixedPoint(8, 2)), want[1:, :, 1])
    assert fake_quant_pow2(x[:0], FixedPoint(8, 2)).shape == (0, 3, 4, 5)
    assert fake_quant_pow2(x[0, 0, 0, 0], FixedPoint(8, 2)).shape == ()


def test_threads_do_not_change_the_result() -> None:
    x = torch.randn(3, 70001, generator=torch.Generator().manual_seed(3)) * 30
    frac = torch.tensor([1, 4, -2], dtype=torch.int32)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = fake_quant_pow2(x, FixedPoint(8, 0), frac=frac)
        torch.set_num_threads(3)
        assert torch.equal(fake_quant_pow2(x, FixedPoint(8, 0), frac=frac), one)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(one, reference.fake_quant_pow2(x, FixedPoint(8, 0), frac=frac))
