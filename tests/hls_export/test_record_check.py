# SPDX-License-Identifier: Apache-2.0
"""The accelerator refuses, before it writes anything, every record that its build cannot run."""

from __future__ import annotations

import random
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from support.bundle import write_bundle
from support.cfg_graph import cfg_graph
from support.networks import CfgWriter
from support.random_graph import random_graph

from hls_export.bundle.descriptor import HAS_TABLE, RECORD_BYTES, REORG_REVERSE, Descriptor, field_offset
from hls_export.config import AcceleratorConfig
from hls_export.plan.commands import CommandOp as Op
from yolo_hw.intgraph import IntGraph

ROOT = Path(__file__).resolve().parents[2]
CONFIG = AcceleratorConfig(tm=8, tn=16, ifm_words=1024, acc_words=64, max_taps=49)
CONVS, WINDOWS = (Op.CONV, Op.DWCONV), (Op.CONV, Op.DWCONV, Op.MAXPOOL)
COMPUTING = (*CONVS, Op.AVGPOOL, Op.ADD, Op.MUL)
SANITIZE = ["-fsanitize=address,bounds", "-fno-sanitize-recover=all"]

Fields = dict[str, int]


class Forgery(NamedTuple):
    """One word of one record changed."""

    record: int
    field: str
    value: int


