# SPDX-License-Identifier: Apache-2.0
"""The choice of fraction bits as a problem of discrete variables and of costs between a few of them each.

A variable is the frac of a format group or of a table's argument. A factor is a computing node: it allows some
combinations of the variables around it and prices them. A convolution's own w_frac is no variable: between two given
formats its best legal value is known (`yolo_hw.quant.weights.WeightFormats`), and so is the noise it causes.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from typing import Protocol

from yolo_hw.fixedpoint import FixedPoint
from yolo_hw.intgraph import nodes as N
from yolo_hw.intgraph.nodes import Activation, Node, TensorInfo
from yolo_hw.intgraph.quantities import node_quantities
from yolo_hw.intgraph.target import TargetProfile
from yolo_hw.intgraph.violations import Violation, numeric_violations
from yolo_hw.quant import folded as G
from yolo_hw.quant.config import QuantConfig
from yolo_hw.quant.folded import FoldedNode
from yolo_hw.quant.legal.errors import FracErrors
from yolo_hw.quant.weights import ConvContext, WeightFormats

Fracs = tuple[int, ...]
"""Fraction bits of a factor's variables, in the order of its scope."""


@dataclass(frozen=True, eq=False)
class Variable:
    """Fraction bits to choose.

    Attributes:
        name: First tensor of the group, or the node whose table it is.
        argument: Whether it is the argument of a table.
        members: Tensors that get the format (none for an argument).
        wanted: Format that the observer chose.
        errors: What the alternatives cost.
    """

    name: str
    argument: bool
    members: tuple[str, ...]
    wanted: FixedPoint
    errors: FracErrors

    def candidates(self, profile: TargetProfile) -> list[int]:
        """Return the fraction bits that were measured and that the target has."""
        return [frac for frac in self.errors.formats if profile.a_frac.holds(frac)]


class Factor(Protocol):
    """A node that prices combinations of fraction bits."""

    scope: tuple[int, ...]
    """Variables it is about, each once."""

    @property
    def name(self) -> str:
        """Name of the node."""

    def cost(self, fracs: Fracs) -> float:
        """Return the relative noise that a combination adds, infinite if it is illegal."""

    def broken(self, fracs: Fracs) -> Violation | None:
        """Return the first rule that a combination breaks."""


@dataclass(frozen=True, eq=False)
class Around:
    """The formats around a node, fixed or given by a variable.

    Attributes:
        variables: All variables of the problem.
        inputs: Variable of every input, or the fixed format of the image.
        code: Variable of the code after the output shift: the table's argument, else the output.
    """

    variables: list[Variable]
    inputs: tuple[int | FixedPoint, ...]
    code: int

    @property
    def scope(self) -> tuple[int, ...]:
        """The variables, each once."""
        found = [i for i in self.inputs if isinstance(i, int)]
        return tuple(dict.fromkeys([*found, self.code]))

    def formats(self, fracs: Fracs) -> tuple[list[FixedPoint], FixedPoint]:
        """Return the formats of the inputs and of the code."""
        frac = dict(zip(self.scope, fracs, strict=True))

        def fmt(place: int | FixedPoint) -> FixedPoint:
            return place if isinstance(place, FixedPoint) else replace(self.variables[place].wanted, frac=frac[place])

        return [fmt(place) for place in self.inputs], fmt(self.code)


class ConvFactor:
    """A convolution: the noise of rounding its weights and bias between two formats."""

    def __init__(self, node: G.FoldedConv, around: Around, weights: WeightFormats, signal: float) -> None:
        """Take the mean square of the sum as `signal`."""
        self.node = node
        self.around = around
        self.scope = around.scope
        self.weights = weights
        self.signal = signal
        self._cost: dict[Fracs, float] = {}

    @property
    def name(self) -> str:
        """Name of the node."""
        return self.node.name

    def context(self, fracs: Fracs) -> ConvContext:
        """Return the formats for `WeightFormats`."""
        inputs, code = self.around.formats(fracs)
        leaky = self.weights.config.leaky
        return ConvContext(inputs[0], code, *((leaky.shift, leaky.mul) if self.node.activation == "leaky" else (0, 1)))

    def cost(self, fracs: Fracs) -> float:
        """Return the noise above that of the weights' own choice, relative to the mean square of the sum."""
        if fracs not in self._cost:
            choice = self.weights.choose(self.context(fracs))
            excess = max(float(choice.noise.mean()) - self.weights.own_noise, 0.0)
            relative = excess / self.signal if self.signal > 0 else 0.0
            self._cost[fracs] = math.inf if choice.broken else relative
        return self._cost[fracs]

    def broken(self, fracs: Fracs) -> Violation | None:
        """See `Factor.broken`."""
        return self.weights.choose(self.context(fracs)).broken


