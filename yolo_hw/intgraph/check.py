# SPDX-License-Identifier: Apache-2.0
"""The invariants of an integer graph, one function each; `CHECKS` is the list.

A graph that passes can be run by every implementation without overflow, out-of-range index or undefined
value. Each check raises `GraphError` with its own name in front, so a test can plant one violation per
invariant and see that exactly that one is reported.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NoReturn

import numpy as np

from yolo_hw.darknet.layers import Shape
from yolo_hw.errors import GraphError
from yolo_hw.fixedpoint import IntArray
from yolo_hw.intgraph import nodes as N
from yolo_hw.intgraph.bounds import accumulator_bound
from yolo_hw.intgraph.graph import INPUT, IntGraph
from yolo_hw.intgraph.nodes import Activation, Node, TensorInfo
from yolo_hw.intgraph.requant import WIDE_BITS

MAX_WEIGHT_BITS = 16
BIAS_BITS = 32
ACC_BITS = (32, 48)
PLAIN_NAME = re.compile("[A-Za-z0-9_][A-Za-z0-9_.+-]{0,127}")
"""Names that are safe in file names; the schemas hold the same pattern."""
MIN_SHIFT = -16
MAX_SHIFT = 47


def check_graph(graph: IntGraph) -> None:
    """Check every invariant of `CHECKS`.

    Raises:
        GraphError: ``<invariant>: <graph>: <node>: what must hold, what was found``.
    """
    for check in CHECKS:
        check(graph)


def contract_is_supported(graph: IntGraph) -> None:
    """Accumulators have 32 or 48 bits, and output shifts a range every implementation covers."""
    c = graph.contract
    if c.acc_bits not in ACC_BITS:
        _fail(contract_is_supported, graph, "contract", f"acc_bits must be one of {ACC_BITS}, got {c.acc_bits}")
    if not MIN_SHIFT <= c.min_shift <= 0 <= c.max_shift <= MAX_SHIFT:
        _fail(
            contract_is_supported,
            graph,
            "contract",
            f"shifts must lie in [{MIN_SHIFT}, {MAX_SHIFT}] and include 0, got [{c.min_shift}, {c.max_shift}]",
        )


def names_are_plain(graph: IntGraph) -> None:
    """Names of graph and nodes become names of files and symbols: letters, digits and ``_ . + -``."""
    for name in (graph.name, *(node.name for node in graph.nodes)):
        if not PLAIN_NAME.fullmatch(name):
            _fail(names_are_plain, graph, name[:80], f"a name must match {PLAIN_NAME.pattern}")


def names_are_unique(graph: IntGraph) -> None:
    """Every node has its own name and a tensor of that name; no tensor is without a producer."""
    names = [INPUT, *(node.name for node in graph.nodes)]
    for name in names:
        if names.count(name) > 1:
            _fail(names_are_unique, graph, name, "the name must be unique")
        if name not in graph.tensors:
            _fail(names_are_unique, graph, name, "a tensor of this name must exist")
    for name in graph.tensors:
        if name not in names:
            _fail(names_are_unique, graph, name, "a node must produce this tensor")


def nodes_are_ordered(graph: IntGraph) -> None:
    """Nodes read only tensors that exist before them; outputs exist."""
    known = {INPUT}
    for node in graph.nodes:
        if not node.inputs:
            _fail(nodes_are_ordered, graph, node.name, "a node must have inputs")
        for name in node.inputs:
            if name not in known:
                _fail(nodes_are_ordered, graph, node.name, f"reads '{name}', which no node before it produces")
        known.add(node.name)
    for output in graph.outputs:
        if output.tensor not in known:
            _fail(nodes_are_ordered, graph, output.tensor, "is an output, but no node produces it")


def nodes_are_used(graph: IntGraph) -> None:
    """Every tensor is read by a node or leaves the graph."""
    used = {name for node in graph.nodes for name in node.inputs} | {output.tensor for output in graph.outputs}
    for name in graph.tensors:
        if name not in used:
            _fail(nodes_are_used, graph, name, "nobody reads this tensor")


def input_counts_fit(graph: IntGraph) -> None:
    """Conv2d, pools, slice, upsample and reorg read one tensor, mul two, add and concat one or more."""
    for node in graph.nodes:
        expected = 2 if isinstance(node, N.Mul) else 1
        if len(node.inputs) != expected and not isinstance(node, (N.Add, N.Concat)):
            _fail(input_counts_fit, graph, node.name, f"must have {expected} inputs, got {len(node.inputs)}")


def arrays_fit(graph: IntGraph) -> None:
    """Weight, w_frac and bias have matching shapes; groups divide the channels."""
    for node, inputs, _ in _typed(graph, N.Conv2d):
        assert isinstance(node, N.Conv2d)
        k, c = node.weight.shape[0], inputs[0].shape.c
        if node.weight.ndim != 4 or node.groups < 1 or c % node.groups or k % node.groups:
            _fail(arrays_fit, graph, node.name, f"groups={node.groups} must divide {c} input and {k} output channels")
        expected = (k, c // node.groups, *node.window.size)
        if node.weight.shape != expected:
            _fail(arrays_fit, graph, node.name, f"weight must have shape {expected}, got {node.weight.shape}")
        for role in ("w_frac", "bias"):
            if node.arrays[role].shape != (k,):
                _fail(arrays_fit, graph, node.name, f"{role} must have shape ({k},), got {node.arrays[role].shape}")


def windows_fit(graph: IntGraph) -> None:
    """Window sizes, strides and dilations are positive; every window touches the map; pads stay below the extent."""
    for node, inputs, out in _typed(graph, N.Conv2d, N.MaxPool):
        assert isinstance(node, (N.Conv2d, N.MaxPool))
        window = node.window
        if min(*window.size, *window.stride, *window.dilation) < 1 or min(window.pad) < 0:
            _fail(windows_fit, graph, node.name, f"size, stride, dilation must be >= 1 and pad >= 0, got {window}")
        if isinstance(node, N.MaxPool) and window.dilation != (1, 1):
            _fail(windows_fit, graph, node.name, f"a pool must have dilation 1, got {window.dilation}")
        for axis in (0, 1):
            last = (out.shape[1 + axis] - 1) * window.stride[axis] - window.pad[axis]
            if window.pad[axis] >= window.extent(axis) or last >= inputs[0].shape[1 + axis]:
                _fail(windows_fit, graph, node.name, f"a window lies outside of the map {inputs[0].shape}: {window}")


def shapes_are_consistent(graph: IntGraph) -> None:
    """The declared output shape is the one the node produces."""
    for node, inputs, out in _typed(graph, Node):
        expected = infer_shape(node, [info.shape for info in inputs], out.shape)
        if expected != out.shape or min(out.shape) < 1:
            _fail(shapes_are_consistent, graph, node.name, f"the output must have shape {expected}, got {out.shape}")


def moving_nodes_keep_format(graph: IntGraph) -> None:
    """Max pooling, concat, slice, upsample and reorg have one format on all sides."""
    for node, inputs, out in _typed(graph, N.MaxPool, N.Concat, N.Slice, N.Upsample, N.Reorg):
        for name, info in zip(node.inputs, inputs, strict=True):
            if info.fmt != out.fmt:
                _fail(
                    moving_nodes_keep_format, graph, node.name, f"must have format {info.fmt} of {name}, got {out.fmt}"
                )


def weights_are_in_range(graph: IntGraph) -> None:
    """Weight codes fit w_bits."""
    for node, _, _ in _typed(graph, N.Conv2d):
        assert isinstance(node, N.Conv2d)
        if not 2 <= node.w_bits <= MAX_WEIGHT_BITS:
            _fail(
                weights_are_in_range, graph, node.name, f"w_bits must be in [2, {MAX_WEIGHT_BITS}], got {node.w_bits}"
            )
        _check_range(weights_are_in_range, graph, node.name, node.weight, node.w_bits)


def biases_fit_int32(graph: IntGraph) -> None:
    """Bias codes fit 32 bits."""
    for node, _, _ in _typed(graph, N.Conv2d):
        assert isinstance(node, N.Conv2d)
        _check_range(biases_fit_int32, graph, node.name, node.bias, BIAS_BITS)


def accumulators_fit(graph: IntGraph) -> None:
    """No accumulator and no partial sum can leave the contract's acc_bits, and no product 64 bits."""
    for node, inputs, out in _typed(graph, Node):
        bound = accumulator_bound(node, inputs)
        requant = node.requant(inputs, out)
        if bound is None or requant is None:
            continue
        if bound.bits > graph.contract.acc_bits:
            _fail(
                accumulators_fit,
                graph,
                node.name,
                f"accumulators must fit {graph.contract.acc_bits} bits, channel {bound.channel} needs {bound.bits}",
            )
        factor = max(abs(requant.mul_pos), abs(requant.mul_neg))
        left = max(int(-requant.shift.min()), 0)
        if bound.bits + factor.bit_length() + left > WIDE_BITS - 1:
            _fail(accumulators_fit, graph, node.name, f"acc * mul << {left} must fit {WIDE_BITS} bits")


