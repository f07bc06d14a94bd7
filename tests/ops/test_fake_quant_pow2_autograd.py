# SPDX-License-Identifier: Apache-2.0
"""Gradient, registration and argument checks of the fake quantisation."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch

from yolo_hw.fixedpoint import FixedPoint, Overflow, Rounding
from yolo_hw.ops import _library, reference
from yolo_hw.ops.fake_quant_pow2 import fake_quant_pow2

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=needs_cuda)]

# A 4-bit signed format, frac 0: codes -8..7. The value, and whether the gradient passes under half_up and floor.
PASSES = [
    (-8.75, False, False),
    (-8.5, True, False),  # half_up: -8; floor: -9
    (-8.0, True, True),
    (0.3, True, True),
    (7.25, True, True),
    (7.5, False, True),  # half_up: 8; floor: 7
    (7.99, False, True),
    (8.0, False, False),
    (math.inf, False, False),
    (-math.inf, False, False),
    (math.nan, False, False),
]


def gradient(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """The gradient of a weighted sum, whose weights 1, 2, 3 ... show a swap."""
    x = x.clone().requires_grad_()
    weights = torch.arange(1, x.numel() + 1, dtype=x.dtype, device=x.device).reshape(x.shape)
    fake_quant_pow2(x, *args, **kwargs).backward(weights)
    assert x.grad is not None
    return x.grad / weights


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradient_table(device: str, dtype: torch.dtype) -> None:
    x = torch.tensor([row[0] for row in PASSES], dtype=dtype, device=device)
    fmt = FixedPoint(4, 0)
    assert gradient(x, fmt, Rounding.HALF_UP).tolist() == [float(row[1]) for row in PASSES]
    assert gradient(x, fmt, Rounding.FLOOR).tolist() == [float(row[2]) for row in PASSES]
    assert gradient(x, fmt, Rounding.HALF_UP, Overflow.WRAP).tolist() == [1.0] * len(PASSES)
    symmetric = gradient(torch.tensor([-8.0, -7.4, -7.0]), fmt, Rounding.HALF_UP, Overflow.SATURATE_SYMMETRIC)
    assert symmetric.tolist() == [0.0, 1.0, 1.0]


@pytest.mark.parametrize("device", DEVICES)
def test_gradient_equals_reference(device: str) -> None:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(4, 3, 50, generator=generator, dtype=torch.float64) * 20
    grad = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    frac = torch.tensor([0, 2, 4], dtype=torch.int32)
    for rounding, overflow, signed in itertools.product(Rounding, Overflow, (True, False)):
        fmt = FixedPoint(6, 0, signed)
        leaf = x.clone().to(device).requires_grad_()
        fake_quant_pow2(leaf, fmt, rounding, overflow, frac=frac.to(device), axis=1).backward(grad.to(device))
        want = reference.fake_quant_pow2_backward(grad, x, fmt, rounding, overflow, frac=frac, axis=1)
        assert leaf.grad is not None
        assert torch.equal(leaf.grad.cpu(), want)
        zeros = int((want == 0).sum())
        assert (zeros == 0) if overflow is Overflow.WRAP else (0 < zeros < want.numel())


def test_missing_library_is_an_error_with_an_instruction(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(_library, "LIBRARY", tmp_path / "_ops.so")
    with pytest.raises(ImportError, match="pip install"):
        _library.load_library()
    (tmp_path / "_ops.so").write_bytes(b"no library")
    with pytest.raises(ImportError, match="install yolo_hw again"):
        _library.load_library()
