# SPDX-License-Identifier: Apache-2.0
"""Darknet's activation functions in ONNX operators of opset 13, the twins of `yolo_hw.nn.activations`.

Functions with an operator of their own in later opsets (Mish, HardSwish, Gelu) are spelt out, so that older runtimes
read them and newer ones fuse them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from yolo_hw.interop.onnx_graph import OnnxBuilder
from yolo_hw.nn.activations import LEAKY_SLOPE


class _Formula:
    """Emits the operators of one activation; every result gets a name of its own."""

    def __init__(self, b: OnnxBuilder, prefix: str) -> None:
        self.b, self.prefix = b, prefix
        self._count = 0

    def op(self, kind: str, *inputs: str | float, **attributes: Any) -> str:  # noqa: ANN401
        """Add an operator; numbers become constants."""
        names = [x if isinstance(x, str) else self.b.constant(x, np.float32) for x in inputs]
        self._count += 1
        return self.b.emit(kind, names, f"{self.prefix}/{kind.lower()}{self._count}", **attributes)


def _mish(f: _Formula, x: str) -> str:
    return f.op("Mul", x, f.op("Tanh", f.op("Softplus", x)))


def _hard_mish(f: _Formula, x: str) -> str:
    middle = f.op("Add", f.op("Mul", f.op("Mul", x, x), 0.5), x)
    low = f.op("Where", f.op("Greater", x, -2.0), middle, 0.0)
    return f.op("Where", f.op("Greater", x, 0.0), x, low)


def _h_sigmoid(f: _Formula, x: str) -> str:
    return f.op("HardSigmoid", x, alpha=1 / 6, beta=0.5)


def _gelu(f: _Formula, x: str) -> str:
    cube = f.op("Mul", f.op("Mul", x, x), x)
    inner = f.op("Mul", f.op("Add", x, f.op("Mul", cube, 0.044715)), math.sqrt(2 / math.pi))
    return f.op("Mul", f.op("Mul", x, 0.5), f.op("Add", f.op("Tanh", inner), 1.0))


def _line(f: _Formula, x: str, factor: float, offset: float) -> str:
    return f.op("Add", f.op("Mul", x, factor), offset)


def _plse(f: _Formula, x: str) -> str:
    """0.01 (x + 4) below -4, 0.01 (x - 4) + 1 above 4, x / 8 + 1/2 between."""
    high = f.op("Where", f.op("Greater", x, 4.0), _line(f, x, 0.01, 0.96), _line(f, x, 0.125, 0.5))
    return f.op("Where", f.op("Less", x, -4.0), _line(f, x, 0.01, 0.04), high)


def _lhtan(f: _Formula, x: str) -> str:
    """0.001 x below 0, 0.001 (x - 1) + 1 above 1, x between."""
    high = f.op("Where", f.op("Greater", x, 1.0), _line(f, x, 0.001, 0.999), x)
    return f.op("Where", f.op("Less", x, 0.0), f.op("Mul", x, 0.001), high)


def _stair(f: _Formula, x: str) -> str:
    """Of n = floor(x): floor(x / 2) if n is even, else x - n + floor(x / 2)."""
    n, half = f.op("Floor", x), f.op("Floor", f.op("Mul", x, 0.5))
    odd = f.op("Sub", n, f.op("Mul", f.op("Floor", f.op("Mul", n, 0.5)), 2.0))
    return f.op("Where", f.op("Greater", odd, 0.5), f.op("Add", f.op("Sub", x, n), half), half)


FORMULAS: dict[str, Callable[[_Formula, str], str]] = {
    "linear": lambda f, x: x,
    "leaky": lambda f, x: f.op("LeakyRelu", x, alpha=LEAKY_SLOPE),
    "relu": lambda f, x: f.op("Relu", x),
    "relu6": lambda f, x: f.op("Clip", x, 0.0, 6.0),
    "mish": _mish,
    "swish": lambda f, x: f.op("Mul", x, f.op("Sigmoid", x)),
    "logistic": lambda f, x: f.op("Sigmoid", x),
    "hard_mish": _hard_mish,
    "h_swish": lambda f, x: f.op("Mul", x, _h_sigmoid(f, x)),
    "h_sigmoid": _h_sigmoid,
    "elu": lambda f, x: f.op("Elu", x),
    "selu": lambda f, x: f.op("Selu", x),
    "gelu": _gelu,
    "tanh": lambda f, x: f.op("Tanh", x),
    "loggy": lambda f, x: _line(f, f.op("Sigmoid", x), 2.0, -1.0),
    "relie": lambda f, x: f.op("LeakyRelu", x, alpha=0.01),
    "ramp": lambda f, x: f.op("Add", f.op("Relu", x), f.op("Mul", x, 0.1)),
    "plse": _plse,
    "hardtan": lambda f, x: f.op("Clip", x, -1.0, 1.0),
    "lhtan": _lhtan,
    "stair": _stair,
}
"""Name -> formula, for every name of `yolo_hw.darknet.layers.ACTIVATIONS`."""


def emit_activation(b: OnnxBuilder, function: str, x: str, prefix: str) -> str:
    """Apply the activation `function` to x; return the name of the result, which is x for linear."""
    return FORMULAS[function](_Formula(b, prefix), x)
