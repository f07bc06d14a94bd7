# SPDX-License-Identifier: Apache-2.0
"""Lowering: a folded graph and its plan become an integer graph, node by node."""

from __future__ import annotations

from collections.abc import Callable

from yolo_hw.errors import QuantError
from yolo_hw.intgraph import nodes as N
from yolo_hw.intgraph.check import check_graph
from yolo_hw.intgraph.graph import INPUT, IntGraph, Output
from yolo_hw.intgraph.nodes import Activation, Node, TensorInfo
from yolo_hw.intgraph.violations import violations
from yolo_hw.quant import folded as G
from yolo_hw.quant.folded import FoldedGraph, FoldedNode
from yolo_hw.quant.plan import QuantPlan
from yolo_hw.quant.simulate import relu6_cap


def lower_graph(graph: FoldedGraph, plan: QuantPlan) -> IntGraph:
    """Build the integer graph.

    Args:
        graph: The folded network.
        plan: Formats and codes from `calibrate`.

    Returns:
        A graph that passes `check_graph` and that the plan's target can compute; its node names are those of the folded
        graph.

    Raises:
        GraphError: The plan violates an invariant.
        QuantError: The plan breaks a rule of its target.
    """
    if not graph.nodes:
        raise QuantError(f"{graph.name}: no layer computes anything")
    lowered = build_graph(graph, plan)
    check_graph(lowered)
    profile = plan.config.profile
    for violation in violations(lowered, profile):
        raise QuantError(f"{graph.name}: {violation} on target '{profile.name}'")
    return lowered


def build_graph(graph: FoldedGraph, plan: QuantPlan) -> IntGraph:
    """Do what `lower_graph` does, without a check."""
    tensors = {INPUT: TensorInfo(graph.input_shape, plan.formats[INPUT])}
    tensors |= {node.name: TensorInfo(node.shape, plan.formats[node.name]) for node in graph.nodes}
    return IntGraph(
        name=graph.name,
        contract=plan.config.contract,
        nodes=tuple(_LOWER[type(node)](node, plan) for node in graph.nodes),
        tensors=tensors,
        outputs=tuple(Output(tensor, head) for tensor, head in graph.outputs),
    )


def _activation(node: FoldedNode, plan: QuantPlan) -> Activation:
    fmt = plan.formats[node.name]
    table = plan.tables.get(node.name)
    if table is not None:
        return Activation(node.activation, table=table.codes, table_fmt=table.fmt)
    if node.activation == "leaky":
        return Activation("leaky", slope_mul=plan.config.leaky.mul, slope_shift=plan.config.leaky.shift)
    if node.activation == "relu":
        return Activation("relu", cap=fmt.hi)
    if node.activation == "relu6":
        return Activation("relu6", cap=relu6_cap(fmt, plan.config.rounding))
    return Activation()


def _conv(node: G.FoldedConv, plan: QuantPlan) -> Node:
    codes = plan.convs[node.name]
    return N.Conv2d(
        name=node.name,
        inputs=node.inputs,
        weight=codes.weight,
        w_frac=codes.w_frac,
        bias=codes.bias,
        w_bits=codes.w_bits,
        window=node.window,
        groups=node.groups,
        act=_activation(node, plan),
    )


def _avgpool(node: G.FoldedAvgPool, plan: QuantPlan) -> Node:
    mul, mul_shift = N.AvgPool.reciprocal(node.count)
    return N.AvgPool(name=node.name, inputs=node.inputs, mul=mul, mul_shift=mul_shift)


def _slice(node: G.FoldedSlice, plan: QuantPlan) -> Node:
    return N.Slice(name=node.name, inputs=node.inputs, start=node.start, stop=node.stop)


def _reorg(node: G.FoldedReorg, plan: QuantPlan) -> Node:
    return N.Reorg(name=node.name, inputs=node.inputs, stride=node.stride, reverse=node.reverse, mode=node.mode)


_LOWER: dict[type[FoldedNode], Callable[..., Node]] = {
    G.FoldedConv: _conv,
    G.FoldedAdd: lambda node, plan: N.Add(name=node.name, inputs=node.inputs, act=_activation(node, plan)),
    G.FoldedMul: lambda node, plan: N.Mul(name=node.name, inputs=node.inputs, act=_activation(node, plan)),
    G.FoldedAvgPool: _avgpool,
    G.FoldedMaxPool: lambda node, plan: N.MaxPool(name=node.name, inputs=node.inputs, window=node.window),
    G.FoldedConcat: lambda node, plan: N.Concat(name=node.name, inputs=node.inputs),
    G.FoldedSlice: _slice,
    G.FoldedUpsample: lambda node, plan: N.Upsample(name=node.name, inputs=node.inputs, stride=node.stride),
    G.FoldedReorg: _reorg,
}
