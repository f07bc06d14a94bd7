# SPDX-License-Identifier: Apache-2.0
"""``yolo-hw quantise --budget cycles --tile``: the cycles of the accelerator's own plans are what is budgeted."""

import json

import pytest
from support.cli_runs import run, write_network
from support.networks import CfgWriter, tiny_detector

from hls_export.config import AcceleratorConfig
from hls_export.plan import CommandOp, make_plan
from hls_export.plan.cycles import plan_cycles
from yolo_hw.intgraph.io import load_graph


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """Every layer whose cycles depend on a word length, and some that do not."""
    cfg = CfgWriter(32, 32)
    first = cfg.conv(16, 3, 2)
    cfg.conv(16, 3, groups=16)
    cfg.conv(16)
    cfg.section("shortcut", from_=first, activation="linear")
    cfg.conv(12)
    short = cfg.section("maxpool", size=2, stride=2)
    cfg.conv(12, 3)
    cfg.section("shortcut", from_=short, activation="leaky")
    cfg.section("upsample", stride=2)
    cfg.route(-1, first)  # at channel 12: a copy
    cfg.conv(8)
    cfg.section("reorg", stride=2)
    cfg.conv(16, 3)
    cfg.section("avgpool")
    cfg.conv(6, activation="linear", batch_normalize=0)
    return write_network(tmp_path_factory.mktemp("moving"), cfg.text())


def quantise(network, files, out, *more):
    files_given = ["--cfg", network[0], "--weights", network[1], "--calib", files.images, "--out", out]
    return run("quantise", *files_given, *more)


def entries(folder, **buffers):
    graph = load_graph(folder / "graph")
    return plan_cycles(make_plan(graph, AcceleratorConfig(tm=8, tn=8, **buffers)))


def cycles(folder, **buffers):
    """Count those of a folder's graph."""
    return sum(entry.cycles for entry in entries(folder, **buffers))


@pytest.fixture(scope="module")
def extremes(network, files, tmp_path_factory):
    """Cycles with all activations in 8 and in 16 bits."""
    folder = tmp_path_factory.mktemp("uniform")
    found = []
    for bits in (8, 16):
        result = quantise(network, files, folder / str(bits), "--a-bits", bits)
        assert result.exit_code == 0, result.output
        found.append(cycles(folder / str(bits)))
    ops = {entry.command.op for entry in entries(folder / "8")}
    assert ops >= {CommandOp.ADD, CommandOp.COPY, CommandOp.REORG, CommandOp.AVGPOOL, CommandOp.MAXPOOL}
    return tuple(found)


@pytest.mark.parametrize("share", [0.0, 0.35, 0.8, 1.0])
def test_a_budget_between_all_8_and_all_16_bits(network, files, extremes, tmp_path, share):
    """The cycles that are printed are those of the graph that is written, counted anew."""
    least, most = extremes
    limit = int(least + share * (most - least))
    result = quantise(network, files, tmp_path / "q", "--budget", f"cycles={limit}", "--tile", "8x8", "--json")
    assert result.exit_code == 0, result.output
    chosen = json.loads(result.stdout)["word_lengths"]
    assert chosen["budget"]["limit"] == limit
    assert chosen["budget"]["uniform"] == least  # the options say 8 bits
    assert chosen["budget"]["cost"] == cycles(tmp_path / "q") <= limit
    bits = {label: bits for label, bits in chosen["bits"].items() if label.startswith("a:")}
    assert {bits for label, bits in chosen["bits"].items() if label.startswith("w:")} == {8}
    assert 16 in bits.values()  # where it costs no cycle, such as between convolutions
    assert (8 in bits.values()) == (share < 1)
    assert ("leaves every choice" in result.stderr) == (share == 1)


def test_a_share_is_of_the_network_in_the_bits_of_the_options(network, files, extremes, tmp_path):
    least, most = extremes
    share = (least + most) / (2 * most)
    options = ["--a-bits", 16, "--budget", f"cycles={share:.4f}x", "--tile", "8x8", "--json"]
    result = quantise(network, files, tmp_path / "q", *options)
    assert result.exit_code == 0, result.output
    budget = json.loads(result.stdout)["word_lengths"]["budget"]
    assert budget["uniform"] == most
    assert least < budget["cost"] == cycles(tmp_path / "q") <= float(f"{share:.4f}") * most


def test_buffers_are_the_accelerators(network, files, extremes, tmp_path):
    """A smaller accumulator buffer means more tiles, and more halo columns of the depthwise layer."""
    options = ["--budget", "cycles=1e9", "--tile", "8x8", "--acc-words", 64, "--json"]
    result = quantise(network, files, tmp_path / "q", *options)
    assert result.exit_code == 0, result.output
    budget = json.loads(result.stdout)["word_lengths"]["budget"]
    assert budget["cost"] == cycles(tmp_path / "q", acc_words=64) > extremes[1]


def test_a_budget_below_all_8_bits_names_the_least(network, files, extremes, tmp_path):
    least, most = extremes
    result = quantise(network, files, tmp_path / "q", "--budget", f"cycles={least - 1}", "--tile", "8x8")
    assert result.exit_code == 2
    message = f"the budget is {least - 1} cycles, the smallest number that can be reached {least}, the largest {most}:"
    assert message in result.stderr
    assert not (tmp_path / "q").exists()


def test_a_network_of_convolutions_has_no_choice(files, tmp_path):
    small = write_network(tmp_path, tiny_detector())
    options = ["--budget", "cycles=1x", "--tile", "8x8", "--json"]
    result = quantise(small, files, tmp_path / "q", *options)
    assert result.exit_code == 0, result.output
    assert "leaves every choice" in result.stderr
    result = quantise(small, files, tmp_path / "p", "--budget", "cycles=0.99", "--tile", "8x8")
    assert result.exit_code == 2
    least = cycles(tmp_path / "q")
    assert f"the smallest number that can be reached {least}, the largest {least}" in result.stderr
