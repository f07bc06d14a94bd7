# SPDX-License-Identifier: Apache-2.0
"""What a module computes for one image: its operators with their sizes, found by running it on shapes alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten


@dataclass(frozen=True)
class Op:
    """One executed operator.

    Attributes:
        layer: Path of the module that ran it, the innermost one.
        kind: ``conv``, ``linear``, ``matmul``, ``batch_norm``, ``relu``, ``activation``, ``max_pool``, ``avg_pool``,
            ``global_pool``, ``upsample`` or ``add``.
        macs: Multiply-accumulates of conv, linear and matmul, without the bias; else 0.
        inputs: Elements of the first input.
        outputs: Elements of the output.
        bias: Whether a bias is added (conv, linear), or scale and shift are (batch_norm).
        window: Elements of a pooling window, else 0.
    """

    layer: str
    kind: str
    macs: int
    inputs: int
    outputs: int
    bias: bool = False
    window: int = 0


def trace_ops(model: nn.Module, input_shape: Sequence[int]) -> list[Op]:
    """Run a module once without computing anything and list its operators.

    The module is run in evaluation mode under fake tensors: shapes are propagated, no arithmetic is done, and whatever
    control flow its forward has is followed. Moves of data (reshapes, concatenation, padding) are not listed.

    Args:
        model: Any module of one image tensor; its mode is restored.
        input_shape: (C, H, W) of an image.

    Returns:
        The operators in execution order, for a batch of one.
    """
    training = {module: module.training for module in model.modules()}
    parameter = next(model.parameters(), torch.empty(0))
    model.eval()
    try:
        with torch.no_grad(), _Location(model) as location, FakeTensorMode(allow_non_fake_inputs=True):
            recorder = _Recorder(location)
            image = torch.empty(1, *input_shape, device=parameter.device, dtype=parameter.dtype)
            with recorder:
                model(image)
    finally:
        for module, mode in training.items():
            module.training = mode
    return recorder.ops


class _Location:
    """Knows which module is running."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._stack = [""]
        self._handles: list[Any] = []

    @property
    def path(self) -> str:
        return self._stack[-1]

    def __enter__(self) -> _Location:
        for name, module in self._model.named_modules():
            if name:
                self._handles.append(module.register_forward_pre_hook(self._enter(name)))
                self._handles.append(module.register_forward_hook(self._leave, always_call=True))
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _enter(self, name: str) -> Callable[[nn.Module, Any], None]:
        return lambda module, inputs: self._stack.append(name)

    def _leave(self, module: nn.Module, inputs: Any, output: Any) -> None:  # noqa: ANN401
        self._stack.pop()


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Lists what reaches the dispatcher."""

    def __init__(self, location: _Location) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ops: list[Op] = []
        self._location = location

    def __torch_dispatch__(
        self, func: OpOverload, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> object:
        out = func(*args, **(kwargs or {}))
        describe = _DESCRIBERS.get(func.overloadpacket)
        if describe is not None:
            first = out[0] if isinstance(out, (tuple, list)) else out
            found = describe(args, first)
            if found is not None:
                self.ops.append(Op(self._location.path, **found))
        return out


Described = Mapping[str, Any] | None
Describer = Callable[[tuple[Any, ...], Tensor], Described]


def _conv(args: tuple[Any, ...], out: Tensor) -> Described:
    x, weight, bias, *rest = args
    transposed = len(rest) > 3 and bool(rest[3])
    # every output (every input, if transposed) element meets the weights of one filter
    macs = (x if transposed else out).numel() * math.prod(weight.shape[1:])
    return {"kind": "conv", "macs": macs, "inputs": x.numel(), "outputs": out.numel(), "bias": bias is not None}


def _addmm(args: tuple[Any, ...], out: Tensor) -> Described:
    _, x, _ = args
    macs = out.numel() * x.shape[-1]
    return {"kind": "linear", "macs": macs, "inputs": x.numel(), "outputs": out.numel(), "bias": True}


def _mm(args: tuple[Any, ...], out: Tensor) -> Described:
    x = args[0]
    return {"kind": "linear", "macs": out.numel() * x.shape[-1], "inputs": x.numel(), "outputs": out.numel()}


def _bmm(args: tuple[Any, ...], out: Tensor) -> Described:
    x = args[0]
    return {"kind": "matmul", "macs": out.numel() * x.shape[-1], "inputs": x.numel(), "outputs": out.numel()}


def _batch_norm(args: tuple[Any, ...], out: Tensor) -> Described:
    return {"kind": "batch_norm", "macs": 0, "inputs": out.numel(), "outputs": out.numel(), "bias": args[1] is not None}


def _elementwise(kind: str) -> Describer:
    return lambda args, out: {"kind": kind, "macs": 0, "inputs": args[0].numel(), "outputs": out.numel()}


def _pool(kind: str) -> Describer:
    def describe(args: tuple[Any, ...], out: Tensor) -> Described:
        size = [args[1]] if isinstance(args[1], int) else list(args[1])
        window = size[0] ** 2 if len(size) == 1 else math.prod(size)
        return {"kind": kind, "macs": 0, "inputs": args[0].numel(), "outputs": out.numel(), "window": window}

    return describe


def _adaptive_pool(args: tuple[Any, ...], out: Tensor) -> Described:
    x = args[0]
    window = math.prod(x.shape[-2:]) // math.prod(out.shape[-2:])
    return {"kind": "global_pool", "macs": 0, "inputs": x.numel(), "outputs": out.numel(), "window": window}


def _mean(args: tuple[Any, ...], out: Tensor) -> Described:
    """Only the mean over a whole map, which is how torch computes adaptive pooling to 1x1."""
    x = args[0]
    dims = sorted(d % x.ndim for d in args[1]) if len(args) > 1 and args[1] else []
    if x.ndim != 4 or dims != [2, 3]:
        return None
    return {
        "kind": "global_pool",
        "macs": 0,
        "inputs": x.numel(),
        "outputs": out.numel(),
        "window": x.shape[2] * x.shape[3],
    }


def _add(args: tuple[Any, ...], out: Tensor) -> Described:
    """Only the sum of two maps of one shape, a residual connection."""
    a, b = args[:2]
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)) or a.ndim != 4 or a.shape != b.shape:
        return None
    return {"kind": "add", "macs": 0, "inputs": a.numel(), "outputs": out.numel()}


_RELUS: list[Any] = [aten.relu, aten.leaky_relu, aten.hardtanh, aten.elu, aten._prelu_kernel]
_RELUS += [aten.relu_, aten.leaky_relu_, aten.hardtanh_, aten.elu_]
_ACTIVATIONS: list[Any] = [aten.sigmoid, aten.silu, aten.mish, aten.hardswish, aten.hardsigmoid, aten.gelu, aten.tanh]
_ACTIVATIONS += [aten.sigmoid_, aten.silu_, aten.mish_, aten.hardswish_, aten.hardsigmoid_, aten.tanh_]

_DESCRIBERS: dict[Any, Describer] = {
    aten.convolution: _conv,
    aten.addmm: _addmm,
    aten.mm: _mm,
    aten.bmm: _bmm,
    aten.native_batch_norm: _batch_norm,
    aten._native_batch_norm_legit_no_training: _batch_norm,
    aten.cudnn_batch_norm: _batch_norm,
    aten.max_pool2d_with_indices: _pool("max_pool"),
    aten.avg_pool2d: _pool("avg_pool"),
    aten._adaptive_avg_pool2d: _adaptive_pool,
    aten.mean: _mean,
    aten.upsample_nearest2d: _elementwise("upsample"),
    aten.add: _add,
    aten.add_: _add,
    **dict.fromkeys(_RELUS, _elementwise("relu")),
    **dict.fromkeys(_ACTIVATIONS, _elementwise("activation")),
}