@dataclass(frozen=True, eq=False)
class Verdicts:
    """Which element-wise operations are legal under one profile and one config; filled as they are asked for."""

    profile: TargetProfile
    legal: dict[Hashable, bool] = field(default_factory=dict)


class ElementFactor:
    """Add, mul or avgpool: no parameters, only legal and illegal formats."""

    def __init__(self, node: FoldedNode, around: Around, config: QuantConfig, known: Verdicts) -> None:
        """Share verdicts with the other nodes of `known`, which holds the rules, too: not always the config's."""
        self.node = node
        self.around = around
        self.scope = around.scope
        self.contract = config.contract
        self.known = known
        leaky = node.activation == "leaky"
        self.act = (
            Activation("leaky", slope_mul=config.leaky.mul, slope_shift=config.leaky.shift) if leaky else Activation()
        )

    @property
    def name(self) -> str:
        """Name of the node."""
        return self.node.name

    def cost(self, fracs: Fracs) -> float:
        """Return 0 or infinity."""
        formats, code = self.around.formats(fracs)
        fracs_in = [fmt.frac for fmt in formats]
        # All rules depend on how far the fraction bits lie apart only.
        apart = (
            (sum(fracs_in) - code.frac,)
            if isinstance(self.node, G.FoldedMul)
            else tuple(frac - code.frac for frac in fracs_in)
        )
        words = tuple((fmt.bits, fmt.signed) for fmt in (*formats, code))
        count = self.node.count if isinstance(self.node, G.FoldedAvgPool) else 0
        key = (type(self.node), count, self.node.activation == "leaky", words, apart)
        if key not in self.known.legal:
            self.known.legal[key] = self.broken(fracs) is None
        return 0.0 if self.known.legal[key] else math.inf

    def broken(self, fracs: Fracs) -> Violation | None:
        """See `Factor.broken`."""
        formats, code = self.around.formats(fracs)
        node = self._node()
        inputs = [TensorInfo(self.node.shape, fmt) for fmt in formats]
        if isinstance(self.node, G.FoldedAvgPool):
            side = self.node.shape._replace(h=self.node.count, w=1)
            inputs = [TensorInfo(side, formats[0])]
        quantities = node_quantities(node, inputs, TensorInfo(self.node.shape, code), self.contract)
        assert quantities is not None
        return next(numeric_violations(self.node.name, quantities, self.known.profile), None)

    def _node(self) -> Node:
        name, inputs = self.node.name, self.node.inputs
        if isinstance(self.node, G.FoldedAvgPool):
            mul, mul_shift = N.AvgPool.reciprocal(self.node.count)
            return N.AvgPool(name=name, inputs=inputs, mul=mul, mul_shift=mul_shift)
        if isinstance(self.node, G.FoldedAdd):
            return N.Add(name=name, inputs=inputs, act=self.act)
        return N.Mul(name=name, inputs=inputs, act=self.act)


@dataclass(frozen=True, eq=False)
class Problem:
    """Variables and factors.

    Attributes:
        profile: The target.
        variables: What is to be chosen.
        factors: The computing nodes in execution order.
    """

    profile: TargetProfile
    variables: list[Variable]
    factors: list[Factor]

    def cost(self, fracs: Fracs) -> float:
        """Return the total relative noise above the observers' choices, infinite if a rule is broken."""
        total = 0.0
        for variable, frac in zip(self.variables, fracs, strict=True):
            total += variable.errors.excess(frac) if self.profile.a_frac.holds(frac) else math.inf
        for factor in self.factors:
            total += factor.cost(tuple(fracs[i] for i in factor.scope))
        return total
