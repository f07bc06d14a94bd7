# SPDX-License-Identifier: Apache-2.0
"""Regular pruning: every layer that may change has a multiple of channels, whatever the widths, scales and shapes."""

import random
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.acceptance import NETWORKS
from support.meta import SCALES, scale_subject
from support.networks import CfgWriter, build

from yolo_hw.darknet import Network
from yolo_hw.darknet import layers as L
from yolo_hw.errors import PruneError
from yolo_hw.prune.config import PruneConfig
from yolo_hw.prune.darknet_surgery import smaller_network
from yolo_hw.prune.methods import Subject, plan_channels
from yolo_hw.prune.multiples import Narrow, Rounding

MULTIPLES = (1, 2, 4, 8, 16, 32)
PADDED = PruneConfig(method="regular", ratio=0.5, narrow=Narrow.PAD)


@cache
def subject_of(name: str, scales: str = "random") -> tuple[Network, Subject]:
    """Return a network of `NETWORKS` at 64 x 64 and what a choice looks at."""
    network = build(NETWORKS[name](64))
    return network, scale_subject(network, scales)


def prune(network: Network, subject: Subject, config: PruneConfig) -> Network:
    """Return the network that a choice leads to."""
    return smaller_network(network, plan_channels(subject, config).with_followers())


def heads(network: Network) -> set[str]:
    """Return the convolutions whose output is a head's or the network's."""
    ends = {layer.index for layer in network.outputs}
    ends |= {i for layer in network.outputs if not isinstance(layer, L.Convolutional) for i in layer.inputs}
    return {network.layers[i].name for i in ends}


def irregular_outputs(network: Network, multiple: int) -> dict[str, int]:
    """Return the convolutions whose number of output channels is no multiple."""
    return {
        layer.name: layer.shape.c
        for layer in network.layers
        if isinstance(layer, L.Convolutional) and layer.shape.c % multiple
    }


def irregular_inputs(network: Network, multiple: int) -> dict[str, int]:
    """Return the convolutions over all input channels whose number is no multiple."""
    return {
        layer.name: layer.in_shapes[0].c
        for layer in network.layers
        if isinstance(layer, L.Convolutional) and layer.groups == 1 and layer.in_shapes[0].c % multiple
    }


@pytest.mark.parametrize("multiple", MULTIPLES)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_layer_but_the_heads_with_padding(name, multiple):
    network, subject = subject_of(name)
    small = prune(network, subject, replace(PADDED, multiple_of=multiple))
    assert small.num_params < network.num_params or multiple == 32
    assert set(irregular_outputs(small, multiple)) <= heads(network)
    for before, after in zip(network.layers, small.layers, strict=True):
        assert before.name not in heads(network) or before.shape.c == after.shape.c


@pytest.mark.parametrize("scales", SCALES[1:])
@pytest.mark.parametrize("name", ["yolov3_tiny", "yolov4_tiny", "yolov3_mobilenet", "yolo_fastest"])
def test_ties_and_zeros(name, scales):
    network, subject = subject_of(name, scales)
    for multiple in (8, 32):
        for ratio in (0.3, 0.9):
            small = prune(network, subject, replace(PADDED, multiple_of=multiple, ratio=ratio))
            assert set(irregular_outputs(small, multiple)) <= heads(network)


@pytest.mark.parametrize(("name", "multiple"), [("yolov3_mobilenet", 32), ("yolo_fastest", 8), ("yolo_fastest", 32)])
def test_narrow_groups_that_are_kept_are_the_only_exceptions(name, multiple):
    network, subject = subject_of(name)
    plan = plan_channels(subject, replace(PADDED, narrow=Narrow.KEEP, multiple_of=multiple)).with_followers()
    small = smaller_network(network, plan)
    found = set(irregular_outputs(small, multiple)) - heads(network)
    narrow = {group.name for group in plan.groups.prunable if group.size < multiple}
    assert narrow
    assert found == {member.name for name in narrow for member in plan.groups[name].members}
    for group in narrow:
        assert plan.reasons[group].startswith(f"narrower than the multiple {multiple}: all ")