def shifts_are_legal(graph: IntGraph) -> None:
    """Output shifts lie in the contract's range, the extra shift of negative values included."""
    low, high = graph.contract.min_shift, graph.contract.max_shift
    for node, inputs, out in _typed(graph, Node):
        requant = node.requant(inputs, out)
        if requant is None:
            continue
        for shift in (requant.shift, requant.shift + requant.shift_neg):
            if shift.min() < low or shift.max() > high:
                channel = int(np.flatnonzero((shift < low) | (shift > high))[0])
                _fail(
                    shifts_are_legal,
                    graph,
                    node.name,
                    f"the output shift must be in [{low}, {high}], got {shift[channel]} in channel {channel}",
                )


def alignments_are_legal(graph: IntGraph) -> None:
    """The left shifts that align the inputs of an add are at most 31."""
    for node, inputs, _ in _typed(graph, N.Add):
        assert isinstance(node, N.Add)
        if max(node.alignment(inputs)) > 31:
            _fail(
                alignments_are_legal, graph, node.name, f"input shifts must be at most 31, got {node.alignment(inputs)}"
            )


def activations_are_valid(graph: IntGraph) -> None:
    """Caps and table entries are codes of the output; a table has one entry per code of its argument."""
    for node, _, out in _typed(graph, N.Conv2d, N.Add, N.Mul):
        assert isinstance(node, (N.Conv2d, N.Add, N.Mul))
        _check_activation(graph, node.name, node.act, out)


