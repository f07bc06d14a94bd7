# SPDX-License-Identifier: Apache-2.0
"""A smaller darknet model: the cfg with the new numbers of filters, and the compact tensors in it."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch

from yolo_hw.darknet import layers as L
from yolo_hw.darknet.cfg import Section, parse_cfg
from yolo_hw.darknet.network import Network, build_network
from yolo_hw.nn.darknet import Darknet
from yolo_hw.prune.channels import Op
from yolo_hw.prune.constants import find_groups
from yolo_hw.prune.darknet_graph import darknet_channels
from yolo_hw.prune.groups import ChannelGroups
from yolo_hw.prune.plan import DeadBias, PrunePlan
from yolo_hw.prune.positions import kept_positions
from yolo_hw.prune.surgery import Surgery, operate


@dataclass(frozen=True)
class PrunedDarknet:
    """A pruned model and how it came about.

    Attributes:
        model: The compact model.
        surgery: The plan as carried out, and the states.
    """

    model: Darknet
    surgery: Surgery


def darknet_groups(model: Darknet | Network) -> ChannelGroups:
    """Return the channel groups of a darknet model."""
    return find_groups(darknet_channels(model.network if isinstance(model, Darknet) else model))


def prune_darknet(model: Darknet, plan: PrunePlan, dead_bias: DeadBias = DeadBias.TRANSFER) -> PrunedDarknet:
    """Carry out a plan.

    Args:
        model: The model the plan was made for; it is not changed.
        plan: The choice of channels.
        dead_bias: What becomes of the constants that pruned channels emit.

    Returns:
        The compact model; its `Network` has the text of the smaller cfg.

    Raises:
        PruneError: See `operate`.
    """
    surgery = operate(plan, dict(model.state_dict()), dead_bias)
    with torch.device("meta"):  # nothing is drawn that is replaced at once
        small = Darknet(smaller_network(model.network, surgery.plan), bn_eps=_bn_eps(model))
    small.load_state_dict({key: value.clone() for key, value in surgery.compact.items()}, assign=True)
    return PrunedDarknet(small.train(model.training), surgery)


def masked_darknet(model: Darknet, surgery: Surgery) -> Darknet:
    """Return the model of full size whose pruned channels are dead."""
    masked = copy.deepcopy(model)
    masked.load_state_dict(surgery.masked)
    return masked


def smaller_network(network: Network, plan: PrunePlan) -> Network:
    """Return the network of the kept channels; everything else of the cfg stays as it was written.

    Args:
        network: The network of full size.
        plan: The choice, followers included.

    Returns:
        The network, its ``.cfg`` holding the new text.
    """
    cfg = parse_cfg(network.cfg, f"{network.name}.cfg")
    ops = {op.layer: op for op in plan.groups.graph.ops if op.filters is not None}
    for layer, section in zip(network.layers, cfg.sections[1:], strict=True):
        if isinstance(layer, L.Convolutional):
            _resize_convolution(section, layer, ops[layer.name], plan)
        elif isinstance(layer, L.Connected):
            _set(section, "output", layer.shape.c, len(kept_positions(plan, ops[layer.name].output.labels)))
        elif isinstance(layer, L.SqueezeExcite):
            _resize_squeeze_excite(section, layer, ops, plan)
    return build_network(cfg, lenient=True)  # what was read once is no reason to fail now


def _resize_convolution(section: Section, layer: L.Convolutional, op: Op, plan: PrunePlan) -> None:
    depthwise = section.type == "depthwise"
    if not depthwise or section.get("filters") is not None:  # by default as many as its input has
        _set(section, "filters", layer.shape.c, len(kept_positions(plan, op.output.labels)))
    if op.whole_groups and not depthwise:
        inside = layer.in_shapes[0].c // layer.groups
        _set(section, "groups", layer.groups, len(kept_positions(plan, op.inputs[0].labels)) // inside)


def _resize_squeeze_excite(section: Section, layer: L.SqueezeExcite, ops: dict[str, Op], plan: PrunePlan) -> None:
    excite = ops[f"{layer.name}.excite"]
    channels = len(kept_positions(plan, excite.output.labels))
    if channels == layer.shape.c:
        return
    section.set("reduction", str(max(layer.shape.c // layer.squeezed, 1)))
    if section.get("filters") is not None:
        section.set("filters", str(channels))


def _set(section: Section, key: str, before: int, after: int) -> None:
    """Change a number of the cfg; an unchanged one is left as it is written, or left out."""
    if before != after:
        section.set(key, str(after))


def _bn_eps(model: Darknet) -> float:
    return next((m.eps for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)), 1e-5)
