# SPDX-License-Identifier: Apache-2.0
"""Rules that hold the house: sizes, names, licences, who may import whom, and what must not load torch."""

import ast
import re
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from hls_export.bundle.descriptor import MAX_INPUTS, RECORD_BYTES, Descriptor

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ("yolo_hw", "hls_export", "csrc", "examples", "benchmarks", "tools", "tests")
CPP_SUFFIXES = (".cpp", ".h", ".cu", ".cuh")

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_PARAMETERS = 6
"""Besides self and keyword-only ones."""

ALLOWED_IMPORTS = {
    "yolo_hw.errors": "",
    "yolo_hw.geometry": "",
    "yolo_hw.atomic": "errors",
    "yolo_hw.fixedpoint": "errors",
    "yolo_hw.darknet": "atomic errors",
    "yolo_hw.intgraph": "darknet fixedpoint geometry atomic errors",
    "yolo_hw.nn": "ops darknet fixedpoint geometry atomic errors",
    "yolo_hw.ops": "darknet fixedpoint geometry atomic errors",
    "yolo_hw.data": "darknet fixedpoint geometry atomic errors",
    "yolo_hw.quant": "train nn intgraph ops darknet fixedpoint geometry errors",
    "yolo_hw.evaluate": "nn data intgraph darknet atomic errors",
    "yolo_hw.train": "evaluate nn data darknet atomic errors",
    "yolo_hw.prune": "train evaluate nn data ops intgraph darknet geometry atomic errors",
    "yolo_hw.interop": "intgraph quant nn darknet fixedpoint geometry atomic errors",
    "hls_export": "darknet intgraph geometry fixedpoint atomic errors",
}
"""Package -> parts of yolo_hw it may import besides itself (docs/architecture.md); cli and pipeline import all."""

NO_PACKAGE = ("yolo_hw._engine", "yolo_hw.__version__")
"""The compiled engine, which loads nothing, and a constant."""

TORCH_FREE = ("yolo_hw.errors", "yolo_hw.fixedpoint", "yolo_hw.geometry", "yolo_hw.atomic", "yolo_hw.darknet")
TORCH_FREE += ("yolo_hw.intgraph", "hls_export")


def files(*suffixes):
    found = [path for folder in SOURCE for path in sorted((ROOT / folder).rglob("*")) if path.suffix in suffixes]
    assert found
    return [*found, *(ROOT / "setup.py",) * (".py" in suffixes)]


def package_of(path):
    """Return the key of `ALLOWED_IMPORTS` that a source file belongs to, None for cli, pipeline and yolo_hw itself."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    name = parts[0] if parts[0] != "yolo_hw" else ".".join(parts[:2])
    return name if name in ALLOWED_IMPORTS else None


def imports_of(path):
    """Yield (line, module) for every import of a file, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def functions_of(path):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def relative(path):
    return str(path.relative_to(ROOT))


def test_files_are_short():
    sizes = {relative(path): len(path.read_text("utf-8").splitlines()) for path in files(".py", *CPP_SUFFIXES)}
    assert not {name: lines for name, lines in sizes.items() if lines > MAX_FILE_LINES}


def test_functions_fit_on_a_screen():
    long = [
        f"{relative(path)}:{f.lineno} {f.name} has {f.end_lineno - f.lineno + 1} lines"
        for path in files(".py")
        for f in functions_of(path)
        if f.end_lineno - f.lineno + 1 > MAX_FUNCTION_LINES
    ]
    assert not long


def test_functions_have_few_parameters():
    many = []
    for path in files(".py"):
        for f in functions_of(path):
            names = [argument.arg for argument in (*f.args.posonlyargs, *f.args.args)]
            count = len(names) - (names[:1] in (["self"], ["cls"]))
            if count > MAX_PARAMETERS:
                many.append(f"{relative(path)}:{f.lineno} {f.name} has {count}")
    assert not many


def test_every_file_states_its_licence_first():
    for path in files(".py", *CPP_SUFFIXES):
        text = path.read_text("utf-8")
        head = "\n".join(text.splitlines()[:2])
        assert not text or "SPDX-License-Identifier: Apache-2.0" in head, relative(path)


def test_names_say_what_a_file_is_about():
    vague = re.compile(r"^(utils?|helpers?|misc|common|.*_utils?|[a-z_]*[a-z](_v)?\d)$")
    exceptions = {"fake_quant_pow2", "test_fake_quant_pow2"}
    vague_files = [relative(path) for path in files(".py", *CPP_SUFFIXES) if vague.match(path.stem)]
    assert not [name for name in vague_files if Path(name).stem not in exceptions and "avx2" not in name]


