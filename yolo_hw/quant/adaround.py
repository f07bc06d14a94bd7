# SPDX-License-Identifier: Apache-2.0
r"""AdaRound: round each weight up or down so that the layer's output, not the weight, stays closest.

The formats are given; of every weight only the choice between the code below and the one above is open. It is relaxed
to :math:`h(V) \in [0, 1]` with the rectified sigmoid (eq. 23) and found by gradient descent, layer by layer, on

.. math:: \frac1K \sum_k \frac{E \| f(W x)_k - \hat f(\tilde W \hat x)_k \|^2}{E_k^{nearest}}
          + \lambda \, \mathrm{mean}(1 - |2 h - 1|^\beta)

with x the layer's input in the float network, :math:`\hat x` in the rounded network so far (the asymmetric form,
eq. 25), f the activation, and :math:`\hat f` what the datapath computes after the sum, its rounding, slope or table
included, differentiated straight through. A convolution's output channels share no weight, so each one's error is
measured against its own under rounding to nearest; with that :math:`\lambda` needs no tuning to a layer's scale.

A channel takes the result only if it is better than nearest, each with the bias that it will have, on all positions of
images that took no part; so no layer's error on them ever rises.

Reference:
    Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization", ICML 2020.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from yolo_hw.fixedpoint import FixedPoint, IntArray, Overflow
from yolo_hw.nn.activations import activate
from yolo_hw.nn.windows import pad_windows
from yolo_hw.quant.bias_correction import add_to_biases, mean_drift
from yolo_hw.quant.config import AdaRoundConfig
from yolo_hw.quant.execute import ConvParameters, float_finish
from yolo_hw.quant.folded import Float64Array, FoldedConv, FoldedGraph
from yolo_hw.quant.paired import Layer, revise_layers
from yolo_hw.quant.plan import ConvCodes, QuantPlan
from yolo_hw.quant.simulate import Simulation

ZETA, GAMMA = 1.1, -0.1
"""Stretch of the sigmoid, so that 0 and 1 are reached (eq. 23)."""
BETA_START, BETA_END = 20.0, 2.0
"""The regulariser's exponent: at first only values next to a code are drawn to it, at the end all."""
WARM_UP = 0.2
"""Share of the iterations without regulariser."""
HELD_OUT = 4
"""One in `HELD_OUT` images judges and takes no part in the search."""
PATCH_BYTES = 256 << 20
"""Memory of a layer's sampled inputs at most; layers with many inputs get fewer positions."""


