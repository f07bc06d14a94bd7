# SPDX-License-Identifier: Apache-2.0
"""Hostile documents: paths that leave the bundle, links, doubled entries, malformed JSON and arrays, odd numbers."""

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from support.bundle import edit_arrays, edit_json, failures, forge_manifest

MANIFEST = "manifest.json"


@pytest.mark.parametrize(
    "path",
    [
        "../escape.h",
        "hls/../../escape.h",
        "/etc/passwd",
        "hls\\yhw_conv.h",
        "./network.json",
        "hls//x.h",
        "hls/",
        "a\0b",
        "..",
    ],
)
def test_a_path_that_leaves_the_bundle_is_refused(bundle: Path, path: str):
    edit_json(bundle / MANIFEST, lambda d: d["files"][0].update(path=path))
    found = failures(bundle)
    assert set(found) == {"manifest"}
    assert found["manifest"] == f"{MANIFEST}: a path must stay inside of the bundle, got '{path}'"


def test_an_entry_listed_twice_is_refused(bundle: Path):
    edit_json(bundle / MANIFEST, lambda d: d["files"].append(d["files"][3]))
    assert failures(bundle)["manifest"].endswith("is listed twice")


def test_a_doubled_key_is_refused(bundle: Path):
    text = (bundle / MANIFEST).read_text()
    (bundle / MANIFEST).write_text(text.replace('"name":', '"name": "other",\n "name":', 1))
    assert "the key 'name' occurs twice in an object" in failures(bundle)["manifest"]


def link_file(bundle: Path, outside: Path) -> str:
    outside.write_bytes((bundle / "ddr/params.bin").read_bytes())
    (bundle / "ddr/params.bin").unlink()
    (bundle / "ddr/params.bin").symlink_to(outside)
    return "ddr/params.bin"


def link_folder(bundle: Path, outside: Path) -> str:
    (bundle / "golden").rename(outside)
    (bundle / "golden").symlink_to(outside)
    return "golden"


def extra_link(bundle: Path, outside: Path) -> str:
    outside.mkdir()
    (bundle / "hls/extra").symlink_to(outside)
    return "hls/extra"


def endless_file(bundle: Path, outside: Path) -> str:
    (bundle / "network.json").unlink()
    (bundle / "network.json").symlink_to("/dev/zero")
    return "network.json"


def pipe(bundle: Path, outside: Path) -> str:
    (bundle / "params.npz").unlink()
    os.mkfifo(bundle / "params.npz")
    return "params.npz"


def dangling_link(bundle: Path, outside: Path) -> str:
    (bundle / "ddr/memmap.csv").unlink()
    (bundle / "ddr/memmap.csv").symlink_to(outside)
    return "ddr/memmap.csv"


@pytest.mark.parametrize("plant", [link_file, link_folder, extra_link, endless_file, pipe, dangling_link])
def test_links_and_pipes_are_named_and_never_read(bundle: Path, tmp_path: Path, plant):
    name = plant(bundle, tmp_path / "outside")
    found = failures(bundle)
    assert found == {"files": f"{name}: must be a plain file", "import": f"{name}: must be a plain file"}


@pytest.mark.parametrize(
    ("file", "check", "key", "version"),
    [
        (MANIFEST, "manifest", "schema", "yolo_hw.bundle/2"),
        (MANIFEST, "manifest", "schema", None),
        ("network.json", "import", "schema", "yolo_hw.network/0"),
        ("network.json", "import", "schema", 1),
    ],
)
def test_an_unknown_schema_version_is_named(bundle: Path, file: str, check: str, key: str, version: object):
    edit_json(bundle / file, lambda d: d.update({key: version}))
    if file != MANIFEST:
        forge_manifest(bundle)
    found = failures(bundle)
    assert set(found) == {check}
    assert f"{file}: this version reads schema 'yolo_hw." in found[check]
    assert found[check].endswith(f"got '{version}'")


def test_an_unknown_version_of_the_graph_is_named(bundle: Path):
    edit_json(bundle / "network.json", lambda d: d["graph"].update(schema="yolo_hw.intgraph/9"))
    forge_manifest(bundle)
    assert "network.json: $.graph.schema: 'yolo_hw.intgraph/1' was expected" in failures(bundle)["import"]


def test_a_bundle_of_another_release_is_named(bundle: Path):
    edit_json(bundle / MANIFEST, lambda d: d["tool"].update(version="9.9.9"))
    assert failures(bundle)["texts"].startswith(f"{MANIFEST}: written by version 9.9.9")


