# SPDX-License-Identifier: Apache-2.0
"""An ONNX file as a head runner, computed by onnxruntime."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from yolo_hw.darknet.layers import HeadSpec, Shape
from yolo_hw.darknet.network import Network
from yolo_hw.errors import YoloHwError

PIXEL_SCALE = 1 / 255
"""What darknet's own networks take: pixels / 255."""


class OnnxRunner:
    """Runs a detector whose outputs are the raw head maps of a darknet network, [N, A * (5 + classes), h, w] each.

    The one input is [N, C, H, W], float32 (pixels times `pixel_scale`) or uint8 (the pixels). N may be free or fixed; a
    last batch that is smaller is filled up with black images whose maps are dropped.
    """

    def __init__(
        self, path: str | Path, network: Network, *, pixel_scale: float = PIXEL_SCALE, threads: int = 0
    ) -> None:
        """Open the file and check it against the network.

        Args:
            path: The ONNX file.
            network: Gives the input's shape and, in the order of the outputs, the heads with their anchors.
            pixel_scale: Factor from pixels to a float32 input.
            threads: Of onnxruntime; 0 leaves the number to it.

        Raises:
            YoloHwError: onnxruntime is missing, the file cannot be read, or its input or outputs do not fit.
        """
        self._network = network
        self._pixel_scale = np.float32(pixel_scale)
        self._session = _open_session(Path(path), threads)
        self._input, self._dtype, self._batch = _check_input(path, self._session.get_inputs(), network.input)
        _check_outputs(path, self._session.get_outputs(), network)

    @property
    def input_shape(self) -> Shape:
        """Shape of the network's input."""
        return self._network.input

    @property
    def heads(self) -> tuple[HeadSpec, ...]:
        """The network's heads."""
        return tuple(head.spec for head in self._network.heads)

    def run(self, images: npt.NDArray[np.uint8]) -> list[Tensor]:
        """See `HeadRunner.run`."""
        x: npt.NDArray[Any] = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        if self._dtype == np.float32:
            x = x.astype(np.float32) * self._pixel_scale
        size = self._batch or len(x)
        parts = [self._run_batch(x[start : start + size], size) for start in range(0, len(x), size)]
        return [torch.from_numpy(np.concatenate(maps)).float() for maps in zip(*parts, strict=True)]

    def _run_batch(self, x: npt.NDArray[Any], size: int) -> list[npt.NDArray[Any]]:
        missing = size - len(x)
        filled = np.concatenate([x, np.zeros((missing, *x.shape[1:]), x.dtype)]) if missing else x
        return [maps[: len(x)] for maps in self._session.run(None, {self._input: filled})]


def _open_session(path: Path, threads: int) -> Any:  # noqa: ANN401
    try:
        runtime = importlib.import_module("onnxruntime")
    except ImportError:
        raise YoloHwError(f"{path}: running ONNX files needs onnxruntime: pip install 'yolo-hw[onnx]'") from None
    if not path.is_file():
        raise YoloHwError(f"{path}: no such ONNX file")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    try:
        return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common class but this one
        raise YoloHwError(f"{path}: onnxruntime cannot load the file: {str(error).splitlines()[0]}") from None


def _check_input(path: str | Path, inputs: Sequence[Any], net: Shape) -> tuple[str, npt.DTypeLike, int]:
    """Return name, type and batch size (0 where it is free) of the input."""
    if len(inputs) != 1:
        raise YoloHwError(f"{path}: a detector must have one input, got {len(inputs)}")
    (found,) = inputs
    types = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8}
    if found.type not in types:
        raise YoloHwError(f"{path}: input {found.name} must be float32 or uint8, got {found.type}")
    if not _fits(found.shape, (None, *net)):
        raise YoloHwError(f"{path}: input {found.name} must be [N, {net.c}, {net.h}, {net.w}], got {found.shape}")
    batch = found.shape[0]
    return found.name, types[found.type], batch if isinstance(batch, int) else 0


def _check_outputs(path: str | Path, outputs: Sequence[Any], network: Network) -> None:
    if len(outputs) != len(network.heads):
        raise YoloHwError(
            f"{path}: must have one output per head of {network.name}, {len(network.heads)}, got {len(outputs)}"
        )
    for found, head in zip(outputs, network.heads, strict=True):
        shape = head.in_shapes[0]
        if found.type != "tensor(float)" or not _fits(found.shape, (None, *shape)):
            raise YoloHwError(
                f"{path}: output {found.name} must be the raw map of {head.name}, float32 [N, {shape.c}, {shape.h}, "
                f"{shape.w}], got {found.type} {found.shape}"
            )


def _fits(found: Sequence[object], wanted: Sequence[int | None]) -> bool:
    """Whether a shape, in which names stand for free extents, can be `wanted`, where None is any."""
    return len(found) == len(wanted) and all(
        not isinstance(a, int) or b is None or a == b for a, b in zip(found, wanted, strict=True)
    )
