# SPDX-License-Identifier: Apache-2.0
"""Descriptor records: documented offsets and byte order, the same fields in Python and C, and headers that compile."""

import re
import shutil
import struct
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest
from support.bundle import write_bundle
from support.cfg_graph import cfg_graph, feature_cfg
from support.random_graph import random_graph

from hls_export.bundle.descriptor import MAGIC, RECORD_BYTES, Descriptor, field_offset, unpack_descriptors
from hls_export.bundle.write import ENGINE
from hls_export.config import AcceleratorConfig
from hls_export.plan import CommandOp, make_plan
from yolo_hw.errors import BundleError

HEADER = ENGINE / "yhw_descriptor.h"


def c_fields() -> list[tuple[str, str, int]]:
    """Return (name, type, count) of every member of the C struct, in order."""
    text = re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.DOTALL)
    body = re.search(r"typedef struct \{(.*?)\} yhw_descriptor_t;", text, re.DOTALL)[1]
    found = []
    for kind, names in re.findall(r"(u?int32_t) ([^;]+);", body):
        for name in names.split(","):
            array = name.strip().removesuffix("[YHW_MAX_INPUTS]")
            found.append((array, kind, 4 if array != name.strip() else 1))
    return found


def test_python_and_c_have_the_same_fields_in_the_same_order():
    python = [(f.name, 4 if isinstance(f.default, tuple) else 1) for f in fields(Descriptor)]
    assert python == [(name, count) for name, _, count in c_fields()]
    assert sum(count for _, count in python) * 4 == RECORD_BYTES == 256


def test_every_field_packs_to_its_own_little_endian_words():
    offset = 0
    for name, kind, count in c_fields():
        low = 0 if kind == "uint32_t" else -(2**31)
        for value in (low, low + 1, 0x12345678, 2**32 - 1 if kind == "uint32_t" else -2):
            values = tuple(value if i == 0 else i for i in range(count))
            record = Descriptor(**{name: values if count == 4 else value}).pack()
            letter = "I" if kind == "uint32_t" else "i"
            assert struct.unpack_from(f"<{count}{letter}", record, offset) == values
            rest = record[:offset] + bytes(4 * count) + record[offset + 4 * count :]
            empty = Descriptor(**{name: (0,) * 4 if count == 4 else 0}).pack()
            assert rest == empty[:offset] + bytes(4 * count) + empty[offset + 4 * count :]
        assert field_offset(name) == offset
        offset += 4 * count


