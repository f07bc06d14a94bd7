# SPDX-License-Identifier: Apache-2.0
"""What translating one operator needs: the graph under construction, names, and values brought into shape."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from yolo_hw.errors import QuantError
from yolo_hw.quant import folded as F
from yolo_hw.quant.source import ConvSource
from yolo_hw.quant.traced.builder import Builder, is_diagonal
from yolo_hw.quant.traced.gather import gathered
from yolo_hw.quant.traced.values import BATCH, Source, Value, broadcast, numbers


@dataclass(frozen=True)
class Operator:
    """One operator of the traced code.

    Attributes:
        name: For nodes: the module's path, and what it does if the module does several things.
        place: For messages: operator and module.
        shape: Sizes of its (first) result, N included.
    """

    name: str
    place: str
    shape: tuple[int, ...]

    def refuse(self, reason: str) -> QuantError:
        """Return the error that names the operator."""
        return QuantError(f"{self.place}: {reason}")


def describe(node: fx.Node, module: nn.Module) -> Operator:
    """Return where an operator stands in a module."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = str(stack[-1][0]) if stack else ""
    kind = getattr(node.target, "_opname", getattr(node.target, "__name__", str(node.target))).strip("_")
    leaf = bool(path) and not any(True for _ in module.get_submodule(path).children())
    name = path if leaf else f"{path}.{kind}".removeprefix(".")
    place = f"{path or type(module).__name__} ({kind})"
    value = node.meta.get("val")
    first = value[0] if isinstance(value, (tuple, list)) and value else value
    return Operator(name, place, tuple(first.shape) if isinstance(first, Tensor) else ())


