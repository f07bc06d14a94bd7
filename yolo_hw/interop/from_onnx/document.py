# SPDX-License-Identifier: Apache-2.0
"""From a file to a checked list of nodes. Nothing in the file is trusted: sizes, paths, names and versions are checked.

The file is parsed by `onnx`; its checker and strict shape inference decide whether it is a valid model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.inliner
from onnx import helper, numpy_helper

from yolo_hw.errors import OnnxError
from yolo_hw.interop.from_onnx.channels_last import put_channels_first

Array = npt.NDArray[Any]
Extents = tuple[int | None, ...]

OPSETS = range(9, 23)
"""Versions of the standard operators whose meaning is implemented."""
MAX_BYTES = (1 << 31) - 1
"""What protobuf can hold in one message; the limit of a file together with its external data."""
MAX_EXTENT = 1 << 16
"""No side of an image or map is as long."""
STANDARD = ("", "ai.onnx")
"""The domain of the standard operators has two names."""
SCOPES = "pkg.torch.onnx.name_scopes"
"""Where torch's exporter by `torch.export` notes the modules that a node is in."""


@dataclass(frozen=True, eq=False)
class OnnxNode:
    """One operator.

    Attributes:
        name: Its own, or that of its first output.
        op: Operator, behind its domain if that is not the standard one; `patterns` adds some of its own.
        inputs: Tensors; "" where an optional one is absent.
        outputs: Tensors.
        attributes: Numbers, strings, lists and arrays.
        domain: "" for the standard operators.
        scope: Path of the torch module it is in, where the exporter noted it.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    domain: str = ""
    scope: str | None = None


@dataclass(frozen=True, eq=False)
class OnnxDocument:
    """A model with one image input.

    Attributes:
        path: The file.
        name: Of the graph.
        opset: Version of the operators.
        nodes: In execution order.
        constants: By tensor name; floats of any width as float32.
        input: Name of the image tensor.
        input_shape: [N, C, H, W]; a free N is 1.
        free_batch: Whether the file leaves N free.
        outputs: Tensor names.
        shapes: Shapes that `onnx` inferred, None for extents it does not know.
        notes: What was changed on reading.
    """

    path: Path
    name: str
    opset: int
    nodes: tuple[OnnxNode, ...]
    constants: Mapping[str, Array]
    input: str
    input_shape: tuple[int, int, int, int]
    free_batch: bool
    outputs: tuple[str, ...]
    shapes: Mapping[str, Extents]
    notes: tuple[str, ...] = ()


def read_document(path: str | Path, input_size: tuple[int, int] | None = None) -> OnnxDocument:
    """Read and check a model.

    Args:
        path: The file; external data must lie beside it or below.
        input_size: (height, width) where the file leaves them free.

    Returns:
        The nodes and constants.

    Raises:
        OnnxError: The file is no valid float model with one image input; says why.
    """
    path = Path(path)
    model = _parse(path)
    _load_external(path, model)
    model = _without_functions(path, model)
    opset = _opset(path, model)
    moved = put_channels_first(model)
    image, shape, free_batch = _fix_input(path, model, input_size)
    model = _checked(path, model)
    notes = [] if moved is None else [moved]
    constants = {tensor.name: _array(path, tensor, notes) for tensor in model.graph.initializer}
    known = [*model.graph.value_info, *model.graph.output]
    return OnnxDocument(
        path=path,
        name=model.graph.name or path.stem,
        opset=opset,
        nodes=tuple(_node(path, node) for node in model.graph.node),
        constants=constants,
        input=image,
        input_shape=shape,
        free_batch=free_batch,
        outputs=tuple(output.name for output in model.graph.output),
        shapes={value.name: _extents(value) for value in known},
        notes=tuple(dict.fromkeys(notes)),
    )


def _parse(path: Path) -> onnx.ModelProto:
    if not path.is_file():
        raise OnnxError(f"{path}: no such ONNX file")
    if path.stat().st_size > MAX_BYTES:
        raise OnnxError(f"{path}: an ONNX file must have at most {MAX_BYTES} bytes, got {path.stat().st_size}")
    try:
        model = onnx.load_model(str(path), load_external_data=False)
    except OSError:
        raise
    except Exception as error:  # protobuf's, whose classes have no types
        raise OnnxError(f"{path}: this is no ONNX file, or it is truncated: {error}") from None
    if not model.graph.node:
        raise OnnxError(f"{path}: the model has no nodes")
    if not model.graph.output:
        raise OnnxError(f"{path}: the model has no outputs")
    if model.graph.sparse_initializer:
        raise OnnxError(f"{path}: sparse tensors are not supported: export dense ones")
    return model


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield every tensor of a model: initializers and attributes, those of functions and subgraphs too."""
    waiting: list[onnx.GraphProto | onnx.FunctionProto] = [model.graph, *model.functions]
    while waiting:
        part = waiting.pop()
        if isinstance(part, onnx.GraphProto):
            yield from part.initializer
        for attribute in (attribute for node in part.node for attribute in node.attribute):
            yield from ([attribute.t] if attribute.HasField("t") else [])
            yield from attribute.tensors
            waiting += [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]


