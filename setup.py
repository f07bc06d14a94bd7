# SPDX-License-Identifier: Apache-2.0
"""Builds the compiled parts with ninja.

``yolo_hw/_engine``  the integer engine, a pybind11 module without torch.
``yolo_hw/_ops.so``  the torch operators, on the stable ABI of LibTorch: no Python code; CPU kernels, and CUDA kernels
                     where nvcc is found. A library with CUDA kernels loads on a torch without CUDA, too.

Environment:
    CXX                The C++ compiler; g++ by default.
    YOLO_HW_DEBUG=1    No optimisation, debug symbols.
    YOLO_HW_OPS=0      Leave the torch operators out; torch is not needed then.
    YOLO_HW_CUDA=0|1   Leave the CUDA kernels out, or insist on them; by default they are built where nvcc is found.
    YOLO_HW_CUDA_ARCH  Compute capabilities, such as "80;90"; the last one is also kept as PTX for newer devices.
    CUDA_HOME          The CUDA toolkit, if nvcc is not on the PATH.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import pybind11
from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
OPS = "yolo_hw._ops"
X86 = platform.machine().lower() in ("x86_64", "amd64")
DEBUG = os.environ.get("YOLO_HW_DEBUG", "0") == "1"
OPTIMISE = ["-O0", "-g"] if DEBUG else ["-O3"]
# No contraction to fused multiply-adds: every instruction set must give the same bits. Nobody looks at errno or at the
# exception flags, without which selections become vector code.
EXACT = ["-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off"]
CXX_FLAGS = [*OPTIMISE, "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wconversion", "-Wno-psabi", *EXACT]
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = [*AVX2, *(f"-mavx512{part}" for part in ("f", "bw", "dq", "vl")), "-mprefer-vector-width=512"]
# A source named *_<instruction set>.cpp is compiled for it and called only where csrc/isa.h finds it.
ISA_FLAGS = {
    "avx2": AVX2,
    "avxvnni": [*AVX2, "-mavxvnni"],
    "avx512": AVX512,
    "avx512vnni": [*AVX512, "-mavx512vnni", "-mavx512vbmi"],
}
# The stable ABI of torch 2.10 is all that the operators use, so one library serves every torch from there on; what a
# newer one adds is a weak symbol (csrc/cuda/stream.h). pyproject.toml says the same to pip.
TORCH_TARGET = "-DTORCH_TARGET_VERSION=0x020a000000000000"
NO_AS_NEEDED = "-Xlinker --no-as-needed"  # g++ and nvcc hand it to the linker
CUDA_ARCHITECTURES = "75;80;86;90"
DEBIAN_COMPILER = "on Debian: apt-get install g++"


@dataclass
class Library:
    """One shared library of the build: its sources and how they are compiled and linked."""

    name: str
    output: Path
    sources: list[str]
    flags: list[str]
    link: list[str]
    linker: str = "link"
    """The ninja rule that links it."""
    borrowed: tuple[str, ...] = ()
    """Objects of other libraries that it holds, too."""


class NinjaBuildExt(build_ext):
    """Writes one ninja file for all extensions and runs ninja."""

    def build_extensions(self) -> None:
        """Compile everything; the outputs go where setuptools expects them."""
        compiler = find_compiler()
        build = Path(self.build_temp).resolve()
        build.mkdir(parents=True, exist_ok=True)
        libraries = []
        for extension in self.extensions:
            output = Path(self.get_ext_fullpath(extension.name)).resolve()
            output.parent.mkdir(parents=True, exist_ok=True)
            library = ops_library if extension.name == OPS else engine_library
            libraries.append(library(output, extension.sources))
        (build / "build.ninja").write_text(ninja_file(compiler, find_nvcc(), libraries))
        subprocess.run([*find_ninja(), "-C", str(build)], check=True)

    def get_ext_filename(self, fullname: str) -> str:
        """Name the operators' library without the Python version: it does not depend on it."""
        if fullname.rpartition(".")[2] == OPS.rpartition(".")[2]:
            return str(Path(*fullname.split(".")).with_suffix(".so"))
        return super().get_ext_filename(fullname)


