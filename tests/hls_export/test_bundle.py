# SPDX-License-Identifier: Apache-2.0
"""What a bundle holds: digests, schema, texts of the same integers, nothing of the machine, all or nothing."""

import copy
import getpass
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from support.bundle import failures, write_bundle
from support.cfg_graph import cfg_graph, feature_cfg
from support.random_graph import random_graph, random_input

import hls_export.bundle.write as writing
from hls_export.bundle import ExportOptions, export_bundle, text_memory
from hls_export.bundle.manifest import load_schema
from hls_export.bundle.text_memory import text_memories
from hls_export.config import AcceleratorConfig
from yolo_hw.errors import ExportError, GraphError, YoloHwError

ROOT = Path(__file__).resolve().parents[2]


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_manifest_lists_every_file_with_its_digest(pristine: Path):
    files = contents(pristine)
    entries = json.loads(files.pop("manifest.json"))["files"]
    assert [entry["path"] for entry in entries] == sorted(files)
    for entry in entries:
        assert entry["bytes"] == len(files[entry["path"]])
        assert entry["sha256"] == hashlib.sha256(files[entry["path"]]).hexdigest()


@pytest.mark.parametrize(("document", "schema"), [("network.json", "network"), ("manifest.json", "manifest")])
def test_documents_follow_the_shipped_schema(pristine: Path, document: str, schema: str):
    shipped = json.loads((pristine / f"schema/{schema}.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(shipped)
    assert shipped["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema.Draft202012Validator(shipped).validate(json.loads((pristine / document).read_text()))


WRONG: dict[str, tuple[tuple[Any, ...], object]] = {
    "version": (("schema",), "yolo_hw.network/2"),
    "unknown key": (("colour",), "red"),
    "negative address": (("tensors", 0, "offset"), -64),
    "beyond 4 GiB": (("memory", "arena_bytes"), 2**32 + 1),
    "fraction": (("program", 0, "tile_h"), 1.5),
    "text": (("program", 0, "channels"), "8"),
    "operation": (("program", 0, "op"), "DIVIDE"),
    "too many inputs": (("program", 0, "inputs"), ["a"] * 5),
    "name": (("program", 0, "node"), "../conv_0"),
    "lanes": (("accelerator", "lanes"), 3),
    "element size": (("tensors", 0, "element_bytes"), 3),
    "digest": (("source",), {"cfg": "abc"}),
    "weight bytes": (("program", 0, "params", "weight_bytes"), 4),
    "bits": (("graph", "tensors", 0, "bits"), 17),
    "rounding": (("graph", "contract", "rounding"), "nearest"),
    "node": (("graph", "nodes", 0, "op"), "softmax"),
    "no cases": (("golden", "cases"), []),
    "proof bits": (("proofs", 0, "bits"), 65),
}


@pytest.mark.parametrize("kind", WRONG)
def test_the_schema_refuses_wrong_documents(pristine: Path, kind: str):
    validator = jsonschema.Draft202012Validator(json.loads((pristine / "schema/network.schema.json").read_text()))
    document = json.loads((pristine / "network.json").read_text())
    place, value = WRONG[kind]
    inner = document
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    assert not validator.is_valid(document)


def test_the_schema_wants_every_key(pristine: Path):
    document = json.loads((pristine / "network.json").read_text())
    validator = jsonschema.Draft202012Validator(load_schema("network.schema.json"))
    for key in document:
        shorter = copy.copy(document)
        del shorter[key]
        assert not validator.is_valid(shorter), key


def floats(value: object, place: str = "$") -> list[str]:
    if isinstance(value, dict):
        return [found for key, item in value.items() for found in floats(item, f"{place}.{key}")]
    if isinstance(value, list):
        return [found for item in value for found in floats(item, f"{place}[]")]
    return [place] if isinstance(value, float) else []


def test_numbers_that_hardware_sees_are_integers(pristine: Path):
    heads = {"$.graph.outputs[].head.anchors[][]", "$.graph.outputs[].head.scale_x_y"}
    for path in pristine.rglob("*.json"):
        if "schema" not in path.parts:
            assert set(floats(json.loads(path.read_text()))) <= (heads if path.name == "network.json" else set())


def words_of(path: Path) -> list[int]:
    """Parse a text memory with a reader of its own."""
    text = path.read_text()
    if path.suffix == ".mem":
        return [int(line, 16) for line in text.splitlines() if not line.startswith("//")]
    if path.suffix == ".coe":
        body = re.sub(r"^;.*\n", "", text)
        radix, vector = (part.split("=")[1].strip() for part in body.split(";")[:2])
        return [int(word, int(radix)) for word in vector.split(",")]
    body = text[text.index("CONTENT BEGIN") + 13 : text.index("END;")]
    pairs = [entry.split(":") for entry in body.split(";") if entry.strip()]
    assert [int(address, 16) for address, _ in pairs] == list(range(len(pairs)))
    assert f"DEPTH={len(pairs)};" in text
    return [int(word, 16) for _, word in pairs]


@pytest.mark.parametrize("suffix", ["mem", "coe", "mif"])
@pytest.mark.parametrize(("name", "width"), [("params", 16), ("descriptors", 4)])
def test_text_memories_hold_the_images(pristine: Path, name: str, width: int, suffix: str):
    data = (pristine / f"ddr/{name}.bin").read_bytes()
    expected = [int.from_bytes(data[i : i + width], "little") for i in range(0, len(data), width)]
    assert words_of(pristine / f"mem/{name}.{suffix}") == expected


def test_text_memories_pad_the_last_word(tmp_path: Path):
    files = text_memories("odd", bytes(range(1, 8)), 4)
    for suffix in ("mem", "coe", "mif"):
        path = tmp_path / f"odd.{suffix}"
        path.write_text(files[path.name])
        assert words_of(path) == [0x04030201, 0x00070605]


def test_long_text_memories_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert set(text_memories("m", bytes(64), 4)) == {"m.mem", "m.coe", "m.mif"}
    monkeypatch.setattr(text_memory, "MAX_WORDS", 900)
    assert text_memories("m", bytes(4 * 901), 4) == {}
    assert text_memories("m", bytes(4 * 900), 4)
    assert text_memories("m", b"", 4) == {}
    write_bundle(cfg_graph(feature_cfg()), tmp_path / "bundle")
    assert not (tmp_path / "bundle/mem").exists()  # both memories have more words
    assert not failures(tmp_path / "bundle")


def test_a_second_export_has_the_same_bytes(pristine: Path, tmp_path: Path):
    write_bundle(cfg_graph(feature_cfg()), tmp_path / "again")
    assert contents(tmp_path / "again") == contents(pristine)


SCRIPT = """
import sys
from pathlib import Path
from support.bundle import write_bundle
from support.random_graph import random_graph
from hls_export.config import AcceleratorConfig
assert "torch" not in sys.modules
write_bundle(random_graph(5), Path("out"), AcceleratorConfig(tm=8, tn=16))
"""


def test_the_bytes_depend_on_neither_hash_seed_nor_folder_nor_clock(tmp_path: Path):
    found = []
    for i, zone in enumerate(("UTC", "Asia/Tokyo", "America/Lima")):
        folder = tmp_path / f"place {i}" / ("x" * i)
        folder.mkdir(parents=True)
        environment = {**os.environ, "PYTHONHASHSEED": str(i), "TZ": zone, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
        subprocess.run([sys.executable, "-c", SCRIPT], cwd=folder, env=environment, check=True, timeout=100)
        found.append(contents(folder / "out"))
    write_bundle(random_graph(5), tmp_path / "here", AcceleratorConfig(tm=8, tn=16))
    assert found[0] == found[1] == found[2] == contents(tmp_path / "here")


def test_no_file_tells_of_the_machine(pristine: Path):
    words = {str(pristine), str(ROOT), str(Path.home()), os.getcwd(), os.uname().nodename}
    words = {word.encode() for word in words if len(word) > 4}
    dates = re.compile(rb"20[2-9]\d-[01]\d-[0-3]\d|(Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) +\d+ 20\d\d")
    for name, data in contents(pristine).items():
        assert not [word for word in words if word in data], name
        if not name.startswith(("golden/", "schema/")):  # the schemas name the draft they follow
            assert not dates.search(data), name
        user = getpass.getuser().encode()
        assert not re.search(rb"[/@\\]" + re.escape(user) + rb"\b", data), name


def break_in_the_middle(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(writing, "_write_hls", fail)  # after golden vectors, network and images are written


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device"), RuntimeError("bug")])
def test_an_interrupted_export_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error):
    break_in_the_middle(monkeypatch, error)
    with pytest.raises(type(error)):
        write_bundle(cfg_graph(feature_cfg()), tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_export_keeps_the_older_bundle(bundle: Path, monkeypatch: pytest.MonkeyPatch):
    before = contents(bundle)
    with monkeypatch.context() as patch:
        break_in_the_middle(patch, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            write_bundle(cfg_graph(feature_cfg(), seed=1), bundle)
    assert contents(bundle) == before
    assert list(bundle.parent.iterdir()) == [bundle]
    write_bundle(cfg_graph(feature_cfg(), seed=1), bundle)
    assert contents(bundle) != before
    assert list(bundle.parent.iterdir()) == [bundle]
    assert not failures(bundle)


def test_a_replaced_bundle_keeps_no_old_file(bundle: Path):
    write_bundle(random_graph(1), bundle, AcceleratorConfig(tm=8, tn=8))
    assert not (bundle / "golden/image0/shortcut_3.out.bin").exists()
    assert not failures(bundle)


def test_a_folder_that_is_no_bundle_is_not_replaced(tmp_path: Path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/holiday.jpg").write_text("irreplaceable")
    (tmp_path / "file").write_text("irreplaceable")
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    for name in ("photos", "file", "link"):
        with pytest.raises(YoloHwError, match=f"{name}: the"):
            write_bundle(cfg_graph(feature_cfg()), tmp_path / name)
    assert (tmp_path / "photos/holiday.jpg").read_text() == "irreplaceable"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "link", "photos"]
    (tmp_path / "empty").mkdir()
    write_bundle(cfg_graph(feature_cfg()), tmp_path / "empty")


def test_a_graph_that_cannot_be_exported_leaves_nothing_behind(tmp_path: Path):
    graph = random_graph(3, size=(23, 23))
    with pytest.raises(ExportError, match="larger max_taps"):
        write_bundle(graph, tmp_path / "bundle", AcceleratorConfig(max_taps=4))
    graph.node(graph.nodes[0].name).weight[:] = 1 << 20
    with pytest.raises(GraphError, match="weights_are_in_range"):
        write_bundle(graph, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_golden_files_are_little_endian_maps(pristine: Path):
    network = json.loads((pristine / "network.json").read_text())
    for case in network["golden"]["cases"]:
        for entry in case["tensors"]:
            if entry["tensor"] != "input":
                codes = np.fromfile(pristine / f"golden/{case['case']}/{entry['tensor']}.out.bin", np.int8)
                assert (codes.min(), codes.max()) == (entry["min"], entry["max"])


@pytest.mark.parametrize("name", ["../escaped", "a/b", "", "a\nb"])
def test_names_of_golden_cases_stay_inside(tmp_path: Path, name: str):
    graph = cfg_graph(feature_cfg())
    options = ExportOptions({name: random_input(graph, 1)})
    with pytest.raises(ExportError, match="golden case"):
        export_bundle(graph, AcceleratorConfig(), tmp_path / "out" / "bundle", options)
    assert [path.name for path in tmp_path.rglob("*")] == ["out"]