def _load_external(path: Path, model: onnx.ModelProto) -> None:
    """Read external tensors, each after a look at where it lies and how long it must be."""
    folder, total = path.parent.resolve(), path.stat().st_size
    external = [x for x in _tensors(model) if x.data_location == onnx.TensorProto.EXTERNAL]
    for tensor in external:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        place = f"{path}: tensor '{tensor.name}'"
        location = entries.get("location", "")
        source = folder / location
        if "\0" in location or Path(location).is_absolute() or folder not in source.resolve().parents:
            raise OnnxError(f"{place}: external data must lie in the model's folder or below, got {location!r}")
        if not source.is_file():
            raise OnnxError(f"{place}: the file of external data {source} is missing")
        offset, length = (_natural(place, entries.get(key, default)) for key, default in (("offset", "0"),
                                                                                         ("length", "-1")))  # fmt: skip
        length = source.stat().st_size - offset if length < 0 else length
        if offset + length > source.stat().st_size:
            raise OnnxError(
                f"{place}: external data must end within {source} of {source.stat().st_size} bytes, got bytes "
                f"{offset} to {offset + length}"
            )
        total += length
        if total > MAX_BYTES:
            raise OnnxError(f"{path}: the model and its external data must have at most {MAX_BYTES} bytes")
        try:
            onnx.external_data_helper.load_external_data_for_tensor(tensor, str(folder))
        except (onnx.checker.ValidationError, OSError, ValueError) as error:
            raise OnnxError(f"{place}: its external data cannot be read: {_first_line(error)}") from None
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]


