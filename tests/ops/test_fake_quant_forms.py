# SPDX-License-Identifier: Apache-2.0
"""Results written into tensors that exist, many tensors in a call, packed kernels: as the plain operators."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from yolo_hw.ops._lean_call import pack_format, unpack_format

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=needs_cuda)]
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
OPS = torch.ops.yolo_hw
SHAPE = (2, 3, 5, 7)
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "channels_last": lambda x: x.to(memory_format=torch.channels_last),
    "permuted": lambda x: x.permute(3, 0, 2, 1).contiguous().permute(1, 3, 2, 0),
}
FORMATS = [(1, 5, True, 0, 0), (1, 3, False, 1, 1), (3, 16, True, 3, 0)]
"""axis, bits, signed, rounding, overflow."""


def random(seed: int, dtype: torch.dtype, device: str) -> Tensor:
    return (torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed)) * 4).to(device, dtype)


def numbers(axis: int, per_channel: bool, device: str) -> Tensor:
    """Fraction bits for one or all channels."""
    return torch.arange(SHAPE[axis] if per_channel else 1, dtype=torch.int32, device=device) % 3 + 1


def written(into: Tensor) -> Tensor:
    """Memory in the layout of `into` that holds something else."""
    return torch.full_like(into, 7.0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("per_channel", [False, True])
def test_forward(device: str, dtype: torch.dtype, layout: str, per_channel: bool) -> None:
    x = random(10, dtype, device)
    for axis, *rest in FORMATS:
        fracs = numbers(axis, per_channel, device)
        args = (2, fracs if per_channel else None, axis, *rest)
        out = written(LAYOUTS[layout](x))
        OPS.fake_quant_pow2.out(x, *args, out=out)
        assert torch.equal(out, OPS.fake_quant_pow2(x, *args))
        learned = (-fracs.double(), axis, *rest, 0)
        OPS.fake_quant_learned.out(x, *learned, out=out)
        assert torch.equal(out, OPS.fake_quant_learned(x, *learned, 1.0))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("per_channel", [False, True])
def test_many(device: str, dtype: torch.dtype, per_channel: bool) -> None:
    layouts = LAYOUTS.values()
    xs = [layout(random(seed, dtype, device)) for seed, layout in enumerate(layouts)]
    grads = [random(seed + 3, dtype, device) for seed in range(len(xs))]
    for form in FORMATS:
        fracs = [numbers(form[0], per_channel, device) + i for i in range(len(xs))]
        for x, f, y in zip(xs, fracs, OPS.fake_quant_pow2_many(xs, fracs, *form), strict=True):
            assert torch.equal(y, OPS.fake_quant_pow2(x, 0, f, *form))
            assert y.stride() == x.stride()
        found = OPS.fake_quant_pow2_many_backward(grads, xs, fracs, *form)
        for grad, x, f, grad_x in zip(grads, xs, fracs, found, strict=True):
            assert torch.equal(grad_x, OPS.fake_quant_pow2_backward(grad, x, 0, f, *form))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("per_channel", [False, True])
def test_straight_through(device: str, dtype: torch.dtype, layout: str, per_channel: bool) -> None:
    x, grad = random(1, dtype, device), random(2, dtype, device)
    for axis, *rest in FORMATS:
        args = (2, numbers(axis, per_channel, device) if per_channel else None, axis, *rest)
        want = OPS.fake_quant_pow2_backward(grad, x, *args)
        assert 0 < int((want == 0).sum()) < x.numel() or rest[0] == 16
        out = written(LAYOUTS[layout](x))
        OPS.fake_quant_pow2_backward.out(grad, x, *args, out=out)
        assert torch.equal(out, want)
        there = grad.clone()  # the gradient may be overwritten
        OPS.fake_quant_pow2_backward.out(there, LAYOUTS[layout](x), *args, out=there)
        assert torch.equal(there, want)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("gradient", [0, 1])
def test_learned(device: str, dtype: torch.dtype, per_channel: bool, gradient: int) -> None:
    x, grad = random(3, dtype, device), random(4, dtype, device)
    for (axis, *rest), wide in zip(FORMATS, (False, True, False), strict=True):
        fracs = numbers(axis, per_channel, device).to(torch.float64 if wide else torch.float32)
        parameter = torch.exp2(-fracs) if gradient else rest[0] - rest[1] - fracs
        args = (parameter, axis, *rest, gradient, 0.5)
        for layout in LAYOUTS.values():
            # The order of the sum follows the memory of grad_x: the functional form takes that of x.
            want_x, want_parameter = OPS.fake_quant_learned_backward(grad, layout(x), *args)
            grad_x, grad_parameter = written(layout(x)), written(parameter.repeat_interleave(2))[::2]
            OPS.fake_quant_learned_backward.out(grad, x, *args, grad_x=grad_x, grad_parameter=grad_parameter)
            assert torch.equal(grad_x, want_x)
            assert torch.equal(grad_parameter, want_parameter)
            assert want_parameter.dtype == parameter.dtype
            assert int((want_parameter != 0).sum()) == parameter.numel()


@pytest.mark.parametrize("per_channel", [False, True])
def test_packed_kernels_are_the_operators(per_channel: bool) -> None:
    x, grad = random(5, torch.float32, "cpu"), random(6, torch.float32, "cpu")
    for bits in range(2, 17):
        for modes in ((True, 0, 0), (False, 3, 1), (True, 2, 2)):
            args = (bits % 4, bits, *modes)
            fracs, frac = numbers(args[0], per_channel, "cpu") if per_channel else None, 5 * (bits - 9)
            packed = pack_format(*args) + frac
            assert unpack_format(packed) == (frac, *args)
            assert torch.equal(OPS._fake_quant_pow2(x, fracs, packed), OPS.fake_quant_pow2(x, frac, fracs, *args))
            want = OPS.fake_quant_pow2_backward(grad, x, frac, fracs, *args)
            assert torch.equal(OPS._fake_quant_pow2_backward(grad, x, fracs, packed), want)
            if modes[2] != 2:
                for gradient in (0, 1):
                    parameter, learned = numbers(args[0], per_channel, "cpu").double(), (*args, gradient, 0.25)
                    packed = pack_format(*args) + gradient
                    forward = OPS._fake_quant_learned(x, parameter, packed)
                    assert torch.equal(forward, OPS.fake_quant_learned(x, parameter, *learned))
                    for got, want in zip(
                        OPS._fake_quant_learned_backward(grad, x, parameter, packed, 0.25),
                        OPS.fake_quant_learned_backward(grad, x, parameter, *learned),
                        strict=True,
                    ):
                        assert torch.equal(got, want)


BAD_OUT = [
    (lambda x: x.double(), "must have the dtype of x"),
    (lambda x: x[..., 1:], "must have the shape of x"),
    (lambda x: x.reshape(-1), "must have the shape of x"),
    (lambda x: x.repeat_interleave(2, 3)[..., ::2], r"must be dense"),
    (lambda x: x[:1].expand(SHAPE), r"must be dense"),
]


@pytest.mark.parametrize(("change", "message"), BAD_OUT)
def test_wrong_out_is_refused(change: Callable[[Tensor], Tensor], message: str) -> None:
    x, grad = random(7, torch.float32, "cpu"), random(8, torch.float32, "cpu")
    out, parameter = change(x.clone()), torch.zeros(3)
    before = out.clone()
    with pytest.raises(RuntimeError, match=f"fake_quant_pow2_backward: out {message}"):
        OPS.fake_quant_pow2_backward.out(grad, x, 2, None, *FORMATS[0], out=out)
    results = {"grad_x": out, "grad_parameter": torch.zeros(3)}
    with pytest.raises(RuntimeError, match=f"fake_quant_learned_backward: grad_x {message}"):
        OPS.fake_quant_learned_backward.out(grad, x, parameter, *FORMATS[0], 0, 1.0, **results)
    assert torch.equal(out, before)


@pytest.mark.parametrize(
    ("result", "message"), [(torch.zeros(2), "shape"), (torch.zeros(3, 1), "shape"), (torch.zeros(3).double(), "dtype")]
)
def test_wrong_result_for_the_parameter_is_refused(result: Tensor, message: str) -> None:
    x, parameter = random(9, torch.float32, "cpu"), torch.zeros(3)
    with pytest.raises(RuntimeError, match=f"grad_parameter must have the {message} of parameter"):
        OPS.fake_quant_learned_backward.out(
            x, x, parameter, *FORMATS[0], 0, 1.0, grad_x=torch.empty_like(x), grad_parameter=result
        )
