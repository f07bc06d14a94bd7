# SPDX-License-Identifier: Apache-2.0
"""The exported HLS C++ under g++ equals the numpy reference in every code and accumulator."""

import importlib.util
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from support.bundle import failures, forge_manifest, rewrite, write_bundle
from support.random_graph import random_graph, random_input

from hls_export.bundle import ExportOptions, GoldenOptions, export_bundle
from hls_export.config import AcceleratorConfig
from hls_export.verify import CompilerMissingError, Status, open_bundle, verify_bundle
from hls_export.verify.csim import check_csim
from yolo_hw.errors import BundleError
from yolo_hw.fixedpoint import Overflow, Rounding
from yolo_hw.intgraph import IntGraph
from yolo_hw.intgraph.nodes import NODE_TYPES

NARROW, WIDE = (4, 5, 6, 7, 8), (6, 8, 16)
SHORT, ONLY_12, ONLY_16 = (2, 3), (12,), (16,)
SANITIZED = "-O1 -fsanitize=address,undefined -fno-sanitize-recover=all"


@dataclass(frozen=True)
class Case:
    """One accelerator and one random network that holds every node kind."""

    seed: int
    tile: tuple[int, int]
    rounding: Rounding
    overflow: Overflow
    bits: tuple[int, ...] = NARROW
    ifm_words: int = 4096
    acc_words: int = 1024

    def graph(self) -> IntGraph:
        return random_graph(self.seed, bits=self.bits, rounding=self.rounding, overflow=self.overflow)

    def config(self) -> AcceleratorConfig:
        tm, tn = self.tile
        return AcceleratorConfig(tm=tm, tn=tn, ifm_words=self.ifm_words, acc_words=self.acc_words)

    def __str__(self) -> str:
        words = "_".join(map(str, self.bits))
        return f"{self.tile[0]}x{self.tile[1]}-{self.rounding.value}-{self.overflow.value}-{words}"


CASES = [
    Case(1, (16, 16), Rounding.HALF_UP, Overflow.SATURATE),
    Case(2, (8, 32), Rounding.HALF_EVEN, Overflow.SATURATE_SYMMETRIC),
    Case(3, (32, 8), Rounding.HALF_AWAY, Overflow.WRAP),
    Case(4, (12, 20), Rounding.FLOOR, Overflow.SATURATE),
    Case(5, (16, 16), Rounding.HALF_EVEN, Overflow.WRAP, WIDE),
    Case(6, (12, 20), Rounding.HALF_AWAY, Overflow.SATURATE_SYMMETRIC, WIDE),
    Case(7, (4, 4), Rounding.HALF_UP, Overflow.SATURATE, NARROW, 256, 16),
    Case(8, (16, 8), Rounding.HALF_UP, Overflow.SATURATE, ONLY_16),
    Case(9, (8, 8), Rounding.HALF_EVEN, Overflow.SATURATE, SHORT),
    Case(10, (4, 16), Rounding.HALF_AWAY, Overflow.SATURATE, ONLY_12, 256, 16),
]


def export(case: Case, folder: Path) -> Path:
    graph = case.graph()
    images = {f"image{i}": random_input(graph, i) for i in range(3)}
    export_bundle(graph, case.config(), folder, ExportOptions(images))
    return folder


def compared(text: str) -> tuple[int, int]:
    """Return cases and codes of a passed simulation's text."""
    found = re.fullmatch(r"(\d+) cases, \d+ records, (\d+) codes equal(?:, .*)?", text)
    assert found, text
    return int(found[1]), int(found[2])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_simulation_equals_numpy(case: Case, tmp_path: Path):
    bundle = open_bundle(export(case, tmp_path / "bundle"))
    nodes = bundle.plan.graph.nodes
    assert {type(node) for node in nodes} == set(NODE_TYPES.values())
    codes = sum(bundle.plan.graph.output_of(node).shape.numel for node in nodes)
    assert compared(check_csim(bundle)) == (6, 6 * codes)
    assert not failures(bundle.folder)