def averages_are_exact(graph: IntGraph) -> None:
    """An average's multiplier is the reciprocal of its element count."""
    for node, inputs, _ in _typed(graph, N.AvgPool):
        assert isinstance(node, N.AvgPool)
        expected = N.AvgPool.reciprocal(inputs[0].shape.h * inputs[0].shape.w)
        if (node.mul, node.mul_shift) != expected:
            _fail(averages_are_exact, graph, node.name, f"must be {expected}, got {(node.mul, node.mul_shift)}")


def heads_fit(graph: IntGraph) -> None:
    """A head's tensor has the channels its anchors and classes need."""
    for output in graph.outputs:
        channels = graph.tensors[output.tensor].shape.c
        if output.head is not None and output.head.channels != channels:
            _fail(heads_fit, graph, output.tensor, f"the head needs {output.head.channels} channels, got {channels}")


CHECKS: tuple[Callable[[IntGraph], None], ...] = (
    contract_is_supported,
    names_are_plain,
    names_are_unique,
    nodes_are_ordered,
    nodes_are_used,
    input_counts_fit,
    arrays_fit,
    windows_fit,
    shapes_are_consistent,
    moving_nodes_keep_format,
    weights_are_in_range,
    biases_fit_int32,
    alignments_are_legal,
    activations_are_valid,
    accumulators_fit,
    shifts_are_legal,
    averages_are_exact,
    heads_fit,
)
"""Every invariant, in an order in which each may rely on those before it."""


