# SPDX-License-Identifier: Apache-2.0
"""Builds the compiled parts with ninja: the integer engine (pybind11, no torch)."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
AVX2_FLAGS = ("-mavx2",)


class NinjaBuildExt(build_ext):
    """Writes one ninja file for all extensions and runs ninja."""

    def build_extensions(self) -> None:
        ninja = find_ninja()
        build = Path(self.build_temp).resolve()
        build.mkdir(parents=True, exist_ok=True)
        for extension in self.extensions:
            output = Path(self.get_ext_fullpath(extension.name)).resolve()
            output.parent.mkdir(parents=True, exist_ok=True)
            (build / "build.ninja").write_text(engine_ninja(extension, output))
            subprocess.run([*ninja, "-C", str(build)], check=True)


def find_ninja() -> list[str]:
    """Return the command that runs ninja."""
    found = shutil.which("ninja")
    if found:
        return [found]
    return [sys.executable, "-m", "ninja"]


def engine_ninja(extension: Extension, output: Path) -> str:
    """Return the ninja file of the engine: every source its own step, the AVX2 kernels with their own flags."""
    import pybind11

    x86 = platform.machine().lower() in ("x86_64", "amd64")
    include = [pybind11.get_include(), sysconfig.get_paths()["include"]]
    flags = [
        "-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-fno-math-errno", "-pthread",
        *([] if os.environ.get("YOLO_HW_DEBUG") != "1" else ["-O0", "-g"]),
        *(["-DYHW_HAVE_AVX2"] if x86 else []),
        *(f"-isystem {path}" for path in include),
    ]  # fmt: skip
    lines = [
        f"cxx = {os.environ.get('CXX', 'g++')}",
        f"flags = {' '.join(flags)}",
        "rule compile",
        "  command = $cxx $flags $extra -MMD -MF $out.d -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "rule link",
        "  command = $cxx -shared -pthread $in -o $out",
    ]
    objects = []
    for source in extension.sources:
        name = Path(source).stem
        if name == "kernels_avx2" and not x86:
            continue
        objects.append(f"{name}.o")
        lines.append(f"build {name}.o: compile {ninja_path(ROOT / source)}")
        if name == "kernels_avx2":
            lines.append(f"  extra = {' '.join(AVX2_FLAGS)}")
    lines.append(f"build {ninja_path(output)}: link {' '.join(objects)}")
    lines.append(f"default {ninja_path(output)}")
    return "\n".join(lines) + "\n"


def ninja_path(path: Path) -> str:
    """Escape a path for a ninja file."""
    return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


setup(
    packages=find_packages(include=["yolo_hw", "yolo_hw.*", "hls_export", "hls_export.*"]),
    ext_modules=[Extension("yolo_hw._engine", sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("csrc/engine/*.cpp")))],
    cmdclass={"build_ext": NinjaBuildExt},
)