@pytest.mark.parametrize("case", [CASES[1], CASES[5], CASES[6]], ids=str)
def test_simulation_is_clean_under_the_sanitizers(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CXXFLAGS", SANITIZED)
    assert compared(check_csim(open_bundle(export(case, tmp_path / "bundle"))))[0] == 6


def test_the_sanitizers_stop_the_simulation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """They are at work: with a weight buffer declared too small, the same simulation ends in an error."""
    monkeypatch.setenv("CXXFLAGS", f"{SANITIZED} -DYHW_CHECK_H_ -include {tmp_path}/no_check.h")
    (tmp_path / "no_check.h").write_text(
        '#include "yhw_descriptor.h"\n#include "yhw_config.h"\n#undef YHW_MAX_TAPS\n#define YHW_MAX_TAPS 2\n'
        "namespace yhw {\nstatic bool record_fits(const yhw_descriptor_t&) { return true; }\n}\n"
    )
    with pytest.raises(BundleError, match="csim: the test bench ended with"):
        check_csim(open_bundle(export(CASES[1], tmp_path / "bundle")))


def ap_types() -> Path:
    spec = importlib.util.find_spec("hls4ml")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the hls4ml wheel, which carries Xilinx's ap_int.h, is not installed")
    found = sorted(Path(spec.submodule_search_locations[0]).rglob("ap_int.h"))
    if not found:
        pytest.skip("the hls4ml wheel holds no ap_int.h")
    return found[0].parent


@pytest.mark.slow
@pytest.mark.parametrize("case", [CASES[0], CASES[4]], ids=str)
def test_simulation_with_xilinx_types_equals_the_plain_one(case: Case, tmp_path: Path):
    folder = export(case, tmp_path / "bundle")
    lines = {}
    for name, arguments in (("plain", []), ("xilinx", [f"AP={ap_types()}"])):
        command = [
            "make",
            "-s",
            "-C",
            str(folder / "hls"),
            "csim",
            f"OUT={tmp_path / name}",
            "CXXFLAGS=-O1",
            *arguments,
        ]
        result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert result.returncode == 0, result.stderr[-2000:]
        lines[name] = result.stdout.splitlines()
    assert lines["plain"] == lines["xilinx"]
    assert len(lines["plain"]) == 6
    assert all(line.startswith("EQUAL case ") for line in lines["plain"])
    binary = (tmp_path / "xilinx/yhw_tb").read_bytes()
    assert binary != (tmp_path / "plain/yhw_tb").read_bytes()


def test_a_difference_is_reported_with_its_place(bundle: Path):
    path = bundle / "golden/image0/conv_2.out.bin"
    codes = np.fromfile(path, np.int8).reshape(8, 16, 16)
    codes[3, 5, 7] ^= 1
    path.write_bytes(codes.tobytes())
    with pytest.raises(BundleError) as caught:
        check_csim(open_bundle(bundle))
    found = re.search(
        r"layer conv_2 channel 3 row 5 column 7 expected (-?\d+) got (-?\d+) accumulator", str(caught.value)
    )
    assert found
    assert int(found[1]) == codes[3, 5, 7]
    assert int(found[2]) == codes[3, 5, 7] ^ 1


def test_a_wrong_accumulator_is_reported(bundle: Path):
    path = bundle / "golden/all_max/conv_5.acc.bin"
    sums = np.fromfile(path, "<i4")
    sums[-1] += 1
    path.write_bytes(sums.tobytes())
    message = (
        rf"case all_max layer conv_5 channel 11 row 7 column 7 .* accumulator expected {sums[-1]} got {sums[-1] - 1}"
    )
    with pytest.raises(BundleError, match=message):
        check_csim(open_bundle(bundle))


def test_the_simulation_reads_the_images_of_the_bundle(bundle: Path):
    """A weight that is wrong in the parameter image alone changes the layer it belongs to."""

    def flip(image: bytearray) -> None:
        image[0] ^= 0x40

    rewrite(bundle, change_image=flip)
    with pytest.raises(BundleError, match=r"case image0 layer conv_0 channel 0 "):
        check_csim(open_bundle(bundle))


def test_make_runs_nothing_that_was_changed(bundle: Path, tmp_path: Path):
    makefile = bundle / "hls/Makefile"
    makefile.write_text(f"%:\n\ttouch {tmp_path}/escaped\n")
    forge_manifest(bundle)
    report = {result.name: result for result in verify_bundle(bundle).results}
    assert report["csim"].status is Status.SKIPPED
    assert report["csim"].detail == "not run, because texts failed"
    with pytest.raises(BundleError, match="hls/Makefile: differs"):
        check_csim(open_bundle(bundle))
    assert not (tmp_path / "escaped").exists()


def test_digests_alone_are_simulated_too(tmp_path: Path):
    graph = CASES[0].graph()
    write_bundle(graph, tmp_path / "bundle", golden=GoldenOptions(max_bytes=0))
    assert not list((tmp_path / "bundle/golden").rglob("*.out.bin"))
    report = {result.name: result for result in verify_bundle(tmp_path / "bundle").results}
    assert report["csim"].status is Status.PASSED, report["csim"].detail
    assert compared(report["csim"].detail)[0] == 4
    assert report["csim"].detail.endswith("golden vectors recomputed for the digests")
    make = ["make", "-s", "-C", str(tmp_path / "bundle/hls"), "csim", f"OUT={tmp_path}/build", "CXXFLAGS=-O0"]
    result = subprocess.run(make, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode != 0
    assert "ERROR the bundle holds digests of its golden vectors only" in result.stdout


def test_a_missing_compiler_is_bad_input_with_a_way_out(bundle: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(CompilerMissingError, match=r"csim needs 'no-such-compiler'; install it, or .* --skip csim"):
        verify_bundle(bundle)
    assert verify_bundle(bundle, skip=["csim"]).passed


def test_sources_that_do_not_compile_are_reported(bundle: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CXXFLAGS", "-include no_such_header.h")
    with pytest.raises(BundleError, match=r"the HLS C\+\+ does not compile: .*no_such_header"):
        check_csim(open_bundle(bundle))
