# SPDX-License-Identifier: Apache-2.0
"""Parameters, multiply-accumulates, FLOPs and bytes of a module, by named and documented rule sets.

Published tables disagree by factors of two and four because they count differently. A `Profile` is one way of counting;
`macs` of every account is always the plain number of multiply-accumulates of convolutions and matrix products.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from yolo_hw.errors import YoloHwError, nearest
from yolo_hw.nn.op_trace import Op, trace_ops

Rule = Callable[[Op], int]


def _macs(op: Op) -> int:
    return op.macs


def _macs_and_bias(op: Op) -> int:
    return op.macs + (op.outputs if op.bias else 0)


def _per_output(count: int) -> Rule:
    return lambda op: count * op.outputs


@dataclass(frozen=True)
class Profile:
    """One way of counting.

    Attributes:
        name: What `--profile` takes.
        source: Whose figures it reproduces.
        rules: Kind of operator (`Op.kind`) -> operations counted; kinds that are not named count nothing.
        flops_per_operation: What is printed as FLOPs for each counted operation.
        statistics: Whether running means and variances count as parameters.
    """

    name: str
    source: str
    rules: Mapping[str, Rule] = field(repr=False)
    flops_per_operation: float = 2.0
    statistics: bool = False


_PRODUCTS: dict[str, Rule] = {"conv": _macs, "linear": _macs, "matmul": _macs}

_PTFLOPS: dict[str, Rule] = {
    "conv": _macs_and_bias,
    "linear": _macs_and_bias,
    "batch_norm": lambda op: op.outputs * (2 if op.bias else 1),
    "relu": _per_output(1),
    "max_pool": lambda op: op.inputs,
    "avg_pool": lambda op: op.inputs,
    "global_pool": lambda op: op.inputs,
    "upsample": _per_output(1),
}

_THOP: dict[str, Rule] = {
    "conv": _macs,
    "linear": _macs,
    "batch_norm": lambda op: op.outputs * (4 if op.bias else 2),
    "avg_pool": _per_output(1),
    "global_pool": lambda op: op.outputs * (op.window + 1),
}

_DARKNET: dict[str, Rule] = {
    "conv": lambda op: 2 * op.macs,
    "max_pool": lambda op: op.outputs * op.window,
    "add": _per_output(1),
}

PROFILES: dict[str, Profile] = {
    profile.name: profile
    for profile in (
        Profile("macs", "convolutions and matrix products, 2 FLOPs per multiply-accumulate", _PRODUCTS),
        Profile("keras", "keras-flops as NetsPresso's tables use it; statistics are parameters", _PRODUCTS, 2.0, True),
        Profile("ptflops", "2 x ptflops 0.6, as the ResNet tables of ReconstructionPruning print it", _PTFLOPS),
        Profile("ptflops-half", "ptflops / 2, as its YOLOv3 table prints it: a quarter of 'ptflops'", _PTFLOPS, 0.5),
        Profile("thop", "2 x thop 0.1.1 without upsampling, as tables that start from MACs use it", _THOP),
        Profile("darknet", "'Total BFLOPS' that AlexeyAB/darknet prints", _DARKNET, 1.0, True),
    )
}
"""Every profile by its name."""


@dataclass(frozen=True)
class LayerAccount:
    """One module.

    Attributes:
        name: Its path in the model.
        kind: Its class.
        params: Learned numbers it owns; those shared with an earlier module count there.
        statistics: Running means and variances it owns.
        macs: Multiply-accumulates of convolutions and matrix products.
        operations: What the profile counts.
        param_bytes: Bytes of its parameters and statistics as they are in memory.
        activation_bytes: Bytes of what its operators write.
    """

    name: str
    kind: str
    params: int
    statistics: int
    macs: int
    operations: int
    param_bytes: int
    activation_bytes: int


@dataclass(frozen=True)
class Account:
    """What a model costs per image.

    Attributes:
        profile: How operations were counted.
        layers: Every module that owns parameters or runs a counted operator, in order of first use.
        weights: Learned numbers in tensors of two or more dimensions, which quantisation packs.
    """

    profile: Profile
    layers: tuple[LayerAccount, ...]
    weights: int

    @property
    def macs(self) -> int:
        """Multiply-accumulates of convolutions and matrix products, whatever the profile."""
        return sum(layer.macs for layer in self.layers)

    @property
    def flops(self) -> float:
        """FLOPs by the profile."""
        return self.flops_of(sum(layer.operations for layer in self.layers))

    @property
    def params(self) -> int:
        """Parameters by the profile."""
        learned = sum(layer.params for layer in self.layers)
        return learned + (self.statistics if self.profile.statistics else 0)

    @property
    def statistics(self) -> int:
        """Running means and variances."""
        return sum(layer.statistics for layer in self.layers)

    @property
    def param_bytes(self) -> int:
        """Bytes of parameters and statistics in memory."""
        return sum(layer.param_bytes for layer in self.layers)

    def flops_of(self, operations: int) -> float:
        """Return what the profile prints for a number of counted operations."""
        return self.profile.flops_per_operation * operations

    def packed_bytes(self, bits: int) -> int:
        """Return the bytes of weights of `bits` each, densely packed, and everything else learned as 4-byte numbers."""
        learned = sum(layer.params for layer in self.layers)
        return -(-self.weights * bits // 8) + 4 * (learned - self.weights)


def find_profile(name: str) -> Profile:
    """Return a profile by name.

    Raises:
        YoloHwError: There is none of that name.
    """
    if name not in PROFILES:
        raise YoloHwError(
            f"accounting: profile must be one of {', '.join(PROFILES)}, got '{name}'{nearest(name, PROFILES)}"
        )
    return PROFILES[name]


def account(
    model: nn.Module, input_shape: Sequence[int], profile: Profile | str = "macs", depth: int | None = None
) -> Account:
    """Count what a model costs for one image.

    Args:
        model: Any module of one image tensor, a `Darknet` or another; it is run on shapes, see `trace_ops`.
        input_shape: (C, H, W).
        profile: How to count.
        depth: Parts of a module's path that name a row, for example 2 for the layers of a `Darknet`; None gives every
            module a row.

    Returns:
        Totals and one row per module.

    Raises:
        YoloHwError: There is no such profile.
    """
    rules = find_profile(profile) if isinstance(profile, str) else profile
    modules = dict(model.named_modules())
    parts: dict[str, _Part] = {}

    def part_of(name: str) -> _Part:
        return parts.setdefault(".".join(name.split(".")[:depth]), _Part())

    for op in trace_ops(model, input_shape):
        part_of(op.layer).ops.append(op)
    for name, params, statistics in _owned_tensors(model):
        part_of(name).params.extend(params)
        part_of(name).statistics.extend(statistics)
    size = next(model.parameters(), torch.empty(0)).element_size()
    layers = [
        LayerAccount(
            name=name,
            kind=type(modules[name]).__name__,
            params=sum(p.numel() for p in part.params),
            statistics=sum(b.numel() for b in part.statistics),
            macs=sum(op.macs for op in part.ops),
            operations=sum(rules.rules[op.kind](op) for op in part.ops if op.kind in rules.rules),
            param_bytes=sum(t.numel() * t.element_size() for t in (*part.params, *part.statistics)),
            activation_bytes=size * sum(op.outputs for op in part.ops),
        )
        for name, part in parts.items()
    ]
    weights = sum(p.numel() for part in parts.values() for p in part.params if p.ndim > 1)
    return Account(rules, tuple(layers), weights)


@dataclass
class _Part:
    """What is collected for a row."""

    ops: list[Op] = field(default_factory=list)
    params: list[Tensor] = field(default_factory=list)
    statistics: list[Tensor] = field(default_factory=list)


def _owned_tensors(model: nn.Module) -> Iterator[tuple[str, list[Tensor], list[Tensor]]]:
    """Yield module path, its own parameters and the floating-point buffers of its state; shared ones once."""
    seen: set[int] = set()
    state = {id(value) for value in model.state_dict(keep_vars=True).values()}
    for name, module in model.named_modules():
        params: list[Tensor] = [p for p in module.parameters(recurse=False) if id(p) not in seen]
        buffers = [
            b for b in module.buffers(recurse=False) if id(b) in state and b.is_floating_point() and id(b) not in seen
        ]
        seen.update(id(t) for t in (*params, *buffers))
        if params or buffers:
            yield name, params, buffers
