# SPDX-License-Identifier: Apache-2.0
"""Layers with several inputs, attention and classifier layers, on numbers small enough for a head."""

import numpy as np
import pytest
import torch
from support.networks import build

from yolo_hw.nn import Darknet


def model_of(shape, sections):
    channels, height, width = shape
    return Darknet(build(f"[net]\nchannels={channels}\nheight={height}\nwidth={width}\n{sections}")).eval()


def outputs(model, *values):
    x = torch.tensor(values, dtype=torch.float32).reshape(1, *model.network.input)
    with torch.no_grad():
        return [y.flatten().tolist() for y in model(x)]


SCALE = "[upsample]\nstride=1\nscale={}\n"  # multiplies by a number: makes distinguishable inputs


def test_route_concatenates_in_the_given_order():
    model = model_of((2, 1, 1), SCALE.format(10) + SCALE.format(10) + "[route]\nlayers=-1,0\n")
    assert outputs(model, 1, 2) == [[100, 200, 10, 20]]


def test_grouped_route_takes_one_part_of_every_input():
    sections = SCALE.format(10) + SCALE.format(10) + "[route]\nlayers=0,1\ngroups=2\ngroup_id=1\n"
    assert outputs(model_of((4, 1, 1), sections), 1, 2, 3, 4) == [[30, 40, 300, 400]]


def test_shortcut_adds_all_inputs_and_activates():
    sections = SCALE.format(10) + SCALE.format(10) + SCALE.format(-1000) + "[shortcut]\nfrom=0,1\nactivation=leaky\n"
    # 0.1 * (-100000 + 10 + 100) and 0 for the input 0
    assert outputs(model_of((2, 1, 1), sections), 1, 0) == [[pytest.approx(-9989), 0]]


def test_shortcut_of_fewer_and_of_more_channels():
    narrow = "[route]\nlayers=0\ngroups=2\ngroup_id=0\n"
    shortcut = SCALE.format(10) + narrow + "[route]\nlayers=0\n[shortcut]\nfrom=1\n"
    assert outputs(model_of((2, 1, 1), shortcut), 1, 2) == [[20, 20]]
    shortcut = SCALE.format(10) + narrow + "[shortcut]\nfrom=0\n"
    assert outputs(model_of((2, 1, 1), shortcut), 1, 2) == [[20]]


@pytest.mark.parametrize(
    ("normalization", "factors"),
    [
        ("none", (2.0, -1.0)),
        ("relu", (2 / 2.0001, 0.0)),
        ("softmax", (1 / (1 + np.exp(-3)), np.exp(-3) / (1 + np.exp(-3)))),
    ],
)
@pytest.mark.parametrize("kind", ["per_feature", "per_channel"])
def test_weighted_shortcut(kind, normalization, factors):
    model = model_of(
        (2, 1, 1),
        SCALE.format(10)
        + SCALE.format(10)
        + f"[shortcut]\nfrom=0\nweights_type={kind}\nweights_normalization={normalization}\n",
    )
    (param,) = model.network.layers[2].params
    weight = np.broadcast_to(np.array([2.0, -1.0]).reshape(2, *[1] * (len(param.shape) - 1)), param.shape)
    model.block("shortcut_2").load({"weight": weight.astype(np.float32)})
    expected = [100 * v * factors[0] + 10 * v * factors[1] for v in (1, 2)]
    assert outputs(model, 1, 2) == [pytest.approx(expected, rel=2e-4)]  # darknet's softmax adds 1e-4 to the sum


def test_scale_channels_and_sam():
    model = model_of((2, 1, 2), SCALE.format(1) + "[avgpool]\n[scale_channels]\nfrom=0\n")
    assert outputs(model, 1, 3, 4, 8) == [[2, 6, 24, 48]]
    model = model_of((2, 1, 2), SCALE.format(1) + SCALE.format(-1) + "[sam]\nfrom=0\nactivation=relu\n")
    assert outputs(model, 1, 3, 4, 8) == [[0, 0, 0, 0]]
    model = model_of((2, 1, 2), SCALE.format(1) + "[route]\nlayers=0\ngroups=2\ngroup_id=0\n"
                                                  "[scale_channels]\nfrom=0\nscale_wh=1\n")  # fmt: skip
    assert outputs(model, 1, 3, 4, 8) == [[1, 9, 4, 24]]


def test_squeeze_excite():
    model = model_of((2, 1, 2), "[se]\nreduction=2\n")
    model.block("se_0").load(
        {"weight1": np.array([[1, 2]], np.float32), "weight2": np.array([[0.1], [-9]], np.float32)}
    )
    # means 2 and 6; relu(2 + 12) = 14; h_sigmoid(1.4) = 4.4 / 6, h_sigmoid(-126) = 0
    assert outputs(model, 1, 3, 4, 8) == [pytest.approx([4.4 / 6, 3 * 4.4 / 6, 0, 0])]


def test_connected_flattens_channels_first():
    model = model_of((2, 1, 2), "[connected]\noutput=1\nactivation=relu\n")
    model.block("connected_0").load(
        {"weight": np.array([[1, 10, 100, 1000]], np.float32), "bias": np.ones(1, np.float32)}
    )
    assert outputs(model, 1, 2, 3, 4) == [[4322]]


def test_softmax_groups_and_temperature():
    model = model_of((4, 1, 1), "[softmax]\ngroups=2\ntemperature=2\n")
    expected = [1 / (1 + np.e), np.e / (1 + np.e), 0.5, 0.5]
    assert outputs(model, 0, 2, 7, 7) == [pytest.approx(expected, rel=1e-6)]


def test_spatial_softmax_is_over_channels():
    model = model_of((2, 1, 2), "[softmax]\nspatial=1\n")
    assert outputs(model, 5, 0, 5, np.log(3)) == [pytest.approx([0.5, 0.25, 0.5, 0.75], rel=1e-6)]


def test_avgpool_and_dropout():
    assert outputs(model_of((2, 1, 2), "[dropout]\nprobability=.9\n[avgpool]\n"), 1, 3, 4, 8) == [[2, 6]]


def test_a_head_that_is_read_again_is_still_an_output():
    head = "[yolo]\nanchors=1,2\nclasses=1\n"
    model = model_of((6, 1, 1), head + "[route]\nlayers=-1\n" + SCALE.format(2) + head)
    assert outputs(model, 1, 2, 3, 4, 5, 6) == [[1, 2, 3, 4, 5, 6], [2, 4, 6, 8, 10, 12]]


def test_unread_layers_are_the_outputs_of_a_headless_network():
    model = model_of((1, 1, 1), SCALE.format(2) + SCALE.format(3) + "[route]\nlayers=0\n")
    assert outputs(model, 1) == [[6], [2]]
