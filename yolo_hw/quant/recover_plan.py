# SPDX-License-Identifier: Apache-2.0
"""The plan an integer graph was lowered from, so that graphs from files can be simulated and measured, too."""

from __future__ import annotations

from yolo_hw.errors import QuantError
from yolo_hw.intgraph import nodes as N
from yolo_hw.intgraph.graph import IntGraph
from yolo_hw.intgraph.nodes import Activation
from yolo_hw.quant.config import LeakySlope, QuantConfig
from yolo_hw.quant.plan import ConvCodes, QuantPlan, Table


def recover_plan(graph: IntGraph) -> QuantPlan:
    """Return formats, codes and tables of an integer graph, and the arithmetic as options.

    Of the options only rounding, overflow and the slope of leaky are known; the others have their defaults.

    Args:
        graph: A checked graph.

    Raises:
        QuantError: Leaky layers have different slopes, which a plan cannot hold.
    """
    convs: dict[str, ConvCodes] = {}
    tables: dict[str, Table] = {}
    slopes: dict[tuple[int, int], str] = {}
    for node in graph.nodes:
        if isinstance(node, N.Conv2d):
            convs[node.name] = ConvCodes(node.weight, node.w_frac, node.bias, node.w_bits)
        act = getattr(node, "act", None)
        if not isinstance(act, Activation):
            continue
        if act.table is not None and act.table_fmt is not None:
            tables[node.name] = Table(act.table_fmt, act.table)
        elif act.function == "leaky":
            slopes.setdefault((act.slope_mul, act.slope_shift), node.name)
    if len(slopes) > 1:
        (first, one), (second, other), *_ = slopes.items()
        raise QuantError(
            f"{graph.name}: all leaky layers must have one slope, got {first[0]} / 2**{first[1]} in {one} and "
            f"{second[0]} / 2**{second[1]} in {other}"
        )
    config = QuantConfig(
        rounding=graph.contract.rounding,
        overflow=graph.contract.overflow,
        leaky=LeakySlope(*next(iter(slopes))) if slopes else LeakySlope(),
    )
    return QuantPlan(config, {name: info.fmt for name, info in graph.tensors.items()}, convs, tables)
