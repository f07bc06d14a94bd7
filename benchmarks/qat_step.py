# SPDX-License-Identifier: Apache-2.0
"""One step of quantisation-aware training over a step of the same network in float.

A step is forward, a loss that costs nothing, backward and a step of SGD, so what is compared is quantisation alone. All
candidates have 8 bits for weights and activations and scales that are powers of two. Ours fold batch norms; those of
Brevitas stay behind the convolutions, and its activations have got past their statistics, which cost more.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from benchmarks.measure import Candidate, Case, Function
from benchmarks.networks import yolov3_tiny_model
from benchmarks.peers import compile_brevitas, library
from yolo_hw.nn import Darknet
from yolo_hw.nn.blocks import ConvBlock
from yolo_hw.quant import QuantConfig
from yolo_hw.quant.qat import NormFold, QatConfig, QatModel, ScaleMethod, prepare_qat
from yolo_hw.train import TrainConfig
from yolo_hw.train.loop import make_optimizer

BATCH = 8
PASSES = 3
"""Multiply-adds of forward and backward over those of forward."""
CONFIG = TrainConfig(batch=BATCH, learning_rate=1e-9)  # the weights stay what they are
QUANT = QuantConfig(equalise=None, bias_correction=False)  # what precedes training takes no part
FORMS: Mapping[str, QatConfig] = {
    "one pass, TQT": QatConfig(),
    "one pass, LSQ": QatConfig(w_scale=ScaleMethod.LSQ, a_scale=ScaleMethod.LSQ),
    "one pass, ranges": QatConfig(w_scale=ScaleMethod.RANGE, a_scale=ScaleMethod.RANGE),
    "two passes, TQT": QatConfig(norm_fold=NormFold.TWO_PASS),
}


def cases() -> list[Case]:
    """Return one step of YOLOv3-tiny."""
    model = yolov3_tiny_model()
    operations = 2 * PASSES * BATCH * model.network.macs
    candidates = candidates_of(yolov3_tiny_model, BATCH)
    return [Case("train yolov3-tiny 416 in 8 bits", candidates, 0, operations, {"batch": BATCH})]


def candidates_of(make: Callable[[], Darknet], batch: int) -> tuple[Candidate, ...]:
    """Return a step in float and in every quantised form; `make` returns the float network anew."""

    def images() -> Tensor:
        shape = make().network.input
        x = torch.rand(batch, *shape, generator=torch.Generator().manual_seed(0))
        return x.contiguous(memory_format=torch.channels_last)

    def brevitas(threads: int) -> Function:
        compile_brevitas()
        return step_of(brevitas_model(make(), images()[:1]), images())

    def ours(qat: QatConfig) -> Callable[[int], Function]:
        return lambda threads: step_of(qat_model(make(), qat, images()[:1]), images())

    forms = [Candidate(f"yolo_hw, {name}", ours(qat), {"ours": True}) for name, qat in FORMS.items()]
    plain = Candidate("float", lambda threads: step_of(make(), images()), {"baseline": True})
    return plain, *forms, Candidate("brevitas", brevitas)


def step_of(model: nn.Module, images: Tensor) -> Function:
    """Return a training step on images [N, C, H, W], channels last as in the training loop."""
    model.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = make_optimizer(model, CONFIG)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        torch.stack([out.square().sum() for out in model(images)]).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def qat_model(model: Darknet, qat: QatConfig, images: Tensor) -> QatModel:
    """Return this library's quantised form, calibrated on images [N, C, H, W] in [0, 1]."""
    pixels = (images * 255).byte().permute(0, 2, 3, 1).contiguous().numpy()
    return prepare_qat(model, QUANT, qat=qat, batches=[pixels])


def brevitas_model(model: Darknet, images: Tensor) -> nn.Module:
    """Return a copy with Brevitas' fixed-point quantisers for all weights and the output of every convolution.

    Args:
        model: A network of convolutions and nodes that only move values.
        images: [N, C, H, W], from which the scales of activations begin.
    """
    layers, formats = library("brevitas.nn"), library("brevitas.quant.fixed_point")
    rounded = formats.Int8ActPerTensorFixedPoint.let(collect_stats_steps=1)

    def activations() -> nn.Module:
        quantiser: nn.Module = layers.QuantIdentity(act_quant=rounded, return_quant_tensor=False)
        return quantiser

    copied = copy.deepcopy(model)
    for block in copied.blocks.values():
        if isinstance(block, ConvBlock):
            old = block.conv
            block.conv = layers.QuantConv2d(
                *(
                    old.in_channels,
                    old.out_channels,
                    old.kernel_size,
                    old.stride,
                    old.padding,
                    old.dilation,
                    old.groups,
                ),
                bias=old.bias is not None,
                weight_quant=formats.Int8WeightPerTensorFixedPoint,
            )
            block.conv.load_state_dict(old.state_dict(), strict=False)
            block.output_quantiser = activations()
            block.register_forward_hook(lambda module, given, out: module.output_quantiser(out))
    quantised = nn.Sequential(activations(), copied).train()
    with torch.no_grad():
        for _ in range(2):  # the second one begins to train what the statistics of the first have given
            quantised(images)
    return quantised