def infer_shape(node: Node, inputs: list[Shape], declared: Shape) -> Shape:
    """Return the shape a node produces; for windows the declared size is kept, `windows_fit` bounds it."""
    first = inputs[0]
    if isinstance(node, N.Conv2d):
        return Shape(node.weight.shape[0], declared.h, declared.w)
    if isinstance(node, N.MaxPool):
        return Shape(first.c, declared.h, declared.w)
    if isinstance(node, N.AvgPool):
        return Shape(first.c, 1, 1)
    if isinstance(node, N.Concat):
        same = all(shape[1:] == first[1:] for shape in inputs)
        return Shape(sum(shape.c for shape in inputs), first.h, first.w) if same else Shape(0, 0, 0)
    if isinstance(node, N.Slice):
        inside = 0 <= node.start < node.stop <= first.c
        return Shape(node.stop - node.start, first.h, first.w) if inside else Shape(0, 0, 0)
    if isinstance(node, N.Upsample):
        return Shape(first.c, first.h * node.stride, first.w * node.stride)
    if isinstance(node, N.Reorg):
        return _reorg_shape(node, first)
    if isinstance(node, N.Mul):
        factor = inputs[1]
        return first if factor in (first, Shape(first.c, 1, 1), Shape(1, first.h, first.w)) else Shape(0, 0, 0)
    return first if all(shape == first for shape in inputs) else Shape(0, 0, 0)


def _reorg_shape(node: N.Reorg, shape: Shape) -> Shape:
    s = node.stride
    if node.mode not in ("darknet", "space_to_depth") or s < 1:
        return Shape(0, 0, 0)
    if (node.reverse or node.mode == "darknet") and shape.c % (s * s):
        return Shape(0, 0, 0)
    if node.reverse:
        return Shape(shape.c // (s * s), shape.h * s, shape.w * s)
    divides = shape.h % s == 0 and shape.w % s == 0
    return Shape(shape.c * s * s, shape.h // s, shape.w // s) if divides else Shape(0, 0, 0)


def _check_activation(graph: IntGraph, name: str, act: Activation, out: TensorInfo) -> None:
    check = activations_are_valid
    if (act.table is None) != (act.table_fmt is None):
        _fail(check, graph, name, "a table must come with the format of its argument")
    if act.table is not None and act.table_fmt is not None:
        if act.table.shape != (1 << act.table_fmt.bits,):
            _fail(check, graph, name, f"the table must have {1 << act.table_fmt.bits} entries, got {act.table.shape}")
        if act.table.min() < out.fmt.lo or act.table.max() > out.fmt.hi:
            _fail(check, graph, name, f"table entries must lie in [{out.fmt.lo}, {out.fmt.hi}]")
    elif act.function in ("relu", "relu6"):
        if not 0 <= act.cap <= out.fmt.hi:
            _fail(check, graph, name, f"the cap must be in [0, {out.fmt.hi}], got {act.cap}")
    elif act.function not in ("linear", "leaky"):
        _fail(check, graph, name, f"the function '{act.function}' needs a table")
    slope = (act.slope_mul, act.slope_shift)
    if not (1 <= act.slope_mul < 1 << 16 and 0 <= act.slope_shift < 32):
        _fail(check, graph, name, f"the slope must be mul in [1, 2**16) and shift in [0, 32), got {slope}")
    if act.function != "leaky" and slope != (1, 0):
        _fail(check, graph, name, f"only leaky has a slope, got {act.function} with {slope}")


def _check_range(check: Callable[[IntGraph], None], graph: IntGraph, name: str, values: IntArray, bits: int) -> None:
    limit = 1 << (bits - 1)
    if values.size and (values.min() < -limit or values.max() >= limit):
        worst = int(values.reshape(-1)[np.abs(values).argmax()])
        _fail(check, graph, name, f"values must fit {bits} bits, got {worst}")


def _typed(graph: IntGraph, *types: type[Node]) -> list[tuple[Node, list[TensorInfo], TensorInfo]]:
    return [(n, graph.inputs_of(n), graph.output_of(n)) for n in graph.nodes if isinstance(n, types)]


def _fail(check: Callable[[IntGraph], None], graph: IntGraph, name: str, message: str) -> NoReturn:
    raise GraphError(f"{check.__name__}: {graph.name}: {name}: {message}")
