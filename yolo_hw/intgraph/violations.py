# SPDX-License-Identifier: Apache-2.0
"""Which rules of a target an integer graph breaks: one rule per field of `TargetProfile`, named like the field.

`NUMERIC_RULES` depend on fraction bits, so that another choice of them may be legal; the others do not.
The solver of `yolo_hw.quant.legal` asks the same numeric rules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from yolo_hw.fixedpoint import FixedPoint, IntArray, Overflow, Rounding
from yolo_hw.intgraph import nodes as N
from yolo_hw.intgraph.check import BIAS_BITS
from yolo_hw.intgraph.graph import INPUT, IntGraph
from yolo_hw.intgraph.nodes import Activation, Node
from yolo_hw.intgraph.quantities import Quantities, node_quantities
from yolo_hw.intgraph.target import Slope, Span, TargetProfile


@dataclass(frozen=True)
class Violation:
    """One rule that one node breaks.

    Attributes:
        rule: Field of the profile.
        node: Name of the node, of the tensor or ``contract``.
        channel: First output channel that breaks it, None if the rule is about the whole node.
        found: What was found there.
        allowed: What must hold.
        count: Channels that break it.
    """

    rule: str
    node: str
    channel: int | None
    found: str
    allowed: str
    count: int = 1

    def __str__(self) -> str:
        where = "" if self.channel is None else f" in channel {self.channel}"
        more = f" (and {self.count - 1} channels more)" if self.count > 1 else ""
        return f"{self.node}: {self.rule} must be {self.allowed}, got {self.found}{where}{more}"


class Verdict(NamedTuple):
    """Outcome of a numeric rule: the values it is about, which of them are legal, and what would be."""

    values: IntArray
    legal: npt.NDArray[np.bool_]
    allowed: str


def violations(graph: IntGraph, profile: TargetProfile) -> list[Violation]:
    """Return every rule of a target that a graph breaks, in execution order, at most one entry per rule and node.

    Args:
        graph: Any graph whose arrays and edges are consistent (`check_graph` says so).
        profile: The target.

    Returns:
        The violations; an empty list means that the target can compute the graph.
    """
    found = list(_contract_violations(graph, profile))
    for node in graph.nodes:
        found += _tensor_violations(node, graph.output_of(node).fmt, profile)
        if is_host_cast(node) and not profile.image_bytes:
            continue
        for rule in NODE_RULES:
            found += rule(graph, node, profile)
        quantities = node_quantities(node, graph.inputs_of(node), graph.output_of(node), graph.contract)
        if quantities is not None:
            found += numeric_violations(node.name, quantities, profile)
    return found


def numeric_violations(name: str, quantities: Quantities, profile: TargetProfile) -> Iterator[Violation]:
    """Yield the numeric rules that a node's quantities break."""
    for field, rule in NUMERIC_RULES.items():
        verdict = rule(quantities, profile)
        if not verdict.legal.all():
            wrong = np.flatnonzero(~verdict.legal)
            value = str(verdict.values[wrong[0]])
            channel = int(wrong[0]) if quantities.acc_frac.size and field not in _WHOLE_NODE else None
            yield Violation(field, name, channel, value, verdict.allowed, len(wrong))


def is_host_cast(node: Node) -> bool:
    """Whether a node only changes the image's format: an add with one input and no activation."""
    return isinstance(node, N.Add) and node.inputs == (INPUT,) and node.act.function == "linear"


def _conv_shift(q: Quantities, profile: TargetProfile) -> Verdict:
    return _shift(q, profile.conv_shift, q.acc_frac.size > 0)


def _element_shift(q: Quantities, profile: TargetProfile) -> Verdict:
    return _shift(q, profile.element_shift, q.acc_frac.size == 0)


def _shift(q: Quantities, span: Span, concerned: bool) -> Verdict:
    span = Span(max(span.lo, q.shift_limit.lo), min(span.hi, q.shift_limit.hi))
    return _within(q.shift if concerned else q.shift[:0], span)


def _equal_add(q: Quantities, profile: TargetProfile) -> Verdict:
    return Verdict(q.align, (q.align == 0) | (not profile.equal_add), "0 for all inputs, which must have one frac")


def _acc_bits(q: Quantities, profile: TargetProfile) -> Verdict:
    limit = np.minimum(profile.acc_bits, q.acc_limit)
    return Verdict(q.acc_bits, q.acc_bits <= limit, f"at most {limit.min()}")


def _bias_bits(q: Quantities, profile: TargetProfile) -> Verdict:
    """A bias fits its word after the right shift that loses nothing, and the contract's 32 bits before it."""
    shift = np.minimum(stored_shift(q.bias, profile), profile.bias_shift.hi)
    bits = np.maximum(_word_length(q.bias >> shift), _word_length(q.bias) - (BIAS_BITS - profile.bias_bits))
    return Verdict(
        bits, bits <= profile.bias_bits, f"at most {profile.bias_bits} bits with a shift in {profile.bias_shift}"
    )


def _bias_shift(q: Quantities, profile: TargetProfile) -> Verdict:
    shift = stored_shift(q.bias, profile)
    return Verdict(shift, shift >= profile.bias_shift.lo, f"in {profile.bias_shift} (zero bits below the bias)")


def stored_shift(bias: IntArray, profile: TargetProfile) -> IntArray:
    """Return the largest shift by which every bias can be stored without loss, at most 31; one per layer if need be."""
    shift = np.where(bias == 0, BIAS_BITS - 1, _word_length((bias & -bias) - 1) - 1)
    return shift if profile.per_channel or not shift.size else np.full_like(shift, shift.min())


