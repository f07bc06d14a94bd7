# SPDX-License-Identifier: Apache-2.0
"""Darknet's activation functions in torch, by their cfg names.

The formulas are those of darknet's ``activations.h`` (public domain); h_swish and h_sigmoid are
Howard et al., "Searching for MobileNetV3", ICCV 2019, section 5.2.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from yolo_hw.errors import QuantError

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

OTHER_FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "gelu_erf": F.gelu,
    "softplus": F.softplus,
    "leaky": F.leaky_relu,
    "elu": F.elu,
    "clamp": torch.clamp,
}
"""Functions that no cfg has, of a tensor and of the numbers in their names; see `parametric_name`."""

_NUMBER = r"_m?(?:inf|\d+(?:p\d+)?(?:em?\d+)?)"
_PARAMETRIC = re.compile(rf"([a-z_]+?)((?:{_NUMBER})*)")
_MAX_NAME = 32
"""Length of a function's name in a graph file."""


def parametric_name(function: str, *parameters: float) -> str:
    """Return the name of one of `OTHER_FUNCTIONS` with its parameters, exactly: ``leaky`` of 0.2 is ``leaky_0p2``.

    Raises:
        QuantError: The name is too long for a graph file.
    """
    numbers = (repr(float(x)).replace("-", "m").replace("+", "").replace(".", "p") for x in parameters)
    name = "_".join((function, *numbers))
    if len(name) > _MAX_NAME:
        raise QuantError(f"{function}: the parameters {parameters} have too many digits; round them")
    return name


def activate(name: str, x: Tensor) -> Tensor:
    """Apply the activation `name` to `x`: [...] to [...]."""
    if name in ACTIVATION_FUNCTIONS:
        return ACTIVATION_FUNCTIONS[name](x)
    match = _PARAMETRIC.fullmatch(name)
    assert match is not None
    numbers = [float(number.replace("p", ".").replace("m", "-")) for number in match[2].split("_")[1:]]
    return OTHER_FUNCTIONS[match[1]](x, *numbers)
