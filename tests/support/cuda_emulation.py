# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels as operators ``torch.ops.yolo_hw_emulated.*`` for CPU tensors (csrc/cuda/emulation)."""

import ctypes
import fcntl
import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map_only

ROOT = Path(__file__).resolve().parents[2]
NAMESPACE = "yolo_hw_emulated"
FLAGS = "-std=c++20 -O2 -fPIC -fvisibility=hidden -fno-math-errno -ffp-contract=off -DYHW_EMULATE_CUDA"
STABLE_ABI = re.compile(r"-DTORCH_TARGET_VERSION=0x\w+")
SANITIZE = "-O1 -g1 -fsanitize=address,alignment -fno-sanitize-recover=all"
LIBRARY_VARIABLE = "YHW_EMULATED_LIBRARY"
"""Names a library to load instead of the one of `build`."""
BITS = {torch.float64: torch.int64, torch.float32: torch.int32, torch.float16: torch.int16, torch.bfloat16: torch.int16}
MAX_ELEMENTS = 1 << 21
"""Calls with a larger tensor are not mirrored: a thread of the emulation takes some 20 ns."""


def build(*, extra_flags: str = "", folder: str = "cuda_emulation") -> Path:
    """Compile csrc/ops.cpp and csrc/cuda/*.cu by the C++ compiler; what is up to date stays.

    Raises:
        subprocess.CalledProcessError: A kernel does not compile; the compiler's message is on stderr.
    """
    build_folder = ROOT / "build" / folder
    build_folder.mkdir(parents=True, exist_ok=True)
    library = build_folder / f"{NAMESPACE}.so"
    with (build_folder / "lock").open("w") as lock:  # one of the test workers builds
        fcntl.flock(lock, fcntl.LOCK_EX)
        (build_folder / "build.ninja").write_text(ninja_file(library, extra_flags))
        ninja = [found] if (found := shutil.which("ninja")) else [sys.executable, "-m", "ninja"]
        subprocess.run([*ninja, "-j1", "--quiet", "-C", str(build_folder)], check=True, stdout=sys.stderr)
    return library


def ninja_file(library: Path, extra_flags: str) -> str:
    torch_folder = Path(torch.__file__).parent
    target = STABLE_ABI.search((ROOT / "setup.py").read_text())[0]
    lines = [
        f"flags = {FLAGS} {extra_flags} {target} -I{ROOT}/csrc/cuda/emulation -isystem {torch_folder}/include",
        "rule compile",
        f"  command = {os.environ.get('CXX', 'g++')} -x c++ $flags -MMD -MF $out.d -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "rule link",
        f"  command = {os.environ.get('CXX', 'g++')} -shared $in -o $out {extra_flags} "
        f"-L{torch_folder}/lib -ltorch_cpu -lc10",
    ]
    sources = [ROOT / "csrc/ops.cpp", ROOT / "csrc/cuda/emulation/control.cpp", *cuda_sources()]
    lines += [f"build {source.stem}.o: compile {source}" for source in sources]
    lines.append(f"build {library.name}: link {' '.join(f'{source.stem}.o' for source in sources)}")
    return "\n".join(lines) + "\n"


def cuda_sources() -> list[Path]:
    return sorted((ROOT / "csrc" / "cuda").glob("*.cu"))


def registered(namespace: str, key: str) -> set[str]:
    """Names, with overload, of a library's operators that have a kernel of their own for a dispatch key."""
    names = torch._C._dispatch_get_registrations_for_dispatch_key(key)
    return {name.removeprefix(f"{namespace}::") for name in names if name.startswith(f"{namespace}::")}


@functools.cache
def emulated_operators() -> set[str]:
    """Names, with overload, of the operators with an emulated kernel."""
    load()
    return registered(NAMESPACE, "CPU")


def sanitizer_environment() -> dict[str, str] | None:
    """Return the environment of a Python that can load a library with the address sanitizer, None if there is none."""
    compiler = os.environ.get("CXX", "g++")
    paths = []
    for name in ("libasan.so", "libubsan.so"):
        answer = subprocess.run([compiler, f"-print-file-name={name}"], check=True, capture_output=True, text=True)
        paths.append(answer.stdout.strip())
    if not all(Path(path).is_absolute() for path in paths):
        return None
    library = build(extra_flags=SANITIZE, folder="cuda_emulation_sanitized")
    options = "detect_leaks=0:verify_asan_link_order=0"
    return {"LD_PRELOAD": " ".join(paths), "ASAN_OPTIONS": options, LIBRARY_VARIABLE: str(library)}


@functools.cache
def load() -> ctypes.CDLL:
    """Build and load the emulated kernels."""
    library = os.environ.get(LIBRARY_VARIABLE) or str(build())
    torch.ops.load_library(library)
    control = ctypes.CDLL(library)
    control.yhw_emulation_set_seed.argtypes = [ctypes.c_uint64]
    control.yhw_emulation_launches.restype = ctypes.c_uint64
    return control


