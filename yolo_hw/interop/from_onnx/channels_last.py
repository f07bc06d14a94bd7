# SPDX-License-Identifier: Apache-2.0
"""Files whose images have their channels last, as exporters of TensorFlow write them."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

TO_CHANNELS_FIRST = [0, 3, 1, 2]
"""The `perm` of a Transpose that brings [N, H, W, C] to [N, C, H, W]."""
SCALINGS = ("Add", "Sub", "Mul", "Div")
"""What a file may do with its image before, by constants."""

Tensors = Mapping[str, onnx.TensorProto]


def put_channels_first(model: onnx.ModelProto) -> str | None:
    """Let a file take [N, C, H, W] that brings its image into this order at once, or behind a scaling.

    Args:
        model: Its first transpositions are taken out and the constants ahead of them turned; left as it is where the
            image goes anywhere else. It need not be a valid model, which is checked later.

    Returns:
        What was changed, in a sentence; None if nothing was.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    images = [value for value in model.graph.input if value.name not in constants]
    if len(images) != 1 or len(images[0].type.tensor_type.shape.dim) != len(TO_CHANNELS_FIRST):
        return None
    (image,) = images
    found = _ahead_of_turns(model, image.name, constants)
    if found is None:
        return None
    scalings, turns = found
    turned: dict[str, onnx.TensorProto] = {}
    for node in scalings:
        for i, name in enumerate(node.input):
            if name in constants:
                if name not in turned:
                    turned[name] = _turned(constants[name])
                node.input[i] = turned[name].name
    model.graph.initializer.extend(turned.values())
    for node in turns:
        node.op_type = "Identity"
        del node.attribute[:]
    dims = image.type.tensor_type.shape.dim
    image.type.tensor_type.shape.CopyFrom(onnx.TensorShapeProto(dim=[dims[axis] for axis in TO_CHANNELS_FIRST]))
    return f"the file's '{image.name}' is [N, H, W, C], the module's [N, C, H, W]"


def _ahead_of_turns(
    model: onnx.ModelProto, image: str, constants: Tensors
) -> tuple[list[onnx.NodeProto], list[onnx.NodeProto]] | None:
    """Return the scalings of the image and the transpositions all of them end in; None if anything else reads it."""
    outputs = {out.name for out in model.graph.output}
    scalings, turns, reached = [], [], [image]
    for tensor in reached:
        readers = [node for node in model.graph.node if tensor in node.input]
        if not readers or tensor in outputs:
            return None
        for node in readers:
            if _is_turn(node):
                turns.append(node)
            elif _is_scaling(node, tensor, constants) and node.output[0] not in reached:
                scalings.append(node)
                reached.append(node.output[0])
            else:  # a tensor that is reached again is made twice, or of itself
                return None
    return scalings, turns


def _is_turn(node: onnx.NodeProto) -> bool:
    perm = [list(found.ints) for found in node.attribute if found.name == "perm"]
    return node.op_type == "Transpose" and not node.domain and perm == [TO_CHANNELS_FIRST]


def _is_scaling(node: onnx.NodeProto, tensor: str, constants: Tensors) -> bool:
    """Whether a node scales every channel of a tensor by one number of its own."""
    others = [constants.get(name) for name in node.input if name != tensor]
    channelwise = [x is not None and len(x.dims) <= len(TO_CHANNELS_FIRST) and set(x.dims[:-1]) <= {1} for x in others]
    return node.op_type in SCALINGS and not node.domain and len(node.output) == 1 and channelwise == [True]


def _turned(tensor: onnx.TensorProto) -> onnx.TensorProto:
    """Return [..., C] as [C, 1, 1], which meets the channels of [N, C, H, W]; a wrong size stays one."""
    turned = onnx.TensorProto()
    turned.CopyFrom(tensor)
    turned.name, turned.dims[:] = f"{tensor.name}, channels first", [*(tensor.dims or [1])[-1:], 1, 1]
    return turned
