# SPDX-License-Identifier: Apache-2.0
"""Operators that move elements. Axis 0 holds the images, and their number stays free wherever the file lets it."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx

from yolo_hw.interop.from_onnx.builder import Call, Operator, Refused, Result


def concat(call: Call) -> Result:
    """Concat; constants become tensors of the module."""
    parts = [
        call.builder.buffer(name, call.constant(i)) if call.is_constant(i) else call.map(i)
        for i, name in enumerate(call.node.inputs)
    ]
    return call.builder.call(torch.cat, parts, int(call.attribute("axis")))


def split(call: Call) -> Result:
    """Split into given lengths, or into equal ones."""
    shape = call.shape(0)
    axis = int(call.attribute("axis", 0)) % len(shape)
    sizes = call.integers(1, "split")
    if sizes is None:
        count = int(call.attribute("num_outputs", len(call.node.outputs)))
        sizes = _parts_of(-(-shape[axis] // count), shape[axis])
    parts = _split(call, sizes, axis)
    return tuple(call.builder.call(operator.getitem, parts, i) for i in range(len(sizes)))


def split_to_sequence(call: Call) -> Result:
    """SplitToSequence, what torch's newer exporter writes for `chunk`: a tuple that `sequence_at` picks from."""
    if not call.has(1):
        raise Refused("must say how long its parts are")
    axis = int(call.attribute("axis", 0)) % len(call.shape(0))
    lengths = call.constant(1)
    whole = call.shape(0)[axis]
    sizes = _parts_of(int(lengths), whole) if lengths.ndim == 0 and lengths > 0 else lengths.reshape(-1).tolist()
    return _split(call, sizes, axis)


def _parts_of(each: int, whole: int) -> list[int]:
    """Return the lengths of equal parts and the rest."""
    return [min(each, whole - start) for start in range(0, whole, each)]


def _split(call: Call, sizes: Sequence[int], axis: int) -> fx.Node:
    whole = call.shape(0)[axis]
    if sum(sizes) != whole or min(sizes) < 1:
        raise Refused(f"its parts {list(sizes)} must fill the {whole} elements along axis {axis}")
    return call.builder.call(torch.split, call.map(0), list(sizes), axis)


def sequence_at(call: Call) -> Result:
    """SequenceAt: one of the parts."""
    return call.builder.call(operator.getitem, call.map(0), int(call.constant(1)))


def slice_(call: Call) -> Result:
    """Slice with constant bounds and positive steps."""
    shape = call.shape(0)
    starts, ends = call.integers(1, "starts"), call.integers(2, "ends")
    assert starts is not None
    assert ends is not None
    axes = call.integers(3, "axes", range(len(starts)))
    steps = call.integers(4, "steps", [1] * len(starts))
    index = [slice(None)] * len(shape)
    for axis, start, end, step in zip(axes or (), starts, ends, steps or (), strict=True):
        if step < 1:
            raise Refused(f"its steps must be positive, got {step}")
        first, last, _ = slice(start, end, step).indices(shape[axis])
        whole = first == 0 and last >= shape[axis]
        index[axis] = slice(None, None, step if step > 1 else None) if whole else slice(first, last, step)
    if all(part == slice(None) for part in index):
        return call.map(0)
    return call.builder.call(operator.getitem, call.map(0), tuple(index))


def reshape(call: Call) -> Result:
    """Reshape to constant sizes."""
    shape = call.shape(0)
    sizes = call.integers(1, "shape") or []
    if not call.attribute("allowzero", 0):
        sizes = [shape[i] if size == 0 and i < len(shape) else size for i, size in enumerate(sizes)]
    if sizes.count(-1) == 1:
        known = math.prod(size for size in sizes if size != -1)
        sizes[sizes.index(-1)] = math.prod(shape) // known if known else 0
    if math.prod(sizes) != math.prod(shape) or any(size < 1 for size in sizes):
        raise Refused(f"must keep the {math.prod(shape)} elements of {list(shape)}, got {sizes}")
    return _reshaped(call, sizes)


def flatten(call: Call) -> Result:
    """Flatten: the axes before `axis` become one, the others another."""
    shape = call.shape(0)
    axis = int(call.attribute("axis", 1))
    axis = axis + len(shape) if axis < 0 else axis
    return _reshaped(call, [math.prod(shape[:axis]), math.prod(shape[axis:])])


def _reshaped(call: Call, sizes: Sequence[int]) -> fx.Node:
    """Change a shape; where the images stay apart, their number is left free."""
    x, shape = call.map(0), call.shape(0)
    if tuple(sizes) == shape:
        return x
    if not sizes or sizes[0] != shape[0]:
        return call.builder.call(torch.reshape, x, tuple(sizes))
    if len(sizes) == 2 and len(shape) > 2:
        return call.builder.call(torch.flatten, x, 1)
    return call.builder.call(torch.reshape, x, (-1, *sizes[1:]))


def transpose(call: Call) -> Result:
    """Transpose."""
    axes = call.attribute("perm", tuple(reversed(range(len(call.shape(0))))))
    return call.builder.call(torch.permute, call.map(0), tuple(axes))


def squeeze(call: Call) -> Result:
    """Squeeze: axes of one element leave."""
    shape = call.shape(0)
    axes = call.integers(1, "axes")
    if axes is None:
        axes = [axis for axis, size in enumerate(shape) if size == 1 and axis > 0]
    dims = tuple(axis % len(shape) for axis in axes)
    if any(shape[axis] != 1 for axis in dims):
        raise Refused(f"the axes {list(axes)} must have one element, got shape {list(shape)}")
    return call.builder.call(torch.squeeze, call.map(0), dims)


