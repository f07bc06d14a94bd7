# SPDX-License-Identifier: Apache-2.0
"""What quantisation does to every layer, and the first layer where it hurts.

The float network, the quantised one and, for every layer, the quantised layer on float inputs run side by side in
float64, one image at a time, so that memory holds the live maps of one image and the codes are those of the integer
graph.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from yolo_hw.errors import QuantError
from yolo_hw.fixedpoint import FixedPoint
from yolo_hw.intgraph.graph import INPUT
from yolo_hw.intgraph.liveness import last_reads
from yolo_hw.nn.activations import activate
from yolo_hw.ops.fake_quant_pow2 import fake_quant_pow2
from yolo_hw.quant import folded as G
from yolo_hw.quant.calibrate import ImageBatch
from yolo_hw.quant.execute import ConvParameters, float_finish, float_parameters, image_tensor, raw_result
from yolo_hw.quant.folded import FoldedGraph, FoldedNode
from yolo_hw.quant.layer_statistics import Clipping, Histogram, Likeness
from yolo_hw.quant.plan import QuantPlan
from yolo_hw.quant.simulate import Simulation
from yolo_hw.quant.weights import dequantised

HURT_DB = 20.0
"""SQNR that a layer's own rounding must leave: noise of a hundredth of the signal's power, a tenth of its amplitude."""

DB_PER_BIT = 20 * math.log10(2)
"""SQNR a bit is worth for values that fill their range evenly (Bennett, "Spectra of Quantized Signals", 1948)."""


@dataclass(frozen=True)
class WeightRow:
    """Weights of a layer.

    Attributes:
        bits: Word length.
        frac_min: Smallest number of fraction bits of an output channel.
        frac_max: Largest one.
        sqnr_db: Of the rounded weights, see `Likeness.sqnr_db`.
        histogram: Of the float weights in steps of their output channel, so that codes are whole numbers.
    """

    bits: int
    frac_min: int
    frac_max: int
    sqnr_db: float
    histogram: Histogram

    @property
    def fmt(self) -> FixedPoint:
        """Format of the codes, which the histogram counts in."""
        return FixedPoint(bits=self.bits, frac=0, signed=True)


@dataclass(frozen=True)
class LayerRow:
    """One computing layer.

    Attributes:
        name: The layer.
        op: Its operator.
        fmt: Format of its output.
        accumulated: Output in the quantised network against the float one.
        isolated: Output of the quantised layer on float inputs, with its own bias (a corrected one makes up for layers
            before it), against the float one.
        clipping: Values that leave the format, codes in use.
        argument: The same of an activation table's argument, None without a table.
        weights: None for layers without weights.
        drop_db: SQNR of the worst input less that of the output; an input without error counts as `image_db`.
        histogram: Of the float output.
    """

    name: str
    op: str
    fmt: FixedPoint
    accumulated: Likeness
    isolated: Likeness
    clipping: Clipping
    argument: Clipping | None
    weights: WeightRow | None
    drop_db: float
    histogram: Histogram


@dataclass(frozen=True)
class LayerReport:
    """All computing layers in execution order.

    Attributes:
        name: The network.
        images: Images measured.
        rows: The layers.
        outputs: Names of the tensors that leave the network.
        hurt_db: SQNR of a layer alone below which it hurts.
    """

    name: str
    images: int
    rows: tuple[LayerRow, ...]
    outputs: tuple[str, ...]
    hurt_db: float = HURT_DB

    @property
    def first_hurt(self) -> LayerRow | None:
        """The first layer that quantisation hurts by itself: on float inputs it has less than `hurt_db`; else None."""
        return next(iter(self.hurt), None)

    @property
    def hurt(self) -> tuple[LayerRow, ...]:
        """All layers whose own rounding leaves less than `hurt_db`."""
        return tuple(row for row in self.rows if row.isolated.sqnr_db < self.hurt_db)


@dataclass
class _Sums:
    """What is summed up of one computing node."""

    fmt: FixedPoint
    clipping: Clipping
    histogram: Histogram
    argument: Clipping | None
    isolated: Likeness = field(default_factory=Likeness)


def measure_layers(
    reference: FoldedGraph,
    plan: QuantPlan,
    batches: Iterable[ImageBatch],
    *,
    hurt_db: float = HURT_DB,
    progress: Callable[[str, int, int], None] | None = None,
) -> LayerReport:
    """Measure every computing layer of a quantised network.

    Args:
        reference: The float network, tensor by tensor in the scale of the plan: `Calibrated.reference`.
        plan: `Calibrated.plan`, or that of an integer graph (`yolo_hw.quant.recover_plan`).
        batches: Images [N, H, W, C] uint8 of the network's input size.
        hurt_db: SQNR of a layer alone below which it hurts.
        progress: Called after every image.

    Raises:
        QuantError: There is no image, or the plan is of another network.
    """
    missing = [node.name for node in reference.nodes if node.name not in plan.formats]
    if missing:
        raise QuantError(f"{reference.name}: the plan must be of this network, it has no format for {missing[0]}")
    images = [image for batch in batches for image in batch]
    if not images:
        raise QuantError(f"{reference.name}: the report needs at least one image")
    measurement = _Measurement(reference, plan)
    with torch.inference_mode():
        for i, image in enumerate(images, start=1):
            measurement.add(image)
            if progress:
                progress("report", i, len(images))
    outputs = tuple(name for name, _ in reference.outputs)
    return LayerReport(reference.name, len(images), measurement.rows(), outputs, hurt_db)


class _Measurement:
    """The three runs side by side."""

    def __init__(self, graph: FoldedGraph, plan: QuantPlan) -> None:
        self.graph = graph
        self.plan = plan
        self.simulation = Simulation(graph, plan)
        self.exact = float_parameters(graph, torch.float64)
        self.isolated = {
            name: ConvParameters(rounded.weight, self.exact[name].bias)
            for name, rounded in self.simulation.parameters.items()
        }
        self.likeness = {node.name: Likeness() for node in graph.nodes}
        self.sums = {node.name: self._sums(node) for node in graph.nodes if not node.moves}

    def _sums(self, node: FoldedNode) -> _Sums:
        fmt, table = self.plan.formats[node.name], self.plan.tables.get(node.name)
        return _Sums(fmt, Clipping(fmt), Histogram.around(fmt), None if table is None else Clipping(table.fmt))

    def add(self, image: ImageBatch) -> None:
        """Run one image [H, W, C]."""
        x = image_tensor(image[None], torch.float64)
        maps: dict[str, tuple[Tensor, Tensor]] = {INPUT: (x, x)}
        for node, dying in zip(self.graph.nodes, last_reads(self.graph.nodes), strict=True):
            exact, rounded = ([maps[name][i] for name in node.inputs] for i in (0, 1))
            wanted = raw_result(node, exact, self.exact)
            found = raw_result(node, rounded, self.simulation.parameters)
            if not node.moves:
                alone = self.simulation.finish(node, raw_result(node, exact, self.isolated))
                wanted, pre = float_finish(node, wanted), found
                found = self.simulation.finish(node, pre)
                self._count(node, pre, wanted, found, alone)
            self.likeness[node.name].update(wanted, found)
            maps[node.name] = (wanted, found)
            for name in dying:
                del maps[name]

    def _count(self, node: FoldedNode, pre: Tensor, wanted: Tensor, found: Tensor, alone: Tensor) -> None:
        sums = self.sums[node.name]
        sums.isolated.update(wanted, alone)
        sums.histogram.update(wanted)
        sums.clipping.update(self._before_rounding(node, pre), found)
        if sums.argument is not None:
            config = self.plan.config
            rounded = fake_quant_pow2(pre, sums.argument.fmt, config.rounding, config.overflow)
            sums.argument.update(pre, rounded)

    def _before_rounding(self, node: FoldedNode, pre: Tensor) -> Tensor:
        """Return what the layer's output would be without rounding; leaky with the slope of the datapath."""
        if node.activation == "leaky":
            slope = self.plan.config.leaky
            return torch.where(pre < 0, pre * (slope.mul * 2.0**-slope.shift), pre)
        return activate(node.activation, pre / node.count if isinstance(node, G.FoldedAvgPool) else pre)

    def rows(self) -> tuple[LayerRow, ...]:
        return tuple(self._row(node) for node in self.graph.nodes if not node.moves)

    def _row(self, node: FoldedNode) -> LayerRow:
        sums = self.sums[node.name]
        return LayerRow(
            name=node.name,
            op=type(node).__name__.removeprefix("Folded").lower(),
            fmt=sums.fmt,
            accumulated=self.likeness[node.name],
            isolated=sums.isolated,
            clipping=sums.clipping,
            argument=sums.argument,
            weights=weight_row(node, self.plan) if isinstance(node, G.FoldedConv) else None,
            drop_db=self._drop(node),
            histogram=sums.histogram,
        )

    def _drop(self, node: FoldedNode) -> float:
        before = [math.inf if name == INPUT else self.likeness[name].sqnr_db for name in node.inputs]
        return sqnr_drop(before, self.likeness[node.name].sqnr_db, image_db(self.plan))


