# SPDX-License-Identifier: Apache-2.0
"""Batch norms folded into weights: all layers of a network at once, and one convolution in quantisation-aware training.

The weights are rounded to 8 bits with a power-of-two step per channel, in every candidate of the first case.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks import ours
from benchmarks.autograd import training_step
from benchmarks.ceilings import memcpy_candidate
from benchmarks.fake_quant import HI, LO
from benchmarks.layers import YOLOV3_TINY, ConvLayer
from benchmarks.measure import Candidate, Case, Function

BATCH = 8
TRAINED = (("256->512 3x3 @26", 256, 512, 26), ("64->128 3x3 @52", 64, 128, 52), ("16->32 3x3 @208", 16, 32, 208))
EPS = 1e-5
W_FRAC = 7


@dataclass(frozen=True)
class FoldInput:
    """One layer's tensors: weight [K, C, R, S], the four of its batch norm [K], fraction bits [K] int32."""

    weight: Tensor
    gamma: Tensor
    beta: Tensor
    mean: Tensor
    var: Tensor
    frac: Tensor

    @classmethod
    def of(cls, layer: ConvLayer) -> FoldInput:
        """Random tensors of a plausible scale."""
        draw = torch.Generator().manual_seed(0)
        gamma, beta, mean, var = (torch.rand(layer.k, generator=draw) + 0.5 for _ in range(4))
        weight = torch.from_numpy(layer.weight())
        return cls(weight, gamma, beta, mean, var, W_FRAC + torch.arange(layer.k, dtype=torch.int32) % 2)


def cases() -> list[Case]:
    """Return all convolutions of YOLOv3-tiny in one call, and one training step of three layers."""
    size = 4 * sum(layer.k * layer.c * layer.size**2 for layer in YOLOV3_TINY)
    fold = (
        memcpy_candidate(size),
        *ours.fold_bn_network(lambda: [FoldInput.of(layer) for layer in YOLOV3_TINY]),
        Candidate("torch fuse_conv_bn_weights + fake_quantize", _torch_fold),
    )
    network = Case("yolov3-tiny: fold and quantise", fold, 2 * size, facts={"part": "fold"})
    return [network, *(_training_case(*layer) for layer in TRAINED)]


def _training_case(name: str, c: int, k: int, size: int) -> Case:
    def image() -> Tensor:
        return torch.randn(BATCH, c, size, size, generator=torch.Generator().manual_seed(0)).requires_grad_()

    candidates = (
        Candidate("conv + bn", lambda threads: training_step(_plain(c, k), image()), {"baseline": True}),
        *ours.qat_conv_bn(lambda: (_plain(c, k), image())),
        Candidate("torch.ao ConvBn2d", lambda threads: training_step(_torch_qat(c, k), image())),
    )
    map_bytes = 4 * BATCH * size * size
    weight_bytes = 4 * k * c * 9
    operations = 3 * 2 * BATCH * size * size * k * c * 9
    facts = {"part": "train", "batch": BATCH}
    return Case(f"train {name}", candidates, 3 * (map_bytes * (c + k) + weight_bytes), operations, facts)


def _plain(c: int, k: int) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(c, k, 3, padding=1, bias=False), nn.BatchNorm2d(k, eps=EPS))


def _torch_qat(c: int, k: int) -> nn.Module:
    """The folding in training that torch has, weights per channel to 8 bits."""
    from torch.ao.nn.intrinsic.qat import ConvBn2d  # noqa: PLC0415 - slow to import
    from torch.ao.quantization import QConfig, default_fake_quant, default_per_channel_weight_fake_quant  # noqa: PLC0415

    torch.manual_seed(0)
    qconfig = QConfig(activation=default_fake_quant, weight=default_per_channel_weight_fake_quant)
    return ConvBn2d(c, k, 3, padding=1, bias=False, eps=EPS, qconfig=qconfig)


def _torch_fold(threads: int) -> Function:
    from torch.nn.utils.fusion import fuse_conv_bn_weights  # noqa: PLC0415

    layers = [FoldInput.of(layer) for layer in YOLOV3_TINY]
    steps = [(torch.exp2(-x.frac.float()), torch.zeros_like(x.frac)) for x in layers]

    @torch.no_grad()
    def run() -> list[tuple[Tensor, Tensor]]:
        found = []
        for x, (step, zero) in zip(layers, steps, strict=True):
            weight, bias = fuse_conv_bn_weights(x.weight, None, x.mean, x.var, EPS, x.gamma, x.beta)
            found.append((torch.fake_quantize_per_channel_affine(weight, step, zero, 0, LO, HI), bias))
        return found

    return run
