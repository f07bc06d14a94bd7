# SPDX-License-Identifier: Apache-2.0
"""From the formats that observers choose to formats that a target can compute."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from torch import Tensor

from yolo_hw.errors import QuantError
from yolo_hw.fixedpoint import FixedPoint
from yolo_hw.intgraph.graph import INPUT, INPUT_FORMAT
from yolo_hw.intgraph.target_profiles import GENERIC
from yolo_hw.intgraph.violations import FRACTION_RULES, violations
from yolo_hw.nn.activations import activate
from yolo_hw.quant import folded as G
from yolo_hw.quant.config import QuantConfig
from yolo_hw.quant.execute import NodeResult
from yolo_hw.quant.folded import FoldedGraph, FoldedNode
from yolo_hw.quant.groups import FormatGroup
from yolo_hw.quant.legal.errors import FracErrors, Power, image_power
from yolo_hw.quant.legal.problem import Around, ConvFactor, ElementFactor, Factor, Problem, Variable, Verdicts
from yolo_hw.quant.legal.report import LegalReport, make_report
from yolo_hw.quant.legal.solver import TIME_LIMIT, solve
from yolo_hw.quant.lower import build_graph
from yolo_hw.quant.plan import ConvCodes, QuantPlan, Table
from yolo_hw.quant.weights import WeightFormats

Formats = dict[str, FixedPoint]

IMAGE = "image"
"""Name of the node that states the host's conversion of the image."""


def cast_image(graph: FoldedGraph, config: QuantConfig) -> FoldedGraph:
    """Put a conversion of the image in front of a target that does not read unsigned bytes.

    Before: convolutions read the image.  After: on such a target they read an add with one input, which the host
    computes; elsewhere, and where this has been done before, nothing changes.  Changes values: in integers, by that
    conversion's rounding.
    """
    is_read = any(INPUT in node.inputs and isinstance(node, G.FoldedConv) for node in graph.nodes)
    if config.profile.image_bytes or not is_read:
        return graph
    name = IMAGE
    while any(node.name == name for node in graph.nodes):
        name += "_"
    cast = G.FoldedAdd(name=name, inputs=(INPUT,), shape=graph.input_shape)
    nodes = [
        replace(node, inputs=tuple(name if source == INPUT else source for source in node.inputs))
        for node in graph.nodes
    ]
    return replace(graph, nodes=(cast, *nodes))


class Legaliser:
    """Moves the observers' formats of one network as little as a target asks for.

    `needed` says whether anything must move at all; if so, `measure` looks at the images once, and `solve` returns the
    formats, for the graph as it was or with other biases.
    """

    def __init__(
        self, groups: Sequence[FormatGroup], formats: Formats, arguments: Formats, config: QuantConfig
    ) -> None:
        """Take the observers' choice.

        Args:
            groups: Format groups of the graph.
            formats: Format of every tensor but the image.
            arguments: Format of the argument of every table.
            config: Word lengths and target.
        """
        self.config = config
        self.formats = formats
        self.arguments = arguments
        self.power = Power()
        self._target, self._host = Verdicts(config.profile), Verdicts(GENERIC)
        self.variables = [
            Variable(g.members[0], False, g.members, formats[g.members[0]], FracErrors(formats[g.members[0]], config))
            for g in groups
        ] + [Variable(name, True, (), fmt, FracErrors(fmt, config)) for name, fmt in arguments.items()]
        self._of_tensor = {name: i for i, variable in enumerate(self.variables) for name in variable.members}
        self._of_argument = {v.name: i for i, v in enumerate(self.variables) if v.argument}

    def check_structure(self, graph: FoldedGraph) -> None:
        """Refuse what no choice of fraction bits can make legal: operators, activations, word lengths.

        Raises:
            QuantError: Names the first layer and the rule.
        """
        convs = {
            node.name: ConvCodes(
                np.broadcast_to(np.int64(0), node.weight.shape),
                np.zeros(len(node.bias), np.int64),
                np.zeros(len(node.bias), np.int64),
                self.config.weight_bits(node.name),
            )
            for node in graph.nodes
            if isinstance(node, G.FoldedConv)
        }
        tables = {name: Table(fmt, np.zeros(1, np.int64)) for name, fmt in self.arguments.items()}
        plan = QuantPlan(self.config, {INPUT: INPUT_FORMAT, **self.formats}, convs, tables)
        for violation in violations(build_graph(graph, plan), self.config.profile):
            if violation.rule not in FRACTION_RULES:
                raise QuantError(
                    f"{violation}: target '{self.config.profile.name}' cannot compute this layer with any fraction bits"
                )

    def needed(self, graph: FoldedGraph) -> bool:
        """Return whether the observers' choice, weights included, breaks a rule of the target."""
        problem = self._problem(graph)
        wanted = [variable.wanted.frac for variable in self.variables]
        if not problem.profile.a_frac.holds(wanted).all():
            return True
        for factor in problem.factors:
            fracs = tuple(wanted[i] for i in factor.scope)
            if factor.broken(fracs):
                return True
            if isinstance(factor, ConvFactor) and factor.weights.choose(factor.context(fracs)).repaired:
                return True
        return False

    def measure(self, results: Iterable[NodeResult], images: Sequence[npt.NDArray[np.uint8]]) -> None:
        """Take in the float network's values on the images."""
        self.power.tensors[INPUT] = image_power(images)
        for node, pre, out in self.power.update(results):
            if node.moves:
                continue
            self.variables[self._of_tensor[node.name]].errors.update(out)
            if node.name in self._of_argument:
                errors = self.variables[self._of_argument[node.name]].errors
                errors.update(pre, _function(node))

    def solve(self, graph: FoldedGraph, time_limit: float = TIME_LIMIT) -> tuple[Formats, Formats, LegalReport]:
        """Return formats of tensors and of tables' arguments that are legal, and what they cost.

        Args:
            graph: The graph that was measured; its biases may be others.
            time_limit: Seconds for each program of the solver.

        Raises:
            QuantError: No fraction bits are legal; names the layer and the rule.
        """
        problem = self._problem(graph)
        solution = solve(problem, time_limit)
        formats, arguments = dict(self.formats), dict(self.arguments)
        for variable, frac in zip(self.variables, solution.fracs, strict=True):
            fmt = replace(variable.wanted, frac=frac)
            if variable.argument:
                arguments[variable.name] = fmt
            formats |= dict.fromkeys(variable.members, fmt)
        return formats, arguments, make_report(problem, solution)

    def _problem(self, graph: FoldedGraph) -> Problem:
        factors = [self._factor(node) for node in graph.nodes if not node.moves]
        return Problem(self.config.profile, self.variables, factors)

    def _factor(self, node: FoldedNode) -> Factor:
        inputs = tuple(INPUT_FORMAT if name == INPUT else self._of_tensor[name] for name in node.inputs)
        code = self._of_argument.get(node.name, self._of_tensor[node.name])
        around = Around(self.variables, inputs, code)
        if isinstance(node, G.FoldedConv):
            weights = WeightFormats(node, self.config, self.power.tensors.get(node.inputs[0]))
            return ConvFactor(node, around, weights, self.power.sums.get(node.name, 0.0))
        host = node.inputs == (INPUT,) and not self.config.profile.image_bytes
        return ElementFactor(node, around, self.config, self._host if host else self._target)


def _function(node: FoldedNode) -> Callable[[Tensor], Tensor]:
    return lambda x: activate(node.activation, x)
