# SPDX-License-Identifier: Apache-2.0
"""A convolution whose weights are sparse, and the choice between its sparse and its dense form by measurement."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from yolo_hw.ops.sparse_conv2d import Activation, IntPair, pair, sparse_conv2d
from yolo_hw.ops.sparse_packing import PackedSparse, pack_sparse

logger = logging.getLogger(__name__)

ROUNDS = 7
"""Interleaved runs of each form; the medians are compared."""


@dataclass(frozen=True)
class ConvOptions:
    """Numbers of a convolution, as in `yolo_hw.ops.sparse_conv2d`."""

    stride: IntPair = 1
    padding: IntPair = 0
    dilation: IntPair = 1
    groups: int = 1
    activation: Activation = Activation.NONE
    slope: float = 0.1


@dataclass(frozen=True)
class BackendReport:
    """What `choose_backend` measured.

    Attributes:
        backend: ``"sparse"`` or ``"dense"``: the faster one.
        sparse_seconds: Median time of one call.
        dense_seconds: The same of `torch.nn.functional.conv2d` with the activation.
        density: Stored weights over all weights.
        input_shape: [N, C, H, W] it was measured with.
        threads: Threads of torch.
    """

    backend: str
    sparse_seconds: float
    dense_seconds: float
    density: float
    input_shape: tuple[int, ...]
    threads: int

    @property
    def speedup(self) -> float:
        """Time of the dense form over time of the sparse form."""
        return self.dense_seconds / self.sparse_seconds

    def __str__(self) -> str:
        return (
            f"{self.backend}: {self.density:.1%} of the weights, input {list(self.input_shape)}, {self.threads} "
            f"thread(s): sparse {self.sparse_seconds * 1e6:.0f} us, dense {self.dense_seconds * 1e6:.0f} us"
        )


class SparseConv2d(nn.Module):
    """Convolution that stores, multiplies and trains the kept weights only.

    The pattern is fixed: ``values`` is the parameter, the index arrays are buffers. `backend` says which form runs;
    it is ``"sparse"`` until `choose_backend` or the user sets it. Both forms have the same parameters and gradients.
    """

    def __init__(self, weight: PackedSparse, bias: Tensor | None = None, options: ConvOptions | None = None) -> None:
        """Take packed weights; `from_dense` makes them from a dense convolution.

        Args:
            weight: [K, C / groups, R, S], packed.
            bias: [K], or none.
            options: Stride, padding, dilation, groups, activation.

        Raises:
            ValueError: The weight is int8.
        """
        super().__init__()
        if not weight.values.is_floating_point():
            raise ValueError(f"SparseConv2d trains: its weight must be float32 or float64, got {weight.values.dtype}")
        self.values = nn.Parameter(weight.values.clone())
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())
        self.options = options or ConvOptions()
        self.shape, self.chunk, self.pattern = weight.shape, weight.chunk, weight.pattern
        self.register_buffer("taps", weight.taps.clone())
        self.register_buffer("starts", weight.starts.clone())
        self.register_buffer("layout", weight.state_dict()["layout"])
        self.backend = "sparse"
        self._kept: tuple[tuple[Any, ...], Tensor] | None = None
        self.taps: Tensor
        self.starts: Tensor

    @classmethod
    def from_dense(
        cls,
        conv: nn.Conv2d,
        pattern: str = "unstructured",
        *,
        partial: bool = False,
        activation: Activation = Activation.NONE,
        slope: float = 0.1,
    ) -> SparseConv2d:
        """Return the sparse form of a convolution whose weight has zeros.

        Args:
            conv: Zero padding only.
            pattern: As `yolo_hw.ops.pack_sparse` takes it.
            partial: Allow blocks that are partly zero.
            activation: Fused with the convolution.
            slope: Of `Activation.LEAKY`.

        Raises:
            ValueError: The weight does not have the pattern, or the padding is not a number of zeros.
        """
        if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
            raise ValueError(f"padding must be a number of zeros, got {conv.padding!r} {conv.padding_mode}")
        stride, padding, dilation = ((p[0], p[1]) for p in (conv.stride, conv.padding, conv.dilation))
        options = ConvOptions(stride, padding, dilation, conv.groups, activation, slope)
        return cls(pack_sparse(conv.weight, pattern, partial=partial), conv.bias, options)

    @property
    def packed(self) -> PackedSparse:
        """The packed weight; its values are the parameter."""
        return PackedSparse(self.values, self.taps, self.starts, self.shape, self.chunk, self.pattern)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve: [N, C, H, W] to [N, K, OH, OW]."""
        if self.backend == "dense":
            return _dense(x, self._dense_weight(), self.bias, self.options)
        return _sparse(x, self.packed, self.bias, self.options)

    def _dense_weight(self) -> Tensor:
        """Return the dense weight; without gradients it is kept until the values change."""
        if (torch.is_grad_enabled() and self.values.requires_grad) or torch.compiler.is_compiling():
            return self.packed.to_dense()
        key = (self.values.data_ptr(), self.values._version, self.values.dtype)
        if self._kept is None or self._kept[0] != key:
            self._kept = (key, self.packed.to_dense().detach())
        return self._kept[1]

    def extra_repr(self) -> str:
        """Return shape, pattern and backend."""
        stored = self.values.numel() / self.shape.numel()
        return f"{tuple(self.shape)}, {self.pattern}, {stored:.1%} stored, {self.options}, backend={self.backend}"

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *args: Any) -> None:  # noqa: ANN401
        """Take arrays of another pattern of the same weight shape, too: their sizes are those of the file."""
        names = ("values", "taps", "starts", "layout")
        if all(prefix + name in state for name in names):
            packed = PackedSparse.from_state_dict({name: state[prefix + name] for name in names})
            if packed.shape == self.shape:
                self.chunk, self.pattern = packed.chunk, packed.pattern
                self.values.data = self.values.new_empty(packed.values.shape)
                self.taps = torch.empty_like(packed.taps, device=self.taps.device)
                self.starts = torch.empty_like(packed.starts, device=self.starts.device)
        super()._load_from_state_dict(state, prefix, *args)