def name_of(overload: torch._ops.OpOverload) -> str:
    """Return an operator's name, with its overload where it has one, without its library."""
    schema = overload._schema
    return schema.name.partition("::")[2] + f".{schema.overload_name}" * bool(schema.overload_name)


def emulated(overload: torch._ops.OpOverload) -> torch._ops.OpOverload:
    """Return the emulated twin of an operator of the library."""
    load()
    operator = getattr(getattr(torch.ops, NAMESPACE), overload._schema.name.partition("::")[2])
    return getattr(operator, overload._overloadname)


def call_emulated(overload, args, kwargs=None, *, seed=0):
    """Run an operator's CUDA kernel in the thread order of `seed`; return its outputs."""
    load().yhw_emulation_set_seed(seed)
    return emulated(overload)(*args, **(kwargs or {}))


def assert_same(want, got, what: str) -> None:
    """Raise unless two results agree in shape, layout, dtype and every bit; one NaN is like another."""
    pairs = list(zip(tree_leaves(want), tree_leaves(got), strict=True))
    for a, b in pairs:
        if not isinstance(a, torch.Tensor):
            assert a == b, f"{what}: {a} and {b}"
            continue
        assert (a.dtype, a.shape, a.stride()) == (b.dtype, b.shape, b.stride()), f"{what}: {describe(a)}, {describe(b)}"
        bits = BITS.get(a.dtype, a.dtype)
        if torch.equal(a.detach().view(bits), b.detach().view(bits)):
            continue
        differs = a != b
        if a.is_floating_point():
            differs = (differs | (torch.signbit(a) != torch.signbit(b))) & ~(a.isnan() & b.isnan())
        if differs.any():
            first = tuple(differs.nonzero()[0].tolist())
            raise AssertionError(f"{what}: {int(differs.sum())} of {a.numel()} differ, {first}: {a[first]}, {b[first]}")


def describe(x: torch.Tensor) -> str:
    return f"{x.dtype} {tuple(x.shape)} strides {x.stride()}"


class Mirror(TorchDispatchMode):
    """While active, every call of a compiled operator on CPU tensors runs its CUDA kernel, too, and compares."""

    def __init__(self, seeds=(0, 1, 2)):
        super().__init__()
        self.seeds = seeds
        self.compared = Counter()
        """Calls compared, by operator."""
        self.too_large = Counter()
        self._emulated = {}
        """What the emulation made of arguments it has seen, by `key_of`: a test calls each path with the same ones."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func.namespace != "yolo_hw" or name_of(func) not in emulated_operators():
            return func(*args, **kwargs)
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        name = name_of(func)
        plain = all(type(x) in (torch.Tensor, torch.nn.Parameter) and x.device.type == "cpu" for x in tensors)
        if not plain:
            return func(*args, **kwargs)
        if max((x.numel() for x in tensors), default=0) > MAX_ELEMENTS:
            self.too_large[name] += 1
            return func(*args, **kwargs)
        try:
            made = self._emulate(func, args, kwargs)
        except RuntimeError as error:
            if "CUDA emulation: trap" in str(error):  # what a device finds while it runs; the CPU has a message for it
                func(*args, **kwargs)
            raise
        want = func(*args, **kwargs)
        for seed, got in zip(self.seeds, made, strict=True):
            assert_same((want, args, kwargs), got, f"{name}, CPU and emulated CUDA, seed {seed}")
        self.compared[name] += 1
        return want

    def _emulate(self, func, args, kwargs):
        """Return outputs and arguments after the call, for every thread order."""
        key = key_of(func, args, kwargs)
        if key not in self._emulated:
            self._emulated[key] = made = []
            for seed in self.seeds:
                copied_args, copied_kwargs = copy_of((args, kwargs))
                got = call_emulated(func, copied_args, copied_kwargs, seed=seed)
                made.append((got, copied_args, copied_kwargs))
        return self._emulated[key]


def key_of(func, args, kwargs) -> bytes:
    """Return a digest of an operator and all it can see of its arguments: values, layouts, shared memory."""
    digest, storages = hashlib.blake2b(repr(func).encode()), {}
    leaves, structure = tree_flatten((args, kwargs))
    digest.update(repr(structure).encode())
    for leaf in leaves:
        if not isinstance(leaf, torch.Tensor):
            digest.update(repr(leaf).encode())
            continue
        storage = leaf.untyped_storage()
        index = storages.setdefault(storage.data_ptr(), len(storages))
        digest.update(f"{index} {leaf.dtype} {leaf.shape} {leaf.stride()} {leaf.storage_offset()}".encode())
        digest.update(torch.empty(0, dtype=torch.uint8).set_(storage).numpy())
    return digest.digest()


def copy_of(values):
    """Copy all tensors with their strides and offsets; tensors that shared memory share it again."""
    storages: dict[int, torch.UntypedStorage] = {}

    def copy(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in storages:
            storages[storage.data_ptr()] = storage.clone()
        copied = storages[storage.data_ptr()]
        return torch.empty(0, dtype=x.dtype).set_(copied, x.storage_offset(), x.shape, x.stride())

    return tree_map_only(torch.Tensor, copy, values)
