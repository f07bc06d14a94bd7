# SPDX-License-Identifier: Apache-2.0
"""Layers leave a cfg: their sections go, and every reference to a layer behind them is renumbered."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping

import torch

from yolo_hw.darknet.cfg import Cfg, Option, Section, parse_cfg
from yolo_hw.darknet.keys import canonical
from yolo_hw.darknet.network import Network, build_network
from yolo_hw.errors import PruneError
from yolo_hw.nn.darknet import Darknet

REFERENCES = {"route": "layers", "shortcut": "from", "scale_channels": "from", "sam": "from"}
"""Section -> the key whose numbers name layers: from the front, or back from the section itself if negative."""


def cut_layers(model: Darknet, gone: Collection[int], instead: Mapping[int, int]) -> Darknet:
    """Return the model without some layers; the others keep their modules' weights, device, type and mode.

    Args:
        model: It is not changed.
        gone: Indices of the layers that go.
        instead: Layer that goes -> layer of the same shape that its readers read; it may go, too.

    Returns:
        A model that shares nothing with the given one.

    Raises:
        PruneError: A layer that is read goes without another in its place, or one that reads the section before it
            would find another one there.
    """
    network = cut_network(model.network, gone, instead)
    left = [layer for layer in model.network.layers if layer.index not in gone]
    with torch.device("meta"):  # every module is replaced by a copy, so none needs memory or initial weights
        small = Darknet(network)
    for old, new in zip(left, network.layers, strict=True):
        block = copy.deepcopy(model.block(old.name))
        block.layer = new
        small.blocks[new.name] = block
    small.training = small.blocks.training = model.training
    return small


def cut_network(network: Network, gone: Collection[int], instead: Mapping[int, int]) -> Network:
    """Return the network without some layers; what is left of the cfg stays as it was written.

    Arguments and errors are those of `cut_layers`.
    """
    places = _places(network, gone, instead)
    cfg = parse_cfg(network.cfg, f"{network.name}.cfg")
    left = [layer for layer in network.layers if layer.index not in gone]
    for layer in left:
        section = cfg.sections[layer.index + 1]
        key = REFERENCES.get(canonical(section.type))
        option = section.get(key) if key else None
        if option is not None:
            _renumber(option, layer.index, places)
    _remove_sections(cfg, gone)
    small = build_network(cfg, lenient=True)  # what was read once is no reason to fail now
    for old, new in zip(left, small.layers, strict=True):
        wanted = tuple(places[index] for index in old.inputs)
        if new.inputs != wanted:
            raise PruneError(f"{old.name}: must read layers {wanted} of the smaller network, its cfg says {new.inputs}")
    return small


def _places(network: Network, gone: Collection[int], instead: Mapping[int, int]) -> dict[int, int]:
    """Return layer -> index in the smaller network of what its readers are to read; -1 is the network's input."""
    places = {-1: -1}
    for layer in network.layers:
        if layer.index not in gone:
            places[layer.index] = layer.index - sum(index < layer.index for index in gone)
            missing = [index for index in layer.inputs if index not in places]
            if missing:
                name = network.layers[missing[0]].name
                raise PruneError(f"{layer.name}: reads {name}, which goes without another layer in its place")
        elif instead.get(layer.index) in places:
            places[layer.index] = places[instead[layer.index]]
    return places


def _renumber(option: Option, index: int, places: Mapping[int, int]) -> None:
    """Rewrite the numbers of a reference that change; signs and white space stay."""
    parts = option.value.split(",")
    for i, part in enumerate(parts):
        bare = part.strip()
        if bare:
            value = int(bare)
            new = places[index + value] - places[index] if value < 0 else places[value]
            parts[i] = part.replace(bare, str(new)) if new != value else part
    option.value = ",".join(parts)


def _remove_sections(cfg: Cfg, gone: Collection[int]) -> None:
    """Drop sections; a comment after the last option of one describes what follows and stays if that stays."""
    kept: list[Section] = [cfg.sections[0]]
    for index, section in enumerate(cfg.sections[1:]):
        if index not in gone:
            kept.append(section)
        elif index + 1 not in gone:
            kept[-1].items.extend(_closing_comments(section))
    cfg.sections = kept


def _closing_comments(section: Section) -> list[str]:
    """Return the lines after the last option, from the first comment on."""
    lines: list[str] = []
    for item in section.items:
        if isinstance(item, Option):
            lines = []
        elif lines or item.strip():
            lines.append(item)
    return lines
