# SPDX-License-Identifier: Apache-2.0
"""The state of a walk over a traced graph, and one call in it: what the rules for operations are written with."""

from __future__ import annotations

import copy
import math
import operator
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, fx, nn

from yolo_hw.prune.channels import Elementwise, FloatArray, GraphBuilder, IntArray, Value
from yolo_hw.prune.example_trace import EXAMPLE, Traced
from yolo_hw.prune.movement import Shape, Tracked, along


@dataclass(frozen=True, eq=False)
class Stored:
    """A parameter or buffer, possibly viewed in another shape.

    Attributes:
        path: Its key in the state dict.
        shape: Of the view.
        dim: The only dim of the stored tensor longer than 1, None where there is none or several.
        numbers: [of the view's dims, 1 where nothing varies] index along `dim` of each element; None as for `dim`.
    """

    path: str
    shape: Shape
    dim: int | None = None
    numbers: Tensor | None = None


Known: TypeAlias = "Tracked | Stored | tuple[Tracked | Stored | None, ...] | None"
"""What is known of a node's result; None: nothing, or no channels in it."""


@dataclass
class Walk:
    """What is known so far.

    Attributes:
        traced: The traced module.
        builder: Writes the channel graph.
        known: Node -> what it holds now; in-place operations change it.
        results: Node -> what it returned.
        stored_ids: Path of a tensor used by an elementwise operation -> ids along its `Stored.dim`.
        paths: Keys of the module's state dict.
        uses: Target of a node -> how often it is called, or read as a weight.
        first: Layer -> what it read and wrote when it was first called.
    """

    traced: Traced
    builder: GraphBuilder = field(default_factory=GraphBuilder)
    known: dict[fx.Node, Known] = field(default_factory=dict)
    results: dict[fx.Node, Known] = field(default_factory=dict)
    stored_ids: dict[str, IntArray] = field(default_factory=dict)
    paths: frozenset[str] = frozenset()
    uses: Counter[str] = field(default_factory=Counter)
    first: dict[str, tuple[Value, Value]] = field(default_factory=dict)

    def parameter(self, path: str) -> Tensor:
        """Return a tensor of the module as it is now."""
        found = operator.attrgetter(path)(self.traced.module)
        assert isinstance(found, Tensor)
        return found