def test_a_record_of_a_real_layer_reads_as_a_struct(pristine: Path):
    """conv_0 of the small network: 3 x 32 x 32 to 8 x 16 x 16, 3x3 stride 2, leaky 51 / 2**9, int8 codes, half up."""
    record = (pristine / "ddr/descriptors.bin").read_bytes()[:256]
    magic, op, node, flags, *shape = struct.unpack_from("<10i", record)
    assert record[:4] == b"YHW1"
    assert (magic, op, node, flags) == (MAGIC, 1, 0, 1)
    assert shape == [3, 32, 32, 8, 16, 16]
    assert struct.unpack_from("<8i", record, 40) == (3, 3, 2, 2, 1, 1, 1, 1)
    assert struct.unpack_from("<4I4i4i4i", record, 88) == (0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    assert struct.unpack_from("<i", record, 152) == (4,)  # RGBX
    assert struct.unpack_from("<4i", record, 212) == (0, 1, 51, 9)
    assert struct.unpack_from("<6i", record, 228) == (-128, 127, 8, -128, 127, 0)
    assert struct.unpack_from("<4B", record, 252) == (16, 16, 32, 0)  # TM, TN, accumulator bits


def test_operation_numbers_are_those_of_the_header():
    found = {name: int(value) for name, value in re.findall(r"YHW_([A-Z]+) = (\d+),? ", HEADER.read_text())}
    for op in CommandOp:
        assert found[op.name] == op


@pytest.mark.parametrize("data", [b"", bytes(255), b"YHW1" + bytes(256)])
def test_a_broken_record_file_is_refused(data: bytes):
    with pytest.raises(BundleError, match="must be a multiple of 256 bytes"):
        unpack_descriptors(data)


def test_a_record_without_the_magic_number_is_named():
    with pytest.raises(BundleError, match="record 1 must start with 0x31574859, got 0x00000000"):
        unpack_descriptors(b"YHW1" + bytes(252 + 256))


PROGRAM = """
#include <stdio.h>
#include <string.h>
#include "yolo_hw_model.h"
int main(void) {
  yhw_descriptor_t d;
  unsigned long sum = 0, i;
  for (i = 0; i < YHW_PARAM_BYTES; ++i) sum = sum * 31 + yhw_params[i];
  printf("%lu %lu %u", (unsigned long)sizeof d, sum & 0xffffffffUL, (unsigned)YHW_NUM_RECORDS);
  for (i = 0; i < YHW_NUM_RECORDS; ++i) {
    memcpy(&d, yhw_descriptors + sizeof d * i, sizeof d);
    printf(" %d:%d:%d", (int)d.op, (int)d.node, (int)d.out_c);
  }
  return 0;
}
"""


@pytest.mark.parametrize(
    ("compiler", "suffix", "standard"),
    [("gcc", "c", "c99"), ("gcc", "c", "c11"), ("g++", "cpp", "c++11"), ("g++", "cpp", "c++17")],
)
def test_a_host_program_links_the_images(pristine: Path, tmp_path: Path, compiler: str, suffix: str, standard: str):
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    source = tmp_path / f"host.{suffix}"
    source.write_text(PROGRAM)
    flags = [f"-std={standard}", "-Wall", "-Wextra", "-Werror", *(["-pedantic"] if standard != "c99" else [])]
    assembly = ["-x", "assembler", str(pristine / "src/yolo_hw_model.S"), f"-Wa,-I{pristine / 'ddr'}"]
    command = [compiler, *flags, f"-I{pristine / 'include'}", str(source), *assembly, "-o", str(tmp_path / "host")]
    subprocess.run(command, check=True, timeout=100)
    printed = subprocess.run([tmp_path / "host"], check=True, capture_output=True, text=True, timeout=20).stdout.split()
    params, records = ((pristine / f"ddr/{name}.bin").read_bytes() for name in ("params", "descriptors"))
    total = 0
    for byte in params:
        total = (total * 31 + byte) % 2**32
    assert printed[:3] == ["256", str(total), str(len(records) // 256)]
    for i, text in enumerate(printed[3:]):
        op, node, out_c = (struct.unpack_from("<i", records, 256 * i + at)[0] for at in (4, 8, 28))
        assert text == f"{op}:{node}:{out_c}"


def test_a_struct_of_another_size_does_not_compile(pristine: Path, tmp_path: Path):
    text = (pristine / "include/yhw_descriptor.h").read_text().replace("int32_t in_lanes;", "", 1)
    (tmp_path / "broken.c").write_text(text)
    result = subprocess.run(
        ["gcc", "-fsyntax-only", "broken.c"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode != 0
    assert "a descriptor has 256 bytes" in result.stderr


@pytest.mark.parametrize("seed", range(6))
def test_addresses_of_records_are_those_of_the_memory_map(seed: int, tmp_path: Path):
    plan = write_bundle(random_graph(seed), tmp_path / "bundle", AcceleratorConfig(tm=8, tn=16))
    records = unpack_descriptors((tmp_path / "bundle/ddr/descriptors.bin").read_bytes())
    for command, record in zip(plan.program, records, strict=True):
        sources = struct.unpack_from("<4I", record, field_offset("in_offset"))
        assert sources[: len(command.inputs)] == tuple(plan.memory.locations[n].offset for n in command.inputs)
        (target,) = struct.unpack_from("<I", record, field_offset("out_offset"))
        assert target == plan.memory.locations[command.output].offset
    last = [struct.unpack_from("<i", record, field_offset("flags"))[0] & 1 for record in records]
    final = {command.node: i for i, command in enumerate(plan.program)}
    assert [i for i, flag in enumerate(last) if flag] == sorted(final.values())


def test_plans_are_reproducible():
    graph = cfg_graph(feature_cfg())
    assert make_plan(graph, AcceleratorConfig()).memory == make_plan(graph, AcceleratorConfig()).memory
