# SPDX-License-Identifier: Apache-2.0
"""Format groups: tensors that must share one format because codes are handed on unchanged between them.

Max pooling, concat, slice, upsample and reorg only move codes. Their inputs and output form a group, so a
route stays an address in the accelerator's memory. On targets that cannot align the inputs of an add, these form a
group, too.
"""

from __future__ import annotations

from dataclasses import dataclass

from yolo_hw.fixedpoint import MAX_BITS
from yolo_hw.intgraph.graph import INPUT
from yolo_hw.quant import folded as G
from yolo_hw.quant.config import QuantConfig
from yolo_hw.quant.folded import FoldedGraph, FoldedNode

_NON_NEGATIVE = frozenset({"relu", "relu6", "logistic", "h_sigmoid"})
_SIGN_KEEPING = frozenset({"linear", "leaky"})


@dataclass(frozen=True)
class FormatGroup:
    """Tensors with one common format.

    Attributes:
        members: All tensors of the group.
        producers: The members that are computed, not moved; their values decide the format.
        bits: Word length: the longest any producer asks for.
        signed: Whether any producer can be negative.
    """

    members: tuple[str, ...]
    producers: tuple[str, ...]
    bits: int
    signed: bool


def format_groups(graph: FoldedGraph, config: QuantConfig) -> list[FormatGroup]:
    """Partition the tensors of a graph (without the image, whose format is fixed).

    Args:
        graph: The folded graph.
        config: Word lengths and whether unsigned codes are allowed.

    Returns:
        The groups in order of their first tensor.
    """
    parent = {node.name: node.name for node in graph.nodes}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for node in graph.nodes:
        if node.moves:
            for source in node.inputs:
                parent[root(source)] = root(node.name)
        elif config.profile.equal_add and isinstance(node, G.FoldedAdd):
            for source in node.inputs[1:]:
                parent[root(source)] = root(node.inputs[0])
    grouped: dict[str, list[FoldedNode]] = {}
    for node in graph.nodes:
        grouped.setdefault(root(node.name), []).append(node)
    non_negative = _non_negative_tensors(graph)
    return [_make_group(members, config, non_negative) for members in grouped.values()]


def _make_group(members: list[FoldedNode], config: QuantConfig, non_negative: set[str]) -> FormatGroup:
    producers = [node.name for node in members if not node.moves]
    bits = max(config.activation_bits(name) for name in producers)
    unsigned = config.unsigned and bits < MAX_BITS and all(name in non_negative for name in producers)
    return FormatGroup(tuple(node.name for node in members), tuple(producers), bits, not unsigned)


def _non_negative_tensors(graph: FoldedGraph) -> set[str]:
    """Return the tensors that cannot be negative by construction."""
    known = {INPUT}
    for node in graph.nodes:
        inherits = not isinstance(node, G.FoldedConv) and node.activation in _SIGN_KEEPING
        if node.activation in _NON_NEGATIVE or (inherits and all(name in known for name in node.inputs)):
            known.add(node.name)
    return known