def choose_backend(
    conv: SparseConv2d | Tensor,
    input_shape: Sequence[int],
    *,
    pattern: str = "unstructured",
    options: ConvOptions | None = None,
) -> BackendReport:
    """Measure both forms once, on random contiguous input, and say which is faster; the result is logged.

    Args:
        conv: A module, whose `backend` is set to the faster form; or a dense weight [K, C / groups, R, S] with zeros.
        input_shape: [N, C, H, W].
        pattern: Of a dense weight.
        options: Of a dense weight.

    Returns:
        The choice and the times.

    Raises:
        ValueError: The weight is int8: torch has no dense form to compare with.
    """
    if isinstance(conv, SparseConv2d):
        packed, bias, options = conv.packed, conv.bias, conv.options
    else:
        if not conv.is_floating_point():
            raise ValueError(f"choose_backend: the weight must be float32 or float64, got {conv.dtype}")
        packed, bias, options = pack_sparse(conv, pattern), None, options or ConvOptions()
    with torch.no_grad():
        x = torch.randn(*input_shape, dtype=packed.values.dtype, device=packed.values.device)
        dense = packed.to_dense()
        sparse_time, dense_time = _medians(
            lambda: _sparse(x, packed, bias, options), lambda: _dense(x, dense, bias, options)
        )
    report = BackendReport(
        "sparse" if sparse_time <= dense_time else "dense",
        sparse_time,
        dense_time,
        packed.density,
        tuple(input_shape),
        torch.get_num_threads(),
    )
    if isinstance(conv, SparseConv2d):
        conv.backend = report.backend
    logger.info("%s", report)
    return report


def _sparse(x: Tensor, weight: PackedSparse, bias: Tensor | None, options: ConvOptions) -> Tensor:
    return sparse_conv2d(
        x,
        weight,
        bias,
        stride=options.stride,
        padding=options.padding,
        dilation=options.dilation,
        groups=options.groups,
        activation=options.activation,
        slope=options.slope,
    )


def _dense(x: Tensor, weight: Tensor, bias: Tensor | None, options: ConvOptions) -> Tensor:
    stride, padding, dilation = (pair(p) for p in (options.stride, options.padding, options.dilation))
    y = functional.conv2d(x, weight, bias, stride, padding, dilation, options.groups)
    if options.activation is Activation.NONE:
        return y
    if options.activation is Activation.LEAKY:
        return functional.leaky_relu(y, options.slope)
    return functional.relu6(y) if options.activation is Activation.RELU6 else functional.relu(y)


def _medians(*calls: Callable[[], Tensor]) -> list[float]:
    """Return the median seconds of each call, run in turns so that a disturbance hits all."""
    times: list[list[float]] = [[] for _ in calls]
    for measured in range(ROUNDS + 1):
        for call, kept in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            _wait()
            if measured:  # the first round warms up
                kept.append(time.perf_counter() - start)
    return [statistics.median(kept) for kept in times]


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
