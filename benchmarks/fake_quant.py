# SPDX-License-Identifier: Apache-2.0
"""Fake quantisation of weights and activations: forward, forward with backward, the backward kernel alone.

All candidates round float32 to 8 signed bits with a power-of-two step. ``straight-through`` ones have a gradient to the
tensor, ``learned`` ones to the step as well.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks import ours
from benchmarks.autograd import Quantiser, gradient_function
from benchmarks.ceilings import memcpy_candidate
from benchmarks.measure import Candidate, Case, Function
from benchmarks.peers import compile_brevitas, compiled, library

BITS = 8
LO, HI = -(1 << (BITS - 1)), (1 << (BITS - 1)) - 1
FRAC = 5


@dataclass(frozen=True)
class Subject:
    """A tensor: `axis` is its channels, `frac` its fraction bits, and every second channel has one more."""

    shape: tuple[int, ...]
    axis: int
    kind: str
    per_channel: bool
    frac: int = FRAC

    @property
    def name(self) -> str:
        """What the cases call it."""
        size = "x".join(map(str, self.shape))
        return f"{self.kind} {size} per {'channel' if self.per_channel else 'tensor'}"

    @property
    def bytes(self) -> int:
        """Bytes of the tensor."""
        return 4 * math.prod(self.shape)

    def values(self) -> Tensor:
        """Normal values, a few of which saturate."""
        return torch.randn(self.shape, generator=torch.Generator().manual_seed(0))

    def fracs(self) -> Tensor:
        """[1] or [channels], int32."""
        count = self.shape[self.axis] if self.per_channel else 1
        return self.frac + torch.arange(count, dtype=torch.int32) % 2

    def steps(self) -> Tensor:
        """The same as steps ``2**-frac``, float32."""
        return torch.exp2(-self.fracs().float())


SUBJECTS = tuple(
    Subject(shape, axis, kind, per_channel)
    for kind, axis, shape in (
        ("weight", 0, (512, 256, 3, 3)),
        ("activation", 1, (8, 64, 104, 104)),
        ("weight", 0, (16, 3, 3, 3)),
    )
    for per_channel in (False, True)
)


def cases() -> list[Case]:
    """Return three cases per tensor."""
    return [build(subject) for subject in SUBJECTS for build in (forward_case, training_case, backward_case)]


def forward_case(subject: Subject) -> Case:
    """Values in, rounded values out, no gradient recorded."""
    candidates = [
        memcpy_candidate(subject.bytes),
        Candidate("empty op", lambda threads: _empty(subject)),
        *ours.fake_quant_forward(subject),
        *(_forward(name, subject, make) for name, make in _peers(subject).items() if name != "inductor, learned"),
    ]
    return Case(f"{subject.name}: forward", tuple(candidates), 2 * subject.bytes, facts=_facts(subject, "forward"))


def training_case(subject: Subject) -> Case:
    """Forward, then the gradients by autograd."""
    candidates = [
        memcpy_candidate(subject.bytes),
        *ours.fake_quant_training(subject),
        *(_training(name, subject, make) for name, make in _peers(subject).items()),
    ]
    facts = _facts(subject, "forward+backward")
    return Case(f"{subject.name}: forward+backward", tuple(candidates), 5 * subject.bytes, facts=facts)


def backward_case(subject: Subject) -> Case:
    """The backward kernel called directly: gradient and values in, gradient out."""
    candidates = [memcpy_candidate(subject.bytes), *ours.fake_quant_backward(subject), _mask_backward(subject)]
    return Case(f"{subject.name}: backward", tuple(candidates), 3 * subject.bytes, facts=_facts(subject, "backward"))


def _facts(subject: Subject, part: str) -> dict[str, object]:
    return {"shape": list(subject.shape), "kind": subject.kind, "per_channel": subject.per_channel, "part": part}


def _empty(subject: Subject) -> Function:
    """What every operator with a fresh result does at least: one call through torch, one allocation."""
    x = subject.values()
    return lambda: torch.ops.aten.empty_like.default(x)


def _peers(subject: Subject) -> dict[str, Callable[[Subject, Tensor], tuple[Quantiser, tuple[Tensor, ...]]]]:
    """Name -> maker of a quantiser and of the leaves that it has besides the values."""
    peers: dict[str, Any] = {
        "torch fake_quantize": _torch_affine,
        "torch fake_quantize learnable": _torch_learnable,
        "eager, straight-through": _eager,
        "inductor, straight-through": functools.partial(_inductor, learned=False),
        "inductor, learned": _inductor,
    }
    if subject.kind == "weight" or not subject.per_channel:
        peers["brevitas"] = _brevitas
    return peers


def _forward(name: str, subject: Subject, make: Any) -> Candidate:  # noqa: ANN401 - see _peers
    def prepare(threads: int) -> Function:
        x = subject.values()
        quantise, _ = make(subject, x)
        return torch.no_grad()(lambda: quantise(x))

    return Candidate(name, prepare)


def _training(name: str, subject: Subject, make: Any) -> Candidate:  # noqa: ANN401
    def prepare(threads: int) -> Function:
        x = subject.values().requires_grad_()
        quantise, leaves = make(subject, x)
        return gradient_function(quantise, (x, *leaves))

    return Candidate(name, prepare)


def _torch_affine(subject: Subject, x: Tensor) -> tuple[Quantiser, tuple[Tensor, ...]]:
    steps, zero = subject.steps(), torch.zeros(len(subject.steps()), dtype=torch.int32)
    if subject.per_channel:
        return lambda v: torch.fake_quantize_per_channel_affine(v, steps, zero, subject.axis, LO, HI), ()
    step = float(steps)
    return lambda v: torch.fake_quantize_per_tensor_affine(v, step, 0, LO, HI), ()


def _torch_learnable(subject: Subject, x: Tensor) -> tuple[Quantiser, tuple[Tensor, ...]]:
    steps, zero = subject.steps().requires_grad_(), torch.zeros(len(subject.steps()))
    if subject.per_channel:
        op = torch._fake_quantize_learnable_per_channel_affine
        return lambda v: op(v, steps, zero, subject.axis, LO, HI, 1.0), (steps,)
    tensor_op = torch._fake_quantize_learnable_per_tensor_affine
    return lambda v: tensor_op(v, steps, zero, LO, HI, 1.0), (steps,)


def _broadcast(subject: Subject, steps: Tensor) -> Tensor:
    return steps.reshape([-1 if d == subject.axis else 1 for d in range(len(subject.shape))])


def _straight_through(v: Tensor, step: Tensor) -> Tensor:
    scaled = (v / step).clamp(LO, HI)
    return (scaled + (scaled.round() - scaled).detach()) * step


def _eager(subject: Subject, x: Tensor) -> tuple[Quantiser, tuple[Tensor, ...]]:
    step = _broadcast(subject, subject.steps())
    if x.requires_grad:
        return lambda v: _straight_through(v, step), ()
    return lambda v: v.div(step).round_().clamp_(LO, HI).mul_(step), ()


def _inductor(subject: Subject, x: Tensor, learned: bool = True) -> tuple[Quantiser, tuple[Tensor, ...]]:
    learned = learned and x.requires_grad
    step = _broadcast(subject, subject.steps()).requires_grad_(learned)
    with torch.set_grad_enabled(x.requires_grad):
        run = compiled(_straight_through, x, step)
    return lambda v: run(v, step), (step,) if learned else ()


def _brevitas(subject: Subject, x: Tensor) -> tuple[Quantiser, tuple[Tensor, ...]]:
    """Brevitas's fixed-point quantisers; a weight's finds its scale from the weight in every call, as in training."""
    compile_brevitas()
    layers, formats = library("brevitas.nn"), library("brevitas.quant.fixed_point")
    if subject.kind == "activation":
        quantiser = layers.QuantIdentity(act_quant=formats.Int8ActPerTensorFixedPoint, return_quant_tensor=False)
        quantiser(x.detach())
        return quantiser.eval(), ()
    form = formats.Int8WeightPerChannelFixedPoint if subject.per_channel else formats.Int8WeightPerTensorFixedPoint
    k, c, r, _ = subject.shape
    conv = layers.QuantConv2d(c, k, r, weight_quant=form)
    conv.weight = torch.nn.Parameter(x.detach().clone())
    if not x.requires_grad:
        return lambda v: conv.weight_quant(conv.weight), ()
    return lambda v: conv.weight_quant(v).value, ()


def _mask_backward(subject: Subject) -> Candidate:
    """torch's: the mask was stored by the forward."""

    def prepare(threads: int) -> Function:
        grad, mask = subject.values(), torch.ones(subject.shape, dtype=torch.bool)
        op = torch.ops.aten.fake_quantize_per_tensor_affine_cachemask_backward
        return lambda: op(grad, mask)

    return Candidate("torch fake_quantize", prepare)