class Tracer:
    """Holds the builder, the module's tensors and what was gathered already."""

    def __init__(self, builder: Builder, module: nn.Module) -> None:
        """Remember which memory is the module's own."""
        self.builder = builder
        self.module = module
        self._own = {x.untyped_storage().data_ptr() for x in module.parameters() if x.numel()}
        self._gathered: dict[int, tuple[Value, Source]] = {}

    def is_live(self, x: Tensor) -> bool:
        """Whether a tensor is a parameter of the module, or a view of one."""
        return x.untyped_storage().data_ptr() in self._own

    def gathered(self, value: Value) -> Source:
        """Return the folded tensor of a value as a map, made once; it may be the image."""
        if id(value) not in self._gathered:
            self._gathered[id(value)] = (value, gathered(self.builder, value))
        return self._gathered[id(value)][1]

    def readable(self, value: Value) -> Source:
        """Return the folded tensor of a value for nodes that are no convolutions."""
        return self.builder.readable(self.gathered(value))

    def settled(self, value: Value) -> Value:
        """Return the value as one whole folded tensor that is not the image."""
        if value.whole and value.source != self.builder.image:
            return value
        source = self.readable(value)
        fresh = source not in value.sources and value.sole
        return reshaped(source, value.shape, fresh)

    def channel_vector(self, value: Value, constant: Tensor, op: Operator) -> Tensor:
        """Return what a constant is for every channel of a whole value's source, [C].

        Args:
            value: A whole value.
            constant: Broadcasts over [N, *value.shape].
            op: For the error.

        Raises:
            QuantError: The constant differs between the pixels of a channel.
        """
        source = value.source
        if constant.numel() == 1:
            return constant.reshape(1) if source.shape.c == 1 else constant.detach().reshape(1).repeat(source.shape.c)
        full = constant.detach().expand(BATCH, *value.shape)
        spread = full.new_empty(source.shape.numel)
        spread[(value.elements() - 1).flatten().to(full.device)] = full[0].flatten()
        rows = spread.reshape(source.shape.c, -1)
        if not torch.equal(full[0], full[1]) or not torch.equal(rows, rows[:, :1].expand_as(rows)):
            raise op.refuse("a constant must be one number per channel; this one differs from pixel to pixel")
        flat = constant.reshape(-1)
        return flat if torch.equal(flat, rows[:, 0]) else rows[:, 0]

    def affine(self, value: Value, scale: Tensor | None, shift: Tensor | None, op: Operator) -> Value:
        """Return ``value * scale + shift`` with constants per channel: a depthwise 1 x 1 convolution.

        A constant that is a parameter of the module is trained with it. One behind the other become one, unless a
        parameter is among them.
        """
        value = self._over(value, [x for x in (scale, shift) if x is not None], op)
        if not value.whole:
            value = self.settled(value)
        factor = None if scale is None else self.channel_vector(value, scale, op)
        bias = None if shift is None else self.channel_vector(value, shift, op)
        source = value.source
        before = self._fixed_affine(source.name) if value.sole else None
        if before is not None and not any(self.is_live(x) for x in (factor, bias) if x is not None):
            self.builder.change_source(source.name, self._composed(before, factor, bias))
            return value
        ones = torch.ones(source.shape.c)
        weight = self.builder.constant(ones) if factor is None else self._kept(factor)
        made = self.builder.depthwise(
            op.name,
            source,
            ConvSource(
                weight.reshape(-1, 1, 1, 1),
                bias=None if bias is None else self._kept(bias),
                fixed=factor is None or not self.is_live(factor),
                fixed_bias=bias is None or not self.is_live(bias),
            ),
        )
        return Value((made,), value.shape, op.name, value.index, True)

    def _kept(self, x: Tensor) -> Tensor:
        """Return a parameter as it is, any other constant in the model's dtype."""
        return x if self.is_live(x) else self.builder.constant(x)

    def _over(self, value: Value, constants: list[Tensor], op: Operator) -> Value:
        wanted = broadcast((BATCH, *value.shape), *(tuple(x.shape) for x in constants))
        if wanted == (BATCH, *value.shape):
            return value
        raise op.refuse(f"a constant must not be larger than what it is combined with: {list(value.shape)}")

    def _fixed_affine(self, name: str) -> ConvSource | None:
        """Return the source of an earlier `affine` of constants."""
        node, source = self.builder.nodes.get(name), self.builder.linear_conv(name)
        if source is None or not isinstance(node, F.FoldedConv) or node.window.taps > 1:
            return None
        if not node.depthwise and not is_diagonal(source.weight):  # dense where it reads the image
            return None
        return source if source.fixed and (source.bias is None or source.fixed_bias) else None

    def _composed(self, before: ConvSource, factor: Tensor | None, bias: Tensor | None) -> ConvSource:
        weight, old = before.weight.double(), before.bias
        total = None if old is None else old.double()
        if factor is not None:
            weight = weight * factor.double().reshape(-1, 1, 1, 1)
            total = None if total is None else total * factor.double()
        if bias is not None:
            total = bias.double() if total is None else total + bias.double()
        constant = self.builder.constant
        return ConvSource(
            constant(weight), bias=None if total is None else constant(total), gain=before.gain, fixed=True,
            fixed_bias=True,
        )  # fmt: skip

    def activated(self, value: Value, activation: str, op: Operator) -> Value:
        """Return an activation of a value, in the node that computes it where nothing else reads that."""
        value = self.settled(value)
        if value.sole and self.builder.fuse_activation(value.source.name, activation):
            return value
        name = self.builder.unique(op.name)
        source = value.source
        node = F.FoldedAdd(name=name, inputs=(source.name,), shape=source.shape, activation=activation)
        return Value((self.builder.emit(node),), value.shape, op.name, value.index, True)


def reshaped(source: Source, shape: tuple[int, ...], sole: bool = True) -> Value:
    """Return a folded tensor, element by element, as [N, *shape]."""
    index = None if tuple(source.shape) == tuple(shape) else numbers(shape)
    return Value((source,), tuple(shape), source.name, index, sole)


def as_map(tracer: Tracer, value: Value, op: Operator) -> Value:
    """Return a value that must be [N, C, H, W]."""
    if len(value.shape) != 3:
        raise op.refuse(f"must read [N, C, H, W], got {['N', *value.shape]}")
    return value
