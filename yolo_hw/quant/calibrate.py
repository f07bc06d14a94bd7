# SPDX-License-Identifier: Apache-2.0
"""Post-training calibration: from a folded graph and images to a `QuantPlan`.

Passes over the images: channel ranges for equalisation; tensor ranges; how well each candidate number of fraction
bits represents the values. Then weights and biases are rounded to match, and biases corrected.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from yolo_hw.darknet.layers import Shape
from yolo_hw.errors import QuantError, nearest
from yolo_hw.fixedpoint import FixedPoint
from yolo_hw.intgraph.graph import INPUT, INPUT_FORMAT
from yolo_hw.nn.activations import activate
from yolo_hw.quant import folded as G
from yolo_hw.quant.absorb_bias import absorb_biases
from yolo_hw.quant.config import CorrectBy, EqualiseBy, Observer, QuantConfig
from yolo_hw.quant.corrections import correct_rounding
from yolo_hw.quant.equalise import (
    Exponents,
    Factors,
    activation_exponents,
    activation_factors,
    powers_of_two,
    scale_channels,
    weight_exponents,
)
from yolo_hw.quant.execute import NodeResult, float_parameters, image_tensor, run_folded
from yolo_hw.quant.fit_ranges import range_factors
from yolo_hw.quant.folded import Float64Array, FoldedGraph, FoldedNode
from yolo_hw.quant.groups import FormatGroup, format_groups
from yolo_hw.quant.legal import Legaliser, LegalReport, cast_image
from yolo_hw.quant.moments import Moments, changed_moments
from yolo_hw.quant.observers import CandidateStatistics, RangeStatistics
from yolo_hw.quant.paired import adopt_codes
from yolo_hw.quant.plan import ConvCodes, QuantPlan, Table
from yolo_hw.quant.tables import ARITHMETIC, build_table
from yolo_hw.quant.weights import ConvContext, quantise_conv

ImageBatch = npt.NDArray[np.uint8]
"""[N, H, W, C], prepared for the network's input."""

Progress = Callable[[str, int, int], None]
"""Called with the name of the pass, batches done and batches in all."""


def shape_of(images: list[ImageBatch]) -> Shape:
    """Return the shape of one image.

    Raises:
        QuantError: There is no image.
    """
    if not images:
        raise QuantError("calibration needs at least one image")
    _, h, w, c = images[0].shape
    return Shape(c, h, w)


@dataclass(frozen=True, eq=False)
class Calibrated:
    """A folded graph and the plan made for it.

    Attributes:
        graph: The folded network, its channels equalised and its biases corrected as the options say.
        plan: Formats, weight codes and tables.
        reference: The network in float to compare with, tensor by tensor: equalised, but with its own biases.
        legal: What the target's rules cost; None for a plan that was not calibrated.
    """

    graph: FoldedGraph
    plan: QuantPlan
    reference: FoldedGraph
    legal: LegalReport | None = None


def calibrate(
    graph: FoldedGraph,
    batches: Iterable[ImageBatch],
    config: QuantConfig,
    progress: Progress | None = None,
    moments: dict[str, Moments] | None = None,
) -> Calibrated:
    """Choose the format of every tensor and round the weights.

    Args:
        graph: The folded network.
        batches: Calibration images.
        config: Word lengths, observers, rounding, corrections.
        progress: Called after every batch, or node where biases are corrected or AdaRound runs.
        moments: What the model's batch norms know (`batch_norm_moments`); only `CorrectBy.BATCH_NORM` needs it.

    Returns:
        The graph to lower and its plan.

    Raises:
        QuantError: No image, values that are not finite, an override that matches nothing, no integer form, or no
            moments where they are needed.
    """
    images = list(batches)
    shape_of(images)
    _check_overrides(graph, config)
    if config.bias_correction and config.bias_correction_by is CorrectBy.BATCH_NORM and moments is None:
        raise QuantError(
            f"{graph.name}: bias correction by batch_norm needs the batch norms' statistics: pass "
            "moments=batch_norm_moments(traced)"
        )
    graph = cast_image(graph, config)
    graph, moments = _reshape_channels(graph, images, config, moments or {}, progress)
    groups = format_groups(graph, config)
    ranges = _measure_ranges(graph, images, progress)
    candidates = _Candidates(graph, groups, ranges, config)
    if config.a_observer is not Observer.MAX:
        for result in _run(graph, images, "candidates", progress):
            candidates.update(result)
    return _make_legal(graph, candidates, images, moments, progress)


