# SPDX-License-Identifier: Apache-2.0
"""From nodes to a torch module. `OPERATORS` is the table of what is supported; the top function is `build_module`.

Modules are made without memory and every operation is carried out at once on tensors without memory, so all shapes are
known while building, and a size that does not fit is an error that names the node. The arrays of the file become the
module's tensors at the end.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from yolo_hw.errors import OnnxError
from yolo_hw.interop.from_onnx.constants import FOLDABLE, fold
from yolo_hw.interop.from_onnx.document import Array, OnnxDocument, OnnxNode
from yolo_hw.interop.from_onnx.names import ModuleNames
from yolo_hw.interop.from_onnx.patterns import Simplified, needed

META = "yolo_hw_shape"
"""Key of a node's result without memory in ``node.meta``."""

Result = fx.Node | tuple[fx.Node, ...]


class Refused(Exception):  # noqa: N818 - no error of its own: `build_module` collects them into one
    """Why a node has no form in torch."""


@dataclass
class Builder:
    """The module so far.

    Attributes:
        document: What it is built from.
        names: Gives out paths.
        constants: Known tensors; grows while building.
        graph: The code.
        modules: By path.
        state: By key of the module's state dict.
        maps: Tensor -> node that computes it.
        shared: What identifies a layer -> its path, for weights that are used several times.
        notes: What the user should know.
    """

    document: OnnxDocument
    names: ModuleNames
    constants: dict[str, Array]
    graph: fx.Graph = field(default_factory=fx.Graph)
    modules: dict[str, Any] = field(default_factory=dict)
    state: dict[str, Tensor] = field(default_factory=dict)
    maps: dict[str, fx.Node] = field(default_factory=dict)
    shared: dict[object, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> fx.Node:  # noqa: ANN401
        """Add a function call."""
        return self._with_shape(self.graph.call_function(function, args, kwargs), function)

    def module(self, path: str, module: nn.Module, x: fx.Node) -> fx.Node:
        """Add a module at `path`, unless it is there, and a call of it."""
        known = self.modules.setdefault(path, module.eval())
        return self._with_shape(self.graph.call_module(path, (x,)), known)

    def buffer(self, name: str, value: Array) -> fx.Node:
        """Add a tensor that is no parameter."""
        key = ("buffer", name)
        if key not in self.shared:
            path = self.names.take_constant(name)
            self.shared[key], self.state[path] = path, as_tensor(name, value)
            self.modules[path] = torch.empty(value.shape, device="meta", dtype=self.state[path].dtype)
        node = self.graph.get_attr(self.shared[key])
        node.meta[META] = self.modules[self.shared[key]]
        return node

    @staticmethod
    def _with_shape(node: fx.Node, function: Callable[..., Any]) -> fx.Node:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda one: one.meta[META])
        try:
            with torch.no_grad():
                node.meta[META] = function(*args, **kwargs)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            raise Refused(f"its inputs do not fit: {str(error).splitlines()[0]}") from None
        return node


@dataclass(frozen=True, eq=False)
class Call:
    """A node that is being translated."""

    builder: Builder
    node: OnnxNode

    @property
    def path(self) -> str:
        """A new path for a layer."""
        return self.builder.names.take(self.node)

    def has(self, index: int) -> bool:
        """Whether the optional input `index` is there."""
        return len(self.node.inputs) > index and self.node.inputs[index] != ""

    def map(self, index: int) -> fx.Node:
        """Return an input that is computed from the image."""
        name = self.node.inputs[index]
        if name not in self.builder.maps:
            raise Refused(f"input {index} must be computed from the image, got a constant")
        return self.builder.maps[name]

    def shape(self, index: int) -> tuple[int, ...]:
        """Return the shape of a map."""
        return tuple(self.map(index).meta[META].shape)

    def is_constant(self, index: int) -> bool:
        """Whether an input is known."""
        return self.has(index) and self.node.inputs[index] in self.builder.constants

    def constant(self, index: int) -> Array:
        """Return an input that must be known."""
        name = self.node.inputs[index]
        if name not in self.builder.constants:
            raise Refused(f"input {index} ('{name}') must be a constant, got a map")
        return self.builder.constants[name]

    def optional(self, index: int) -> Array | None:
        """Return a known input, None where it is absent."""
        return self.constant(index) if self.has(index) else None

    def integers(self, index: int, key: str, default: Sequence[int] | None = None) -> list[int] | None:
        """Return whole numbers that are an input in newer opsets and the attribute `key` in older ones."""
        if self.has(index):
            return [int(value) for value in self.constant(index).reshape(-1)]
        found = self.attribute(key, default)
        return None if found is None else [int(value) for value in np.atleast_1d(found)]

    def attribute(self, key: str, default: Any = None) -> Any:  # noqa: ANN401
        """Return an attribute."""
        return self.node.attributes.get(key, default)

    def operand(self, index: int) -> Any:  # noqa: ANN401
        """Return an input for arithmetic: a map, a number, or a tensor of the module."""
        if not self.is_constant(index):
            return self.map(index)
        value = self.constant(index)
        if value.size == 1 and value.ndim <= 1:
            return value.reshape(-1)[0].item()
        return self.builder.buffer(self.node.inputs[index], value)


Operator = Callable[[Call], Result]


def as_tensor(name: str, value: Array) -> Tensor:
    """Return an array as a tensor of its own.

    Raises:
        Refused: It has numbers that are not finite.
    """
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        raise Refused(f"tensor '{name}' must have finite numbers, got {int((~np.isfinite(value)).sum())} others")
    return torch.from_numpy(np.array(value, order="C"))


