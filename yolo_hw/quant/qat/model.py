# SPDX-License-Identifier: Apache-2.0
"""A network in quantisation-aware training: the folded graph, with live weights and quantisers that follow them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, ClassVar, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from yolo_hw.darknet.network import Network
from yolo_hw.errors import QuantError
from yolo_hw.fixedpoint import FixedPoint
from yolo_hw.intgraph.graph import INPUT, INPUT_FORMAT
from yolo_hw.intgraph.liveness import last_reads
from yolo_hw.nn.activations import activate
from yolo_hw.ops import fake_quant_pow2
from yolo_hw.quant.calibrate import ImageBatch, Progress, calibrate, equalising_exponents
from yolo_hw.quant.config import CorrectBy, QuantConfig
from yolo_hw.quant.equalise import Exponents, scale_groups
from yolo_hw.quant.execute import raw_result
from yolo_hw.quant.finish import RELU6_CAP, look_up, round_sum, scale_sum
from yolo_hw.quant.folded import FoldedConv, FoldedGraph, FoldedNode
from yolo_hw.quant.folding import PIXEL_GAIN
from yolo_hw.quant.groups import format_groups
from yolo_hw.quant.legal import cast_image
from yolo_hw.quant.plan import QuantPlan
from yolo_hw.quant.qat.config import HeadForm, NormFold, QatConfig, ScaleMethod
from yolo_hw.quant.qat.conv import QatConv
from yolo_hw.quant.qat.flag import Flag
from yolo_hw.quant.qat.heads import FloatQuantiser, head_nodes, widen_heads
from yolo_hw.quant.qat.methods import make_quantiser
from yolo_hw.quant.qat.observation import show_batches
from yolo_hw.quant.qat.quantiser import FracLimits, Grid, Quantiser
from yolo_hw.quant.qat.shared import share_parameters
from yolo_hw.quant.source import ConvSource, TracedModel
from yolo_hw.quant.tables import ARITHMETIC, build_table
from yolo_hw.quant.weights import choose_fracs


class QatModel(nn.Module):
    """What `prepare_qat` makes of a float model; trained like it, by the same loop and loss.

    In training, rounding is straight-through and floats are the tensors' own. In evaluation every number is the one the
    integer graph computes: exactly in float64, and as far as float32 can add otherwise. A model that cannot have an
    integer graph computes accumulators, biases and activation functions in float, training and evaluation alike.

    Attributes:
        graph: The network's nodes, without weights.
        network: Description of the darknet network it was made of, for losses and detection; None of other modules.
        config: Word lengths, rounding, slope of leaky.
        qat: How scales and batch norms are trained.
        convs: By name of node (dots are slashes): weights, batch norms and their quantisers.
        formats: By the first tensor of each format group: the quantiser all its tensors share.
        arguments: By name of node: the quantiser of the argument of its activation's table.
        obstacle: Why there is no integer form of the model: the first layer and its reason; None if there is one.
    """

    parameters_rest: ClassVar[bool] = True
    """Steps that are frozen, and biases ahead of a batch norm until that is, have no gradient."""

    calibrated: Tensor

    def __init__(self, traced: TracedModel, network: Network | None, config: QuantConfig, qat: QatConfig) -> None:
        """Build the modules; `calibrate` has to follow.

        Args:
            traced: The folded graph and the float model's tensors, which are copied.
            network: Description of a darknet model, for losses and detection.
            config: Word lengths, observers, rounding.
            qat: How scales and batch norms are trained.
        """
        super().__init__()
        config = widen_heads(config, traced.graph, qat.heads)
        graph = cast_image(traced.graph, config)
        self.graph, self.config, self.qat = _without_weights(graph), config, qat
        self.network = network
        self._pack = traced.pack
        self._float = set(head_nodes(graph)) if qat.heads is HeadForm.FLOAT else set()
        self.convs = nn.ModuleDict()
        self.formats = nn.ModuleDict()
        self.arguments = nn.ModuleDict()
        self._format_of: dict[str, str] = {}
        for group in format_groups(graph, config):
            key = _key(group.members[0])
            self.formats[key] = self._activation_quantiser(group.producers, group.bits, group.signed)
            self._format_of |= dict.fromkeys(group.members, key)
        for node in graph.nodes:
            if not node.moves and node.activation not in ARITHMETIC:
                bits = config.activation_bits(node.name)
                self.arguments[_key(node.name)] = self._activation_quantiser((node.name,), bits, True)
            if isinstance(node, FoldedConv):
                self.convs[_key(node.name)] = self._make_conv(node, traced.sources[node.name])
        shared = share_parameters({name: self.conv(name) for name in traced.sources}, traced.sources)
        constant = {
            name
            for name, source in traced.sources.items()
            if source.fixed or source.fixed_bias or not self.conv(name).scalable
        }
        self._tied = shared | constant
        self.register_buffer("calibrated", torch.tensor(False))
        self._calibrated = Flag()
        self.obstacle = self._find_obstacle()
        for device in {source.weight.device for source in traced.sources.values()}:
            self.to(device)

    def _activation_quantiser(self, producers: tuple[str, ...], bits: int, signed: bool) -> Quantiser:
        grid = Grid(bits, signed, self.config.rounding, self.config.overflow)
        if self._float.issuperset(producers):  # what other layers share is rounded
            return FloatQuantiser(grid, momentum=self.qat.range_momentum)
        return make_quantiser(self.qat.a_scale, grid, momentum=self.qat.range_momentum)

    def _make_conv(self, node: FoldedConv, source: ConvSource) -> QatConv:
        grid = Grid(self.config.weight_bits(node.name), True, self.config.rounding, self.config.overflow)
        channels = node.weight.shape[0] if self.config.per_channel else 1
        if node.name in self._float:
            quantiser: Quantiser = FloatQuantiser(grid, channels)
        else:
            quantiser = make_quantiser(self.qat.w_scale, grid, channels, of_weights=True)
        return QatConv(node, source, quantiser, self.qat.norm_fold, self.config)

    def _find_obstacle(self) -> str | None:
        shifts = "is not a power of two, which shifts need; use "
        scales = ", ".join(method.value for method in ScaleMethod if method.power_of_two)
        for node in self.graph.nodes:
            if not node.moves and not self._format(node.name).power_of_two:
                return f"{node.name}: the step of its values ({self.qat.a_scale.value}) {shifts}a_scale {scales}"
            if isinstance(node, FoldedConv) and not self.conv(node.name).quantiser.power_of_two:
                return f"{node.name}: the step of its weights ({self.qat.w_scale.value}) {shifts}w_scale {scales}"
            if isinstance(node, FoldedConv) and self.conv(node.name).norm_apart:
                folds = ", ".join(fold.value for fold in NormFold if fold.folds)
                reason = f"its batch norm is a float operation behind the convolution (norm_fold {NormFold.NONE.value})"
                return f"{node.name}: {reason}, which has no integer form; use norm_fold {folds}"
        return None

    def calibrate(self, batches: list[ImageBatch], progress: Progress | None = None) -> None:
        """Set all fraction bits by post-training calibration of the current weights; see `yolo_hw.quant.calibrate`.

        Args:
            batches: Images [N, H, W, C] uint8 of the network's size.
            progress: Called after every batch.
        """
        self._equalise(equalising_exponents(self.folded_graph(), batches, self.config, progress))
        # What is left of post-training quantisation without what training replaces.
        config = replace(
            self.config, equalise=None, absorb_biases=False, adaround=None, bias_correction_by=CorrectBy.IMAGES
        )
        graph = self.folded_graph()
        calibrated = calibrate(graph, batches, config, progress)
        self.take_formats(calibrated.plan)
        for node, corrected in zip(graph.nodes, calibrated.graph.nodes, strict=True):
            if isinstance(node, FoldedConv) and isinstance(corrected, FoldedConv):
                self.conv(node.name).shift(torch.from_numpy(corrected.bias - node.bias))
        self._observe(batches)

    def _equalise(self, exponents: Exponents) -> None:
        """Scale channels where all weights around a tensor are this model's alone."""
        for group in scale_groups(self.graph):
            found = exponents.get(group.members[0])
            if found is None or self._tied.intersection((*group.producers, *group.consumers)):
                continue
            factors = torch.from_numpy(found)
            for name in group.producers:
                self.conv(name).rescale(factors, None)
            for name in group.consumers:
                self.conv(name).rescale(None, factors)

    @torch.no_grad()
    def _observe(self, batches: list[ImageBatch]) -> None:
        """Show quantisers that want to see them the weights, then the values that the quantised network makes."""
        for conv in self.convs.values():
            quantiser, weight = cast(QatConv, conv).quantiser, cast(QatConv, conv).rounded_weight()
            if quantiser.observes:
                quantiser.observe(weight, first=True)
            elif cast(QatConv, conv).norm_apart:  # calibration has seen the folded weights
                rows = weight.double().cpu().reshape(quantiser.channels, -1).numpy()
                quantiser.set_frac(torch.from_numpy(choose_fracs(rows, quantiser.grid.bits, self.config)))
        show_batches(self, [*self.formats.values(), *self.arguments.values()], batches)

    def take_formats(self, plan: QuantPlan) -> None:
        """Start from the fraction bits of a plan for this network."""
        for node in self.graph.nodes:
            if node.name in plan.tables:
                _set(self._argument(node), plan.tables[node.name].fmt.frac)
            if not node.moves:
                _set(self._format(node.name), plan.formats[node.name].frac)
            if isinstance(node, FoldedConv):
                quantiser = self.conv(node.name).quantiser
                frac = torch.from_numpy(plan.convs[node.name].w_frac)
                quantiser.set_frac(frac if quantiser.channels > 1 else frac.amin().reshape(1))
        self.calibrated.fill_(True)

    def folded_graph(self) -> FoldedGraph:
        """Return the network in float with its current weights, batch norms folded with the running statistics."""

        def with_weights(node: FoldedNode) -> FoldedNode:
            if not isinstance(node, FoldedConv):
                return node
            conv = self.conv(node.name)
            weight, bias = ConvSource(conv.weight, conv.norm, conv.bias, conv.gain).folded()
            return replace(node, weight=weight, bias=bias)

        return replace(self.graph, nodes=tuple(with_weights(node) for node in self.graph.nodes))

    def forward(self, x: Tensor) -> Any:  # noqa: ANN401 - whatever the float model returns
        """Run the network, without mixed precision: sums of products need the bits of a float32.

        Args:
            x: [N, C, H, W] pixels / 255, of the network's size.

        Returns:
            What the float model returns, of a darknet model the map [N, K, h, w] of every output, in the graph's order.

        Raises:
            QuantError: The fraction bits are not set and this is no training; several processes would set different
                ones; or a number that was trained is NaN or infinite.
        """
        if not self._calibrated.read(self.calibrated):
            self._calibrate_on(x)
        wanted = {tensor for tensor, _ in self.graph.outputs}
        with ExitStack() as batch:
            if self.training:
                for quantiser in self.formats.values():
                    batch.enter_context(cast(Quantiser, quantiser).one_batch())
            with self._explained(), torch.autocast(x.device.type, enabled=False):
                found = {name: out for name, out in self.run(x) if name in wanted}
        maps = [found[tensor] for tensor, _ in self.graph.outputs]
        return maps if self._pack is None else self._pack(maps)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Say so where an operator fails because the training had diverged before."""
        try:
            yield
        except RuntimeError as error:
            for name, tensor in (*self.named_parameters(), *self.named_buffers()):
                found = tensor.detach().flatten()
                if tensor.dtype.is_floating_point and not found.isfinite().all():
                    raise QuantError(
                        f"{self.graph.name}: {name} must be finite, but an earlier step has made it "
                        f"{float(found[~found.isfinite()][0])}: stop at the first gradient that is not finite, as the "
                        "training loop does, lower the learning rate or clip gradients, and see that the batch norms' "
                        "statistics are those of the images"
                    ) from error
            raise

    def run(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Run the network on pixels / 255; yield (tensor, [N, K, h, w]) in execution order."""
        rule = (INPUT_FORMAT, self.config.rounding, self.config.overflow)
        maps = {INPUT: fake_quant_pow2(x / PIXEL_GAIN, *rule)}
        image_frac = torch.full((1,), INPUT_FORMAT.frac, dtype=torch.int32, device=x.device)
        fracs = {INPUT: image_frac if self.obstacle is None else None}
        for node, dying in zip(self.graph.nodes, last_reads(self.graph.nodes), strict=True):
            inputs = [maps[name] for name in node.inputs]
            if node.moves:
                maps[node.name] = raw_result(node, inputs, {})
                fracs[node.name] = fracs[node.inputs[0]]
            elif isinstance(node, FoldedConv):
                x_frac = fracs[node.inputs[0]]
                pre = self.conv(node.name)(inputs[0], x_frac, self._limits(node, x_frac))
                maps[node.name] = self._finish(node, pre)
                fracs[node.name] = self._frac(node)
            else:
                maps[node.name] = self._finish(node, raw_result(node, inputs, {}))
                fracs[node.name] = self._frac(node)
            yield node.name, maps[node.name]
            for name in dying:
                del maps[name]

    def _finish(self, node: FoldedNode, pre: Tensor) -> Tensor:
        """Turn accumulators into the node's rounded output."""
        quantiser, pre = self._format(node.name), scale_sum(node, pre)
        if self.obstacle is not None:
            return cast(Tensor, quantiser(activate(node.activation, pre)))
        if _key(node.name) in self.arguments:
            return self._by_table(node, pre, quantiser)

        def cap() -> Tensor:
            fmt, six = quantiser.grid.format(), pre.new_full((1,), RELU6_CAP)
            return fake_quant_pow2(six, fmt, self.config.rounding, frac=quantiser.frac())

        return round_sum(node.activation, pre, self.config.leaky, quantiser, cap)

    def _by_table(self, node: FoldedNode, pre: Tensor, quantiser: Quantiser) -> Tensor:
        """An activation that hardware looks up: in training the function, in evaluation the table itself."""
        argument = self._argument(node)
        code = argument(pre)
        if self.training:
            return cast(Tensor, quantiser(activate(node.activation, code)))
        fmt, out = argument.format(), quantiser.format()
        table = build_table(node.activation, fmt, out, self.config)
        return look_up(table, torch.ldexp(code, torch.tensor(fmt.frac)), out.step, pre.dtype)

    def _frac(self, node: FoldedNode) -> Tensor | None:
        """Return the fraction bits [1] of a node's output; None in a model without integer form."""
        return self._format(node.name).frac() if self.obstacle is None else None

    def _limits(self, node: FoldedConv, x_frac: Tensor | None) -> FracLimits | None:
        """Return the fraction bits of weights with which output shift and accumulator are what the target has."""
        if x_frac is None:
            return None
        contract, profile = self.config.contract, self.config.profile
        slope_shift = self.config.leaky.shift if node.activation == "leaky" else 0
        code = self._argument(node) if _key(node.name) in self.arguments else self._format(node.name)
        ahead = code.frac() - x_frac
        lowest = torch.maximum(max(contract.min_shift, profile.conv_shift.lo) + ahead, profile.acc_frac.lo - x_frac)
        largest_shift = min(contract.max_shift - slope_shift, profile.conv_shift.hi)
        highest = torch.minimum(largest_shift + ahead, profile.acc_frac.hi - x_frac)
        return FracLimits(lowest.clamp(min=profile.w_frac.lo), highest.clamp(max=profile.w_frac.hi))

    def _calibrate_on(self, x: Tensor) -> None:
        """The first batch of a training decides, where no images were given before."""
        if not self.training:
            raise QuantError(
                f"{self.graph.name}: the fraction bits are not set: give prepare_qat images, or train the model first"
            )
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            raise QuantError(
                f"{self.graph.name}: with several processes prepare_qat needs calibration images, as every process "
                "would set other fraction bits from its own first batch"
            )
        pixels = (x.detach() * 255).round().clamp(0, 255).to("cpu", torch.uint8)
        self.calibrate([np.ascontiguousarray(pixels.permute(0, 2, 3, 1).numpy())])

    @torch.no_grad()
    def plan(self) -> QuantPlan:
        """Return formats and codes: what evaluation computes with, as integers."""
        exact = copy.deepcopy(self).double().cpu().eval()
        with self._explained():
            return exact._plan()

    def _plan(self) -> QuantPlan:
        if self.obstacle is not None:
            raise QuantError(f"{self.graph.name}: {self.obstacle}")
        if not self.calibrated:
            raise QuantError(f"{self.graph.name}: the fraction bits are not set: train the model first")
        formats: dict[str, FixedPoint] = {INPUT: INPUT_FORMAT}
        formats |= {node.name: self._format(node.name).format() for node in self.graph.nodes}
        convs, tables = {}, {}
        for node in self.graph.nodes:
            if _key(node.name) in self.arguments:
                argument = self._argument(node).format()
                tables[node.name] = build_table(node.activation, argument, formats[node.name], self.config)
            if isinstance(node, FoldedConv):
                x_frac = torch.tensor([formats[node.inputs[0]].frac], dtype=torch.int32)
                convs[node.name] = self.conv(node.name).codes(x_frac, self._limits(node, x_frac))
        return QuantPlan(self.config, formats, convs, tables)

    def conv(self, name: str) -> QatConv:
        """Return the module of the convolution `name`."""
        return cast(QatConv, self.convs[_key(name)])

    def freeze_norms(self) -> None:
        """From now on training uses the running statistics of batch norms, and does not change them."""
        for conv in self.convs.values():
            cast(QatConv, conv).freeze_norm()

    def freeze_scales(self) -> None:
        """From now on training leaves all fraction bits as they are."""
        for module in self.modules():
            if isinstance(module, Quantiser):
                module.frozen.fill_(True)

    def _format(self, tensor: str) -> Quantiser:
        return cast(Quantiser, self.formats[self._format_of[tensor]])

    def _argument(self, node: FoldedNode) -> Quantiser:
        return cast(Quantiser, self.arguments[_key(node.name)])


def _key(name: str) -> str:
    """Return a name that torch takes for a module."""
    return name.replace(".", "/")


def _set(quantiser: Quantiser, frac: int) -> None:
    quantiser.set_frac(torch.tensor([frac]))


def _without_weights(graph: FoldedGraph) -> FoldedGraph:
    """Keep the shapes of weights, in one number of memory."""
    nodes = [
        replace(node, weight=np.broadcast_to(np.float64(0), node.weight.shape), bias=np.zeros(0))
        if isinstance(node, FoldedConv)
        else node
        for node in graph.nodes
    ]
    return replace(graph, nodes=tuple(nodes))