def _reshape_channels(
    graph: FoldedGraph,
    images: list[ImageBatch],
    config: QuantConfig,
    moments: dict[str, Moments],
    progress: Progress | None,
) -> tuple[FoldedGraph, dict[str, Moments]]:
    """Equalise channels, absorb biases and fit ranges as the options say; return the graph and its moments."""
    absorbed: dict[str, Float64Array] = {}
    factors: Factors = {}
    if config.equalise is not None:
        if config.equalise_by is EqualiseBy.WEIGHTS:
            factors = powers_of_two(weight_exponents(graph))
        else:
            factors = activation_factors(graph, _largest(graph, images, progress), config.equalise)
        graph = scale_channels(graph, factors)
    if config.absorb_biases:
        floors = {name: lo for name, (lo, _) in _channels(graph, images, progress).items()}
        graph, absorbed = absorb_biases(graph, floors)
    moments = changed_moments(moments, factors, absorbed)
    if config.equalise is not None:
        factors = range_factors(graph, _run(graph, images, "steps", progress), config)
        graph, moments = scale_channels(graph, factors), changed_moments(moments, factors, {})
    return graph, moments


def equalising_exponents(
    graph: FoldedGraph, images: list[ImageBatch], config: QuantConfig, progress: Progress | None = None
) -> Exponents:
    """Return the powers of two with which the options even the channels of a graph; none where they are not to be.

    For a network that is trained further: its weights stay exact, and fits its steps itself.

    Args:
        graph: The folded network.
        images: Calibration images.
        config: How strongly, and by what.
        progress: Called after every batch.
    """
    if config.equalise is None:
        return {}
    if config.equalise_by is EqualiseBy.WEIGHTS:
        return weight_exponents(graph)
    return activation_exponents(graph, _largest(graph, images, progress), config.equalise)


def _largest(graph: FoldedGraph, images: list[ImageBatch], progress: Progress | None) -> dict[str, Float64Array]:
    """Return the largest magnitude of every channel of every node."""
    return {name: np.maximum(-lo, hi) for name, (lo, hi) in _channels(graph, images, progress).items()}


def _make_legal(
    reference: FoldedGraph,
    candidates: _Candidates,
    images: list[ImageBatch],
    moments: dict[str, Moments],
    progress: Progress | None,
) -> Calibrated:
    """Move the observers' formats where the target asks for it, round the weights, correct what rounding does."""
    config = candidates.config
    formats, arguments = candidates.formats(), candidates.arguments()
    legaliser = Legaliser(candidates.groups, formats, arguments, config)
    legaliser.check_structure(reference)
    report = LegalReport(config.profile.name)
    measured = legaliser.needed(reference)
    if measured:
        legaliser.measure(_run(reference, images, "target", progress), images)
        formats, arguments, report = legaliser.solve(reference)
    plan = make_plan(reference, formats, arguments, config)
    corrected = correct_rounding(reference, plan, images, moments, progress)
    if corrected.graph is not reference and (measured or legaliser.needed(corrected.graph)):  # other biases
        if not measured:
            legaliser.measure(_run(reference, images, "target", progress), images)
        formats, arguments, report = legaliser.solve(corrected.graph)
        if corrected.chosen and formats != {name: plan.formats[name] for name in formats}:
            plan = make_plan(reference, formats, arguments, config)
            corrected = correct_rounding(reference, plan, images, moments, progress)
    plan = make_plan(corrected.graph, formats, arguments, config)
    if report.changes:  # which name what make_plan had to repair
        plan = replace(plan, notes=[])
    plan = adopt_codes(corrected.graph, plan, corrected.chosen)
    notes = [*map(str, report.changes), *plan.notes, *corrected.notes]
    return Calibrated(corrected.graph, replace(plan, notes=notes), reference, report)


def _check_overrides(graph: FoldedGraph, config: QuantConfig) -> None:
    """Check that every override means something: a pattern that nothing matches is a typing error."""
    computing = [node.name for node in graph.nodes if not node.moves]
    convs = [node.name for node in graph.nodes if isinstance(node, G.FoldedConv)]
    for override in config.overrides:
        for bits, names, what in (
            (override.w_bits, convs, "layer with weights"),
            (override.a_bits, computing, "layer that computes"),
        ):
            if bits is not None and not fnmatch.filter(names, override.pattern):
                hint = nearest(override.pattern, names)
                raise QuantError(f"{graph.name}: override '{override.pattern}' matches no {what}{hint}")


def make_plan(
    graph: FoldedGraph, formats: dict[str, FixedPoint], arguments: dict[str, FixedPoint], config: QuantConfig
) -> QuantPlan:
    """Round weights and build tables for given formats.

    Args:
        graph: The folded network.
        formats: Format of every node's output.
        arguments: Format of the argument of every activation table.
        config: Word lengths, observers, rounding.
    """
    formats = {INPUT: INPUT_FORMAT, **formats}
    convs: dict[str, ConvCodes] = {}
    tables: dict[str, Table] = {}
    notes: list[str] = []
    for node in graph.nodes:
        code = formats[node.name]
        if node.name in arguments:
            code = arguments[node.name]
            tables[node.name] = build_table(node.activation, code, formats[node.name], config)
        if isinstance(node, G.FoldedConv):
            slope = (config.leaky.shift, config.leaky.mul) if node.activation == "leaky" else (0, 1)
            context = ConvContext(formats[node.inputs[0]], code, *slope)
            convs[node.name], note = quantise_conv(node, context, config)
            notes += [note] if note else []
    return QuantPlan(config, formats, convs, tables, notes)


