# SPDX-License-Identifier: Apache-2.0
"""Patterns mean the layers they say, and nothing silently."""

import pytest

from yolo_hw.errors import PruneError
from yolo_hw.prune.match import match_layers, select_layers

NAMES = ["conv_0", "pool_1", "conv_2", "conv_10", "conv_11", "add_12", "a~b", "x[0]", "model.0.cv1"]
TYPES = ["conv", "pool", "conv", "conv", "Conv", "add", "conv", "conv", "conv"]


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ([], []),
        (["conv_2"], ["conv_2"]),
        (["conv_11", "conv_0", "conv_11"], ["conv_0", "conv_11"]),
        (["conv_1*"], ["conv_10", "conv_11"]),
        (["conv_?"], ["conv_0", "conv_2"]),
        (["conv_[02]"], ["conv_0", "conv_2"]),
        (["x[0]"], ["x[0]"]),
        (["a~b"], ["a~b"]),
        (["model.*"], ["model.0.cv1"]),
        (["re:conv_1.?"], ["conv_10", "conv_11"]),
        (["re:conv_1"], "error"),
        ([r"re:.*_1\d"], ["conv_10", "conv_11", "add_12"]),
        (["type:add"], ["add_12"]),
        (["type:CONV"], ["conv_0", "conv_2", "conv_10", "conv_11", "a~b", "x[0]", "model.0.cv1"]),
        (["pool_1 ~ conv_10"], ["pool_1", "conv_2", "conv_10"]),
        (["pool_1~conv_10"], ["pool_1", "conv_2", "conv_10"]),
        (["conv_2 ~ conv_2"], ["conv_2"]),
        (["type:pool", "conv_11 ~ add_12", "conv_0"], ["conv_0", "pool_1", "conv_11", "add_12"]),
    ],
)
def test_patterns(patterns, expected):
    if expected == "error":
        with pytest.raises(PruneError, match="no layer has such a name"):
            match_layers(NAMES, TYPES, patterns)
    else:
        assert match_layers(NAMES, TYPES, patterns) == expected


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("conv_12", r"'conv_12': no layer has such a name; did you mean 'conv_\d+'"),
        ("", "'': no layer has such a name"),
        ("yolo*", "'yolo[*]': no layer"),
        ("re:[", "not a regular expression"),
        ("type:convs", "the types are add, conv, pool; did you mean 'conv'"),
        ("add_12 ~ conv_2", "runs backwards, conv_2 is layer 2 and add_12 layer 5 .*'conv_2 ~ add_12'"),
        ("conv_2 ~ add_13", "none is 'add_13'; did you mean 'add_12'"),
        ("conv_2 ~", "none is ''"),
        ("conv_0 ~ conv_2 ~ add_12", "has 3 ends"),
    ],
)
def test_a_pattern_that_means_nothing_is_an_error(pattern, message):
    with pytest.raises(PruneError, match=message):
        match_layers(NAMES, TYPES, ["conv_0", pattern])


def test_include_without_exclude():
    assert select_layers(NAMES, TYPES, None, ["type:conv"]) == ["pool_1", "add_12"]
    assert select_layers(NAMES, TYPES, ["conv_*"], ["conv_10 ~ add_12"]) == ["conv_0", "conv_2"]
    with pytest.raises(PruneError, match="exclude takes all 2"):
        select_layers(NAMES, TYPES, ["conv_1*"], ["type:conv"])
    with pytest.raises(PruneError, match="no layer has such a name"):
        select_layers(NAMES, TYPES, None, ["dense"])


def test_names_must_differ():
    with pytest.raises(PruneError, match="once"):
        match_layers(["a", "a"], ["conv", "conv"], ["a"])