@pytest.mark.parametrize(("name", "group"), [("yolov2_tiny", "conv_0"), ("yolo_fastest", "conv_0")])
def test_narrow_groups_are_refused_by_name(name, group):
    network, subject = subject_of(name)
    with pytest.raises(PruneError, match=f"group '{group}': .* channels are fewer than the multiple 32; exclude it"):
        prune(network, subject, replace(PADDED, narrow=Narrow.ERROR, multiple_of=32))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("outputs", "inputs"), [(8, 16), (24, 4), (1, 32)])
def test_tiles_of_unequal_sides(name, outputs, inputs):
    """TM divides output channels, TN input channels; three channels of an image stay three."""
    network, subject = subject_of(name)
    small = prune(network, subject, replace(PADDED, multiple_of=outputs, input_multiple_of=inputs))
    assert set(irregular_outputs(small, outputs)) <= heads(network)
    assert irregular_inputs(small, inputs) == {"conv_0": 3}


@pytest.mark.parametrize("rounding", Rounding)
def test_other_roundings_are_as_regular(rounding):
    network, subject = subject_of("yolov3_mobilenet")
    small = prune(network, subject, replace(PADDED, multiple_of=16, rounding=rounding))
    assert set(irregular_outputs(small, 16)) <= heads(network)


def test_rounding_up_never_takes_more_than_the_ranking():
    network, subject = subject_of("yolov3_tiny")
    plain = prune(network, subject, replace(PADDED, multiple_of=1))
    regular = prune(network, subject, replace(PADDED, multiple_of=16))
    for a, b in zip(plain.layers, regular.layers, strict=True):
        if isinstance(a, L.Convolutional):
            assert a.shape.c <= b.shape.c < a.shape.c + 16


WIDTHS = (1, 3, 5, 24, 40, 48, 136)


def odd_cfg(rng: random.Random) -> str:
    """Return a cfg of convolutions with awkward widths, joined in every way that couples channels."""
    cfg = CfgWriter(8, 8)
    width, last = rng.choice(WIDTHS), 0
    cfg.conv(width, 3)
    for _ in range(rng.randint(1, 5)):
        kind = rng.randrange(7)
        if kind == 0:
            width = rng.choice(WIDTHS)
            last = cfg.conv(width, rng.choice([1, 3]))
        elif kind == 1:
            cfg.conv(rng.choice(WIDTHS))
            cfg.conv(width, 3)
            last = cfg.section("shortcut", from_=-3, activation="linear")
        elif kind == 2:
            other = rng.choice(WIDTHS)
            cfg.conv(other)
            last = cfg.route(-1, last)
            width += other
        elif kind == 3:
            last = cfg.section("depthwise", batch_normalize=1, size=3, pad=1, activation="relu")
        elif kind == 4 and width % 2 == 0:
            last = cfg.route(-1, groups=2, group_id=1)
            width //= 2
        elif kind == 5:
            last = cfg.section("se", reduction=rng.choice([1, 4]))
        else:
            cfg.section("reorg3d", stride=2)
            width = 4 * rng.choice(WIDTHS)
            cfg.conv(width)
            last = cfg.section("reorg3d", stride=2, reverse=1)
            width //= 4
    cfg.yolo([0], 1, "4,4")
    return cfg.text()


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    multiple=st.sampled_from(MULTIPLES),
    inputs=st.sampled_from((1, 4, 6)),
    ratio=st.floats(0, 0.95),
    scales=st.sampled_from(SCALES),
    rounding=st.sampled_from(Rounding),
)
def test_random_networks(*, seed, multiple, inputs, ratio, scales, rounding):
    network = build(odd_cfg(random.Random(seed)))
    subject = scale_subject(network, scales, seed)
    config = replace(PADDED, ratio=ratio, multiple_of=multiple, input_multiple_of=inputs, rounding=rounding)
    try:
        plan = plan_channels(subject, config).with_followers()
        small = smaller_network(network, plan)
    except PruneError as error:  # channels in an order that has no place for another one
        assert "no zero channel can be added" in str(error)  # noqa: PT017
        return
    assert set(irregular_outputs(small, multiple)) <= heads(network)
    assert irregular_inputs(small, inputs).keys() <= {"conv_0"}
