# SPDX-License-Identifier: Apache-2.0
"""From any torch module to a `torch.fx` graph whose nodes know their values on an example.

Two ways lead there. `torch.fx` keeps the modules and the size arithmetic of the code, so a pruned graph still takes
every size of image; the tracer below executes each node at once, which lets it follow loops over ``chunk`` and ``if``s
that plain symbolic tracing refuses. `torch.export` takes what Python does beyond that, with the numbers it saw.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from yolo_hw.errors import PruneError

Inputs = tuple[Tensor, ...]

EXAMPLE = "yolo_hw_example"
"""Key of a node's value on the example in ``node.meta``."""


@dataclass(frozen=True, eq=False)
class Traced:
    """A module as a graph.

    Attributes:
        module: The module that was traced.
        graph: Its operations; every node has its value on the example in ``node.meta[EXAMPLE]``.
        inputs: The example.
        way: ``fx`` or ``export``.
        constants: Tensors that the code makes outside of the module's parameters and buffers, by the names the graph
            gives them.
    """

    module: nn.Module
    graph: fx.Graph
    inputs: Inputs
    way: str
    constants: Mapping[str, Tensor]

    def execute(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any], module: nn.Module) -> Any:  # noqa: ANN401
        """Execute one node with the parameters of a module of this one's structure."""
        if node.op == "get_attr" and str(node.target) in self.constants:
            return self.constants[str(node.target)]
        return execute(module, node, args, kwargs)


class _ExampleProxy(fx.Proxy):
    """Knows how many parts a tuple has, which ``list(x.chunk(2, 1))`` asks, and that ``x += y`` writes into x."""

    def __len__(self) -> int:
        return _length(self)

    def __getattr__(self, name: str) -> fx.proxy.Attribute:
        return _ExampleAttribute(self, name)


class _ExampleAttribute(fx.proxy.Attribute):
    """Of an example: ``len(x.shape)``."""

    def __len__(self) -> int:
        return _length(self)


def _length(proxy: fx.Proxy) -> int:
    value = proxy.node.meta[EXAMPLE]
    if isinstance(value, (tuple, list)):
        return len(value)
    raise fx.proxy.TraceError(f"the length of a tensor ({proxy.node.name}) would be fixed by the example")


def _written(function: Callable[..., Any]) -> Callable[..., fx.Proxy]:
    def method(self: fx.Proxy, other: object) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    return method


for _name in ("iadd", "isub", "imul", "itruediv"):
    setattr(_ExampleProxy, f"__{_name}__", _written(getattr(operator, _name)))


class _ExampleTracer(fx.Tracer):
    """Executes every node when it is recorded, so that lengths and conditions are known."""

    proxy_buffer_attributes = True

    def __init__(self, inputs: Inputs) -> None:
        super().__init__()
        self._inputs = iter(inputs)
        self._executing = False

    def create_node(self, kind: str, *args: Any, **kwargs: Any) -> fx.Node:  # noqa: ANN401
        """Record a node and execute it."""
        node = super().create_node(kind, *args, **kwargs)
        if kind == "placeholder":
            node.meta[EXAMPLE] = next(self._inputs, node.args[0] if node.args else None)
        elif kind != "output":
            self._executing = True
            try:
                node.meta[EXAMPLE] = execute(self.root, node, *example_arguments(node))
            finally:
                self._executing = False
        return node

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Return a proxy of a node."""
        return _ExampleProxy(node, self)

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:  # noqa: ANN401
        """Record a call, or make it when a node is being executed."""
        return forward(*args, **kwargs) if self._executing else super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:  # noqa: ANN401
        """Record the use of a parameter, or take it when a node is being executed."""
        return attr_val if self._executing else super().getattr(attr, attr_val, parameter_proxy_cache)

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Take the branch that the example takes; only what no element decides may be a condition."""
        value = obj.node.meta[EXAMPLE]
        if isinstance(value, Tensor):
            raise fx.proxy.TraceError(f"a condition depends on the elements of a tensor ({obj.node.name})")
        return bool(value)

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        """Return the parts of a tuple, list or size."""
        value = obj.node.meta[EXAMPLE]
        if isinstance(value, (tuple, list)):
            return iter([operator.getitem(obj, i) for i in range(len(value))])
        return super().iter(obj)


