# SPDX-License-Identifier: Apache-2.0
"""Readable names of modules: those of the torch model the file was exported from, wherever the file still has them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import onnx

from yolo_hw.interop.attribute_names import attribute_name
from yolo_hw.interop.from_onnx.document import OnnxNode

CONSTANTS = "constants"
"""What holds the tensors that are no layer's."""


class ModuleNames:
    """Gives every layer a path of its own that is no part of another's."""

    def __init__(self, nodes: Iterable[OnnxNode], constants: Mapping[str, object]) -> None:
        """Look at all nodes, to know which paths contain others."""
        self._paths = {node.outputs[0]: _path(node, constants) for node in nodes}
        parts = [path.split(".") for path in self._paths.values()]
        self._containers = {".".join(part[:i]) for part in parts for i in range(len(part))}
        self._containers.add(CONSTANTS)
        self._taken: set[str] = set()

    def take(self, node: OnnxNode) -> str:
        """Return a free path for the layer of a node."""
        path = self._paths[node.outputs[0]]
        if path in self._containers:
            path = f"{path}.{node.op.lower()}".lstrip(".")
        return self._free(path)

    def take_constant(self, tensor: str) -> str:
        """Return a free path for a constant of the file."""
        return self._free(f"{CONSTANTS}.{_valid([tensor])}")

    def _free(self, path: str) -> str:
        """Return the path, or one like it that nothing else has."""
        chosen, count = path, 1
        while chosen in self._taken or chosen in self._containers:
            chosen, count = f"{path}_{count}", count + 1
        self._taken.add(chosen)
        return chosen


def _path(node: OnnxNode, constants: Mapping[str, object]) -> str:
    """Return where a node's layer was: by its weight, by the scope the exporter noted, or by its name."""
    weight = node.inputs[1] if len(node.inputs) > 1 else ""
    if weight in constants and weight.endswith(".weight"):
        return _valid(weight.removesuffix(".weight").split("."))
    if node.scope is not None:
        return _valid(node.scope.split("."))
    parts = [part for part in node.name.split("/") if part]
    if len(parts) > 1 and onnx.defs.has(re.sub(r"_\d+$", "", parts[-1])):
        parts.pop()
    # torch's older exporter repeats a container before each member: stage/stage.0/stage.0.conv
    kept = [a for a, b in zip(parts, [*parts[1:], ""], strict=True) if not b.startswith(f"{a}.")]
    return _valid([piece for part in kept for piece in part.split(".")])


def _valid(parts: Iterable[str]) -> str:
    """Return a path torch takes."""
    return ".".join(attribute_name(part) for part in parts if part)