def image_db(plan: QuantPlan) -> float:
    """Return the SQNR of an image whose values fill the input's format evenly."""
    return plan.formats[INPUT].bits * DB_PER_BIT


def sqnr_drop(before: Sequence[float], after: float, exact_db: float) -> float:
    """Return how much SQNR is lost between the worst of a layer's inputs and its output.

    Args:
        before: SQNR of the inputs in dB.
        after: SQNR of the output.
        exact_db: What inputs without error count as.

    Returns:
        The loss in dB: 0 for an output without error, infinity for noise that has no signal beside it.
    """
    worst = min(exact_db if math.isinf(value) and value > 0 else value for value in before)
    if after == math.inf or worst == -math.inf:
        return 0.0
    return worst - after


def weight_row(node: G.FoldedConv, plan: QuantPlan) -> WeightRow:
    """Return how a layer's weights are rounded."""
    codes = plan.convs[node.name]
    rounded, _ = dequantised(codes, 0)
    likeness = Likeness()
    likeness.update(torch.from_numpy(node.weight), torch.from_numpy(rounded))
    histogram = Histogram.around(FixedPoint(bits=codes.w_bits, frac=0, signed=True))
    steps = codes.w_frac.reshape(-1, *[1] * (node.weight.ndim - 1))
    histogram.update(torch.from_numpy(np.ldexp(node.weight, steps)))
    return WeightRow(codes.w_bits, int(codes.w_frac.min()), int(codes.w_frac.max()), likeness.sqnr_db, histogram)
