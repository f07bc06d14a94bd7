# SPDX-License-Identifier: Apache-2.0
"""Removal of whole residual blocks from a darknet model.

A block is what lies between a map and the ``[shortcut]`` that adds something to it: ``y = x + f(x)`` becomes ``y = x``.
Blocks are ranked by the batch norm right before the sum: where its scales are small, ``f`` adds little.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass

from yolo_hw.darknet import layers as L
from yolo_hw.darknet.network import Network
from yolo_hw.errors import PruneError
from yolo_hw.nn.darknet import Darknet
from yolo_hw.prune.cfg_cut import cut_layers

_BEHIND_NORM = (L.Identity, L.Activation, L.SqueezeExcite)
"""Layers between a batch norm and a sum that leave the norm the one that scales the branch."""


@dataclass(frozen=True)
class RemovedBlock:
    """A residual block that is gone.

    Attributes:
        shortcut: Name of its sum in the original network.
        layers: Names of all its layers in the original network.
        score: Mean magnitude of the batch-norm scales right before the sum.
    """

    shortcut: str
    layers: tuple[str, ...]
    score: float


@dataclass(frozen=True)
class ResidualBlock:
    """A residual block that can be removed.

    Attributes:
        shortcut: Index of its sum.
        source: Index of the other input of the sum.
        norm: Name of the layer whose batch norm is right before the sum.
    """

    shortcut: int
    source: int
    norm: str

    @property
    def layers(self) -> range:
        """Indices of its layers, the sum included: all that lie behind the source."""
        return range(self.source + 1, self.shortcut + 1)


def find_blocks(network: Network) -> tuple[tuple[ResidualBlock, ...], dict[str, str]]:
    """Find the residual blocks of a network.

    Returns:
        The blocks that can be removed, and for the name of every other ``[shortcut]`` the reason why it cannot go.
    """
    readers: dict[int, set[int]] = defaultdict(set)
    for layer in network.layers:
        for source in layer.inputs:
            readers[source].add(layer.index)
    blocks: list[ResidualBlock] = []
    reasons: dict[str, str] = {}
    for layer in network.layers:
        if isinstance(layer, L.Shortcut):
            found = _block(network, layer, readers)
            if isinstance(found, ResidualBlock):
                blocks.append(found)
            else:
                reasons[layer.name] = found
    return tuple(blocks), reasons


def _block(network: Network, shortcut: L.Shortcut, readers: dict[int, set[int]]) -> ResidualBlock | str:
    """Return the block of a sum, or why it cannot be removed."""
    if why := _fixed_sum(network, shortcut):
        return why
    source = shortcut.inputs[1]
    inside = network.layers[source + 1 : shortcut.index]
    if not inside:
        return "adds a map to itself"
    own = set(range(source + 1, shortcut.index + 1))
    outputs = {layer.index for layer in network.outputs}
    for layer in inside:
        if isinstance(layer, L.Shortcut):
            return f"holds another sum, {layer.name}"
        if elsewhere := sorted(set(layer.inputs) - own - {source}):
            return f"{layer.name} lies between its two inputs and reads {_name(network, elsewhere[0])}"
        if outside := sorted(readers[layer.index] - own):
            return f"{layer.name} is read by {_name(network, outside[0])}, too"
        if layer.index in outputs:
            return f"{layer.name} is an output of the network"
    last: L.Layer = network.layers[shortcut.inputs[0]]
    while isinstance(last, _BEHIND_NORM) and last.inputs[0] > source:
        last = network.layers[last.inputs[0]]
    if not (isinstance(last, L.BatchNorm) or (isinstance(last, L.Convolutional) and last.batch_normalize)):
        return f"{last.name}, right before the sum, has no batch norm to judge by"
    return ResidualBlock(shortcut.index, source, last.name)


def _fixed_sum(network: Network, shortcut: L.Shortcut) -> str | None:
    """Return why a sum cannot be replaced by one of its inputs, or None."""
    if len(shortcut.inputs) != 2:
        return f"adds {len(shortcut.inputs)} maps"
    if shortcut.weights_type != "none":
        return "weighs its inputs"
    if shortcut.activation != "linear":
        return f"has the activation {shortcut.activation}"
    if shortcut.in_shapes[1] != shortcut.shape:
        return f"its inputs differ in shape: {shortcut.in_shapes[0]} and {shortcut.in_shapes[1]}"
    if any(layer.index == shortcut.index for layer in network.outputs):
        return "is an output of the network"
    return None


def _name(network: Network, index: int) -> str:
    return network.layers[index].name if index >= 0 else "the input of the network"


def rank_blocks(model: Darknet) -> tuple[list[tuple[ResidualBlock, float]], dict[str, str]]:
    """Return the removable blocks with their scores, in the order in which they go, and the reasons of `find_blocks`.

    Args:
        model: The model; its scales are looked at.
    """
    blocks, reasons = find_blocks(model.network)
    scores = [float(model.block(b.norm).parameter_of("scale").detach().abs().double().mean()) for b in blocks]
    return sorted(zip(blocks, scores, strict=True), key=lambda pair: (pair[1], pair[0].shortcut)), reasons


def remove_blocks(model: Darknet, count: int, keep: Collection[str] = ()) -> tuple[Darknet, tuple[RemovedBlock, ...]]:
    """Remove the residual blocks whose last batch norm has the smallest mean |gamma|.

    What read a removed sum reads the sum's other input. The result computes what the model does with the branches of
    these blocks at zero. Of equal scores the block nearest to the input goes.

    Args:
        model: The model; it is not changed.
        count: How many blocks to remove.
        keep: Names of layers that must stay, and with them their blocks.

    Returns:
        The smaller model with the weights of the layers that are left, its cfg as it was written but for the removed
        sections and the numbers that change; and the blocks, lowest score first.

    Raises:
        PruneError: `count` is not positive, or above the number of blocks that can be removed.
    """
    if count < 1:
        raise PruneError(f"removal of layers: the number of residual blocks to remove must be at least 1, got {count}")
    ranked, reasons = rank_blocks(model)
    for block in [block for block, _ in ranked]:
        held = [model.network.layers[i].name for i in block.layers if model.network.layers[i].name in keep]
        if held:
            reasons[model.network.layers[block.shortcut].name] = f"holds {held[0]}, which must stay"
    ranked = [(block, score) for block, score in ranked if model.network.layers[block.shortcut].name not in reasons]
    if count > len(ranked):
        kept = "; ".join(f"{name} {why}" for name, why in reasons.items())
        raise PruneError(
            f"removal of layers: {count} residual blocks are to go, {model.network.name} has {len(ranked)} that can "
            f"and {len(reasons)} that cannot" + (f": {kept}" if kept else "")
        )
    chosen = ranked[:count]
    gone = {index for block, _ in chosen for index in block.layers}
    small = cut_layers(model, gone, {block.shortcut: block.source for block, _ in chosen})
    return small, tuple(_removed(model.network, block, score) for block, score in chosen)


def _removed(network: Network, block: ResidualBlock, score: float) -> RemovedBlock:
    names = tuple(network.layers[index].name for index in block.layers)
    return RemovedBlock(network.layers[block.shortcut].name, names, score)
