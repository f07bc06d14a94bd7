# SPDX-License-Identifier: Apache-2.0
"""Darknet's activation functions in torch, by their cfg names.

The formulas are those of darknet's ``activations.h`` (public domain); h_swish and h_sigmoid are
Howard et al., "Searching for MobileNetV3", ICCV 2019, section 5.2.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

LEAKY_SLOPE = 0.1
"""Darknet's negative slope of ``leaky``."""

_SQRT_2_OVER_PI = math.sqrt(2.0 / math.pi)


def _gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1.0 + torch.tanh(_SQRT_2_OVER_PI * (x + 0.044715 * x**3)))


def _hard_mish(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, torch.where(x > -2, x * x / 2 + x, torch.zeros_like(x)))


def _plse(x: Tensor) -> Tensor:
    middle = 0.125 * x + 0.5
    return torch.where(x < -4, 0.01 * (x + 4), torch.where(x > 4, 0.01 * (x - 4) + 1, middle))


def _lhtan(x: Tensor) -> Tensor:
    return torch.where(x < 0, 0.001 * x, torch.where(x > 1, 0.001 * (x - 1) + 1, x))


def _stair(x: Tensor) -> Tensor:
    n = torch.floor(x)
    return torch.where(torch.remainder(n, 2) == 0, torch.floor(x / 2), (x - n) + torch.floor(x / 2))


ACTIVATION_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda x: x,
    "leaky": lambda x: F.leaky_relu(x, LEAKY_SLOPE),
    "relu": F.relu,
    "relu6": F.relu6,
    "mish": F.mish,
    "swish": F.silu,
    "logistic": torch.sigmoid,
    "hard_mish": _hard_mish,
    "h_swish": F.hardswish,
    "h_sigmoid": F.hardsigmoid,
    "elu": F.elu,
    "selu": F.selu,
    "gelu": _gelu,
    "tanh": torch.tanh,
    "loggy": lambda x: 2 * torch.sigmoid(x) - 1,
    "relie": lambda x: F.leaky_relu(x, 0.01),
    "ramp": lambda x: F.relu(x) + 0.1 * x,
    "plse": _plse,
    "hardtan": F.hardtanh,
    "lhtan": _lhtan,
    "stair": _stair,
}
"""Name -> function of a tensor of any shape and floating dtype."""


def activate(name: str, x: Tensor) -> Tensor:
    """Apply the activation `name` to `x`: [...] to [...]."""
    return ACTIVATION_FUNCTIONS[name](x)
