# SPDX-License-Identifier: Apache-2.0
"""A darknet network as a torch module."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from torch import Tensor, nn

from yolo_hw.darknet.network import Network, load_network
from yolo_hw.darknet.weights import Header, Weights, read_weights
from yolo_hw.nn.blocks import Block, make_block

DARKNET_BN_EPS = 1e-5
"""What darknet (AlexeyAB) adds to the variance. OpenCV's reader of the same files adds 1e-6."""


class Darknet(nn.Module):
    """The layers of a network as modules named like the layers: ``model.blocks["conv_12"]``.

    Attributes:
        network: The typed description the model was built from.
        blocks: One module per layer.
    """

    def __init__(self, network: Network, bn_eps: float = DARKNET_BN_EPS) -> None:
        """Build modules with torch's default initialisation.

        Args:
            network: The typed layers.
            bn_eps: Added to batch-norm variances.
        """
        super().__init__()
        self.network = network
        self.blocks = nn.ModuleDict({layer.name: make_block(layer, bn_eps) for layer in network.layers})
        self._outputs = [layer.index for layer in network.outputs]
        self._last_use = {i: layer.index for layer in network.layers for i in layer.inputs}
        self._last_use.update(dict.fromkeys(self._outputs, len(network.layers)))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Run the network.

        Args:
            x: [N, C, H, W], RGB / 255 for darknet's own weights. H and W may differ from the cfg's if the graph allows.

        Returns:
            The raw map [N, K, h, w] of every output layer in cfg order; a head's map before any sigmoid.
        """
        maps: dict[int, Tensor] = {-1: x}
        for layer in self.network.layers:
            maps[layer.index] = self.blocks[layer.name]([maps[i] for i in layer.inputs])
            for i in set(layer.inputs):
                if self._last_use[i] == layer.index:
                    del maps[i]
        return [maps[i] for i in self._outputs]

    def block(self, name: str) -> Block:
        """Return the module of layer `name`."""
        return cast(Block, self.blocks[name])

    def load_weights(self, weights: Weights) -> None:
        """Copy the arrays of a weights file into the modules (all layers it covers)."""
        for layer in self.network.layers:
            self.block(layer.name).load(weights.of(layer))

    def to_weights(self, header: Header | None = None) -> Weights:
        """Return the model's arrays for `yolo_hw.darknet.write_weights`."""
        layers = {layer.index: self.block(layer.name).arrays() for layer in self.network.layers if layer.params}
        return Weights(layers, header or Header(), len(self.network.layers))


def load_darknet(
    cfg: str | Path,
    weights: str | Path | None = None,
    *,
    bn_eps: float = DARKNET_BN_EPS,
    partial: bool = False,
    lenient: bool = False,
    size: tuple[int, int] | None = None,
) -> Darknet:
    """Build a model from a cfg and load its weights.

    Args:
        cfg: The cfg file.
        weights: The weights file; None leaves the default initialisation.
        bn_eps: Added to batch-norm variances; 1e-5 is darknet's, 1e-6 OpenCV's.
        partial: Accept weights that cover only the first layers.
        lenient: Skip unknown training keys of the cfg with a warning.
        size: (height, width) of the input instead of the cfg's.

    Returns:
        The model in evaluation mode.

    Raises:
        CfgError: See `build_network`.
        WeightsError: See `read_weights`.
    """
    network = load_network(cfg, lenient=lenient, size=size)
    loaded = None if weights is None else read_weights(weights, network, partial=partial)
    model = Darknet(network, bn_eps)
    if loaded is not None:
        model.load_weights(loaded)
    return model.eval()