def adaround(
    graph: FoldedGraph,
    plan: QuantPlan,
    images: list[npt.NDArray[np.uint8]],
    *,
    correct_means: bool,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[FoldedGraph, dict[str, ConvCodes]]:
    """Choose the rounding of all weights.

    The result depends on the images, the options and, in the last digits of sums, on torch's number of threads.

    Args:
        graph: The folded network `plan` was made for.
        plan: Formats, weight codes and tables; ``plan.config.adaround`` says how to search.
        images: Calibration batches [N, H, W, C] uint8; as many images take part as the memory budget of
            `yolo_hw.quant.paired` allows.
        correct_means: Correct every layer's bias before and after its weights are chosen.
        progress: Called after every node; an exception that it raises ends the search.

    Returns:
        The graph with corrected biases, and the codes of every convolution; they differ from the plan's by at most 1.
    """
    options = plan.config.adaround or AdaRoundConfig()
    simulation = Simulation(graph, plan)
    chosen: dict[str, ConvCodes] = {}
    drifts: dict[str, Float64Array] = {}

    def revise(layer: Layer) -> Layer:
        start = layer.parameters.bias
        layer = layer.shifted(mean_drift(layer)) if correct_means else layer
        codes = plan.convs[layer.node.name]
        layer, weight = round_layer(layer, simulation, codes, options, correct_means=correct_means)
        chosen[layer.node.name] = replace(codes, weight=weight)
        drifts[layer.node.name] = (layer.parameters.bias - start).double().numpy()
        return layer

    report = None if progress is None else lambda done, total: progress("rounding", done, total)
    revise_layers(simulation, images, revise, report)
    return (add_to_biases(graph, drifts) if correct_means else graph), chosen


@dataclass(frozen=True, eq=False)
class Patches:
    """Sampled positions of a layer's output.

    Attributes:
        inputs: [G, P, L] what the windows read, L = C / groups * R * S.
        wanted: [G, P, K / G] the float network's output there, behind the activation.
    """

    inputs: Tensor
    wanted: Tensor

    def batch(self, i: int, size: int) -> Patches:
        """Return the i-th part of `size` positions, in turn; the order of the sample is random already."""
        size = min(size, self.inputs.shape[1])
        start = i % (self.inputs.shape[1] // size) * size
        return Patches(self.inputs[:, start : start + size], self.wanted[:, start : start + size])


def round_layer(
    layer: Layer, simulation: Simulation, codes: ConvCodes, options: AdaRoundConfig, *, correct_means: bool = False
) -> tuple[Layer, IntArray]:
    """Choose the rounding of one layer's weights.

    Args:
        layer: The layer rounded to nearest, with its bias as it will be while its weights are chosen.
        simulation: Gives what follows the sum.
        codes: w_frac, and the codes of rounding to nearest.
        options: How to search.
        correct_means: Correct the biases for the chosen weights.

    Returns:
        The layer with the weights and biases chosen, and the weights' codes [K, C / groups, R, S].
    """
    node = layer.node
    generator = torch.Generator().manual_seed(options.seed ^ zlib.crc32(node.name.encode()))
    lower, upper, rest = _choices(node, codes, simulation)
    nearest = _grouped(torch.from_numpy(codes.weight).float(), node.groups)
    if not bool((upper > lower).any()):
        return layer, codes.weight
    searched, held_out = _split(len(layer.inputs))
    problem = _Problem(node, simulation, layer.parameters.bias, codes.w_frac)
    patches = sample_patches(layer, searched, options.patches, generator)
    share = _search(problem, patches, (lower, upper, rest, nearest), options)
    found = torch.where(share > 0.5, upper, lower)
    real = (found * problem.step).reshape(node.weight.shape)
    other = layer.revised(ConvParameters(real, layer.parameters.bias))
    other = other.shifted(mean_drift(other)) if correct_means else other
    better = _channel_errors(other, simulation, held_out) < _channel_errors(layer, simulation, held_out)
    weight = torch.where(better.reshape(-1, 1, 1, 1), found.reshape(node.weight.shape), torch.from_numpy(codes.weight))
    return layer.mixed(other, better), np.asarray(weight.numpy().astype(np.int64))


def _channel_errors(layer: Layer, simulation: Simulation, images: range) -> Tensor:
    """Return the mean squared error of every channel's output on some images, [K]."""
    part = slice(images.start, images.stop)
    with torch.no_grad():
        found = simulation.finish(layer.node, layer.found[part])
        return (found - float_finish(layer.node, layer.wanted[part])).square().mean((0, 2, 3))


class _Problem:
    """Output error of a layer as a function of its weight codes."""

    def __init__(self, node: FoldedConv, simulation: Simulation, bias: Tensor, w_frac: IntArray) -> None:
        self.node = node
        self.simulation = simulation
        self.bias = bias.reshape(node.groups, 1, -1)
        self.step = torch.from_numpy(np.exp2(-w_frac.astype(np.float64))).float().reshape(node.groups, -1, 1)

    def errors(self, weight: Tensor, patches: Patches) -> Tensor:
        """Return the mean squared error of every output channel, [G, K / G], for codes [G, K / G, L]."""
        pre = torch.baddbmm(self.bias, patches.inputs, (weight * self.step).transpose(1, 2))
        return ((self._finish(pre) - patches.wanted) ** 2).mean(1)

    def _finish(self, pre: Tensor) -> Tensor:
        """Do what the datapath does to the sums; the gradient of tables is that of their function."""
        table = self.simulation.plan.tables.get(self.node.name)
        if table is None or not pre.requires_grad:
            return self.simulation.finish(self.node, pre)
        smooth = activate(self.node.activation, pre.clamp(table.fmt.lo * table.fmt.step, table.fmt.hi * table.fmt.step))
        return smooth + (self.simulation.finish(self.node, pre) - smooth).detach()


def _search(
    problem: _Problem,
    patches: Patches,
    choice: tuple[Tensor, Tensor, Tensor, Tensor],
    options: AdaRoundConfig,
) -> Tensor:
    """Return h of every weight, [G, K / G, L], where h > 0.5 means the upper code."""
    lower, upper, rest, nearest = choice
    with torch.no_grad():
        reference = problem.errors(nearest, patches)
        scale = torch.where(reference > 0, 1 / reference, 0.0) / reference.numel()
    v = torch.logit((rest - GAMMA) / (ZETA - GAMMA)).requires_grad_()
    optimiser = torch.optim.Adam([v], options.learning_rate, fused=True)
    warm = int(WARM_UP * options.iterations)
    for i in range(options.iterations):
        h = _rectified_sigmoid(v)
        loss = (problem.errors(lower + h * (upper - lower), patches.batch(i, options.batch)) * scale).sum()
        if i >= warm:
            beta = BETA_END + (BETA_START - BETA_END) * 0.5 * (
                1 + np.cos(np.pi * (i - warm) / max(options.iterations - warm, 1))
            )
            loss = loss + options.regulariser * (1 - (2 * h - 1).abs() ** float(beta)).mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return _rectified_sigmoid(v).detach()


def _rectified_sigmoid(v: Tensor) -> Tensor:
    return (torch.sigmoid(v) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def _choices(node: FoldedConv, codes: ConvCodes, simulation: Simulation) -> tuple[Tensor, Tensor, Tensor]:
    """Return the lower code, the upper code and the distance from the lower, [G, K / G, L] each."""
    fmt = FixedPoint(codes.w_bits, 0)
    lowest = -fmt.hi if simulation.plan.config.overflow is Overflow.SATURATE_SYMMETRIC else fmt.lo
    scaled = np.ldexp(node.weight, codes.w_frac.reshape(-1, 1, 1, 1))
    lower = np.clip(np.floor(scaled), lowest, fmt.hi)
    upper = np.clip(np.ceil(scaled), lowest, fmt.hi)
    rest = np.clip(scaled - lower, 0.0, 1.0)
    low, high, part = (_grouped(torch.from_numpy(array).float(), node.groups) for array in (lower, upper, rest))
    return low, high, part


def _grouped(weight: Tensor, groups: int) -> Tensor:
    return weight.reshape(groups, weight.shape[0] // groups, -1)


def _split(images: int) -> tuple[range, range]:
    """Return the images that are searched on and those that judge; a single image does both."""
    held = images // HELD_OUT or min(images - 1, 1)
    return range(images - held), range(images - held, images) if held else range(images)


def sample_patches(layer: Layer, images: range, count: int, generator: torch.Generator) -> Patches:
    """Sample output positions of some images, uniformly and without repetition.

    Args:
        layer: The layer.
        images: Which images, a contiguous range.
        count: Positions; fewer if there are not as many, or if they would not fit `PATCH_BYTES`.
        generator: Source of randomness.
    """
    node = layer.node
    _, _, height, width = layer.wanted.shape
    taps = layer.inputs.shape[1] * node.window.size[0] * node.window.size[1]
    total = len(images) * height * width
    count = max(min(count, total, PATCH_BYTES // (4 * taps)), 1)
    position = torch.randperm(total, generator=generator)[:count]
    n, y, x = position // (height * width) + images.start, position // width % height, position % width
    wanted = float_finish(node, layer.wanted[n, :, y, x])
    return Patches(
        _windows(layer, n, y, x).reshape(count, node.groups, -1).transpose(0, 1).contiguous(),
        wanted.reshape(count, node.groups, -1).transpose(0, 1).contiguous(),
    )


def _windows(layer: Layer, n: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Return what the windows of output positions read, [P, C, R, S]."""
    window, (height, width) = layer.node.window, layer.wanted.shape[2:]
    padded = pad_windows(layer.inputs, window, (height, width), 0.0)
    rows, columns = (
        start[:, None] * window.stride[axis] + torch.arange(window.size[axis]) * window.dilation[axis]
        for axis, start in enumerate((y, x))
    )
    found = padded[n[:, None, None], :, rows[:, :, None], columns[:, None, :]]  # [P, R, S, C]
    return found.permute(0, 3, 1, 2)