def find_compiler() -> str:
    """Return the C++ compiler's command.

    Raises:
        SystemExit: There is none.
    """
    command = os.environ.get("CXX", "g++")
    if shutil.which(shlex.split(command)[0]) is None:
        raise SystemExit(f"error: yolo_hw needs a C++ compiler and '{command}' is not installed ({DEBIAN_COMPILER})")
    include = Path(sysconfig.get_paths()["include"])
    if not (include / "Python.h").is_file():
        raise SystemExit(f"error: {include}/Python.h is missing (on Debian: apt-get install python3-dev)")
    return command


def find_nvcc() -> str | None:
    """Return nvcc's path, None where the CUDA kernels are not wanted or cannot be built.

    Raises:
        SystemExit: They are required and there is no nvcc.
    """
    wanted = os.environ.get("YOLO_HW_CUDA", "")
    if wanted == "0":
        return None
    homes = [os.environ.get("CUDA_HOME", ""), "/usr/local/cuda"]
    found = shutil.which("nvcc") or next((p for h in homes if h and (p := shutil.which(f"{h}/bin/nvcc"))), None)
    if found is None and wanted == "1":
        raise SystemExit("error: YOLO_HW_CUDA=1, but nvcc is neither on the PATH nor in CUDA_HOME/bin")
    return found


def find_ninja() -> list[str]:
    """Return the command that runs ninja."""
    found = shutil.which("ninja")
    return [found] if found else [sys.executable, "-m", "ninja"]


def find_torch() -> Path:
    """Return the folder of the installed torch, without importing it.

    Raises:
        SystemExit: It is not installed.
    """
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise SystemExit("error: building the operators needs torch; YOLO_HW_OPS=0 builds yolo_hw without them")
    return Path(spec.origin).parent


def engine_library(output: Path, sources: list[str]) -> Library:
    """Return the integer engine."""
    include = [pybind11.get_include(), sysconfig.get_paths()["include"]]
    flags = ["-std=c++17", *CXX_FLAGS, "-pthread", *system_includes(include)]
    return Library("engine", output, sources, flags, ["-pthread"])


def ops_library(output: Path, sources: list[str]) -> Library:
    """Return the torch operators, with CUDA kernels where nvcc is found."""
    torch, nvcc = find_torch(), find_nvcc()
    flags = ["-std=c++20", *CXX_FLAGS, TORCH_TARGET, *system_includes([torch / "include"])]
    # libtorch itself holds nothing but brings libtorch_cuda, if there is one, where the loader looks for weak symbols.
    link = [f"-L{torch / 'lib'}", "-ltorch_cpu", "-lc10", "-lpthread", NO_AS_NEEDED, "-ltorch"]
    wanted = [source for source in sources if nvcc or not source.endswith(".cu")]
    return Library("ops", output, wanted, flags, link, "link_cuda" if nvcc else "link", engine_objects())


def engine_objects() -> tuple[str, ...]:
    """Return the objects of the engine without its Python module: `int_conv2d` runs on its kernels."""
    return tuple(object_of("engine", s) for s in sources("csrc/engine/*.cpp") if not s.endswith("bindings.cpp"))


def object_of(library: str, source: str) -> str:
    """Return the object file of a library's source, in the folder of the build."""
    return f"{library}/{source}.o"


def isa_of(source: str) -> str | None:
    """Return the instruction set a source is written for, None where any will do."""
    suffix = Path(source).stem.rpartition("_")[2]
    return suffix if suffix in ISA_FLAGS else None