@dataclass(frozen=True, eq=False)
class Call:
    """One node that does something.

    Attributes:
        walk: The walk it is part of.
        node: The node.
        name: What it does, see `operation_name`.
        module: The module it calls, or None.
    """

    walk: Walk
    node: fx.Node
    name: str
    module: nn.Module | None

    @property
    def builder(self) -> GraphBuilder:
        """The writer of the channel graph."""
        return self.walk.builder

    @property
    def example(self) -> Any:  # noqa: ANN401
        """The result on the example."""
        return self.node.meta[EXAMPLE]

    @property
    def shape(self) -> Shape:
        """Shape of the result."""
        return tuple(self.example.shape)

    @property
    def layer(self) -> str:
        """The module it calls, or its own name."""
        return str(self.node.target) if self.module is not None else self.node.name

    @property
    def place(self) -> str:
        """The operation and the module whose code it is in, for messages."""
        stack = list(self.node.meta.get("nn_module_stack", {}).values())
        inside = stack[-1][0] if stack else ""
        return f"{self.name} in {inside}" if inside else self.name

    def argument(self, position: int, key: str, default: Any = None) -> Any:  # noqa: ANN401
        """Return an argument as the graph has it."""
        if position < len(self.node.args):
            return self.node.args[position]
        return self.node.kwargs.get(key, default)

    def number(self, position: int, key: str, default: Any = None) -> Any:  # noqa: ANN401
        """Return an argument on the example."""
        return fx.node.map_arg(self.argument(position, key, default), lambda node: node.meta[EXAMPLE])

    def known(self, argument: object) -> Known:
        """Return what is known of an argument."""
        return self.walk.known.get(argument) if isinstance(argument, fx.Node) else None

    def tracked(self, argument: object, axis: int) -> Tracked | None:
        """Return the channels of an argument if they lie along one axis, [N, ..., C, ...], in the value's order."""
        known = self.known(argument)
        return plain(self, known) if isinstance(known, Tracked) and known.axis == axis else None

    def inputs(self) -> Iterator[Tracked]:
        """Yield every argument that holds channels."""
        for node in self.node.all_input_nodes:
            known = self.known(node)
            for part in known if isinstance(known, tuple) else (known,):
                if isinstance(part, Tracked):
                    yield part

    def other_tensors(self, allowed: Sequence[object]) -> bool:
        """Return whether an argument besides the allowed ones is a tensor of more than one element."""
        nodes = [node for node in self.node.all_input_nodes if all(node is not one for one in allowed)]
        values = [node.meta[EXAMPLE] for node in nodes]
        return any(isinstance(value, Tensor) and value.numel() > 1 for value in values)

    def unknown(self, why: str = "not known") -> Known:
        """Protect every channel that the call reads; nothing is known of its result."""
        inputs = list(self.inputs())
        if inputs:
            reason = f"{self.place}: {why}"
            self.builder.opaque([part.value for part in inputs], self.layer, 0, (1, 1), reason)
        return None

    def given(self, axis: int, shape: Shape, why: str) -> Tracked:
        """Return protected channels for a tensor that holds none that are known."""
        value = self.builder.opaque([], self.layer, shape[axis], map_size(shape, axis), f"{self.place}: {why}")
        return Tracked(value, shape, axis)

    def like(self, value: Value, x: Tracked) -> Tracked:
        """Return the channels of a result whose elements correspond to those of `x`, from the right."""
        return Tracked(value, self.shape, x.axis + len(self.shape) - len(x.shape), x.mixed)

    def function(self, x: Tracked) -> Elementwise:
        """Return what the call does to constants [C] of the argument `x`, with the parameters as they are then."""
        known = {node: self.known(node) for node in self.node.all_input_nodes}  # later calls may write in place
        traced, parameter = self.walk.traced, self.walk.parameter

        def on_constants(constants: FloatArray) -> FloatArray:
            row = along(np.asarray(constants, np.float64), x.axis, x.shape)

            def value(node: fx.Node) -> Any:  # noqa: ANN401
                held, given = known[node], node.meta[EXAMPLE]
                if isinstance(held, Stored):
                    return parameter(held.path).detach().cpu().double().reshape(held.shape)
                return row.clone() if held is x else given.cpu().double() if isinstance(given, Tensor) else given

            args, kwargs = fx.node.map_arg((self.node.args, self.node.kwargs), value)
            if self.module is None:
                result = traced.execute(self.node, args, kwargs, traced.module)
            else:
                with torch.no_grad():
                    result = copy.deepcopy(self.module).cpu().double().eval()(*args, **kwargs)
            return np.array(result.detach().double().reshape(-1).numpy(), np.float64)

        return on_constants


def map_size(shape: Shape, axis: int) -> tuple[int, int]:
    """Return (height, width) of the maps of a tensor with channels along `axis`."""
    if axis == 1 and len(shape) == 4:
        return shape[2], shape[3]
    return 1, math.prod(size for dim, size in enumerate(shape) if dim not in (0, axis))


def plain(call: Call, x: Tracked) -> Tracked:
    """Return `x` as channels along its axis alone.

    Where several channels share an index, they are one constant if they have the same one.
    """
    if x.mixed is None:
        return x
    rows = [torch.unique(row) for row in x.mixed.movedim(x.axis, 0).flatten(1)]
    longest = max(map(len, rows))
    sources = torch.stack([torch.cat([row, row[-1:].expand(longest - len(row))]) for row in rows])
    value = call.builder.moved([x.value], call.layer, sources.numpy(), map_size(x.shape, x.axis))
    return Tracked(value, x.shape, x.axis)
