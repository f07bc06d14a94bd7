# SPDX-License-Identifier: Apache-2.0
"""A wheel holds what runs, a source distribution what builds and tests, and an installation works outside the tree."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import yolo_hw
from hls_export.bundle import write

ROOT = Path(__file__).resolve().parents[1]
BUILT = shutil.ignore_patterns(".git", ".*cache", ".hypothesis", "build", "dist", "*.so", "*.egg-info", "__pycache__")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / "setup.py").is_file(), reason="not in a source tree"),
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in ("build", "ninja", "pybind11", "setuptools")),
        reason="needs the packages build, ninja, pybind11 and setuptools",
    ),
]


def ignored(folder: str, names: list[str]) -> set[str]:
    """What a fresh checkout does not have: build products and virtual environments."""
    return BUILT(folder, names) | {name for name in names if (Path(folder) / name / "pyvenv.cfg").is_file()}


def run(*arguments: str | Path, cwd: Path, **environment: str) -> str:
    """Run Python and return what it prints; a failure shows all of it."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "YOLO_HW"))}
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(
        command, cwd=cwd, env=clean | environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution of a copy of the tree."""
    folder = tmp_path_factory.mktemp("sdist")
    shutil.copytree(ROOT, folder / "tree", ignore=ignored)
    if not (folder / "tree" / "README.md").is_file():
        pytest.fail("README.md is missing, without which nothing can be packaged")
    run("-m", "build", "--no-isolation", "--sdist", "--outdir", folder, ".", cwd=folder / "tree")
    (archive,) = folder.glob("*.tar.gz")
    return archive


@pytest.fixture(scope="module")
def wheel(sdist: Path) -> Path:
    """The wheel that the source distribution makes; no optimisation and no CUDA, to be quick."""
    folder = sdist.parent
    shutil.unpack_archive(sdist, folder)
    source = folder / sdist.name.removesuffix(".tar.gz")
    switches = {"YOLO_HW_CUDA": "0", "YOLO_HW_DEBUG": "1"}
    run("-m", "build", "--no-isolation", "--wheel", "--outdir", folder, ".", cwd=source, **switches)
    (result,) = folder.glob("*.whl")
    return result


def tree(*patterns: str) -> set[str]:
    """Files of the source tree."""
    return {path.relative_to(ROOT).as_posix() for pattern in patterns for path in ROOT.glob(pattern)}


def test_sdist_builds_and_tests(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = tree("csrc/**/*.*", "tests/**/*.py", "tests/**/*.h", "tests/**/*.cpp", "tools/*", "docs/*.md", "*.sh")
    wanted |= {"setup.py", "pyproject.toml", "LICENSE", "README.md", "CMakeLists.txt", "Makefile", ".clang-format"}
    assert len(wanted) > 50
    assert not {name for name in wanted if "__pycache__" not in name} - names
    assert not {name for name in names if name.endswith((".so", ".o", ".pyc"))}


def test_wheel_holds_what_runs(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = tree("yolo_hw/**/*.py", "hls_export/**/*.py", "yolo_hw/**/*.json", "hls_export/**/*.json")
    wanted |= tree("hls_export/engine/**/*.h", "hls_export/engine/**/*.cpp", "hls_export/engine/*.tcl")
    wanted |= tree("yolo_hw/assets/*.*", "yolo_hw/*.pyi")
    wanted |= {"hls_export/engine/Makefile", "yolo_hw/py.typed", "hls_export/py.typed", "yolo_hw/_ops.so"}
    wanted |= {f"hls_export/core/{path.name}" for path in ROOT.glob("csrc/core/*.h")}
    assert "yolo_hw/intgraph/graph.schema.json" in wanted
    assert not wanted - names
    assert len([name for name in names if name.startswith("yolo_hw/_engine.") and name.endswith(".so")]) == 1
    assert not {name for name in names if name.startswith(("tests/", "csrc/", "tools/", "build/"))}
    assert any(name.endswith(f"yolo_hw-{yolo_hw.__version__}.dist-info/licenses/LICENSE") for name in names)


OUTSIDE = """
import pathlib, yolo_hw, hls_export
from hls_export.bundle.manifest import load_schema
from hls_export.bundle.write import ENGINE, core_headers
from yolo_hw.intgraph.engine import engine_paths
here = pathlib.Path("site").resolve()
assert all(here in path.parents for path in [pathlib.Path(yolo_hw.__file__), ENGINE, *core_headers()])
load_schema("network.schema.json"), load_schema("manifest.schema.json")
assert "scalar" in engine_paths()
import sys
assert "torch" not in sys.modules
import torch, yolo_hw.ops
from yolo_hw.fixedpoint import FixedPoint
print(yolo_hw.ops.fake_quant_pow2(torch.tensor([0.3, 9.0]), FixedPoint(4, 1)).tolist())
"""


def test_installation_works_outside_of_the_tree(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    assert run("-c", OUTSIDE, cwd=tmp_path, PYTHONPATH=str(tmp_path / "site")) == "[0.5, 3.5]\n"


def test_exported_headers_are_all_that_the_accelerator_includes() -> None:
    found, pending = set(), [path for path in write.ENGINE.rglob("*") if path.suffix in (".h", ".cpp")]
    while pending:
        for line in pending.pop().read_text().splitlines():
            name = line.removeprefix('#include "').removesuffix('"').rpartition("/")[2]
            path = ROOT / "csrc" / "core" / name
            if line.startswith('#include "') and path.is_file() and name not in found:
                found.add(name)
                pending.append(path)
    assert sorted(found) == [path.name for path in write.core_headers()]


def test_missing_compiler_is_named(tmp_path: Path) -> None:
    shutil.copytree(ROOT, tmp_path / "tree", ignore=ignored)
    command = [sys.executable, "setup.py", "-q", "build_ext"]
    environment = os.environ | {"CXX": "no-such-compiler"}
    done = subprocess.run(
        command, cwd=tmp_path / "tree", env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode != 0
    assert "needs a C++ compiler and 'no-such-compiler' is not installed" in done.stderr
    assert "apt-get install g++" in done.stderr
    assert "Traceback" not in done.stderr