@pytest.mark.parametrize("key", ["rounding", "overflow", "acc_bits", "max_shift"])
def test_a_manifest_with_another_contract_is_found(bundle: Path, key: str):
    other = {"rounding": "floor", "overflow": "wrap", "acc_bits": 48, "max_shift": 46}
    edit_json(bundle / MANIFEST, lambda d: d["numeric"].update({key: other[key]}))
    assert failures(bundle)["texts"].startswith(f"{MANIFEST}: differs from what this version writes")


def test_a_wrong_role_is_found(bundle: Path):
    edit_json(bundle / MANIFEST, lambda d: d["files"][0].update(role="golden"))
    assert failures(bundle)["texts"].startswith(f"{MANIFEST}: differs from what this version writes")


MALFORMED = {
    "empty": b"",
    "cut": b'{"schema": "yolo_hw.bundle/1"',
    "array": b"[]",
    "number": b"7",
    "not utf-8": b'{"schema": "\xff"}',
    "deep": b"[" * 200_000,
    "long number": b'{"schema": ' + b"9" * 5000 + b"}",
    "nan": b'{"schema": NaN}',
    "infinity": b'{"schema": -Infinity}',
    "trailing": b"{} {}",
}


@pytest.mark.parametrize("kind", MALFORMED)
@pytest.mark.parametrize(("file", "check"), [(MANIFEST, "manifest"), ("network.json", "import")])
def test_malformed_json_is_named(bundle: Path, file: str, check: str, kind: str):
    (bundle / file).write_bytes(MALFORMED[kind])
    if file != MANIFEST:
        forge_manifest(bundle)
    found = failures(bundle)
    assert set(found) == {check}
    assert f"{file}: " in found[check]


@pytest.mark.parametrize("value", [1e999, 10**300, 2**64, -1, 64.0, 1.5, True, None, "64", [64]])
@pytest.mark.parametrize(
    "place",
    [("memory", "io_bytes"), ("tensors", 1, "offset"), ("program", 0, "params", "bytes"), ("accelerator", "tm")],
)
def test_numbers_that_are_no_addresses_are_refused(bundle: Path, place: tuple, value: object):
    def change(document: dict) -> None:
        for key in place[:-1]:
            document = document[key]
        document[place[-1]] = value

    edit_json(bundle / "network.json", change)
    forge_manifest(bundle)
    found = failures(bundle)
    assert set(found) == {"import"}
    assert "network.json: " in found["import"]


ARRAYS = {
    "missing": (lambda a: a.pop("conv_2.bias"), "conv_2.bias is missing"),
    "extra": (lambda a: a.update({"conv_2.extra": np.zeros(3, np.int16)}), "no node owns conv_2.extra"),
    "wide": (lambda a: a.update({"conv_2.bias": a["conv_2.bias"].astype(np.int64)}), "must have type int32, got int64"),
    "float": (lambda a: a.update({"conv_2.bias": a["conv_2.bias"] * 1.0}), "must be a row-major integer array"),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_a_wrong_set_of_arrays_is_named(bundle: Path, kind: str):
    change, message = ARRAYS[kind]
    edit_arrays(bundle / "params.npz", change)
    forge_manifest(bundle)
    found = failures(bundle)
    assert set(found) == {"import"}
    assert "params.npz: " in found["import"]
    assert message in found["import"]


@pytest.mark.parametrize("shape", [(8, 8), (64,), (7, 8, 1, 1)])
def test_a_weight_of_another_shape_is_named_and_the_graph_is_not_run(bundle: Path, shape: tuple):
    edit_arrays(bundle / "params.npz", lambda a: a.update({"conv_2.weight": np.resize(a["conv_2.weight"], shape)}))
    forge_manifest(bundle)
    found = failures(bundle)
    assert set(found) == {"graph"}
    assert found["graph"].startswith("arrays_fit: net: conv_2: ")


def test_pickled_objects_are_refused(bundle: Path):
    packed = io.BytesIO()
    np.savez(packed, **{"conv_0.weight": np.array([{}], object)})
    (bundle / "params.npz").write_bytes(packed.getvalue())
    forge_manifest(bundle)
    assert "must be a row-major integer array, got object" in failures(bundle)["import"]


def test_compressed_arrays_are_refused(bundle: Path):
    with zipfile.ZipFile(bundle / "params.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("conv_0.weight.npy", bytes(1 << 20))
    forge_manifest(bundle)
    assert "members must be stored uncompressed" in failures(bundle)["import"]


def test_bytes_hidden_behind_the_arrays_are_found(bundle: Path):
    with zipfile.ZipFile(bundle / "params.npz", "a") as archive:
        archive.comment = b"hidden"
    forge_manifest(bundle)
    found = failures(bundle)
    assert set(found) == {"texts"}
    assert found["texts"].startswith("params.npz: differs from what this version writes")