def _run(graph: FoldedGraph, images: list[ImageBatch], stage: str, progress: Progress | None) -> Iterator[NodeResult]:
    parameters = float_parameters(graph)
    for i, batch in enumerate(images, start=1):
        with torch.inference_mode():
            for result in run_folded(graph, image_tensor(batch), parameters):
                if not result.node.moves:
                    _check_finite(result.node, result.out)
                yield result
        if progress:
            progress(stage, i, len(images))


def _channels(
    graph: FoldedGraph, images: list[ImageBatch], progress: Progress | None
) -> dict[str, tuple[Float64Array, Float64Array]]:
    """Return the smallest and the largest value of every channel of every node."""
    found: dict[str, tuple[Float64Array, Float64Array]] = {}
    for node, _, out in _run(graph, images, "channels", progress):
        lo, hi = (end.double().numpy() for end in (out.amin((0, 2, 3)), out.amax((0, 2, 3))))
        known = found.get(node.name, (lo, hi))
        found[node.name] = np.minimum(known[0], lo), np.maximum(known[1], hi)
    return found


def _check_finite(node: FoldedNode, out: Tensor) -> None:
    if not torch.isfinite(out).all():
        raise QuantError(f"{node.name}: values must be finite, got NaN or infinity in calibration")


def _argument_name(node: FoldedNode) -> str:
    """Return the key under which the argument of a table is measured."""
    return f"{node.name}|argument"


def _measure_ranges(
    graph: FoldedGraph, images: list[ImageBatch], progress: Progress | None
) -> dict[str, RangeStatistics]:
    ranges: dict[str, RangeStatistics] = {}
    for node, pre, out in _run(graph, images, "ranges", progress):
        if node.moves:
            continue
        ranges.setdefault(node.name, RangeStatistics()).update(out)
        if node.activation not in ARITHMETIC:
            ranges.setdefault(_argument_name(node), RangeStatistics()).update(pre)
    return ranges


class _Candidates:
    """Candidate statistics of every format group and of every table argument."""

    def __init__(
        self, graph: FoldedGraph, groups: list[FormatGroup], ranges: dict[str, RangeStatistics], config: QuantConfig
    ) -> None:
        self.config = config
        self.groups = groups
        self.of_group: list[CandidateStatistics] = []
        self.of_tensor: dict[str, CandidateStatistics] = {}
        for group in groups:
            merged = RangeStatistics()
            for name in group.producers:
                merged.merge(ranges[name])
            statistics = _start(merged, group.bits, group.signed, config)
            self.of_group.append(statistics)
            self.of_tensor |= dict.fromkeys(group.producers, statistics)
        self.of_argument = {
            node.name: _start(ranges[_argument_name(node)], config.activation_bits(node.name), True, config)
            for node in graph.nodes
            if not node.moves and node.activation not in ARITHMETIC
        }

    def update(self, result: NodeResult) -> None:
        """Take in one node's values of one batch."""
        node, pre, out = result
        if node.moves:
            return
        observer = self.config.a_observer
        self.of_tensor[node.name].update(out, observer)
        if node.name in self.of_argument:
            self._update_argument(node, pre, out)

    def _update_argument(self, node: FoldedNode, pre: Tensor, out: Tensor) -> None:
        """Judge the argument's format by its effect behind the activation."""
        statistics = self.of_argument[node.name]
        if self.config.a_observer in (Observer.PERCENTILE, Observer.KL):
            statistics.update(pre, self.config.a_observer)
        else:
            statistics.compare(out, [activate(node.activation, q) for q in statistics.rounded(pre)])

    def formats(self) -> dict[str, FixedPoint]:
        """Return the chosen format of every tensor."""
        chosen: dict[str, FixedPoint] = {}
        for group, statistics in zip(self.groups, self.of_group, strict=True):
            fmt = statistics.choose(self.config.a_observer, self.config.percentile)
            chosen |= dict.fromkeys(group.members, fmt)
        return chosen

    def arguments(self) -> dict[str, FixedPoint]:
        """Return the chosen format of every table argument."""
        return {
            name: statistics.choose(self.config.a_observer, self.config.percentile)
            for name, statistics in self.of_argument.items()
        }


def _start(ranges: RangeStatistics, bits: int, signed: bool, config: QuantConfig) -> CandidateStatistics:
    return CandidateStatistics.around(ranges, bits, signed, config.rounding, config.overflow)
