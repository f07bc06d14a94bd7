# SPDX-License-Identifier: Apache-2.0
"""This library's candidates. An operator that this build does not have is absent from the lists."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

import yolo_hw.ops  # noqa: F401 - registers torch.ops.yolo_hw
from benchmarks.autograd import gradient_function
from benchmarks.measure import Candidate, Function
from yolo_hw.fixedpoint import FixedPoint, Overflow, Rounding
from yolo_hw.intgraph.engine import Engine, engine_paths

if TYPE_CHECKING:
    from benchmarks import engine as networks
    from benchmarks.fake_quant import Subject
    from benchmarks.fold_bn import FoldInput
    from benchmarks.layers import ConvLayer

OURS = {"ours": True}
BITS = 8
FORMAT = (BITS, True, Rounding.HALF_UP.number, Overflow.SATURATE.number)
"""Word length, sign, rounding, overflow, as the operators take them."""


def has(name: str) -> bool:
    """Whether this build has the operator ``torch.ops.yolo_hw.<name>``."""
    return hasattr(torch.ops.yolo_hw, name)


def fake_quant_forward(subject: Subject) -> list[Candidate]:
    """Forward with a fresh result, and into one that exists."""

    def fresh(threads: int) -> Function:
        x, fracs, op = subject.values(), subject.fracs(), torch.ops.yolo_hw.fake_quant_pow2.default
        return lambda: op(x, fracs, subject.axis, *FORMAT)

    def into_out(threads: int) -> Function:
        x, fracs, op = subject.values(), subject.fracs(), torch.ops.yolo_hw.fake_quant_pow2_out.default
        out = torch.empty_like(x)
        return lambda: op(x, fracs, subject.axis, *FORMAT, out)

    found = [Candidate("yolo_hw", fresh, OURS)]
    return [Candidate("yolo_hw, out=", into_out, OURS), *found] if has("fake_quant_pow2_out") else found


def fake_quant_training(subject: Subject) -> list[Candidate]:
    """Forward and straight-through backward by autograd."""

    def prepare(threads: int) -> Function:
        x, fracs, op = subject.values().requires_grad_(), subject.fracs(), torch.ops.yolo_hw.fake_quant_pow2.default
        return gradient_function(lambda v: op(v, fracs, subject.axis, *FORMAT), (x,))

    return [Candidate("yolo_hw, straight-through", prepare, OURS)]


def fake_quant_backward(subject: Subject) -> list[Candidate]:
    """The straight-through backward kernel."""

    def prepare(threads: int) -> Function:
        x, fracs, op = subject.values(), subject.fracs(), torch.ops.yolo_hw.fake_quant_pow2_backward.default
        grad = torch.randn_like(x)
        return lambda: op(grad, x, fracs, subject.axis, *FORMAT)

    return [Candidate("yolo_hw", prepare, OURS)]


def fold_bn_network(inputs: Callable[[], list[FoldInput]]) -> list[Candidate]:
    """All layers folded and quantised in one call, with fresh results and into ones that exist."""
    if not has("fold_bn_fake_quant"):
        return []

    def prepare(into_out: bool) -> Function:
        from yolo_hw.ops.fold_bn import BatchNorm, FoldLayer, fold_bn_fake_quant_layers  # noqa: PLC0415

        layers = [FoldLayer(x.weight, BatchNorm(x.gamma, x.beta, x.mean, x.var), None, x.frac) for x in inputs()]
        fmt = FixedPoint(BITS, 0)
        out = [torch.empty_like(x.weight) for x in layers], [torch.empty(len(x.weight)) for x in layers]
        return lambda: fold_bn_fake_quant_layers(layers, fmt, out=out if into_out else None)

    return [
        Candidate("yolo_hw, out=", lambda threads: prepare(True), OURS),
        Candidate("yolo_hw", lambda threads: prepare(False), OURS),
    ]


def qat_conv_bn(inputs: Callable[[], tuple[nn.Sequential, Tensor]]) -> list[Candidate]:
    """Forward and backward of one convolution with batch norm in quantisation-aware training."""
    if not has("fold_bn_fake_quant"):
        return []

    def prepare(threads: int) -> Function:
        from yolo_hw.ops.fold_bn import BatchNorm, FoldLayer  # noqa: PLC0415
        from yolo_hw.ops.qat_conv_bn import ConvGeometry, WeightFormat, qat_conv_bn  # noqa: PLC0415

        (conv, norm), x = inputs()
        vectors = BatchNorm(norm.weight, norm.bias, norm.running_mean, norm.running_var)
        frac = torch.full((len(conv.weight),), 7, dtype=torch.int32)
        layer, quantiser = FoldLayer(conv.weight, vectors, None, frac), WeightFormat(FixedPoint(BITS, 0))
        geometry = ConvGeometry(padding=1)
        leaves = (x, conv.weight, norm.weight, norm.bias)
        return gradient_function(lambda v: qat_conv_bn(v, layer, quantiser, geometry, training=True), leaves)

    return [Candidate("yolo_hw", prepare, OURS)]


def engine(subject: networks.Subject) -> list[Candidate]:
    """The integer engine on every instruction set that this machine has."""

    def on(path: str) -> Candidate:
        def prepare(threads: int) -> Function:
            runner = Engine(subject.graph, path=path, threads=threads)
            for codes, expected in zip(runner.run(subject.codes), subject.expected_codes, strict=True):
                if not (codes == expected).all():
                    raise ValueError(f"{subject.name}: the engine ({path}) differs from the reference")
            return lambda: runner.run(subject.codes)

        return Candidate(f"yolo_hw {path}", prepare, {**OURS, "dtype": "int8", "path": path})

    return [on(path) for path in engine_paths()]


def sparse_conv(layer: ConvLayer, pattern: str, sparsity: float) -> list[Candidate]:
    """The float32 sparse convolution."""
    if not has("sparse_conv2d"):
        return []
    raise NotImplementedError


def sparse_conv_int8(layer: ConvLayer, pattern: str, sparsity: float) -> list[Candidate]:
    """The int8 sparse convolution."""
    return []
