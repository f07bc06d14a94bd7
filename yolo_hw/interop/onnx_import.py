# SPDX-License-Identifier: Apache-2.0
"""A float ONNX model as a torch module of real layers, to prune, train, quantise and compile like any other.

>>> imported = import_onnx("yolov8n.onnx")
>>> [(end.node, end.shape) for end in imported.outputs], imported.notes
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import fx

from yolo_hw.darknet.layers import Shape
from yolo_hw.errors import OnnxError
from yolo_hw.interop.from_onnx.arithmetic import ARITHMETIC
from yolo_hw.interop.from_onnx.builder import Operator, build_module
from yolo_hw.interop.from_onnx.document import OnnxDocument, read_document
from yolo_hw.interop.from_onnx.layers import LAYERS
from yolo_hw.interop.from_onnx.moves import MOVES
from yolo_hw.interop.from_onnx.patterns import simplify
from yolo_hw.interop.from_onnx.resize import RESIZE
from yolo_hw.interop.from_onnx.tail import Cut, cut_at, cut_by_default
from yolo_hw.nn.resnet import Standardise

OPERATORS: Mapping[str, Operator] = {**LAYERS, **ARITHMETIC, **MOVES, **RESIZE}
"""Every operator that maps may pass, and what translates it; shapes and other constants are computed on import."""


class OnnxCutWarning(UserWarning):
    """A model came without the last operators of its file."""


@dataclass(frozen=True, kw_only=True)
class InputConvention:
    """What the ONNX model takes, in terms of this library's images in [0, 1]: ``(scale * x - mean) / std``.

    Attributes:
        scale: 255 for a network of pixels.
        mean: Per channel, or one number for all.
        std: The same.
    """

    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if not all(0 < value < math.inf for value in (self.scale, *self.std)):
            raise OnnxError(f"input convention: scale and std must be positive, got {self.scale} and {self.std}")
        if not all(math.isfinite(value) for value in self.mean):
            raise OnnxError(f"input convention: mean must be finite, got {self.mean}")

    @property
    def is_identity(self) -> bool:
        """Whether the network takes images in [0, 1]."""
        return self.scale == 1 and not any(self.mean) and all(value == 1 for value in self.std)

    def layer(self, channels: int) -> Standardise:
        """Return the layer in front: ``(x - mean / scale) / (std / scale)``.

        Raises:
            OnnxError: There are other numbers than one, or one per channel.
        """
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, channels):
                raise OnnxError(f"input convention: {name} must have 1 or {channels} numbers, got {len(values)}")
        mean, std = ([value / self.scale for value in values] for values in (self.mean, self.std))
        return Standardise(_each(mean, channels), _each(std, channels))


def _each(values: Sequence[float], channels: int) -> tuple[float, ...]:
    return tuple(values) if len(values) == channels else tuple(values) * channels


@dataclass(frozen=True)
class OutputMap:
    """An output of an imported module.

    Attributes:
        node: The ONNX node that makes it.
        tensor: Its ONNX name.
        shape: Without the images: [K, h, w] for a map.
    """

    node: str
    tensor: str
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class OnnxImport:
    """An imported model and what became of its file.

    Attributes:
        model: In evaluation mode; takes [N, C, H, W], returns a tensor, or a list for several outputs.
        input_shape: Of one image.
        outputs: In the order the module returns them.
        dropped: Operator -> how many nodes behind the outputs the module lacks.
        batch: How many images the module must be given; None for any number.
        notes: What differs from the file, in sentences.
    """

    model: fx.GraphModule
    input_shape: Shape
    outputs: tuple[OutputMap, ...]
    dropped: Mapping[str, int] = field(default_factory=dict)
    batch: int | None = None
    notes: tuple[str, ...] = ()


def load_onnx(
    path: str | Path,
    *,
    input_size: tuple[int, int] | None = None,
    outputs: Sequence[str] | None = None,
    keep_tail: bool = False,
    convention: InputConvention | None = None,
) -> fx.GraphModule:
    """Return the module of `import_onnx`; warns with its notes (`OnnxCutWarning`) where it was cut by default."""
    imported = import_onnx(
        path, input_size=input_size, outputs=outputs, keep_tail=keep_tail, convention=convention
    )  # fmt: skip
    if imported.dropped and outputs is None:
        warnings.warn("; ".join(imported.notes), OnnxCutWarning, stacklevel=2)
    return imported.model


def import_onnx(
    path: str | Path,
    *,
    input_size: tuple[int, int] | None = None,
    outputs: Sequence[str] | None = None,
    keep_tail: bool = False,
    convention: InputConvention | None = None,
) -> OnnxImport:
    """Make a torch module of a float ONNX model.

    Args:
        path: The file, opset 9 to 22, with one image input; external data must lie beside it or below.
        input_size: (height, width) where the file leaves them free.
        outputs: Names or glob patterns of tensors or nodes where the network is to end; None: the file's outputs, or
            the last maps before a decoding that has no integer form (see `yolo_hw.interop.from_onnx.tail`).
        keep_tail: Take the file's outputs, decoding included.
        convention: What the network takes; a layer in front makes it of images in [0, 1].

    Returns:
        The module and what became of the file.

    Raises:
        OnnxError: The file cannot be read safely, or has operators without a form in torch; names all of them.
    """
    if keep_tail and outputs is not None:
        raise OnnxError(f"{path}: give outputs, or keep_tail")
    document = read_document(path, input_size)
    simplified = simplify(document)
    if outputs is not None:
        cut = cut_at(document, simplified, outputs)
    elif keep_tail:
        cut = Cut(tuple(simplified.resolve(name) for name in document.outputs))
    else:
        cut = cut_by_default(document, simplified)
    built = build_module(document, simplified, cut.outputs, OPERATORS)
    maps = tuple(
        OutputMap(simplified.producer[tensor].name if tensor in simplified.producer else tensor, tensor, shape)
        for tensor, shape in zip(cut.outputs, built.shapes, strict=True)
    )
    if convention is not None and not convention.is_identity:
        _put_in_front(built.module, convention.layer(document.input_shape[1]))
    dropped = Counter(node.op for node in cut.dropped if node.op not in ("Constant", "Shape"))
    notes = [*document.notes, *built.notes, *_cut_note(document, dropped, maps)]
    return OnnxImport(built.module, Shape(*document.input_shape[1:]), maps, dropped, built.batch, tuple(notes))


def suggest_outputs(path: str | Path, *, input_size: tuple[int, int] | None = None) -> tuple[OutputMap, ...]:
    """Return where `import_onnx` would end the network: the last maps of each head, with their shapes.

    Raises:
        OnnxError: See `import_onnx`.
    """
    return import_onnx(path, input_size=input_size).outputs


def _cut_note(document: OnnxDocument, dropped: Mapping[str, int], maps: Sequence[OutputMap]) -> list[str]:
    if not dropped:
        return []
    ends = ", ".join(f"{end.node} {list(end.shape)}" for end in maps)
    operators = ", ".join(f"{count} {op}" if count > 1 else op for op, count in sorted(dropped.items()))
    return [f"{document.path}: the module ends at {ends}; behind these the file goes on with {operators}"]


def _put_in_front(module: fx.GraphModule, layer: Standardise) -> None:
    """Make a module apply a layer to its input first."""
    name = "standardise"
    while hasattr(module, name):
        name += "_"
    module.add_submodule(name, layer)
    (image,) = (node for node in module.graph.nodes if node.op == "placeholder")
    with module.graph.inserting_after(image):
        first = module.graph.call_module(name, (image,))
    image.replace_all_uses_with(first, delete_user_cb=lambda user: user is not first)
    module.recompile()
