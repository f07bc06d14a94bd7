# SPDX-License-Identifier: Apache-2.0
"""Channel groups of torch modules: those known from the architectures, and reasons for what is protected."""

import numpy as np
import pytest
import torch
from support.zoo import ZOO, example_input, make, settle
from support.zoo_odd import PROTECTED, Odd, _conv
from torch import nn

from yolo_hw.prune.torch_graph import trace_channels, trace_model
from yolo_hw.prune.traced_surgery import traced_groups


def groups_of(model, way="auto"):
    return traced_groups(trace_model(model, example_input(), way))


def makers(group):
    return [(member.name, len(member.positions) // group.size) for member in group.members]


def partition(graph):
    """Return unit of each place (tensor, dim, index), units numbered in order of appearance."""
    keys = sorted((slot.path, slot.dim) for slot in graph.slots)
    slots = {(slot.path, slot.dim): slot for slot in graph.slots}
    units = np.concatenate([graph.unit_of[slots[key].labels] for key in keys])
    _, first, inverse = np.unique(units, return_index=True, return_inverse=True)
    return keys, np.argsort(np.argsort(first))[inverse]


@pytest.mark.parametrize("name", ZOO)
def test_both_ways_of_tracing_find_the_same_groups(name):
    model = make(name)
    keys, units = partition(trace_channels(model, example_input(), "fx"))
    other_keys, other_units = partition(trace_channels(model, example_input(), "export"))
    assert keys == other_keys
    np.testing.assert_array_equal(units, other_units)


@pytest.mark.parametrize("name", ZOO)
def test_every_channel_of_every_tensor_is_in_the_graph(name):
    """Only inputs and outputs are protected, and no parameter is forgotten."""
    model = make(name)
    graph = trace_channels(model, example_input())
    slots = {(slot.path, slot.dim) for slot in graph.slots}
    for path, parameter in model.named_parameters():
        assert (path, int(np.argmax(parameter.shape)) if name == "layer_scale" and path == "scale" else 0) in slots or (
            parameter.numel() == 1
        )
    if name != "yolov8_decoded":
        assert {why.split(" (")[0] for why in graph.protected.values()} == {
            "input of the network", "output of the network",
        }  # fmt: skip


@pytest.mark.parametrize("name", ["yolov8", "yolov8_split"])
def test_the_halves_of_c2f_are_two_groups_and_the_second_is_a_residual_chain(name):
    groups = groups_of(make(name))
    assert makers(groups["stage3.1.open.0"]) == [("stage3.1.open.0", 1)]
    assert groups["stage3.1.open.0"].consumers == ("stage3.1.join.0",)
    second = groups["stage3.1.open.0[8:16]"]
    assert makers(second) == [(f"stage3.1.{part}.0", 1) for part in ("open", "blocks.0.second", "blocks.1.second")]
    assert second.joined


def test_a_c2f_without_shortcut_has_no_chain():
    groups = groups_of(make("yolov8"))
    assert makers(groups["up4.open.0[16:32]"]) == [("up4.open.0", 1)]


def test_a_ghost_is_pruned_with_what_it_is_made_from():
    groups = groups_of(make("ghostnet"))
    made = makers(groups["blocks.0.expand.primary.0"])
    assert made == [("blocks.0.expand.primary.0", 1), ("blocks.0.expand.cheap.0", 1), ("blocks.0.squeeze.expand", 2)]


def test_the_slice_of_an_odd_ghost_leaves_a_primary_channel_alone():
    """17 of 9 + 9 maps are kept, so the last cheap map is dropped by the code and its primary one is not."""
    groups = groups_of(make("ghostnet"))
    assert groups["blocks.1.project.primary.0"].size == 8
    assert groups["blocks.1.project.primary.0[8:9]"].size == 1


def test_a_shuffle_couples_the_same_offset_of_both_halves():
    groups = groups_of(make("shufflenet_v2"))
    last = groups["stages.3.left.1.0[8:16]"]
    assert makers(last) == [("stages.3.left.1.0", 1), ("stages.3.right.2.0", 1)]
    first, second = (member.positions[np.argsort(member.units)] for member in last.members)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, np.arange(8, 16))


def test_grouped_convolutions_lose_whole_groups_or_the_same_offset_of_each():
    groups = groups_of(make("resnext", width=16))
    whole = groups["blocks.0.reduce.0"]  # 4 groups of 4
    assert makers(whole) == [("blocks.0.reduce.0", 4), ("blocks.0.spatial.0", 4)]
    np.testing.assert_array_equal(whole.members[0].units, np.repeat(np.arange(4), 4))
    offsets = groups["blocks.2.reduce.0"]  # 4 groups of 8
    assert makers(offsets) == [("blocks.2.reduce.0", 4)]
    np.testing.assert_array_equal(offsets.members[0].units, np.tile(np.arange(8), 4))


def test_squeezed_channels_are_free_and_gates_follow_their_map():
    groups = groups_of(make("mobilenet_v3"))
    assert groups["features.2.body.2.reduce"].prunable
    names = [name for name, _ in makers(groups["features.2.body.0.0"])]
    assert names == ["features.2.body.0.0", "features.2.body.1.0", "features.2.body.2.expand"]


def test_a_flattened_map_is_read_pixel_by_pixel():
    graph = trace_channels(make("flattened_prelu"), example_input())
    (slot,) = [slot for slot in graph.slots if slot.path == "classifier.2.weight" and slot.dim == 1]
    assert len(slot.labels) == 16 * 9
    np.testing.assert_array_equal(slot.labels, np.repeat(slot.labels[::9], 9))


def test_an_input_is_protected_whatever_reads_it():
    groups = groups_of(make("yolov5"))
    (given,) = [group for group in groups.values() if group.why_protected == "input of the network"]
    assert given.size == 3
    assert given.consumers == ("stem.conv.0",)


@pytest.mark.parametrize("way", ["fx", "export"])
@pytest.mark.parametrize("name", PROTECTED)
def test_what_is_not_understood_is_protected_with_a_reason(name, way):
    build, words = PROTECTED[name]
    group = groups_of(settle(build()), way)["conv"]
    assert not group.prunable
    if way == "fx":
        assert words in group.why_protected
    assert group.why_protected.split(":")[0] != "input of the network"


def test_a_module_that_is_called_twice_is_one_member():
    shared = nn.Sequential(_conv(), nn.ReLU())
    groups = groups_of(settle(Odd(lambda m, x: m.shared(m.shared(x)), 12, shared=shared)))
    assert makers(groups["stem.0"]) == [("stem.0", 1), ("shared.0", 1)]


@pytest.mark.parametrize("way", ["fx", "export"])
def test_tied_parameters_are_protected(way):
    first, second = _conv(), _conv()
    second.weight = first.weight
    model = settle(Odd(lambda m, x: m.b(torch.relu(m.a(x))), 12, a=first, b=second))
    groups = groups_of(model, way)
    if way == "fx":
        reasons = {groups[name].why_protected for name in ("stem.0", "a", "b")}
        assert reasons == {"one tensor under several names: a.weight, b.weight"}
    else:  # knows the weight by one name only
        assert "one weight with several biases" in groups["stem.0"].why_protected


def test_one_weight_with_two_biases_is_protected():
    biases = {"one": torch.randn(12), "two": torch.randn(12)}
    model = Odd(
        lambda m, x: nn.functional.conv2d(nn.functional.conv2d(x, m.w, m.one), m.w, m.two), 12,
        w=torch.randn(12, 12, 1, 1), **biases,
    )  # fmt: skip
    assert "one weight with several biases" in groups_of(settle(model))["stem.0"].why_protected
