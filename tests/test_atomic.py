# SPDX-License-Identifier: Apache-2.0
"""Files and folders appear complete or not at all."""

import os
import stat
from pathlib import Path

import pytest

from yolo_hw.atomic import atomic_file, atomic_folder
from yolo_hw.errors import OutputError

MARKER = "index.json"


def write_folder(path, text):
    with atomic_folder(path, marker=MARKER) as temporary:
        (temporary / MARKER).write_text(text)


def test_a_file_appears_when_it_is_complete(tmp_path):
    target = tmp_path / "new" / "file.txt"
    with atomic_file(target) as temporary:
        temporary.write_text("half")
        assert not target.exists()
        assert temporary.parent == target.parent
    assert target.read_text() == "half"
    assert list(target.parent.iterdir()) == [target]


def test_a_failed_file_leaves_the_old_one(tmp_path):
    target = tmp_path / "file.txt"
    target.write_text("old")

    def interrupted():
        with atomic_file(target) as temporary:
            temporary.write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_appears_when_it_is_complete(tmp_path):
    target = tmp_path / "new" / "folder"
    with atomic_folder(target, marker=MARKER) as temporary:
        (temporary / MARKER).write_text("text")
        assert not target.exists()
    assert (target / MARKER).read_text() == "text"
    assert list(target.parent.iterdir()) == [target]


def test_a_folder_of_its_kind_is_replaced_with_all_its_files(tmp_path):
    target = tmp_path / "folder"
    write_folder(target, "old")
    (target / "left_over").write_text("old")
    write_folder(target, "new")
    assert {path.name: path.read_text() for path in target.iterdir()} == {MARKER: "new"}
    assert list(tmp_path.iterdir()) == [target]


def test_a_failed_folder_leaves_the_old_one(tmp_path):
    target = tmp_path / "folder"
    write_folder(target, "old")

    def interrupted():
        with atomic_folder(target, marker=MARKER) as temporary:
            (temporary / MARKER).write_text("new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        interrupted()
    assert (target / MARKER).read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_that_cannot_be_moved_in_leaves_the_old_one(tmp_path, monkeypatch):
    target = tmp_path / "folder"
    write_folder(target, "old")
    replace = Path.replace

    def refuse(self, other):
        if self.parent == tmp_path and self != target:
            raise OSError("the disk is gone")
        return replace(self, other)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError, match="the disk is gone"):
        write_folder(target, "new")
    assert (target / MARKER).read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_an_empty_folder_is_taken(tmp_path):
    target = tmp_path / "folder"
    target.mkdir()
    write_folder(target, "new")
    assert (target / MARKER).read_text() == "new"


def make_foreign_folder(path):
    path.mkdir()
    (path / "thesis.tex").write_text("ten years of work")


def make_link(path):
    (path.parent / "elsewhere").mkdir()
    path.symlink_to(path.parent / "elsewhere")


@pytest.mark.parametrize("make", [make_foreign_folder, make_link, lambda path: path.write_text("a file")])
def test_nothing_else_is_ever_replaced(tmp_path, make):
    target = tmp_path / "folder"
    make(target)
    before = sorted(path.name for path in tmp_path.rglob("*"))
    with pytest.raises(OutputError, match="folder"):
        write_folder(target, "new")
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_permissions_follow_the_umask(tmp_path):
    """Temporary files are private; what they become must be as readable as any other new file."""
    old = os.umask(0o027)
    try:
        with atomic_file(tmp_path / "file") as temporary:
            temporary.write_text("text")
        write_folder(tmp_path / "folder", "text")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o750


@pytest.mark.parametrize("shared", ["temporary", "home"])
def test_a_folder_that_others_share_is_not_replaced_though_it_holds_the_marker(tmp_path, monkeypatch, shared):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    target = tmp_path / shared
    write_files = {MARKER: "old", "precious": "old"}
    for name, text in write_files.items():
        target.mkdir(exist_ok=True)
        (target / name).write_text(text)
    with pytest.raises(OutputError, match="must be a folder of its own"):
        write_folder(target, "new")
    assert {path.name: path.read_text() for path in target.iterdir()} == write_files


def test_a_folder_with_entries_of_others_is_not_replaced(tmp_path):
    target = tmp_path / "folder"
    write_folder(target, "old")
    (target / "precious").write_text("old")
    with (
        pytest.raises(OutputError, match="the folder holds precious, which is no result of this command"),
        atomic_folder(target, marker=MARKER, is_own=lambda entry: entry.name == MARKER),
    ):
        raise AssertionError("must be refused before anything is written")
    assert (target / "precious").read_text() == "old"