def cuda_flags() -> list[str]:
    """Return nvcc's flags."""
    architectures = os.environ.get("YOLO_HW_CUDA_ARCH", CUDA_ARCHITECTURES).replace(",", ";").split(";")
    codes = [f"-gencode arch=compute_{a},code=sm_{a}" for a in architectures]
    codes.append(f"-gencode arch=compute_{architectures[-1]},code=compute_{architectures[-1]}")
    host = ["-Xcompiler", "-fPIC,-fvisibility=hidden"]
    optimise = ["-O0", "-g"] if DEBUG else ["-O3"]
    optimise.append("-fmad=false")  # the bits of the CPU
    return ["-std=c++20", *optimise, *host, *codes, TORCH_TARGET, *system_includes([find_torch() / "include"])]


def system_includes(folders: list[str] | list[Path]) -> list[str]:
    """Return compiler flags for folders of headers whose warnings are not ours."""
    return [f"-isystem {shlex.quote(str(folder))}" for folder in folders]


def ninja_file(compiler: str, nvcc: str | None, libraries: list[Library]) -> str:
    """Return the ninja file that builds the libraries."""
    lines = [
        f"cxx = {compiler}",
        "rule compile",
        "  command = $cxx $flags -MMD -MF $out.d -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "rule link",
        "  command = $cxx -shared $in -o $out $flags",
    ]
    if nvcc:
        lines += [
            "rule cuda",
            f"  command = {shlex.quote(nvcc)} $flags -MMD -MF $out.d -c $in -o $out",
            "  depfile = $out.d",
            "  deps = gcc",
            "rule link_cuda",  # nvcc knows where its static runtime lies
            f"  command = {shlex.quote(nvcc)} -shared $in -o $out $flags",
        ]
    for library in libraries:
        objects = []
        for source in library.sources:
            is_cuda = source.endswith(".cu")
            target = object_of(library.name, source)
            flags = cuda_flags() if is_cuda else [*library.flags, *ISA_FLAGS.get(isa_of(source) or "", [])]
            lines.append(f"build {target}: {'cuda' if is_cuda else 'compile'} {ninja_path(ROOT / source)}")
            lines.append(f"  flags = {ninja_text(' '.join(flags))}")
            objects.append(target)
        lines.append(f"build {ninja_path(library.output)}: {library.linker} {' '.join([*objects, *library.borrowed])}")
        lines.append(f"  flags = {ninja_text(' '.join(library.link))}")
    return "\n".join(lines) + "\n"


def ninja_text(text: str) -> str:
    """Escape a value for a ninja file."""
    return text.replace("$", "$$")


def ninja_path(path: Path) -> str:
    """Escape a path for a ninja file."""
    return ninja_text(str(path)).replace(" ", "$ ").replace(":", "$:")


def sources(*patterns: str) -> list[str]:
    """Return files of the source tree, sorted, so that equal trees give equal libraries."""
    found = sorted(str(path.relative_to(ROOT)) for pattern in patterns for path in ROOT.glob(pattern))
    return [source for source in found if X86 or isa_of(source) is None]


def extensions() -> list[Extension]:
    """Return what is to be built."""
    found = [Extension("yolo_hw._engine", sources("csrc/engine/*.cpp"))]
    if os.environ.get("YOLO_HW_OPS", "1") != "0":
        found.append(Extension(OPS, sources("csrc/ops.cpp", "csrc/cpu/*.cpp", "csrc/sparse/*.cpp", "csrc/cuda/*.cu")))
    return found


setup(
    # The exported HLS project includes the arithmetic of csrc/core, so an installation has it as hls_export/core.
    packages=[*find_packages(include=["yolo_hw", "yolo_hw.*", "hls_export", "hls_export.*"]), "hls_export.core"],
    package_dir={"hls_export.core": "csrc/core"},
    package_data={
        "yolo_hw": ["py.typed", "*.pyi", "assets/*", "**/*.json"],
        "hls_export": ["py.typed", "**/*.json", *(f"engine/{p}" for p in ("**/*.h", "**/*.cpp", "*.tcl", "Makefile"))],
        "hls_export.core": ["*.h"],
    },
    ext_modules=extensions(),
    cmdclass={"build_ext": NinjaBuildExt},
)
