# SPDX-License-Identifier: Apache-2.0
"""A thin builder over `onnx.helper`: nodes, shared constants, and a checked model with stated versions.

Tensors of the network keep their names, which hold no ``/``; everything between them is called ``<node>/<part>``, so no
two names can meet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from yolo_hw import __version__
from yolo_hw.atomic import atomic_file
from yolo_hw.darknet.layers import Shape
from yolo_hw.errors import ExportError
from yolo_hw.geometry import Window

OPSET = 13
"""The first with a scale per channel in DequantizeLinear; the integer operators are older."""
OPSET_INT16 = 21
"""The first whose QuantizeLinear has 16-bit codes."""
IR_VERSIONS = {OPSET: 7, OPSET_INT16: 10}
"""The file format that came with each opset: what `onnx` writes by default may be newer than a runtime reads."""
MAX_BYTES = (1 << 31) - 1
"""What protobuf can write in one message."""

Array = npt.NDArray[Any]


Settle = Callable[[str], str]
"""States once more the format of a map that one of several moves has made, and returns the map's new name."""


class Port(NamedTuple):
    """An input or output of a model: [N, C, H, W] of one element type."""

    name: str
    dtype: npt.DTypeLike
    shape: Shape


@dataclass
class OnnxBuilder:
    """Collects the nodes and constants of one model, in the order they are computed."""

    name: str
    batch: int | None = 1
    """Images per run; None leaves the number free (``N``)."""
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)
    _names: dict[tuple[str, tuple[int, ...], bytes], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.batch is not None and self.batch < 1:
            raise ExportError(f"{self.name}: batch must be at least 1, or None for any, got {self.batch}")

    def constant(self, values: npt.ArrayLike, dtype: npt.DTypeLike, name: str | None = None) -> str:
        """Add a constant and return its name; equal constants without a name of their own are shared."""
        array = np.asarray(values, dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if name is None and key in self._names:
            return self._names[key]
        name = name or f"/constant/{len(self._names)}"
        self._names.setdefault(key, name)
        self.constants[name] = numpy_helper.from_array(array, name)
        return name

    def emit(self, op: str, inputs: Sequence[str], out: str, *, domain: str = "", **attributes: object) -> str:
        """Add a node with one output and return the output's name; the node is called like it."""
        node = helper.make_node(op, list(inputs), [out], name=out, domain=domain)
        node.attribute.extend(helper.make_attribute(*pair) for pair in attributes.items())
        self.nodes.append(node)
        return out

    def rename_last(self, x: str, out: str) -> str:
        """Call the tensor `x` `out`; a copy where it is a tensor of the network, which others may read."""
        if "/" not in x or self.nodes[-1].output[0] != x:
            return self.emit("Identity", [x], out)
        self.nodes[-1].output[0] = self.nodes[-1].name = out
        return out

    def cast(self, x: str, dtype: npt.DTypeLike, out: str) -> str:
        """Convert the element type; integers that do not fit keep their low bits."""
        return self.emit("Cast", [x], out, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def shape(self, *extents: int) -> str:
        """Add the constant shape [N, *extents] for a Reshape, which keeps the number of images."""
        return self.constant((0, *extents), np.int64)

    def cut(self, x: str, axes: Sequence[int], ranges: Sequence[tuple[int, int, int]], out: str) -> str:
        """Take ``start:stop:step`` along every axis of `axes`."""
        parts = (self.constant(part, np.int64) for part in zip(*ranges, strict=True))
        starts, stops, steps = parts
        return self.emit("Slice", [x, starts, stops, self.constant(axes, np.int64), steps], out)

    def windowed(
        self, x: str, window: Window, shapes: tuple[Shape, Shape], out: str, settle: Settle = lambda name: name
    ) -> tuple[str, dict[str, Any]]:
        """Return the map and the attributes with which Conv or MaxPool compute exactly the windows of the output.

        Args:
            x: The map.
            window: Geometry.
            shapes: Of the map and of the output.
            out: Prefix of a new name.
            settle: Applied to a cropped map.

        Returns:
            The map, cropped where further windows would fit, and kernel_shape, strides, pads, dilations.
        """
        source, target = shapes
        trailing = [window.trailing_pad(axis, source[1 + axis], target[1 + axis]) for axis in (0, 1)]
        if any(-trailing[axis] >= window.stride[axis] for axis in (0, 1)):  # a smaller rest is no window anyway
            kept = [(0, source[1 + axis] + min(trailing[axis], 0), 1) for axis in (0, 1)]
            x = settle(self.cut(x, (2, 3), kept, f"{out}/cropped"))
        return x, {
            "kernel_shape": window.size,
            "strides": window.stride,
            "pads": [*window.pad, *(max(pad, 0) for pad in trailing)],
            "dilations": window.dilation,
        }

    def outputs(self, tensors: Sequence[str], inputs: Sequence[str]) -> list[str]:
        """Return one distinct name per output of the model; a tensor that leaves twice, or is an input, is copied."""
        names: list[str] = []
        for i, tensor in enumerate(tensors):
            taken = tensor in names or tensor in inputs
            names.append(self.emit("Identity", [tensor], f"{tensor}/output{i}") if taken else tensor)
        return names

    def finish(
        self,
        inputs: Sequence[Port],
        outputs: Sequence[Port],
        metadata: Mapping[str, str],
        *,
        opset: int = OPSET,
        domains: Mapping[str, int] | None = None,
    ) -> onnx.ModelProto:
        """Return the checked model.

        Args:
            inputs: What it reads.
            outputs: What it returns.
            metadata: Goes into ``metadata_props``.
            opset: Version of the standard operators.
            domains: Versions of other operators.

        Raises:
            ExportError: The installed onnx does not know the opset, or the model does not fit one file.
        """
        if opset > onnx.defs.onnx_opset_version():
            raise ExportError(f"{self.name}: opset {opset} is needed; onnx {onnx.__version__} is too old, upgrade it")
        sources, sinks = ([self._value(port) for port in ports] for ports in (inputs, outputs))
        read = {name for node in self.nodes for name in node.input} | {port.name for port in outputs}
        constants = [tensor for name, tensor in self.constants.items() if name in read]
        body = helper.make_graph(self.nodes, self.name, sources, sinks, constants)
        model = helper.make_model(
            body,
            opset_imports=[helper.make_opsetid(*pair) for pair in {"": opset, **(domains or {})}.items()],
            ir_version=IR_VERSIONS[opset],
            producer_name="yolo_hw",
            producer_version=__version__,
        )
        helper.set_model_props(model, dict(metadata))
        if model.ByteSize() > MAX_BYTES:
            raise ExportError(f"{self.name}: an ONNX file must have at most {MAX_BYTES} bytes, got {model.ByteSize()}")
        onnx.checker.check_model(model, full_check=True)
        return model

    def _value(self, port: Port) -> onnx.ValueInfoProto:
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(port.dtype))
        return helper.make_tensor_value_info(port.name, kind, [self.batch or "N", *port.shape])


def save_model(model: onnx.ModelProto, path: str | Path) -> None:
    """Write a model; equal models give equal bytes, and the file appears complete or not at all."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))