@pytest.mark.parametrize("package", ALLOWED_IMPORTS)
def test_imports_follow_the_table(package):
    allowed = {f"yolo_hw.{name}" for name in ALLOWED_IMPORTS[package].split()} | {package}
    wrong, seen = [], 0
    for path in files(".py"):
        if package_of(path) != package:
            continue
        seen += 1
        for line, module in imports_of(path):
            parts = module.split(".")
            target = ".".join(parts[:2]) if parts[0] == "yolo_hw" else parts[0]
            if parts[0] in ("yolo_hw", "hls_export") and target not in allowed and module not in NO_PACKAGE:
                wrong.append(f"{relative(path)}:{line} imports {module}")
            if package in TORCH_FREE and parts[0] in ("torch", "torchvision"):
                wrong.append(f"{relative(path)}:{line} imports {module}, but {package} is free of torch")
    assert seen
    assert not wrong


def test_the_table_names_every_package():
    packages = {path.parent.name for path in (ROOT / "yolo_hw").glob("*/__init__.py")}
    packages |= {path.stem for path in (ROOT / "yolo_hw").glob("*.py")} - {"__init__", "__main__", "pipeline"}
    assert packages - {"cli", "assets"} <= {name.removeprefix("yolo_hw.") for name in ALLOWED_IMPORTS}


def test_the_torch_free_parts_do_not_load_torch():
    modules = sorted(
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in files(".py")
        if package_of(path) in TORCH_FREE
    )
    assert "yolo_hw.intgraph.engine" in modules
    assert "hls_export.verify.golden" in modules
    code = f"import sys\nfor name in {modules}: __import__(name)\nsys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)


def test_the_arithmetic_depends_on_nothing():
    """csrc/core is compiled by nvcc and the HLS tool, the engine without torch, so neither includes anything of it."""
    for path in files(*CPP_SUFFIXES):
        includes = re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', path.read_text("utf-8"), re.M)
        folder = relative(path.parent)
        if folder == "csrc/core":
            assert all("/" not in name and "torch" not in name for name in includes), relative(path)
            assert {name for name in includes if not (path.parent / name).exists()} <= {
                "cmath",
                "type_traits",
                "cstdint",
            }
        if folder in ("csrc/engine", "hls_export/engine"):
            assert not [name for name in includes if re.search(r"torch|ATen|c10|cuda", name)], relative(path)


HEADER = ROOT / "hls_export" / "engine" / "yhw_descriptor.h"


def python_offsets():
    """Return the byte offset of every field of the Python record."""
    offsets, position = {}, 0
    for field in fields(Descriptor):
        offsets[field.name] = position
        position += 4 * (MAX_INPUTS if isinstance(field.default, tuple) else 1)
    assert position == RECORD_BYTES
    return offsets


def test_the_c_struct_has_the_fields_of_the_python_record():
    text = re.sub(r"/\*.*?\*/", "", HEADER.read_text("utf-8"), flags=re.S)
    assert int(re.search(r"#define YHW_MAX_INPUTS (\d+)", text)[1]) == MAX_INPUTS
    body = re.search(r"typedef struct \{(.*?)\} yhw_descriptor_t;", text, re.S)[1]
    declared = [name.strip() for names in re.findall(r"u?int32_t ([^;]+);", body) for name in names.split(",")]
    expected = [
        f"{field.name}[YHW_MAX_INPUTS]" if isinstance(field.default, tuple) else field.name
        for field in fields(Descriptor)
    ]
    assert declared == expected
    for name, offset in re.findall(r"offsetof\(yhw_descriptor_t, (\w+)\) == (\d+)", text):
        assert python_offsets()[name] == int(offset)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_a_c_compiler_agrees_on_every_offset(tmp_path):
    asserts = [
        f'_Static_assert(offsetof(yhw_descriptor_t, {name}) == {offset}, "{name}");'
        for name, offset in python_offsets().items()
    ]
    source = tmp_path / "offsets.c"
    source.write_text("\n".join([f'#include "{HEADER}"', *asserts, ""]))
    subprocess.run(["gcc", "-std=c11", "-Wall", "-Werror", "-fsyntax-only", str(source)], check=True, timeout=60)