def _natural(place: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise OnnxError(f"{place}: offset and length of external data must be whole numbers, got '{text}'") from None


def _without_functions(path: Path, model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with the operators that it defines itself spelt out."""
    if not model.functions:
        return model
    try:
        return onnx.inliner.inline_local_functions(model)
    except (onnx.checker.ValidationError, RuntimeError, ValueError) as error:
        raise OnnxError(f"{path}: its functions cannot be put in place: {_first_line(error)}") from None


def _opset(path: Path, model: onnx.ModelProto) -> int:
    versions = [entry.version for entry in model.opset_import if entry.domain in STANDARD]
    if len(versions) != 1 or versions[0] not in OPSETS:
        found = versions[0] if len(versions) == 1 else versions or "none"
        raise OnnxError(
            f"{path}: the opset must be {OPSETS[0]} to {OPSETS[-1]}, got {found}: export with opset_version=17"
        )
    return int(versions[0])


def _fix_input(
    path: Path, model: onnx.ModelProto, size: tuple[int, int] | None
) -> tuple[str, tuple[int, int, int, int], bool]:
    """Give the image input its size; return its name, [N, C, H, W] and whether N was free."""
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    if len(inputs) != 1:
        raise OnnxError(f"{path}: the model must have one input, got {[value.name for value in inputs]}")
    (image,) = inputs
    kind, place = image.type.tensor_type, f"{path}: input '{image.name}'"
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE)
    if kind.elem_type not in floats:
        names = {int(number): name for name, number in onnx.TensorProto.DataType.items()}
        name = names.get(kind.elem_type, f"an unknown type {kind.elem_type}")
        raise OnnxError(f"{place}: must be floating point, got {name}: export the float model")
    shape = _extents(image)
    if len(shape) != 4:
        raise OnnxError(f"{place}: must be images [N, C, H, W], got {len(shape)} extents")
    if shape[1] is None:
        raise OnnxError(f"{place}: the number of channels must be fixed, got a free extent")
    wanted = (None, None) if size is None else size
    fixed = [known if known is not None else want for known, want in zip(shape[2:], wanted, strict=True)]
    if None in fixed:
        raise OnnxError(f"{place}: height and width are free in the file: say which with input_size=(height, width)")
    if size is not None and tuple(fixed) != tuple(size):
        raise OnnxError(
            f"{place}: the file is made for {fixed[0]}x{fixed[1]}, got input_size {size[0]}x{size[1]}: leave it out, "
            "or export with free height and width"
        )
    full = (shape[0] or 1, shape[1], int(fixed[0] or 0), int(fixed[1] or 0))
    if min(full) < 1 or max(full) >= MAX_EXTENT:
        raise OnnxError(f"{place}: every extent must be from 1 to {MAX_EXTENT - 1}, got {list(full)}")
    for dim, extent in zip(kind.shape.dim, full, strict=True):
        dim.dim_value = extent
    return image.name, full, shape[0] is None


def _checked(path: Path, model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with inferred shapes."""
    del model.graph.value_info[:]  # exporters leave wrong ones behind
    try:
        onnx.checker.check_model(model)
        for output in model.graph.output:
            output.type.tensor_type.ClearField("shape")  # may name the batch that is fixed now
        return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError, RuntimeError) as error:
        raise OnnxError(f"{path}: not a valid ONNX model: {_first_line(error)}") from None


def _array(path: Path, tensor: onnx.TensorProto, notes: list[str]) -> Array:
    """Return a tensor's numbers; floats as float32."""
    try:
        array = np.asarray(numpy_helper.to_array(tensor))
    except (ValueError, TypeError, RuntimeError) as error:
        raise OnnxError(f"{path}: tensor '{tensor.name}' cannot be read: {_first_line(error)}") from None
    return float32(array, notes)


def float32(array: Array, notes: list[str]) -> Array:
    """Return floats of any width as float32, everything else as it is."""
    kind = str(array.dtype)
    if kind == "float32" or not kind.startswith(("float", "bfloat")):
        return array
    notes.append(f"{kind} numbers are float32 in the module")
    return np.asarray(array.astype(np.float32))


def _node(path: Path, proto: onnx.NodeProto) -> OnnxNode:
    name = proto.name or next((out for out in proto.output if out), proto.op_type)
    attributes: dict[str, Any] = {}
    for attribute in proto.attribute:
        value = helper.get_attribute_value(attribute)
        if isinstance(value, onnx.TensorProto):
            value = _array(path, value, [])
        try:
            attributes[attribute.name] = value.decode() if isinstance(value, bytes) else value
        except UnicodeDecodeError:
            raise OnnxError(f"{path}: node '{name}': attribute {attribute.name} must be text, got {value!r}") from None
    domain = "" if proto.domain in STANDARD else proto.domain
    # An operator of another domain may have a standard one's name, but never its meaning.
    op = f"{domain}::{proto.op_type}" if domain else proto.op_type
    return OnnxNode(name, op, tuple(proto.input), tuple(proto.output), attributes, domain, _scope(proto))


def _scope(proto: onnx.NodeProto) -> str | None:
    """Return the innermost module of the list that torch's exporter has noted; its last entry is the operation."""
    for prop in getattr(proto, "metadata_props", ()):
        if prop.key == SCOPES:
            try:
                scopes = json.loads(prop.value.replace("'", '"'))
            except ValueError:
                return None
            return str(scopes[-2]) if isinstance(scopes, list) and len(scopes) > 1 else None
    return None


def _extents(value: onnx.ValueInfoProto) -> Extents:
    dims = value.type.tensor_type.shape.dim
    return tuple(dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None for dim in dims)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