def unsqueeze(call: Call) -> Result:
    """Unsqueeze: new axes of one element."""
    axes = call.integers(1, "axes") or []
    rank = len(call.shape(0)) + len(axes)
    result = call.map(0)
    for axis in sorted(axis % rank for axis in axes):
        result = call.builder.call(torch.unsqueeze, result, axis)
    return result


def pad(call: Call) -> Result:
    """Pad by constant amounts."""
    shape = call.shape(0)
    mode = {"constant": "constant", "reflect": "reflect", "edge": "replicate"}.get(call.attribute("mode", "constant"))
    pads = call.integers(1, "pads") or []
    axes = call.integers(3, "axes", range(len(shape))) or []
    if mode is None or len(pads) != 2 * len(axes):
        raise Refused(f"must have a mode of constant, reflect or edge and two pads per axis, got {pads}")
    around = {axis % len(shape): pads[i :: len(axes)] for i, axis in enumerate(axes)}
    filling = call.optional(2)
    value = float(filling.reshape(-1)[0]) if filling is not None else float(call.attribute("value", 0.0))
    if around.get(0, [0, 0]) != [0, 0] or (mode != "constant" and any(any(around.get(axis, ())) for axis in (0, 1))):
        raise Refused(f"images cannot be padded, nor channels in mode {mode}")
    outer = min(axis for axis in range(len(shape)) if any(around.get(axis, ())) or axis == len(shape) - 1)
    outer = outer if mode == "constant" else 2  # torch wants both spatial axes here
    flat = [amount for axis in reversed(range(outer, len(shape))) for amount in around.get(axis, [0, 0])]
    if not any(flat):
        return call.map(0)
    extra = (value,) if mode == "constant" else ()
    return call.builder.call(F.pad, call.map(0), tuple(flat), mode, *extra)


def gather(call: Call) -> Result:
    """Gather with constant indices along one axis."""
    indices, shape = call.constant(1), call.shape(0)
    axis = int(call.attribute("axis", 0)) % len(shape)
    if axis == 0 or indices.ndim > 1:
        raise Refused("must take elements along an axis other than that of the images, by one list of indices")
    if not indices.size or indices.min() < -shape[axis] or indices.max() >= shape[axis]:
        found = indices.reshape(-1).tolist()
        raise Refused(f"its indices must be from {-shape[axis]} to {shape[axis] - 1}, got {found}")
    wrapped = (indices % shape[axis]).reshape(-1).tolist()
    taken = wrapped[0] if indices.ndim == 0 else _range(wrapped)
    return call.builder.call(operator.getitem, call.map(0), (*[slice(None)] * axis, taken))


def _range(indices: list[int]) -> slice | list[int]:
    """Return indices as a slice where they are one."""
    steps = set(np.diff(indices).tolist())
    if len(steps) == 1 and (step := steps.pop()) > 0:
        return slice(indices[0], indices[-1] + 1, step)
    return indices


def expand(call: Call) -> Result:
    """Expand to constant sizes: axes of one element are repeated."""
    shape, sizes = call.shape(0), [int(size) for size in call.constant(1).reshape(-1)]
    rank = max(len(shape), len(sizes))
    padded = [*[1] * (rank - len(shape)), *shape]
    sizes = [max(a, b) for a, b in zip(padded, [*[1] * (rank - len(sizes)), *sizes], strict=True)]
    same_images = rank == len(shape) and sizes[0] == shape[0]
    return call.builder.call(torch.Tensor.expand, call.map(0), (-1 if same_images else sizes[0], *sizes[1:]))


def tile(call: Call) -> Result:
    """Tile by constant numbers of repetitions."""
    return call.builder.call(torch.Tensor.repeat, call.map(0), tuple(int(n) for n in call.constant(1).reshape(-1)))


def depth_to_space(call: Call) -> Result:
    """DepthToSpace: channels to pixels, in either order."""
    block, (_, c, h, w) = int(call.attribute("blocksize")), call.shape(0)
    if call.attribute("mode", "DCR") == "CRD":
        return call.builder.call(F.pixel_shuffle, call.map(0), block)
    parts = call.builder.call(torch.reshape, call.map(0), (-1, block, block, c // block**2, h, w))
    moved = call.builder.call(torch.permute, parts, (0, 3, 4, 1, 5, 2))
    return call.builder.call(torch.reshape, moved, (-1, c // block**2, h * block, w * block))


def space_to_depth(call: Call) -> Result:
    """SpaceToDepth: pixels to channels."""
    block, (_, c, h, w) = int(call.attribute("blocksize")), call.shape(0)
    parts = call.builder.call(torch.reshape, call.map(0), (-1, c, h // block, block, w // block, block))
    moved = call.builder.call(torch.permute, parts, (0, 3, 5, 1, 2, 4))
    return call.builder.call(torch.reshape, moved, (-1, c * block**2, h // block, w // block))


MOVES: dict[str, Operator] = {
    "Concat": concat,
    "Split": split,
    "SplitToSequence": split_to_sequence,
    "SequenceAt": sequence_at,
    "Slice": slice_,
    "Reshape": reshape,
    "Flatten": flatten,
    "Transpose": transpose,
    "Squeeze": squeeze,
    "Unsqueeze": unsqueeze,
    "Pad": pad,
    "Expand": expand,
    "Tile": tile,
    "Gather": gather,
    "DepthToSpace": depth_to_space,
    "SpaceToDepth": space_to_depth,
}
"""Operator -> what translates it."""