@dataclass(frozen=True, eq=False)
class Built:
    """A module, in evaluation mode.

    Attributes:
        module: Of a class called like the file. Takes [N, C, H, W], returns a tensor, or a list for several outputs.
        shapes: Of the outputs, without the images.
        batch: How many images it must be given; None for any number.
        notes: What the user should know.
    """

    module: fx.GraphModule
    shapes: tuple[tuple[int, ...], ...]
    batch: int | None
    notes: tuple[str, ...]


def build_module(
    document: OnnxDocument, simplified: Simplified, outputs: Sequence[str], operators: Mapping[str, Operator]
) -> Built:
    """Build a module with the tensors `outputs`.

    Args:
        document: The file.
        simplified: Its nodes.
        outputs: Tensors.
        operators: Operator -> what translates it.

    Returns:
        The module.

    Raises:
        OnnxError: Operators have no form in torch; names all of them.
    """
    nodes = needed(simplified, outputs)
    builder = Builder(document, ModuleNames(nodes, simplified.constants), dict(simplified.constants))
    image = builder.graph.placeholder("x")
    image.meta[META] = torch.empty(document.input_shape, device="meta")
    builder.maps[document.input] = image
    problems = [text for node in nodes if (text := _translate(builder, node, operators)) is not None]
    lost = [name for name in outputs if name not in builder.maps]
    if not problems and lost:
        problems.append(f"output '{lost[0]}' does not depend on the image")
    lists = [name for name in outputs if not lost and isinstance(builder.maps[name].meta[META], (tuple, list))]
    if lists:
        problems.append(f"output '{lists[0]}' must be one map, got a sequence: name its parts")
    if problems:
        supported = ", ".join(sorted(op for op in operators if op not in _OWN))
        unknown = any(node.op not in (*operators, *FOLDABLE) for node in nodes)
        hint = f". Supported: {supported}" if unknown else ""
        raise OnnxError(f"{document.path}: {'; '.join(problems)}{hint}")
    results = [builder.maps[name] for name in outputs]
    shapes = tuple(tuple(node.meta[META].shape[1:]) for node in results)
    builder.graph.output(results[0] if len(results) == 1 else results)
    for node in builder.graph.nodes:
        node.meta.pop(META, None)
    name = re.sub(r"\W|^(?=\d)", "_", document.path.stem)
    module = fx.GraphModule(builder.modules, builder.graph, name).eval()
    module.graph.eliminate_dead_code()
    module.recompile()
    batch = None if _takes_any_batch(module, document, shapes) else document.input_shape[0]
    if batch is not None:
        builder.notes.append(f"{document.path}: its sizes are made for {batch} images at a time, so the module's are")
    keys = set(module.state_dict())
    module.load_state_dict({key: value for key, value in builder.state.items() if key in keys}, assign=True)
    return Built(module.eval(), shapes, batch, tuple(builder.notes))


def _takes_any_batch(module: nn.Module, document: OnnxDocument, shapes: Sequence[tuple[int, ...]]) -> bool:
    """Whether a module, still without memory, turns other numbers of images into as many results."""
    count = document.input_shape[0] + 1
    try:
        with torch.no_grad():
            found = module(torch.empty(count, *document.input_shape[1:], device="meta"))
    except RuntimeError:
        return False
    results = [found] if isinstance(found, Tensor) else found
    return [tuple(y.shape) for y in results] == [(count, *shape) for shape in shapes]


_OWN = ("Silu", "Relu6", "Hardsigmoid", "Linear")


def _translate(builder: Builder, node: OnnxNode, operators: Mapping[str, Operator]) -> str | None:
    """Add a node to the module; return what is wrong with it."""
    place = f"node '{node.name}' ({node.op})"
    given = [name for name in node.inputs if name]
    if node.domain:
        return f"{place}: operators of the domain '{node.domain}' are not supported"
    if all(name in builder.constants for name in given) or (node.op in ("Shape", "Size") and _maps(builder, given)):
        return _compute(builder, node, place)
    if node.op not in (*operators, "Shape", "Size"):
        return f"{place}: this operator is not supported"
    if not all(name in builder.constants or name in builder.maps for name in given):
        return None  # an earlier node was refused, and is named
    try:
        result = operators[node.op](Call(builder, node))
    except Refused as reason:
        return f"{place}: {reason}"
    results = result if isinstance(result, tuple) else (result,)
    builder.maps |= dict(zip(node.outputs, results, strict=False))
    return None


def _maps(builder: Builder, names: Sequence[str]) -> bool:
    return all(name in builder.maps for name in names)


def _compute(builder: Builder, node: OnnxNode, place: str) -> str | None:
    """Compute a node of constants, or the shape of a map."""
    if node.inputs and node.inputs[0] in builder.maps:
        shape = np.array(builder.maps[node.inputs[0]].meta[META].shape, np.int64)
        start, end = node.attributes.get("start", 0), node.attributes.get("end")
        builder.constants[node.outputs[0]] = shape[start:end] if node.op == "Shape" else np.array(shape.prod())
        return None
    if node.op not in FOLDABLE:
        return f"{place}: this operator is not supported for constants"
    inputs = [builder.constants[name] if name else None for name in node.inputs]
    try:
        values = fold(node, inputs, builder.document.opset)
    except OnnxError as error:
        return str(error)
    builder.constants |= {name: value for name, value in zip(node.outputs, values, strict=True) if name}
    return None
