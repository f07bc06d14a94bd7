# SPDX-License-Identifier: Apache-2.0
"""From cfg sections to a checked network: typed layers, explicit edges, shapes.

The one entry is `build_network`; the sections are built by `yolo_hw.darknet.builders`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from yolo_hw.darknet.builders import BUILDERS, MAX_LAYERS, BuildContext
from yolo_hw.darknet.cfg import Cfg, read_cfg
from yolo_hw.darknet.keys import canonical, check_keys
from yolo_hw.darknet.layers import DetectionHead, Layer, Shape
from yolo_hw.darknet.section_reader import SectionReader
from yolo_hw.errors import CfgError

MAX_MAP_ELEMENTS = 1 << 28
"""Largest feature map, 1 GiB in float32; a larger one is a mistake in the cfg."""

MAX_PARAMS = 1 << 29
"""Parameters of the whole network, 2 GiB in float32: eight times the largest published darknet network."""


@dataclass(frozen=True)
class Network:
    """A darknet network: layers in execution order with explicit edges.

    Attributes:
        name: Name of the cfg file, without suffix.
        input: Shape of the input image.
        layers: One entry per cfg section after ``[net]``.
        warnings: What the parser skipped or decided.
        cfg: Text of the cfg it was built from.
    """

    name: str
    input: Shape
    layers: tuple[Layer, ...]
    warnings: tuple[str, ...] = field(default=(), compare=False)
    cfg: str = field(default="", compare=False, repr=False)

    @property
    def heads(self) -> tuple[DetectionHead, ...]:
        """The detection heads in cfg order."""
        return tuple(layer for layer in self.layers if isinstance(layer, DetectionHead))

    @property
    def outputs(self) -> tuple[Layer, ...]:
        """The detection heads; for a backbone or classifier the layers nobody reads."""
        if self.heads:
            return self.heads
        used = {i for layer in self.layers for i in layer.inputs}
        return tuple(layer for layer in self.layers if layer.index not in used)

    def stride(self, head: Layer) -> tuple[float, float]:
        """Return the input pixels per cell (vertical, horizontal) of a layer, from the graph's shapes."""
        return self.input.h / head.shape.h, self.input.w / head.shape.w

    @property
    def num_params(self) -> int:
        """Floats of a weights file, batch-norm statistics included."""
        return sum(param.numel for layer in self.layers for param in layer.params)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image."""
        return sum(layer.macs for layer in self.layers)


def load_network(path: str | Path, *, lenient: bool = False, size: tuple[int, int] | None = None) -> Network:
    """Read a cfg file and build its network.

    Args:
        path: The cfg file.
        lenient: See `build_network`.
        size: (height, width) of the input instead of the cfg's.

    Returns:
        The network.

    Raises:
        CfgError: See `build_network`.
    """
    cfg = read_cfg(path)
    if size is not None and cfg.sections:
        for key, extent in zip(("height", "width"), size, strict=True):
            cfg.sections[0].set(key, str(extent))
    return build_network(cfg, lenient=lenient)


def build_network(cfg: Cfg, *, lenient: bool = False) -> Network:
    """Build the typed layers of a cfg.

    Args:
        cfg: Parsed sections, ``[net]`` first.
        lenient: Skip unknown training keys with a warning (see `check_keys`).

    Returns:
        The network with all shapes inferred.

    Raises:
        CfgError: Unknown section or key, a value out of range, a reference to a layer that does not come before, or
            shapes that do not fit; names file and line.
    """
    warnings = check_keys(cfg, lenient=lenient)
    if not cfg.sections or canonical(cfg.sections[0].type) != "net":
        raise CfgError(f"{cfg.name}: the first section must be [net]")
    if not 2 <= len(cfg.sections) <= MAX_LAYERS:
        raise CfgError(f"{cfg.name}: a network must have 1 to {MAX_LAYERS} layers, got {len(cfg.sections) - 1}")
    net = SectionReader(cfg.name, cfg.sections[0])
    shape = Shape(net.integer("channels", 3, 1), net.integer("height", None, 1), net.integer("width", None, 1))
    _check_map(net, shape)
    built: list[Layer] = []
    params = 0
    for section in cfg.sections[1:]:
        kind = canonical(section.type)
        if kind == "net":
            raise CfgError(f"{cfg.name}:{section.line}: [net] must be the first section only")
        context = BuildContext(SectionReader(cfg.name, section), built, shape)
        layer = BUILDERS[kind](context)
        _check_map(context.reader, layer.shape)
        params += sum(param.numel for param in layer.params)
        if params > MAX_PARAMS:
            context.reader.fail(f"a network must have at most {MAX_PARAMS} parameters, got {params} up to this layer")
        built.append(layer)
    return Network(Path(cfg.name).stem, shape, tuple(built), tuple(warnings), cfg.text())


def _check_map(reader: SectionReader, shape: Shape) -> None:
    if min(shape) < 1:
        reader.fail(f"the output would be empty: {shape}")
    if shape.numel > MAX_MAP_ELEMENTS:
        reader.fail(f"a feature map must have at most {MAX_MAP_ELEMENTS} elements, got {shape}")
