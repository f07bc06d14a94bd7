# SPDX-License-Identifier: Apache-2.0
"""Every instruction set, number of threads, element type and memory layout gives the same bits."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from yolo_hw.fixedpoint import FixedPoint, Overflow, Rounding
from yolo_hw.ops import cpu_path, fake_quant_pow2, reference, set_cpu_path

OPS = torch.ops.yolo_hw
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
MODES = list(itertools.product(range(4), range(3)))


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    set_cpu_path("best")
    torch.set_num_threads(threads)


def paths() -> list[str]:
    """The paths of this processor, the baseline first."""
    found = []
    for name in ("baseline", "avx2", "avx512"):
        try:
            set_cpu_path(name)
        except RuntimeError:
            continue
        assert cpu_path() == name
        found.append(name)
    set_cpu_path("best")
    assert cpu_path() == found[-1]
    return found


def bits_of(x: Tensor) -> Tensor:
    """The bit pattern, NaN as one value: which NaN an operation gives depends on the instruction."""
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()]
    return torch.where(x.isnan(), torch.zeros_like(x), x).contiguous().view(integer)


def values(dtype: torch.dtype, *shape: int) -> Tensor:
    """Ordinary numbers with ties, ends and special values among them."""
    generator = torch.Generator().manual_seed(21)
    x = torch.randn(shape, generator=generator, dtype=torch.float64) * 10
    ties = torch.randint(-80, 80, shape, generator=generator) / 8
    x = torch.where(torch.rand(shape, generator=generator) < 0.3, ties, x)
    flat = x.view(-1)
    special = [0.0, -0.0, float("nan"), float("inf"), -float("inf"), 1e30, -1e30, 3e-39, -3e-39, -0.49999997]
    flat[7 : 7 + 13 * len(special) : 13] = torch.tensor(special, dtype=torch.float64)
    return x.to(dtype)


def all_results(x: Tensor, grad: Tensor, fracs: Tensor) -> list[Tensor]:
    """Forward and backward of all modes, plain and learned."""
    found = []
    for rounding, overflow in MODES:
        args = (1, 5, True, rounding, overflow)
        for source in (None, fracs):
            found.append(OPS.fake_quant_pow2(x, 2, source, *args))
            found.append(OPS.fake_quant_pow2_backward(grad, x, 2, source, *args))
        if overflow != Overflow.WRAP.number:
            finite = x.nan_to_num(0.5)
            for gradient in (0, 1):
                parameter = torch.exp2(-fracs.float()) if gradient else -fracs.double()
                found.append(OPS.fake_quant_learned(finite, parameter, *args, gradient, 0.3))
                found += OPS.fake_quant_learned_backward(grad, finite, parameter, *args, gradient, 0.3)
    return found


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(bits_of(p), bits_of(q)) for p, q in zip(a, b, strict=True))


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "channels_last": lambda x: x.to(memory_format=torch.channels_last),
    "every_second": lambda x: x.repeat_interleave(2, 3)[..., ::2],
    "expanded": lambda x: x[:, :, :1].expand(x.shape),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_paths_are_equal(dtype: torch.dtype, layout: str) -> None:
    x = LAYOUTS[layout](values(dtype, 3, 5, 19, 23))
    grad = LAYOUTS[layout](values(dtype, 3, 5, 19, 23).flip(3).nan_to_num(1, 1, 1))
    fracs = torch.tensor([0, 3, 1, 2, -1], dtype=torch.int32)
    names = paths()
    set_cpu_path(names[0])
    want = all_results(x, grad, fracs)
    contiguous = all_results(x.contiguous(), grad.contiguous(), fracs)
    assert same(contiguous, want)  # the order of the sums follows the memory, which is the same for these layouts
    for name in names[1:]:
        set_cpu_path(name)
        assert same(all_results(x, grad, fracs), want), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_threads_are_equal(dtype: torch.dtype) -> None:
    x, grad = values(dtype, 4, 5, 61, 67), values(dtype, 4, 5, 61, 67).flip(3).nan_to_num(1, 1, 1)
    fracs = torch.tensor([0, 3, 1, 2, -1], dtype=torch.int32)
    torch.set_num_threads(1)
    want = all_results(x, grad, fracs)
    torch.set_num_threads(3)
    assert same(all_results(x, grad, fracs), want)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_results_larger_than_the_cache_are_the_same(dtype: torch.dtype) -> None:
    """They are written past it (csrc/cpu/stream.h), from unaligned starts, too."""
    part = values(dtype, 1001)
    count = 64 * 2**20 // part.element_size()
    x = part.repeat(count // 1001 + 1)
    out = torch.empty(len(x) + 1, dtype=dtype)[1:]
    want = fake_quant_pow2(part, FixedPoint(6, 2))
    for name in paths():
        set_cpu_path(name)
        fake_quant_pow2(x, FixedPoint(6, 2), out=out)
        assert torch.equal(bits_of(out.view(-1, 1001)), bits_of(want).expand(len(x) // 1001, 1001)), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_16_bit_number(dtype: torch.dtype) -> None:
    """Computed in float32 and rounded to nearest even, as torch converts; formats that do not fit the type, too."""
    x = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    for fmt, rounding in itertools.product((FixedPoint(8, 4), FixedPoint(16, 3), FixedPoint(16, 22)), Rounding):
        want = reference.fake_quant_pow2(x.float(), fmt, rounding).to(dtype)
        for name in paths():
            set_cpu_path(name)
            got = fake_quant_pow2(x, fmt, rounding)
            assert got.dtype == dtype
            assert torch.equal(bits_of(got), bits_of(want)), (fmt, rounding, name)


def test_gradient_of_a_sum_is_not_materialised_wrong() -> None:
    """The gradient of a sum has strides of zero; that of a mean over a transposed tensor another order."""
    x = values(torch.float32, 6, 7, 11).nan_to_num(0.0).requires_grad_()
    fake_quant_pow2(x, FixedPoint(4, 1)).sum().backward()
    want = reference.fake_quant_pow2_backward(torch.ones_like(x), x.detach(), FixedPoint(4, 1))
    assert torch.equal(x.grad, want)
    x.grad = None
    weight = torch.randn(11, 7, 6, generator=torch.Generator().manual_seed(3))
    (fake_quant_pow2(x, FixedPoint(4, 1)).permute(2, 1, 0) * weight).sum().backward()
    want = reference.fake_quant_pow2_backward(weight.permute(2, 1, 0), x.detach(), FixedPoint(4, 1))
    assert torch.equal(x.grad, want)


def test_unknown_path_is_refused() -> None:
    with pytest.raises(RuntimeError, match="baseline, avx2 or avx512, got sse9"):
        set_cpu_path("sse9")