def example_arguments(node: fx.Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return (args, kwargs) of a node on the example."""
    return fx.node.map_arg((node.args, node.kwargs), lambda n: n.meta[EXAMPLE])


def execute(root: nn.Module, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
    """Execute one node on concrete arguments."""
    with torch.no_grad():
        if node.op == "get_attr":
            return operator.attrgetter(str(node.target))(root)
        if node.op == "call_module":
            return root.get_submodule(str(node.target))(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        assert callable(node.target)
        return node.target(*args, **kwargs)


def copy_graph(graph: fx.Graph, nodes: dict[fx.Node, fx.Node]) -> fx.Graph:
    """Return a copy of a graph; `nodes` receives its node for each old one."""
    copied = fx.Graph()
    copied.output(copied.graph_copy(graph, nodes))
    copied.set_codegen(graph._codegen)  # how an exported program packs its results
    return copied


def as_inputs(example: Tensor | Inputs) -> Inputs:
    """Return an example as a tuple."""
    return (example,) if isinstance(example, Tensor) else tuple(example)


def trace_example(module: nn.Module, example: Tensor | Inputs, way: str = "auto") -> Traced:
    """Trace a module in the mode (training or evaluation) it is in.

    Args:
        module: Any module of tensors in, tensors out; it is executed twice and not changed.
        example: Its arguments, [N, C, H, W] most often; images as small as the module takes are enough.
        way: ``fx``, ``export``, or ``auto``: `torch.fx`, and `torch.export` for what that cannot follow.

    Returns:
        The graph.

    Raises:
        PruneError: The module cannot be traced; says why, for each way tried.
    """
    if way not in ("auto", "fx", "export"):
        raise PruneError(f"way must be 'auto', 'fx' or 'export', got {way!r}")
    inputs = as_inputs(example)
    reasons = []
    for name, trace in (("fx", _trace_fx), ("export", _trace_export)):
        if way in ("auto", name):
            try:
                with undisturbed(module):
                    graph, constants = trace(module, _copies(inputs))
                with undisturbed(module), torch.no_grad():
                    _check(graph, module(*_copies(inputs)))
                return Traced(module, graph, inputs, name, constants)
            except Exception as error:  # whatever the user's code raises under tracing
                first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
                reasons.append(f"torch.{name}: {first_line}")
    raise PruneError(f"{type(module).__name__} cannot be traced: {'; '.join(reasons)}")


def _copies(inputs: Inputs) -> Inputs:
    return tuple(x.clone() for x in inputs)


def _check(graph: fx.Graph, wanted: Any) -> None:  # noqa: ANN401
    """Refuse a graph that does not compute what the module does, for example after ``if``s on Python's own state."""
    output = next(node for node in graph.nodes if node.op == "output")
    found = tree_leaves(fx.node.map_arg(output.args[0], lambda node: node.meta[EXAMPLE]))
    tensors = [x for x in tree_leaves(wanted) if isinstance(x, Tensor)]
    found = [x for x in found if isinstance(x, Tensor)]
    same = len(found) == len(tensors) and all(
        a.shape == b.shape and torch.allclose(a.double(), b.double(), 1e-3, 1e-3, equal_nan=True)
        for a, b in zip(found, tensors, strict=True)
    )
    if not same:
        raise fx.proxy.TraceError("the traced code does not compute what the module does")


@contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """Undo what executing a module in training mode changes: running statistics and random numbers."""
    buffers = {key: value.clone() for key, value in module.named_buffers()}
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            yield
    finally:
        with torch.no_grad():
            for key, value in module.named_buffers():
                value.copy_(buffers[key])


def _trace_fx(module: nn.Module, inputs: Inputs) -> tuple[fx.Graph, dict[str, Tensor]]:
    before = set(vars(module))
    try:
        graph = _ExampleTracer(inputs).trace(module)
    finally:  # the tracer leaves constants on the module
        made = [name for name in set(vars(module)) - before if name.startswith("_tensor_constant")]
        constants = {name: vars(module).pop(name) for name in made}
    return graph, constants


def _trace_export(module: nn.Module, inputs: Inputs) -> tuple[fx.Graph, dict[str, Tensor]]:
    """Export with any batch size; where the code fixes the batch size, with that of the example."""
    any_batch = tuple({0: torch.export.Dim.AUTO} if x.dim() else None for x in inputs)
    program = torch.export.export(module, inputs, dynamic_shapes=any_batch, strict=False).module()
    assert isinstance(program, fx.GraphModule)
    graph = copy_graph(program.graph, {})
    values = iter(inputs)
    constants = {}
    for node in list(graph.nodes):
        if node.op == "call_module":  # guards of the example's shapes
            graph.erase_node(node)
        elif node.op == "placeholder":
            node.meta[EXAMPLE] = next(values)
        elif node.op != "output":
            node.meta[EXAMPLE] = execute(program, node, *example_arguments(node))
            if node.op == "get_attr" and str(node.target) not in module.state_dict():
                constants[str(node.target)] = node.meta[EXAMPLE]
    return graph, constants
