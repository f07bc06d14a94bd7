# SPDX-License-Identifier: Apache-2.0
"""The documents say what the code does: descriptor offsets, command lines, links, measured tables."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import click
import pytest
from PIL import Image

from hls_export.bundle.descriptor import Descriptor, field_offset
from hls_export.verify import BEFORE, CHECKS
from yolo_hw import assets
from yolo_hw.cli.main import VERBS, main
from yolo_hw.data.synthetic import generate_scene
from yolo_hw.quant.qat import ScaleMethod

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *ROOT.glob("csrc/*.md")])


def test_bundle_page_lists_every_descriptor_field_at_its_offset() -> None:
    page = (ROOT / "docs" / "bundle.md").read_text("utf-8")
    found = {}
    for offsets, names in re.findall(r"^\| ([\d, ]+) \| ((?:`\w+` ?)+) \|", page, re.MULTILINE):
        found |= dict(zip(re.findall(r"`(\w+)`", names), map(int, offsets.split(",")), strict=True))
    assert found == {field.name: field_offset(field.name) for field in fields(Descriptor)}


def test_bundle_page_names_every_check() -> None:
    page = (ROOT / "docs" / "bundle.md").read_text("utf-8").split("## Verification")[1]
    named = set(re.findall(r"^\| ([\w*-]+) \|", page, re.MULTILINE)) - {"check"}
    assert named == set(BEFORE) | {re.sub(r"^engine-.*", "engine-*", name) for name in CHECKS}


def test_quantisers_page_names_every_scale_method() -> None:
    page = (ROOT / "docs" / "quantisers.md").read_text("utf-8").split("## ")[0]
    rows = re.findall(r"^\| `([\w-]+)` \|.*\| (yes|no) \|$", page, re.MULTILINE)
    assert rows == [(method.value, "yes" if method.power_of_two else "no") for method in ScaleMethod]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\[[^\]]*\]\(([^)#\s]+)[^)]*\)", text):
        assert "://" in target or (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_page_is_reached_from_the_readme() -> None:
    linked = set(re.findall(r"\(docs/([\w.]+\.md)\)", (ROOT / "README.md").read_text("utf-8")))
    assert {page.name for page in (ROOT / "docs").glob("*.md")} <= linked


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_command_lines_use_options_that_exist(page: Path) -> None:
    text = page.read_text("utf-8").replace("\\\n", " ")
    for line in re.findall(r"^yolo-hw .*$", text, re.MULTILINE):
        verb, *words = shlex.split(line, comments=True)[1:]
        assert verb in VERBS, line
        command = main.get_command(click.Context(main), verb)
        while isinstance(command, click.Group):
            command = command.get_command(click.Context(command), words.pop(0))
        assert command is not None, line
        known = {name for parameter in command.params for name in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, line


def test_readme_program_runs(tmp_path: Path) -> None:
    (program,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)
    for named, real in {
        "yolo-fastest-1.1.cfg": assets.PARTS_CFG,
        "yolo-fastest-1.1.weights": assets.PARTS_WEIGHTS,
        "photos/": tmp_path / "photos",
        "build/": tmp_path / "build",
    }.items():
        assert named in program
        program = program.replace(f'"{named}"', repr(str(real)))
    (tmp_path / "photos").mkdir()
    Image.fromarray(generate_scene(assets.CALIBRATION_SEED, 0).image).save(tmp_path / "photos" / "bench.png")
    exec(program, {})


def test_measured_tables_are_up_to_date() -> None:
    command = [sys.executable, "-m", "benchmarks.make_table", "--check"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