def _word_length(codes: IntArray) -> IntArray:
    """Return the two's-complement bits of every code."""
    return np.asarray(np.frexp(np.where(codes < 0, -codes - 1, codes).astype(np.float64))[1] + 1, np.int64)


def _per_channel(q: Quantities, profile: TargetProfile) -> Verdict:
    return Verdict(q.w_frac, (q.w_frac == q.w_frac[:1]) | profile.per_channel, "one w_frac for all channels")


def _within(values: IntArray, span: Span) -> Verdict:
    return Verdict(values, span.holds(values), f"in {span}")


NUMERIC_RULES: dict[str, Callable[[Quantities, TargetProfile], Verdict]] = {
    "conv_shift": _conv_shift,
    "element_shift": _element_shift,
    "align_shift": lambda q, profile: _within(q.align, profile.align_shift),
    "equal_add": _equal_add,
    "acc_bits": _acc_bits,
    "acc_frac": lambda q, profile: _within(q.acc_frac, profile.acc_frac),
    "bias_bits": _bias_bits,
    "bias_shift": _bias_shift,
    "w_frac": lambda q, profile: _within(q.w_frac, profile.w_frac),
    "per_channel": _per_channel,
}
"""Rules about the quantities of a computing node."""

_WHOLE_NODE = ("per_channel",)
"""Rules that no single channel breaks."""


def _contract_violations(graph: IntGraph, profile: TargetProfile) -> Iterator[Violation]:
    c = graph.contract
    if c.rounding not in profile.roundings:
        yield Violation("roundings", "contract", None, c.rounding.value, _names(profile.roundings))
    if c.overflow not in profile.overflows:
        yield Violation("overflows", "contract", None, c.overflow.value, _names(profile.overflows))


def _names(values: tuple[Rounding, ...] | tuple[Overflow, ...]) -> str:
    return _one_of(value.value for value in values)


def _one_of(values: Iterable[object]) -> str:
    return f"one of {', '.join(map(str, values))}"


def _tensor_violations(node: Node, fmt: FixedPoint, profile: TargetProfile) -> Iterator[Violation]:
    """Rules about formats; those of the image itself are `image_bytes`."""
    if fmt.bits not in profile.a_bits:
        yield Violation("a_bits", node.name, None, str(fmt.bits), _one_of(profile.a_bits))
    if not fmt.signed and not profile.unsigned:
        yield Violation("unsigned", node.name, None, str(fmt), "signed")
    if not profile.a_frac.holds(fmt.frac):
        yield Violation("a_frac", node.name, None, str(fmt.frac), f"in {profile.a_frac}")


def _operator(graph: IntGraph, node: Node, profile: TargetProfile) -> Iterator[Violation]:
    if node.op not in profile.ops:
        yield Violation("ops", node.name, None, node.op, _one_of(profile.ops))


def _weights(graph: IntGraph, node: Node, profile: TargetProfile) -> Iterator[Violation]:
    if isinstance(node, N.Conv2d) and node.w_bits not in profile.w_bits:
        yield Violation("w_bits", node.name, None, str(node.w_bits), _one_of(profile.w_bits))


def _image(graph: IntGraph, node: Node, profile: TargetProfile) -> Iterator[Violation]:
    if INPUT in node.inputs and not profile.image_bytes:
        fmt = graph.tensors[INPUT].fmt
        yield Violation("image_bytes", node.name, None, f"the image itself ({fmt})", "a reader of a converted image")


def _moves(graph: IntGraph, node: Node, profile: TargetProfile) -> Iterator[Violation]:
    moving = (N.MaxPool, N.Concat, N.Slice, N.Upsample, N.Reorg)
    formats = [info.fmt for info in (*graph.inputs_of(node), graph.output_of(node))]
    if profile.equal_concat and isinstance(node, moving) and len(set(formats)) > 1:
        yield Violation("equal_concat", node.name, None, " ".join(map(str, formats)), "one format on all sides")


def _activation(graph: IntGraph, node: Node, profile: TargetProfile) -> Iterator[Violation]:
    act: Activation | None = getattr(node, "act", None)
    if act is None:
        return
    if profile.activations is not None and act.function not in profile.activations:
        yield Violation("activations", node.name, None, act.function, _one_of(profile.activations))
    slope = Slope(act.slope_mul, act.slope_shift)
    if act.function == "leaky" and profile.leaky is not None and slope not in profile.leaky:
        yield Violation("leaky", node.name, None, str(slope), _one_of(profile.leaky))
    if act.table_fmt is not None:
        if act.table_fmt.bits > profile.table_bits:
            yield Violation("table_bits", node.name, None, str(act.table_fmt.bits), f"at most {profile.table_bits}")
        if not profile.a_frac.holds(act.table_fmt.frac):
            yield Violation("a_frac", node.name, None, f"{act.table_fmt.frac} in its table", f"in {profile.a_frac}")


NODE_RULES: tuple[Callable[[IntGraph, Node, TargetProfile], Iterator[Violation]], ...] = (
    _operator,
    _weights,
    _image,
    _moves,
    _activation,
)
"""Rules about what a node is, which no choice of fraction bits can meet (a table's a_frac aside)."""

FRACTION_RULES = frozenset({*NUMERIC_RULES, "a_frac"}) - {"per_channel"}
"""Rules that another choice of fraction bits may meet."""
