# SPDX-License-Identifier: Apache-2.0
"""Every activation against scalar formulas and hand-computed values."""

import math

import pytest
import torch

from yolo_hw.darknet.layers import ACTIVATIONS
from yolo_hw.errors import QuantError
from yolo_hw.nn.activations import ACTIVATION_FUNCTIONS, activate, parametric_name

SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772  # Klambauer et al., 2017, equation 14


def sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def softplus(x):
    return max(x, 0) + math.log1p(math.exp(-abs(x)))


def stair(x):
    n = math.floor(x)
    return math.floor(x / 2) if n % 2 == 0 else (x - n) + math.floor(x / 2)


SCALAR = {
    "linear": lambda x: x,
    "leaky": lambda x: x if x > 0 else 0.1 * x,
    "relu": lambda x: max(x, 0),
    "relu6": lambda x: min(max(x, 0), 6),
    "mish": lambda x: x * math.tanh(softplus(x)),
    "swish": lambda x: x * sigmoid(x),
    "logistic": sigmoid,
    "hard_mish": lambda x: x if x > 0 else x * x / 2 + x if x > -2 else 0,
    "h_swish": lambda x: x * min(max(x + 3, 0), 6) / 6,
    "h_sigmoid": lambda x: min(max(x + 3, 0), 6) / 6,
    "elu": lambda x: x if x >= 0 else math.exp(x) - 1,
    "selu": lambda x: SELU_SCALE * (x if x >= 0 else SELU_ALPHA * (math.exp(x) - 1)),
    "gelu": lambda x: 0.5 * x * (1 + math.tanh(0.7978845608028654 * (x + 0.044715 * x**3))),
    "tanh": math.tanh,
    "loggy": lambda x: 2 * sigmoid(x) - 1,
    "relie": lambda x: x if x > 0 else 0.01 * x,
    "ramp": lambda x: x * (x > 0) + 0.1 * x,
    "plse": lambda x: 0.01 * (x + 4) if x < -4 else 0.01 * (x - 4) + 1 if x > 4 else 0.125 * x + 0.5,
    "hardtan": lambda x: min(max(x, -1), 1),
    "lhtan": lambda x: 0.001 * x if x < 0 else 0.001 * (x - 1) + 1 if x > 1 else x,
    "stair": stair,
}

# values that need no formula: (activation, x, y)
LITERAL = [
    ("leaky", -10.0, -1.0),
    ("leaky", 3.0, 3.0),
    ("relu6", 7.0, 6.0),
    ("h_swish", -3.0, 0.0),
    ("h_swish", 3.0, 3.0),
    ("h_swish", 1.5, 1.125),
    ("h_sigmoid", 0.0, 0.5),
    ("h_sigmoid", 1.5, 0.75),
    ("hard_mish", -1.0, -0.5),
    ("hard_mish", -2.0, 0.0),
    ("logistic", 0.0, 0.5),
    ("loggy", 0.0, 0.0),
    ("mish", 0.0, 0.0),
    ("mish", 1.0, 0.8650983882673103),  # tanh(ln(1 + e)) = ((1+e)^2 - 1) / ((1+e)^2 + 1)
    ("swish", 1.0, 0.7310585786300049),  # e / (1 + e)
    ("ramp", 2.0, 2.2),
    ("plse", 4.0, 1.0),
    ("plse", -4.0, 0.0),
    ("stair", 2.5, 1.0),
    ("stair", 3.25, 1.25),
    ("stair", -0.75, -0.75),  # floor(-0.75) = -1 is odd: 0.25 + floor(-0.375)
    ("hardtan", -1.5, -1.0),
    ("lhtan", 2.0, 1.001),
    ("elu", -1.0, 1 / math.e - 1),
]


def test_the_tables_cover_every_activation():
    assert set(SCALAR) == set(ACTIVATIONS) == set(ACTIVATION_FUNCTIONS)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_formula(name):
    x = torch.cat([torch.linspace(-8, 8, 1601), torch.tensor([-80.0, 80.0, -0.0, 1e-6, -1e-6])]).double()
    expected = torch.tensor([SCALAR[name](v) for v in x.tolist()], dtype=torch.float64)
    torch.testing.assert_close(activate(name, x), expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("name", "x", "y"), LITERAL)
def test_literal_value(name, x, y):
    assert activate(name, torch.tensor([x], dtype=torch.float64)).item() == pytest.approx(y, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_large_inputs_stay_finite(name):
    y = activate(name, torch.tensor([-1e4, 1e4]))
    assert torch.isfinite(y).all()


PARAMETRIC = {
    "leaky_0p2": ("leaky", (0.2,), lambda x: x if x > 0 else 0.2 * x),
    "leaky_0p20000000298023224": ("leaky", (0.20000000298023224,), lambda x: x if x > 0 else 0.20000000298023224 * x),
    "leaky_1em05": ("leaky", (1e-5,), lambda x: x if x > 0 else 1e-5 * x),
    "elu_0p5": ("elu", (0.5,), lambda x: x if x > 0 else 0.5 * math.expm1(x)),
    "clamp_m0p25_1p5": ("clamp", (-0.25, 1.5), lambda x: min(max(x, -0.25), 1.5)),
    "clamp_minf_1e20": ("clamp", (-math.inf, 1e20), lambda x: x),
    "gelu_erf": ("gelu_erf", (), lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2)))),
    "softplus": ("softplus", (), lambda x: math.log1p(math.exp(x))),
}


@pytest.mark.parametrize("name", PARAMETRIC)
def test_functions_with_numbers_in_their_names(name):
    function, parameters, scalar = PARAMETRIC[name]
    assert parametric_name(function, *parameters) == name
    x = torch.linspace(-6, 6, 97, dtype=torch.float64)
    wanted = torch.tensor([scalar(float(v)) for v in x], dtype=torch.float64)
    torch.testing.assert_close(activate(name, x), wanted, rtol=1e-12, atol=1e-12)


def test_names_that_are_too_long_for_a_graph_file():
    with pytest.raises(QuantError, match=r"clamp: the parameters .* have too many digits"):
        parametric_name("clamp", -1 / 3, 1 / 3)
