# SPDX-License-Identifier: Apache-2.0
"""Random integer convolutions and what they mean, from numpy and the integer graph's requantisation."""

from dataclasses import dataclass, field, replace

import numpy as np
import torch

from yolo_hw.fixedpoint import FixedPoint, Overflow, Rounding
from yolo_hw.intgraph.requant import NumericContract, Requant
from yolo_hw.ops.int_conv2d import OutputCodes, int_conv2d


@dataclass
class Case:
    """Arguments of `int_conv2d`, by its names."""

    x: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor
    shift: torch.Tensor
    output: OutputCodes
    options: dict = field(default_factory=dict)
    """stride, padding, dilation: pairs; groups, table."""

    def run(self, device: str = "cpu") -> torch.Tensor:
        tensors = [t.to(device) for t in (self.x, self.weight, self.bias, self.shift)]
        options = {name: v.to(device) if isinstance(v, torch.Tensor) else v for name, v in self.options.items()}
        return int_conv2d(*tensors, self.output, **options)

    def changed(self, **options) -> "Case":
        return replace(self, options=self.options | options)


def accumulators(case: Case) -> np.ndarray:
    """Return the sums of products with bias, [N, K, Ho, Wo] int64, wrapped at 32 bits."""
    pairs = [case.options.get(name, default) for name, default in (("stride", 1), ("padding", 0), ("dilation", 1))]
    (sy, sx), (py, px), (dy, dx) = [(p, p) if isinstance(p, int) else p for p in pairs]
    x = np.pad(case.x.numpy().astype(np.int64), ((0, 0), (0, 0), (py, py), (px, px)))
    weight, groups = case.weight.numpy().astype(np.int64), case.options.get("groups", 1)
    n, c, h, w = x.shape
    k, _, r, s = weight.shape
    ho, wo = (h - dy * (r - 1) - 1) // sy + 1, (w - dx * (s - 1) - 1) // sx + 1
    x, weight = x.reshape(n, groups, c // groups, h, w), weight.reshape(groups, k // groups, c // groups, r, s)
    acc = np.zeros((n, groups, k // groups, ho, wo), np.int64)
    for i in range(r):
        for j in range(s):
            view = x[..., i * dy : i * dy + (ho - 1) * sy + 1 : sy, j * dx : j * dx + (wo - 1) * sx + 1 : sx]
            acc += np.einsum("gkc,ngcyx->ngkyx", weight[..., i, j], view)
    acc = acc.reshape(n, k, ho, wo) + case.bias.numpy().astype(np.int64).reshape(-1, 1, 1)
    return (acc + 2**31) % 2**32 - 2**31


def expected(case: Case) -> torch.Tensor:
    """Return the output codes by yolo_hw/intgraph/requant.py."""
    output, table = case.output, case.options.get("table")
    low, high = output.clamp or (output.code.lo, output.code.hi)
    factors = (output.mul_pos, output.mul_neg, output.shift_neg)
    entries = None if table is None else table.numpy().astype(np.int64)
    requant = Requant(case.shift.numpy().astype(np.int64), output.code, low, high, *factors, entries)
    contract = NumericContract(output.rounding, output.overflow)
    codes = np.stack([requant.apply(acc, contract) for acc in accumulators(case)])
    dtype = table.dtype if table is not None else torch.int8 if output.code.signed else torch.uint8
    return torch.from_numpy(codes).to(dtype)


def random_case(rng: np.random.Generator, *, signed: bool | None = None) -> Case:
    """Return a small convolution of a random kind: group structure, sizes with tails, steps, modes, table, extremes."""
    kind = rng.choice(["dense", "grouped", "depthwise", "multiplied", "pointwise"])
    groups = {"dense": 1, "pointwise": 1}.get(kind) or int(rng.choice([2, 3, 4, 8, 20]))
    per_group = {"depthwise": 1, "multiplied": 1}.get(kind) or int(rng.choice([1, 2, 3, 4, 5, 8, 16, 17, 20, 32, 48]))
    outputs = 1 if kind == "depthwise" else int(rng.choice([1, 2, 3, 5, 8, 16, 17, 33, 64, 70]))
    r, s = (1, 1) if kind == "pointwise" else (int(v) for v in rng.integers(1, 6, 2))
    step = {name: tuple(int(v) for v in rng.integers(low, 4, 2)) for name, low in (("stride", 1), ("padding", 0))}
    dilation = tuple(int(v) for v in rng.integers(1, 3, 2))
    h, w = (int(rng.integers(1, 9)) + d * (k - 1) for d, k in zip(dilation, (r, s), strict=True))
    signed = bool(rng.integers(2)) if signed is None else signed
    low, high = (-128, 128) if signed else (0, 256)
    extreme = rng.random() < 0.2
    shape, weight_shape = (int(rng.integers(1, 3)), groups * per_group, h, w), (groups * outputs, per_group, r, s)
    x = rng.choice([low, high - 1], shape) if extreme else rng.integers(low, high, shape)
    weight = rng.choice([-128, 127], weight_shape) if extreme else rng.integers(-128, 128, weight_shape)
    if rng.random() < 0.05:
        x, weight = np.full(shape, low), np.full(weight_shape, -128)
    depth = per_group * r * s
    middle = int(np.log2(depth) / 2) + 6
    return Case(
        torch.from_numpy(x).to(torch.int8 if signed else torch.uint8),
        torch.from_numpy(weight).to(torch.int8),
        torch.from_numpy(rng.integers(-4000, 4000, groups * outputs)).to(torch.int32),
        torch.from_numpy(np.clip(rng.integers(middle - 3, middle + 4, groups * outputs), 0, 31)).to(torch.int32),
        *random_output(rng, {**step, "dilation": dilation, "groups": groups}),
    )


def random_output(rng: np.random.Generator, options: dict) -> tuple[OutputCodes, dict]:
    """Return output codes and the options with a table where there is one."""
    modes = (list(Rounding)[rng.integers(4)], list(Overflow)[rng.integers(3)])
    leaky = (1, 51, 9) if rng.random() < 0.4 else (1, 1, 0)
    bits, signed = int(rng.integers(2, 9)), bool(rng.integers(2))
    if rng.random() < 0.3:
        dtype = [torch.int8, torch.uint8, torch.int16][rng.integers(3)]
        info, bits = torch.iinfo(dtype), int(rng.integers(2, 13))
        table = torch.from_numpy(rng.integers(info.min, info.max + 1, 2**bits)).to(dtype)
        return OutputCodes(FixedPoint(bits, 0, signed), None, *leaky, *modes), options | {"table": table}
    code = FixedPoint(bits, 0, signed)
    clamp = None if rng.random() < 0.5 else (max(code.lo, 0), max(code.hi - 1, 0))
    return OutputCodes(code, clamp, *leaky, *modes), options
