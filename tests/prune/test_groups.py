# SPDX-License-Identifier: Apache-2.0
"""Groups of small networks, worked out by hand: what is one unit, who makes it, who reads it, what is protected."""

import numpy as np
import pytest
from support.networks import CfgWriter, build, yolov3

from yolo_hw.errors import PruneError
from yolo_hw.prune.channels import Filters, GraphBuilder, NormPaths
from yolo_hw.prune.darknet_surgery import darknet_groups
from yolo_hw.prune.groups import ChannelGroups


def residual():
    cfg = CfgWriter(8, 8)
    cfg.conv(8, 3)
    cfg.conv(4)
    cfg.conv(8, 3)
    cfg.section("shortcut", from_=-3, activation="linear")
    cfg.conv(6)
    cfg.route(-1, -2)
    cfg.conv(10, batch_normalize=0)
    return build(cfg.text())


def test_a_residual_chain_is_one_group():
    groups = darknet_groups(residual())
    assert list(groups) == ["value_0", "conv_0", "conv_1", "conv_4", "conv_6"]
    chain = groups["conv_0"]
    assert chain.size == 8
    assert chain.joined
    assert [m.name for m in chain.members] == ["conv_0", "conv_2"]
    assert chain.consumers == ("conv_1", "conv_4", "conv_6")
    assert all(np.array_equal(m.units, np.arange(8)) for m in chain.members)
    assert not groups["conv_4"].joined
    assert groups["conv_6"].why_protected == "output of the network conv_6"
    assert groups["value_0"].why_protected == "input of the network"
    assert [g.name for g in groups.prunable] == ["conv_0", "conv_1", "conv_4"]


def test_groups_print():
    text = darknet_groups(residual()).details()
    assert "group conv_0: 8 units\n  made by conv conv_0, batch norm\n  made by conv conv_2, batch norm" in text
    assert "group conv_6: 10 units (output of the network conv_6)\n  made by conv conv_6\n" in text + "\n"
    assert str(darknet_groups(residual())["conv_1"]).endswith("read by conv_2")


def test_a_concatenation_keeps_its_parts_apart():
    groups = darknet_groups(residual())
    op = next(op for op in groups.graph.ops if op.layer == "conv_6" and op.kind == "filters")
    index, place = groups.at(op.inputs[0].labels)
    assert [groups.name_of(i) for i in index] == ["conv_4"] * 6 + ["conv_0"] * 8
    assert place.tolist() == [*range(6), *range(8)]


def test_a_part_that_a_grouped_convolution_reads_is_a_group_of_its_own():
    """8 channels, of which the second half alone goes on: offsets of both halves go together."""
    cfg = CfgWriter(8, 8)
    cfg.conv(8, 3)
    cfg.conv(12, 3, groups=2)
    cfg.conv(5, 1)
    groups = darknet_groups(build(cfg.text()))
    assert groups["conv_0"].size == 4
    assert groups["conv_0"].members[0].units.tolist() == [0, 1, 2, 3] * 2
    assert groups["conv_1"].size == 6
    assert groups["conv_1"].members[0].units.tolist() == [0, 1, 2, 3, 4, 5] * 2


def test_depthwise_layers_join_what_they_read_and_write():
    cfg = CfgWriter(8, 8)
    cfg.conv(6)
    cfg.conv(6, 3, groups=6)
    cfg.conv(12, 3, groups=6)
    cfg.conv(5)
    groups = darknet_groups(build(cfg.text()))
    group = groups["conv_0"]
    assert [(m.name, m.kind) for m in group.members] == [
        ("conv_0", "conv"), ("conv_1", "depthwise"), ("conv_2", "depthwise"),
    ]  # fmt: skip
    assert group.members[2].units.tolist() == np.repeat(np.arange(6), 2).tolist()
    assert group.consumers == ("conv_3",)


def test_heads_of_yolov3_are_the_only_protected_layers():
    groups = darknet_groups(build(yolov3(64)))
    protected = {g.name: g.why_protected for g in groups.values() if g.why_protected}
    assert protected == {
        "value_0": "input of the network",
        **{f"conv_{i}": f"detection head yolo_{i + 1}" for i in (81, 93, 105)},
    }
    assert [len(groups[name].members) for name in ("conv_1", "conv_5", "conv_12", "conv_37", "conv_62")] == [
        2,
        3,
        9,
        9,
        5,
    ]


def test_names_that_are_wrong_are_answered_with_the_nearest():
    groups = darknet_groups(residual())
    with pytest.raises(PruneError, match="there is no group 'conv_00'; did you mean 'conv_0'"):
        groups["conv_00"]
    with pytest.raises(PruneError, match="there is no group 'conv_2'"):
        groups.veto({"conv_2": "made by another"})


# --- the verbs a front end writes a graph with


def chain_of_joins(count):
    builder = GraphBuilder()
    x = builder.input(3, 4, 4)
    maps = [builder.filters(x, Filters(f"f{i}", f"f{i}.weight", None, 5)) for i in range(count)]
    for a, b in zip(maps[::-1], maps[-2::-1], strict=False):  # joined from the end, the roots move every time
        builder.join(a, b)
    return builder.build()


def test_joins_in_any_order_make_one_unit():
    graph = chain_of_joins(7)
    groups = ChannelGroups(graph)
    assert list(groups) == ["value_0", "f0"]
    assert [m.name for m in groups["f0"].members] == [f"f{i}" for i in range(7)]
    assert graph.num_units == 8


def test_a_join_of_unequal_maps_takes_the_first_channels():
    builder = GraphBuilder()
    x = builder.input(3, 4, 4)
    wide = builder.filters(x, Filters("wide", "wide.weight", None, 6))
    narrow = builder.filters(x, Filters("narrow", "narrow.weight", None, 4))
    builder.sum([wide, narrow], "sum")
    groups = ChannelGroups(builder.build())
    assert groups["wide"].size == 4
    assert [m.name for m in groups["wide"].members] == ["wide", "narrow"]
    assert groups["wide[4:6]"].size == 2
    assert [m.name for m in groups["wide[4:6]"].members] == ["wide"]


def test_what_nothing_is_known_of_is_protected_on_both_sides():
    builder = GraphBuilder()
    x = builder.filters(builder.input(3, 4, 4), Filters("a", "a.weight", None, 6))
    x = builder.norm(x, "a", NormPaths("a.scale", None, None, None))
    builder.opaque([x], "sort", 6, (4, 4), "sort: no rule")
    groups = ChannelGroups(builder.build())
    assert groups["a"].why_protected == "sort: no rule"
    assert not groups.prunable
