# SPDX-License-Identifier: Apache-2.0
"""Damage in transit: a flipped bit, a cut, missing, extra or exchanged file is caught and the file is named."""

import json
import os
import shutil
import zlib
from pathlib import Path

import pytest
from support.bundle import failures, feature_bundle_files, flip_bit, forge_manifest

from hls_export.bundle.manifest import WORK_FOLDERS
from hls_export.verify import CHECKS, Status, verify_bundle
from yolo_hw.cli.main import main
from yolo_hw.errors import BundleError

MANIFEST = "manifest.json"
ONLY_FILES = tuple(CHECKS)


def bit_positions(bundle: Path, name: str) -> list[int]:
    """Several positions, of the many golden files one that differs from file to file."""
    bits = 8 * (bundle / name).stat().st_size
    return [zlib.crc32(name.encode()) % bits] if name.startswith("golden/") else [0, bits // 3, bits // 2 + 5, bits - 1]


def test_an_undamaged_bundle_passes_every_check(pristine: Path):
    report = verify_bundle(pristine)
    assert [result.name for result in report.results] == ["manifest", "files", "import", *CHECKS]
    assert {result.status for result in report.results} == {Status.PASSED}


def test_the_parametrised_files_are_those_of_the_bundle(pristine: Path):
    present = {p.relative_to(pristine).as_posix() for p in pristine.rglob("*") if p.is_file()}
    assert present == {MANIFEST, *feature_bundle_files()}
    folders = {name.split("/")[0] for name in present if "/" in name}
    assert folders == {"ddr", "golden", "hls", "include", "mem", "schema", "src"}


@pytest.mark.parametrize("part", range(24))
def test_a_flipped_bit_in_the_manifest_is_found(bundle: Path, part: int):
    size = (bundle / MANIFEST).stat().st_size
    flip_bit(bundle / MANIFEST, 8 * (part * size // 24) + part % 8)
    found = failures(bundle)
    # A changed size is reported as that of the file it belongs to.
    assert any(
        MANIFEST in message or (check == "files" and "bytes, got" in message) for check, message in found.items()
    )


@pytest.mark.parametrize("name", feature_bundle_files())
def test_a_flipped_bit_is_found_even_if_the_digest_is_recomputed(bundle: Path, name: str):
    manifest = (bundle / MANIFEST).read_bytes()
    for bit in bit_positions(bundle, name):
        flip_bit(bundle / name, bit)
        found = failures(bundle, skip=ONLY_FILES)
        assert found["files"] == f"{name}: its sha256 is not the one in {MANIFEST}"
        forge_manifest(bundle)
        found = failures(bundle)
        assert found
        assert "files" not in found
        assert any(name in message for message in found.values()), found
        flip_bit(bundle / name, bit)
        (bundle / MANIFEST).write_bytes(manifest)


@pytest.mark.parametrize(
    "name", ["ddr/params.bin", "ddr/descriptors.bin", "params.npz", "golden/image0/conv_2.out.bin"]
)
@pytest.mark.parametrize("forged", [False, True], ids=["plain", "forged"])
@pytest.mark.parametrize("keep", [0, 1, 0.5, -1], ids=["empty", "one byte", "half", "all but one byte"])
def test_a_truncated_file_is_found(bundle: Path, name: str, forged: bool, keep: float):
    path = bundle / name
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    if forged:
        forge_manifest(bundle)
    found = failures(bundle)
    assert ("files" in found) is not forged
    if not forged:
        assert found["files"] == f"{name}: must have {len(data)} bytes, got {path.stat().st_size}"
    assert any(name in text for text in found.values()), found


@pytest.mark.parametrize("name", ["ddr/params.bin", "network.json", "hls/yhw_conv.h", "golden/all_max/input.bin"])
def test_a_missing_file_is_named(bundle: Path, name: str):
    (bundle / name).unlink()
    assert failures(bundle)["files"] == f"{name}: is listed in {MANIFEST}, but missing"


def test_an_unlisted_file_is_named(bundle: Path):
    (bundle / "hls/extra.h").write_text("// not from here\n")
    assert failures(bundle)["files"] == f"hls/extra.h: is not listed in {MANIFEST}"


def test_a_listed_file_that_no_bundle_has_is_named(bundle: Path):
    (bundle / "hls/extra.h").write_text("// not from here\n")
    document = json.loads((bundle / MANIFEST).read_text())
    document["files"].append({"path": "hls/extra.h", "role": "hls", "bytes": 0, "sha256": "0" * 64})
    document["files"].sort(key=lambda entry: entry["path"])
    (bundle / MANIFEST).write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
    forge_manifest(bundle)
    assert failures(bundle) == {"texts": "hls/extra.h: is no file of a bundle"}


@pytest.mark.parametrize("forged", [False, True], ids=["plain", "forged"])
def test_exchanged_golden_outputs_are_found(bundle: Path, forged: bool):
    first, second = (bundle / f"golden/image0/conv_{i}.out.bin" for i in (0, 1))
    assert first.stat().st_size == second.stat().st_size
    first_bytes = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(first_bytes)
    if forged:
        forge_manifest(bundle)
    found = failures(bundle)
    assert set(found) == ({"golden"} if forged else {"files", "golden"})
    assert found["golden"].startswith("golden/image0/conv_0.out.bin: layer conv_0 channel 0 row ")


@pytest.mark.parametrize(
    ("damage", "check", "message"),
    [
        (lambda b: flip_bit(b / "ddr/params.bin", 77), "files", "ddr/params.bin: its sha256"),
        (lambda b: (b / "ddr/memmap.csv").unlink(), "files", "ddr/memmap.csv: is listed"),
        (lambda b: (b / MANIFEST).write_text("{"), "manifest", "not a JSON file"),
        (lambda b: (b / "network.json").write_text("[]"), "import", "network.json: must hold a JSON object"),
    ],
    ids=["bit", "missing", "manifest", "network"],
)
def test_the_command_line_names_the_failed_check(bundle: Path, capsys, damage, check: str, message: str):
    damage(bundle)
    with pytest.raises(SystemExit) as ended:
        main(["verify", str(bundle), "--skip", "csim", "--json"])
    assert ended.value.code == 1
    report = json.loads(capsys.readouterr().out)
    details = {entry["name"]: entry["detail"] for entry in report["checks"] if entry["status"] == "failed"}
    assert report["passed"] is False
    assert message in details[check]


def test_an_undamaged_bundle_ends_with_exit_code_0(pristine: Path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["verify", str(pristine), "--skip", "csim", "--json"])
    assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out)["passed"] is True


def test_what_is_no_bundle_is_bad_input(tmp_path: Path, capsys):
    for folder in (tmp_path, tmp_path / "absent"):
        message = r"not a bundle, it has no manifest\.json" if folder.exists() else "no such folder"
        with pytest.raises(BundleError, match=message):
            verify_bundle(folder)
    with pytest.raises(SystemExit) as ended:
        main(["verify", str(tmp_path)])
    assert ended.value.code == 2
    assert "not a bundle" in capsys.readouterr().err


def test_an_unreadable_file_is_a_failed_check(bundle: Path, monkeypatch: pytest.MonkeyPatch):
    real = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path.name == "params.bin":
            raise PermissionError(13, os.strerror(13), str(path))
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert "params.bin: cannot read: Permission denied" in failures(bundle)["params"]


def test_a_bundle_is_found_wherever_it_is_moved(pristine: Path, tmp_path: Path):
    assert not failures(Path(shutil.copytree(pristine, tmp_path / "élan vital")))


def test_work_folders_of_the_tools_are_no_part_of_the_bundle(bundle: Path):
    for folder in WORK_FOLDERS:
        (bundle / folder).mkdir()
        (bundle / folder / "report.log").write_text("anything")
    assert verify_bundle(bundle, skip=("csim",)).passed
