# SPDX-License-Identifier: Apache-2.0
"""Cfg text <-> sections without loss."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.data import REAL_NETWORKS, real_network
from support.networks import random_cfg, yolov4

from yolo_hw.darknet import parse_cfg, read_cfg
from yolo_hw.errors import CfgError

ODD = (
    "# made by hand\r\n"
    "\r\n"
    "  [net]   ; header comment\r\n"
    "width = 32\r\n"
    "\theight\t=\t16  # rows\n"
    ";channels=9\n"
    "channels=3 \n"
    "\n\n"
    "[convolutional]\n"
    "filters=\n"
    " activation = leaky"
)


def test_odd_text_is_written_back_byte_for_byte():
    assert parse_cfg(ODD).text() == ODD


def test_values_are_read_without_spaces_and_comments():
    net, conv = parse_cfg(ODD).sections
    assert (net.type, net.line) == ("net", 3)
    options = [(o.key, o.value, o.line) for o in net.options]
    assert options == [("width", "32", 4), ("height", "16", 5), ("channels", "3", 7)]
    assert [(o.key, o.value, o.line) for o in conv.options] == [("filters", "", 11), ("activation", "leaky", 12)]


def test_an_edit_changes_its_value_only():
    cfg = parse_cfg(ODD)
    cfg.sections[0].set("height", "64")
    assert cfg.text() == ODD.replace("\t16  # rows", "\t64  # rows")


def test_a_new_option_gets_a_line_of_its_own_after_the_last_one():
    cfg = parse_cfg(ODD)
    cfg.sections[1].set("stride", "2")
    assert cfg.text() == ODD + "\nstride=2\n"
    again = parse_cfg(cfg.text()).sections[1]
    assert [(o.key, o.value) for o in again.options] == [("filters", ""), ("activation", "leaky"), ("stride", "2")]


def test_the_first_of_two_equal_keys_counts():
    section = parse_cfg("[net]\nwidth=8\nwidth=9\n").sections[0]
    assert section.get("width").value == "8"


def test_a_byte_order_mark_is_kept_and_means_nothing():
    cfg = parse_cfg("\ufeff" + ODD)
    assert cfg.text() == "\ufeff" + ODD
    assert [section.type for section in cfg.sections] == ["net", "convolutional"]


def test_crlf_file_survives_reading(tmp_path):
    path = tmp_path / "dos.cfg"
    path.write_bytes(ODD.encode())
    assert read_cfg(path).text().encode() == ODD.encode()


@pytest.mark.parametrize("name", REAL_NETWORKS)
def test_real_files_are_written_back_byte_for_byte(name):
    cfg, _ = real_network(name)
    assert read_cfg(cfg).text().encode() == cfg.read_bytes()


def test_generated_yolov4_round_trips():
    assert parse_cfg(yolov4()).text() == yolov4()


blank = st.sampled_from(["", " ", "\t", "  \t"])
word = st.text("abcdefghijklmnopqrstuvwxyz_0123456789", min_size=1, max_size=8)
value = st.text("abc019,.-+ \t=#;é", max_size=12)
ending = st.sampled_from(["\n", "\r\n", "\n\n", "\r"])
comment = st.builds(lambda mark, text: mark + text, st.sampled_from("#;"), value)
header = st.builds(lambda a, name, b: f"{a}[{name}]{b}", blank, word, blank)
option = st.builds(lambda a, k, b, c, v: f"{a}{k}{b}={c}{v}", blank, word, blank, blank, value)
line = st.builds(lambda body, end: body + end, st.one_of(blank, comment, header, option), ending)


@settings(max_examples=300, derandomize=True, deadline=None)
@given(st.lists(line, max_size=12))
def test_any_accepted_text_round_trips(lines):
    text = "[net]\n" + "".join(lines)
    assert parse_cfg(text).text() == text


@settings(max_examples=100, derandomize=True, deadline=None)
@given(st.text(max_size=80))
def test_text_is_refused_or_round_trips(text):
    try:
        cfg = parse_cfg(text)
    except CfgError:
        return
    assert cfg.text() == text


@settings(max_examples=100, derandomize=True, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(["\n", "\r\n"]))
def test_sections_do_not_depend_on_line_endings(seed, end):
    text = random_cfg(random.Random(seed))
    sections = parse_cfg(text.replace("\n", end)).sections
    expected = parse_cfg(text).sections
    assert [(s.type, s.line, [(o.key, o.value) for o in s.options]) for s in sections] == [
        (s.type, s.line, [(o.key, o.value) for o in s.options]) for s in expected
    ]


@pytest.mark.parametrize(
    ("text", "line_number", "part"),
    [
        ("width=3\n[net]\n", 1, "must follow a [section]"),
        ("[net]\n\n!!\n", 3, "expected key=value"),
        ("[net]\n[conv\n", 2, "header must be [name]"),
        ("[net]\nmy key=1\n", 2, "expected key=value"),
        ("[net]\n=1\n", 2, "expected key=value"),
        ("[]\n", 1, "header must be [name]"),
    ],
)
def test_malformed_lines_are_named(text, line_number, part):
    with pytest.raises(CfgError) as caught:
        parse_cfg(text, "bad.cfg")
    assert str(caught.value).startswith(f"bad.cfg:{line_number}")
    assert part in str(caught.value)
