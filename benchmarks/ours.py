# SPDX-License-Identifier: Apache-2.0
"""This library's candidates. An operator that this build does not have is absent from the lists."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from benchmarks.autograd import gradient_function
from benchmarks.measure import Candidate, Function
from benchmarks.peers import compiled
from benchmarks.pruning import prune
from yolo_hw.darknet.layers import Shape
from yolo_hw.fixedpoint import FixedPoint, Overflow, Rounding
from yolo_hw.geometry import Window
from yolo_hw.intgraph import INPUT, IntGraph, NumericContract, Output, TensorInfo
from yolo_hw.intgraph.engine import Engine, engine_paths
from yolo_hw.intgraph.nodes import Activation, Conv2d
from yolo_hw.ops import fake_quant_pow2

if TYPE_CHECKING:
    from benchmarks import engine as networks
    from benchmarks.fake_quant import Subject
    from benchmarks.fold_bn import FoldInput
    from benchmarks.layers import ConvLayer

OURS = {"ours": True}
BITS = 8


def has(name: str) -> bool:
    """Whether this build has the operator ``torch.ops.yolo_hw.<name>``."""
    return hasattr(torch.ops.yolo_hw, name)


def fake_quant_forward(subject: Subject) -> list[Candidate]:
    """Forward with a fresh result, and into one that exists."""

    def prepare(into_out: bool) -> Function:
        x, fmt, options = subject.values(), FixedPoint(BITS, subject.frac), _channels(subject)
        if into_out:
            options["out"] = torch.empty_like(x)
        return lambda: fake_quant_pow2(x, fmt, **options)

    found = [Candidate("yolo_hw", lambda threads: prepare(False), OURS)]
    if "out" in inspect.signature(fake_quant_pow2).parameters:
        found.insert(0, Candidate("yolo_hw, out=", lambda threads: prepare(True), OURS))
    return found


def fake_quant_training(subject: Subject) -> list[Candidate]:
    """Forward and backward by autograd: straight-through, and with the gradient to a threshold."""

    def straight_through(threads: int) -> Function:
        fmt, options = FixedPoint(BITS, subject.frac), _channels(subject)
        return gradient_function(lambda v: fake_quant_pow2(v, fmt, **options), (subject.values().requires_grad_(),))

    def learned(threads: int) -> Function:
        from yolo_hw.ops.fake_quant_learned import fake_quant_tqt  # noqa: PLC0415 - not in every build

        log2_t = (BITS - 1 - subject.fracs().float()).requires_grad_()
        leaves = (subject.values().requires_grad_(), log2_t)
        return gradient_function(lambda v: fake_quant_tqt(v, log2_t, BITS, axis=subject.axis), leaves)

    def under_inductor(threads: int) -> Function:
        x, fmt, options = subject.values().requires_grad_(), FixedPoint(BITS, subject.frac), _channels(subject)
        return gradient_function(compiled(lambda v: fake_quant_pow2(v, fmt, **options), x), (x,))

    found = [Candidate("yolo_hw", straight_through, OURS), Candidate("yolo_hw, compiled", under_inductor, OURS)]
    return [*found, Candidate("yolo_hw, TQT", learned, OURS)] if has("fake_quant_learned") else found


def fake_quant_backward(subject: Subject) -> list[Candidate]:
    """The backward kernels: straight-through, with a fresh result and into one that exists, and TQT into one."""
    ops = torch.ops.yolo_hw
    how = (subject.axis, BITS, True, Rounding.HALF_UP.number, Overflow.SATURATE.number)

    def prepare(into_out: bool) -> Function:
        x, op = subject.values(), ops.fake_quant_pow2_backward
        grad, fracs = torch.randn_like(x), subject.fracs() if subject.per_channel else None
        if not into_out:
            return lambda: op.default(grad, x, subject.frac, fracs, *how)
        out = torch.empty_like(x)
        return lambda: op.out(grad, x, subject.frac, fracs, *how, out=out)

    def learned(threads: int) -> Function:
        x, log2_t, tqt = subject.values(), BITS - 1 - subject.fracs().float(), 0
        grad, grad_x, grad_t = torch.randn_like(x), torch.empty_like(x), torch.empty_like(log2_t)
        op = ops.fake_quant_learned_backward.out
        return lambda: op(grad, x, log2_t, *how, tqt, 1.0, grad_x=grad_x, grad_parameter=grad_t)

    return [
        Candidate("yolo_hw, out=", lambda threads: prepare(True), OURS),
        Candidate("yolo_hw", lambda threads: prepare(False), OURS),
        Candidate("yolo_hw, TQT, out=", learned, OURS),
    ]


def _channels(subject: Subject) -> dict[str, Any]:
    """Fraction bits per channel as keyword arguments; per tensor they are the format's."""
    return {"frac": subject.fracs(), "axis": subject.axis} if subject.per_channel else {}


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
    """The sparse convolution in float32, with bias, into a result that exists."""
    if not has("sparse_conv2d"):
        return []

    def prepare(threads: int) -> Function:
        from yolo_hw.ops import pack_sparse, sparse_conv2d  # noqa: PLC0415 - not in every build

        weight = torch.from_numpy(prune(layer.weight(), pattern, sparsity))
        packed = pack_sparse(weight, pattern if pattern == "unstructured" else f"block({pattern})")
        bias, x = torch.from_numpy(layer.bias()), torch.from_numpy(layer.image())
        out = sparse_conv2d(x, packed, bias, padding=layer.size // 2)
        return lambda: sparse_conv2d(x, packed, bias, padding=layer.size // 2, out=out)

    facts = {**OURS, "dtype": "float32", "pattern": pattern, "sparsity": sparsity}
    return [Candidate(f"yolo_hw {pattern}, {sparsity:.0%}", prepare, facts, round(2 * layer.macs * (1 - sparsity)))]


def sparse_engine(layer: ConvLayer, sparsity: float) -> list[Candidate]:
    """A convolution of bytes without its zero 16x4 blocks in the integer engine, channels last."""
    weight = prune(layer.weight(), "16x4", sparsity)
    scale = 127 / np.abs(weight).max()
    graph = single_conv(np.rint(weight * scale).astype(np.int64), Shape(layer.c, layer.map, layer.map))
    rows = np.random.default_rng(2).integers(0, 256, (layer.map, layer.map, layer.c), np.uint8)
    codes = rows.transpose(2, 0, 1)

    def prepare(threads: int) -> Function:
        runner = Engine(graph, threads=threads)
        return lambda: runner.compute(codes)

    facts = {**OURS, "dtype": "int8", "pattern": "16x4 in the engine", "sparsity": sparsity}
    return [Candidate(f"yolo_hw engine 16x4, {sparsity:.0%}", prepare, facts, round(2 * layer.macs * (1 - sparsity)))]


def single_conv(weight: npt.NDArray[np.int64], image: Shape) -> IntGraph:
    """Return a graph of one convolution with padding, u8 in and out, and ReLU.

    Args:
        weight: [K, C, R, S] int8 codes.
        image: Of the input.
    """
    k, _, r, s = weight.shape
    reach = np.abs(weight).reshape(k, -1).sum(1).max() * 255
    shift = max(int(reach).bit_length() - 10, 0)
    byte = FixedPoint(8, 0, signed=False)
    conv = Conv2d(
        name="conv",
        inputs=(INPUT,),
        weight=weight,
        w_frac=np.full(k, shift),
        bias=np.zeros(k, np.int64),
        w_bits=8,
        window=Window((r, s), (1, 1), (r // 2, s // 2)),
        act=Activation("relu", cap=255),
    )
    tensors = {INPUT: TensorInfo(image, byte), "conv": TensorInfo(Shape(k, *image[1:]), byte)}
    return IntGraph("conv", NumericContract(), (conv,), tensors, (Output("conv"),))


def sparse_conv_codes(layer: ConvLayer, sparsity: float) -> list[Candidate]:
    """The sparse convolution of uint8 codes in blocks of 16x4, int32 sums in a result that exists."""
    if not has("sparse_conv2d"):
        return []

    def prepare(threads: int) -> Function:
        from yolo_hw.ops import pack_sparse, sparse_conv2d  # noqa: PLC0415 - not in every build

        generator = torch.Generator().manual_seed(2)
        kept = torch.from_numpy(prune(layer.weight(), "16x4", sparsity)) != 0
        weight = torch.randint(1, 128, kept.shape, generator=generator) * kept
        packed = pack_sparse(weight.to(torch.int8), "block(16x4)")
        bias = torch.randint(-1000, 1000, (layer.k,), generator=generator, dtype=torch.int32)
        x = torch.randint(0, 256, layer.image().shape, generator=generator).to(torch.uint8)
        out = sparse_conv2d(x, packed, bias, padding=layer.size // 2)
        return lambda: sparse_conv2d(x, packed, bias, padding=layer.size // 2, out=out)

    facts = {**OURS, "dtype": "int8", "pattern": "16x4", "sparsity": sparsity}
    size = layer.c * layer.map**2 + 4 * layer.k * layer.map**2 + layer.k * layer.c * layer.size**2 + 4 * layer.k
    operations = round(2 * layer.macs * (1 - sparsity))
    return [Candidate(f"yolo_hw 16x4 int8, {sparsity:.0%}", prepare, facts, operations, size)]
