# SPDX-License-Identifier: Apache-2.0
"""The fake quantisations as torch operators: registration, compilation, export, transforms, argument checks."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from yolo_hw.fixedpoint import FixedPoint, Overflow, Rounding
from yolo_hw.ops import fake_quant_lsq, fake_quant_pow2, fake_quant_pow2_many, fake_quant_tqt
from yolo_hw.ops._lean_call import pack_format

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=needs_cuda)]
OPS = torch.ops.yolo_hw
FMT = FixedPoint(8, 4)
FORMAT = (1, 8, True, 0, 0)
"""axis, bits, signed, rounding, overflow."""


def sample(device: str = "cpu", dtype: torch.dtype = torch.float32) -> Tensor:
    return (torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(7)) * 4).to(device, dtype)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_opcheck_plain(device: str, dtype: torch.dtype) -> None:
    x = sample(device, dtype)
    fracs = torch.tensor([1, 2, 3], dtype=torch.int32, device=device)
    for one in (x, x.clone().requires_grad_(), x.transpose(0, 2), x[:, ::2].transpose(0, 2)):
        torch.library.opcheck(OPS.fake_quant_pow2.default, (one, 4, None, *FORMAT))
    for one in (x, x.clone().requires_grad_()):
        torch.library.opcheck(OPS.fake_quant_pow2.default, (one, 0, fracs, *FORMAT))
        torch.library.opcheck(OPS.fake_quant_pow2_backward.default, (one, x, 0, fracs, *FORMAT))
    torch.library.opcheck(OPS.fake_quant_pow2.out, (x, 4, None, *FORMAT), {"out": torch.empty_like(x)})
    torch.library.opcheck(OPS.fake_quant_pow2_backward.out, (x, x, 4, None, *FORMAT), {"out": torch.empty_like(x)})
    torch.library.opcheck(OPS.fake_quant_pow2_many, ([x, x], [fracs, fracs], *FORMAT))
    torch.library.opcheck(OPS.fake_quant_pow2_many_backward, ([x, x], [x, x], [fracs, fracs], *FORMAT))
    for kernel, args in ((OPS._fake_quant_pow2, (x,)), (OPS._fake_quant_pow2_backward, (x, x))):
        torch.library.opcheck(kernel, (*args, None, pack_format(*FORMAT) + 4))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("gradient", [0, 1])
def test_opcheck_learned(device: str, gradient: int) -> None:
    x, parameter = sample(device), torch.tensor([0.3, 1.2, 2.0], device=device)
    for inputs in ((x, parameter), (x.clone().requires_grad_(), parameter.clone().requires_grad_())):
        torch.library.opcheck(OPS.fake_quant_learned.default, (*inputs, *FORMAT, gradient, 1.0))
    packed = pack_format(*FORMAT) + gradient
    torch.library.opcheck(OPS._fake_quant_learned, (x, parameter, packed))
    torch.library.opcheck(OPS._fake_quant_learned_backward, (x, x, parameter, packed, 1.0))
    torch.library.opcheck(OPS.fake_quant_learned.out, (x, parameter, *FORMAT, gradient), {"out": torch.empty_like(x)})
    args = (x, x, parameter, *FORMAT, gradient, 1.0)
    torch.library.opcheck(OPS.fake_quant_learned_backward.default, args)
    outputs = {"grad_x": torch.empty_like(x), "grad_parameter": torch.empty_like(parameter)}
    torch.library.opcheck(OPS.fake_quant_learned_backward.out, args, outputs)


def everything(x: Tensor, log2_t: Tensor, scale: Tensor) -> Tensor:
    fracs = torch.tensor([1, 2, 3], dtype=torch.int32)
    y = fake_quant_pow2(x, FMT) + fake_quant_pow2(x, FMT, frac=fracs, axis=-2)
    return y * fake_quant_tqt(x, log2_t, axis=1) + fake_quant_lsq(x, scale, bits=4)


def gradients(function: Any) -> list[Tensor]:
    leaves = [t.clone().requires_grad_() for t in (sample(), torch.tensor([0.3, 1.2, 2.0]), torch.tensor([0.1]))]
    out = function(*leaves)
    return [out.detach(), *torch.autograd.grad(out.square().sum(), leaves)]


@pytest.mark.slow
def test_compiled_and_eager_are_equal() -> None:
    compiled = torch.compile(everything, fullgraph=True, backend="aot_eager")
    for got, want in zip(gradients(compiled), gradients(everything), strict=True):
        assert torch.equal(got, want)


@pytest.mark.slow
def test_exported_and_eager_are_equal() -> None:
    class Module(torch.nn.Module):
        def forward(self, x: Tensor, log2_t: Tensor, scale: Tensor) -> Tensor:
            return everything(x, log2_t, scale)

    args = (sample(), torch.tensor([0.3, 1.2, 2.0]), torch.tensor([0.1]))
    program = torch.export.export(Module(), args)
    assert torch.equal(program.module()(*args), everything(*args))
    targets = {str(node.target) for node in program.graph.nodes}
    assert {"yolo_hw.fake_quant_pow2.default", "yolo_hw.fake_quant_learned.default"} <= targets


def test_vmap() -> None:
    x, fracs = sample(), torch.tensor([1, 2, 3], dtype=torch.int32)
    got = torch.vmap(lambda v: fake_quant_pow2(v, FMT, frac=fracs, axis=0))(x)
    assert torch.equal(got, fake_quant_pow2(x, FMT, frac=fracs, axis=1))
    last = torch.vmap(lambda v: fake_quant_pow2(v, FMT), in_dims=2, out_dims=2)(x)
    assert torch.equal(last, fake_quant_pow2(x, FMT))


def test_double_backward_is_the_mask() -> None:
    x = sample().requires_grad_()
    weight = torch.ones_like(x, requires_grad=True)
    (first,) = torch.autograd.grad(fake_quant_pow2(x, FixedPoint(4, 1)), x, weight, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), weight)
    assert torch.equal(second, first)


def test_autocast_keeps_the_dtype_of_the_input() -> None:
    x = sample()
    with torch.autocast("cpu", torch.bfloat16):
        assert fake_quant_pow2(x, FMT).dtype == torch.float32
        assert fake_quant_tqt(x.bfloat16(), torch.tensor([1.0])).dtype == torch.bfloat16
        assert torch.equal(fake_quant_pow2(x, FMT), fake_quant_pow2(x.double(), FMT).float())


@pytest.mark.parametrize("modes", list(itertools.product(Rounding, Overflow)))
def test_many_equals_one_by_one(modes: tuple[Rounding, Overflow]) -> None:
    xs = [sample(), sample().flatten(), torch.zeros(0, 3), sample().transpose(0, 2)]
    fracs = [torch.tensor([f], dtype=torch.int32) for f in (1, 4, 0, -2)]
    leaves = [x.clone().requires_grad_() for x in xs]
    ys = fake_quant_pow2_many(leaves, FMT, *modes, fracs=fracs)
    for x, y, f in zip(xs, ys, fracs, strict=True):
        assert torch.equal(y, fake_quant_pow2(x, FMT, *modes, frac=f))
    sum((y * y.detach()).sum() for y in ys).backward()
    for leaf, y, f in zip(leaves, ys, fracs, strict=True):
        alone = leaf.detach().clone().requires_grad_()
        fake_quant_pow2(alone, FMT, *modes, frac=f).backward(y.detach())
        assert torch.equal(leaf.grad, alone.grad)
    assert torch.equal(fake_quant_pow2_many(xs, FMT, *modes)[1], fake_quant_pow2(xs[1], FMT, *modes))
    with pytest.raises(RuntimeError, match="one tensor for each of the 4 of xs, got 3"):
        fake_quant_pow2_many(xs, FMT, fracs=fracs[:3])


@pytest.mark.parametrize("rounding", Rounding)
def test_out_may_be_x_and_takes_no_gradient(rounding: Rounding) -> None:
    x = sample()
    want = fake_quant_pow2(x, FMT, rounding)
    strided = torch.empty(4, 3, 2).transpose(0, 2)
    assert fake_quant_pow2(x, FMT, rounding, out=strided) is strided
    assert torch.equal(strided, want)
    fake_quant_pow2(x, FMT, rounding, out=x)
    assert torch.equal(x, want)
    with pytest.raises(RuntimeError, match="out= does not support automatic differentiation"):
        fake_quant_pow2(x.requires_grad_(), FMT, out=strided)
    for out, message in (
        (torch.empty(3), "shape"),
        (strided.double(), "dtype"),
        (torch.empty(2, 3, 8)[..., ::2], "dense"),
    ):
        with pytest.raises(RuntimeError, match=f"out must .*{message}"):
            fake_quant_pow2(x.detach(), FMT, out=out)


BAD = [
    ({"x": torch.zeros(3, dtype=torch.int32)}, "float32, float64, float16 or bfloat16"),
    ({"fracs": torch.zeros(1, dtype=torch.int64)}, "fracs must be int32"),
    ({"fracs": torch.zeros(2, dtype=torch.int32)}, "1 or 3 values .* got 2"),
    ({"fracs": torch.zeros(1, 1, dtype=torch.int32)}, "1 dimension, got 2"),
    ({"fracs": torch.zeros(0, dtype=torch.int32)}, "got 0"),
    ({"fracs": torch.full((1,), 65, dtype=torch.int32)}, r"\[-64, 64\], got 65"),
    ({"frac": -65}, r"\[-64, 64\], got -65"),
    ({"fracs": torch.zeros(3, dtype=torch.int32), "axis": 1}, r"axis must be in \[0, 1\), got 1"),
    ({"fracs": torch.zeros(3, dtype=torch.int32), "axis": -1}, r"got -1"),
    ({"bits": 1}, r"\[2, 16\], got 1"),
    ({"bits": 17}, "got 17"),
    ({"rounding": 4}, "rounding"),
    ({"overflow": -1}, "overflow"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_bad_argument_is_named(change: dict[str, Any], message: str) -> None:
    good = {"x": torch.zeros(3), "frac": 0, "fracs": None, "axis": 0, "bits": 8, "signed": True}
    good |= {"rounding": 0, "overflow": 0}
    OPS.fake_quant_pow2(*good.values())
    bad = list((good | change).values())
    with pytest.raises(RuntimeError, match=message):
        OPS.fake_quant_pow2(*bad)
    with pytest.raises(RuntimeError, match=message):
        OPS.fake_quant_pow2_backward(bad[0], *bad)


@pytest.mark.parametrize(
    ("parameter", "args", "message"),
    [
        (torch.zeros(1, dtype=torch.int32), (0, 8, True, 0, 0, 0), "parameter must be float32 or float64"),
        (torch.zeros(2), (0, 8, True, 0, 0, 0), "1 or 3 values .* got 2"),
        (torch.full((1,), torch.nan), (0, 8, True, 0, 0, 0), "from entry 0, nan"),
        (torch.full((1,), 200.0), (0, 8, True, 0, 0, 0), r"\[-64, 64\], got -193"),
        (torch.zeros(3), (0, 8, True, 0, 0, 1), "from entry 0, 0"),
        (torch.zeros(1), (0, 8, True, 0, 2, 0), "wrapping has no step gradient"),
        (torch.zeros(1), (0, 8, True, 0, 0, 2), "gradient must be 0"),
    ],
)
def test_bad_argument_of_the_learned_form_is_named(parameter: Tensor, args: tuple[int, ...], message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        OPS.fake_quant_learned(torch.zeros(3), parameter, *args, 1.0)
    with pytest.raises(RuntimeError, match=message):
        OPS.fake_quant_learned_backward(torch.zeros(3), torch.zeros(3), parameter, *args, 1.0)


def test_gradient_of_another_shape_or_dtype_is_refused() -> None:
    for grad in (torch.zeros(4), torch.zeros(3, 1), torch.zeros(3, dtype=torch.float64)):
        with pytest.raises(RuntimeError, match="grad must have"):
            OPS.fake_quant_pow2_backward(grad, torch.zeros(3), 0, None, 0, 8, True, 0, 0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("modes", list(itertools.product(range(4), range(2))))
def test_gradients_go_to_given_memory(modes: tuple[int, int], dtype: torch.dtype, device: str) -> None:
    """The ``.out`` forms of both gradients write what the plain forms return; LSQ and TQT take no wrapping."""
    x, grad = sample(device, dtype) * 40, sample(device, dtype).flip(0)
    out = torch.empty_like(x)
    OPS.fake_quant_pow2_backward.out(grad, x, 4, None, 1, 8, True, *modes, out=out)
    assert torch.equal(out, OPS.fake_quant_pow2_backward(grad, x, 4, None, 1, 8, True, *modes))
    parameter = torch.tensor([1.3, 0.2, 0.9], device=device)
    for gradient in (0, 1):
        args = (grad, x, parameter, 1, 8, True, *modes, gradient, 0.5)
        outs = torch.empty_like(x), torch.empty_like(parameter)
        OPS.fake_quant_learned_backward.out(*args, grad_x=outs[0], grad_parameter=outs[1])
        for got, want in zip(outs, OPS.fake_quant_learned_backward(*args), strict=True):
            assert torch.equal(got, want)