@dataclass(frozen=True)
class Accelerator:
    """The accelerator of a bundle, and its records as it should run them."""

    folder: Path
    binary: Path

    @property
    def records(self) -> list[Fields]:
        words = np.fromfile(self.folder / "ddr/descriptors.bin", "<i4").reshape(-1, RECORD_BYTES // 4)
        # The first of four values stands for the field.
        return [{f.name: int(row[field_offset(f.name) // 4]) for f in fields(Descriptor)} for row in words]

    def run(self, forgeries: list[Forgery], whole_program: bool = False) -> list[tuple[int, bool]]:
        """Return for every forgery what the accelerator returned, and whether it wrote anything."""
        lines = []
        for record, name, value in forgeries:
            field, _, index = name.partition("+")
            word = field_offset(field) // 4 + int(index or 0)
            lines.append(f"{record} {word} {value} {record + 1 if whole_program else 1}\n")
        command = [str(self.binary), str(self.folder)]
        command = ["timeout", "60", *command]  # a record that runs for ever is named below, too
        result = subprocess.run(command, input="".join(lines), capture_output=True, text=True, check=False)
        rows = [(int(line.split()[0]), line.split()[1] == "1") for line in result.stdout.splitlines()]
        last = forgeries[min(len(rows), len(forgeries) - 1)]
        assert result.returncode == 0, f"{last}, rc {result.returncode}: {result.stderr[-3000:]}"
        assert len(rows) == len(forgeries)
        return rows


def build(graph: IntGraph, folder: Path, config: AcceleratorConfig) -> Accelerator:
    write_bundle(graph, folder / "bundle", config)
    hls, binary = folder / "bundle/hls", folder / "forged_records"
    sources = [str(hls / "yhw_accel.cpp"), str(ROOT / "tests/cpp/forged_records.cpp")]
    command = ["g++", "-std=c++14", "-O1", *SANITIZE, "-Wno-unknown-pragmas", f"-I{hls}", *sources, "-o", str(binary)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    return Accelerator(folder / "bundle", binary)


@pytest.fixture(scope="module")
def accelerator(tmp_path_factory: pytest.TempPathFactory) -> Accelerator:
    return build(random_graph(1), tmp_path_factory.mktemp("forged"), CONFIG)


def taps(record: Fields) -> int:
    return record["size_h"] * record["size_w"]


class Limit(NamedTuple):
    """Records of some operations, and a value of a field that they must not have."""

    ops: tuple[Op, ...]
    field: str
    value: int | Callable[[Fields], int]
    applies: Callable[[Fields], bool] = lambda record: True


ANY = tuple(Op)
OVER = (1 << 20) + 1
LIMITS = [
    Limit(ANY, "magic", 0),
    Limit(ANY, "op", 0),
    Limit(ANY, "op", 9),
    Limit(ANY, "modes", lambda r: r["modes"] ^ 1),
    Limit(ANY, "modes", lambda r: r["modes"] ^ 16),
    *[Limit(ANY, "build", lambda r, bit=bit: r["build"] ^ bit) for bit in (1 << 4, 1 << 13, 1 << 20)],
    *[Limit(ANY, name, v) for name in ("in_c", "in_h", "in_w", "out_c", "out_h", "out_w") for v in (0, -1, OVER)],
    *[Limit(ANY, "num_inputs", v) for v in (0, -1, 5)],
    *[Limit(ANY, f"{name}_element_bytes", v) for name in ("in", "out") for v in (0, 2, 3)],
    Limit(ANY, "in_offset", lambda r: r["in_offset"] + 4, lambda r: r["in_lanes"] == CONFIG.lanes),
    Limit(ANY, "in_offset", -CONFIG.lanes, lambda r: r["in_h"] * r["in_w"] > 1),
    Limit(ANY, "out_offset", lambda r: r["out_offset"] + 4),
    Limit(ANY, "out_offset", -CONFIG.lanes, lambda r: r["out_h"] * r["out_w"] > 1),
    Limit(ANY, "in_lanes", 0),
    Limit(ANY, "in_lanes", 2 * CONFIG.lanes),
    Limit(ANY, "in_lanes", 4, lambda r: r["op"] != Op.CONV or r["in_c"] > 4),
    *[Limit(WINDOWS, f"{name}_{axis}", v) for name in ("size", "stride", "dilation") for axis in "hw" for v in (0, -1)],
    *[Limit(WINDOWS, f"pad_{axis}", v) for axis in "hw" for v in (-1, OVER)],
    *[Limit(WINDOWS, f"tile_{axis}", v) for axis in "hw" for v in (0, -1)],
    Limit(WINDOWS, "tile_h", lambda r: CONFIG.acc_words // r["tile_w"] + 1),
    Limit(WINDOWS, "tile_w", lambda r: CONFIG.acc_words // r["tile_h"] + 1),
    Limit(WINDOWS, "stride_h", CONFIG.ifm_words, lambda r: r["tile_h"] > 1),
    Limit(WINDOWS, "stride_w", CONFIG.ifm_words // 8, lambda r: r["tile_w"] > 1),
    Limit(WINDOWS, "dilation_h", CONFIG.ifm_words, lambda r: r["size_h"] > 1),
    Limit(CONVS, "size_h", lambda r: CONFIG.max_taps // r["size_w"] + 1),
    Limit(CONVS, "weight_bytes", 0),
    Limit(CONVS, "weight_bytes", 2),
    Limit((*WINDOWS, Op.AVGPOOL, Op.COPY, Op.REORG), "num_inputs", 2),
    Limit(CONVS, "tile_table_offset", lambda r: r["tile_table_offset"] + 4),
    Limit(CONVS, "channel_table_offset", lambda r: r["channel_table_offset"] + 4),
    Limit((Op.DWCONV,), "size_w", 8, lambda r: r["size_h"] * 8 <= CONFIG.max_taps),
    Limit((Op.DWCONV, Op.MAXPOOL), "dilation_w", 2),
    Limit((Op.DWCONV, Op.MAXPOOL, Op.AVGPOOL, Op.ADD, Op.MUL), "in_c", lambda r: r["in_c"] + 1),
    Limit((Op.AVGPOOL,), "out_h", 2),
    Limit((Op.ADD, Op.MUL), "in_h", lambda r: r["in_h"] + 1),
    Limit((Op.ADD,), "in_shift", -1),
    Limit((Op.ADD,), "in_shift+1", 32),
    Limit((Op.ADD,), "in_element_bytes+1", 2),
    Limit((Op.ADD,), "in_offset+1", 4),
    Limit((Op.MUL,), "num_inputs", 1),
    Limit((Op.MUL,), "factor_c", lambda r: r["out_c"] + 1),
    Limit((Op.MUL,), "factor_h", lambda r: r["out_h"] + 1),
    Limit((Op.MUL,), "in_offset+1", 4),
    *[Limit(COMPUTING, name, v) for name in ("mul_pos", "mul_neg") for v in (1 << 16, -(1 << 16))],
    *[Limit(COMPUTING, name, v) for name in ("shift", "shift_neg") for v in (-17, 48)],
    Limit(COMPUTING, "shift", 47, lambda r: r["shift_neg"] > 0),
    *[Limit(COMPUTING, "code_bits", v) for v in (0, 17)],
    Limit(COMPUTING, "code_lo", lambda r: r["code_lo"] + 1),
    Limit(COMPUTING, "code_hi", lambda r: r["code_hi"] + 1),
    Limit(COMPUTING, "clamp_hi", lambda r: r["code_hi"] + 1, lambda r: not r["flags"] & HAS_TABLE),
    Limit(COMPUTING, "clamp_lo", lambda r: r["clamp_hi"] + 1, lambda r: not r["flags"] & HAS_TABLE),
    Limit(COMPUTING, "table_offset", lambda r: r["table_offset"] + 4, lambda r: bool(r["flags"] & HAS_TABLE)),
    Limit((Op.COPY, Op.REORG), "stride", 0),
    Limit((Op.COPY, Op.REORG), "stride", lambda r: r["stride"] + 1),
    Limit((Op.COPY,), "in_channel", -1),
    Limit((Op.COPY,), "in_channel", lambda r: r["in_c"] - r["out_c"] + 1),
    Limit((Op.COPY,), "out_channel", -1),
    Limit((Op.COPY,), "out_channel", OVER),
    Limit((Op.REORG,), "flags", lambda r: r["flags"] ^ REORG_REVERSE),
]


def test_every_limit_refuses_the_record(accelerator: Accelerator):
    records = accelerator.records
    assert {record["op"] for record in records} == set(ANY)
    forgeries, seen = [], []
    for limit in LIMITS:
        for op in limit.ops:
            found = [i for i, r in enumerate(records) if r["op"] == op and limit.applies(r)]
            for i in found[:3]:
                value = limit.value(records[i]) if callable(limit.value) else limit.value
                forgeries.append(Forgery(i, limit.field, value))
                seen.append(limit)
    assert {id(limit) for limit in seen} == {id(limit) for limit in LIMITS}
    results = accelerator.run(forgeries)
    wrong = [f for f, result in zip(forgeries, results, strict=True) if result != (1 + f.record, False)]
    assert wrong == []


def test_a_depthwise_kernel_must_fit_the_weight_buffer(tmp_path: Path):
    """Three chunks of four positions are all this weight buffer holds; 4 x 3 positions take three, 5 x 3 take four."""
    cfg = CfgWriter(9, 9)
    cfg.conv(8, activation="linear")
    cfg.conv(8, 3, groups=8, activation="linear")
    cfg.yolo([0, 1, 2], 2, "1,1,2,2,3,3")
    small = build(cfg_graph(cfg.text()), tmp_path, AcceleratorConfig(tm=4, tn=4, max_taps=3))
    (record,) = [i for i, r in enumerate(small.records) if r["op"] == Op.DWCONV]
    assert (small.records[record]["size_h"], small.records[record]["size_w"]) == (3, 3)
    results = small.run([Forgery(record, "size_h", 4), Forgery(record, "size_h", 5)])
    assert results == [(0, True), (1 + record, False)]


def test_records_as_they_are_run(accelerator: Accelerator):
    forgeries = [Forgery(i, "magic", record["magic"]) for i, record in enumerate(accelerator.records)]
    assert accelerator.run(forgeries) == [(0, True)] * len(forgeries)
    assert accelerator.run(forgeries[-1:], whole_program=True) == [(0, True)]


def test_one_refused_record_stops_the_program_before_it_starts(accelerator: Accelerator):
    last = len(accelerator.records) - 1
    assert accelerator.run([Forgery(last, "magic", 0)], whole_program=True) == [(1 + last, False)]


AT_THE_LIMIT = [
    *[Limit(COMPUTING, name, v) for name in ("mul_pos", "mul_neg") for v in ((1 << 16) - 1, 1 - (1 << 16))],
    *[Limit((Op.AVGPOOL, Op.ADD, Op.MUL), "shift", v, lambda r: r["shift_neg"] == 0) for v in (-16, 47)],
    Limit((Op.ADD,), "in_shift+1", 31),
    Limit(CONVS, "tile_w", lambda r: CONFIG.acc_words // r["tile_h"], lambda r: taps(r) == 1 and r["stride_w"] == 1),
    Limit(CONVS, "tile_h", 1),
]


def test_the_last_allowed_value_is_not_refused(accelerator: Accelerator):
    forgeries = []
    for limit in AT_THE_LIMIT:
        found = [i for i, r in enumerate(accelerator.records) if r["op"] in limit.ops and limit.applies(r)]
        assert found, limit
        value = limit.value
        forgeries += [
            Forgery(i, limit.field, value(accelerator.records[i]) if callable(value) else value) for i in found
        ]
    assert accelerator.run(forgeries) == [(0, True)] * len(forgeries)


TRUSTED = ("tile_table_offset", "channel_table_offset", "table_offset", "out_c", "weight_bytes", "op")
"""Where a changed value lets the engine take other parameters for counts and shifts; those are not looked at."""


@pytest.mark.slow
def test_no_record_that_is_run_leaves_a_buffer(accelerator: Accelerator):
    """Random changes under the address and bounds sanitizers: refused without a write, or run within all buffers."""
    rng = random.Random(1)
    records = accelerator.records
    names = [field.name for field in fields(Descriptor) if field.name not in TRUSTED]
    forgeries = []
    for _ in range(3000):
        i, name = rng.randrange(len(records)), rng.choice(names)
        value = records[i][name]
        forgeries.append(Forgery(i, name, rng.choice([value + 1, value - 1, 2 * value + 1, value // 2, 3, 7, 8, 64])))
    results = accelerator.run(forgeries)
    refused = [forgery for forgery, (code, wrote) in zip(forgeries, results, strict=True) if code]
    assert all(result in ((0, True), (1 + f.record, False)) for f, result in zip(forgeries, results, strict=True))
    assert 300 < len(refused) < 2700


def test_no_field_of_a_record_is_left_out():
    text = (ROOT / "hls_export/engine/yhw_fetch.h").read_text()
    found = re.findall(r"^  (YHW_TAKE(?:_FOUR)?)\((\w+)\)", text, re.M)
    four = [field.name for field in fields(Descriptor) if isinstance(field.default, tuple)]
    assert [name for _, name in found] == [field.name for field in fields(Descriptor)]
    assert [name for macro, name in found if macro == "YHW_TAKE_FOUR"] == four
