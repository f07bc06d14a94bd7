# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels, run on the CPU in several thread orders, give the bits of the CPU kernels.

What the emulation is worth is tested in tests/cpp/test_cuda_emulation.cpp.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.cuda_emulation import (
    Mirror,
    call_emulated,
    cuda_sources,
    emulated,
    emulated_operators,
    load,
    registered,
    sanitizer_environment,
)

from yolo_hw.ops import _library

ROOT = Path(__file__).resolve().parents[2]
WITHOUT_KERNELS = "not compile and not export and not opcheck and not vmap"
"""Tests whose tracing does not work under a dispatch mode; they run no kernels that others do not."""

pytestmark = pytest.mark.xdist_group("cuda_emulation")  # one process: it compiles all kernels


@pytest.fixture(scope="module", autouse=True)
def _libraries():
    _library.load_library()
    load()


def test_every_cuda_operator_is_emulated():
    for path in cuda_sources():
        assert "YHW_LIBRARY_CUDA(m)" in path.read_text(), f"{path.name}: register by csrc/library.h"
    assert emulated_operators()
    assert emulated_operators() <= registered("yolo_hw", "CPU")
    compiled = registered("yolo_hw", "CUDA")
    assert compiled in (set(), emulated_operators())  # empty if built without nvcc


def python(*arguments, environment):
    """Run Python at the root of the tree with variables added to the environment."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}/tests:{ROOT}"} | environment
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, check=False, cwd=ROOT, env=environment, capture_output=True, text=True)


def files_to_mirror():
    """Return the files of tests that may call an operator with a CUDA kernel."""
    without = registered("yolo_hw", "CPU") - emulated_operators()
    skipped = ("test_cuda_emulation", *(f"test_{name}" for name in without))
    return [path for path in sorted((ROOT / "tests" / "ops").glob("test_*.py")) if not path.stem.startswith(skipped)]


def mirror_the_tests_of_all_operators(report, environment):
    options = ["-q", "-x", "-p", "support.cuda_mirror", "-p", "no:cacheprovider", "-k", WITHOUT_KERNELS]
    done = python(
        "-m", "pytest", *options, *files_to_mirror(), environment=environment | {"YHW_MIRROR_REPORT": str(report)}
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    compared = json.loads(report.read_text())
    assert set(compared) == emulated_operators()
    assert min(compared.values()) >= 5, compared


def test_the_tests_of_all_operators_hold_for_their_cuda_kernels(tmp_path):
    mirror_the_tests_of_all_operators(tmp_path / "compared.json", {})


@pytest.fixture(scope="module")
def sanitizer():
    environment = sanitizer_environment()
    if environment is None:
        pytest.skip("the compiler has no address sanitizer")
    return environment


@pytest.mark.slow
def test_no_kernel_leaves_its_memory(tmp_path, sanitizer):
    mirror_the_tests_of_all_operators(tmp_path / "compared.json", sanitizer | {"YHW_MIRROR_SEEDS": "2"})


ONE_TOO_MANY = """
import numpy as np, torch
from support.cuda_emulation import call_emulated
import yolo_hw.ops
x = torch.from_numpy(np.lib.stride_tricks.as_strided(np.zeros(5000, np.float32), (5000 + EXTRA,), (4,)))
call_emulated(torch.ops.yolo_hw.fake_quant_pow2.default, (x, 2, None, 0, 8, True, 0, 0))
"""


@pytest.mark.slow
@pytest.mark.parametrize("extra", [0, 1])
def test_the_sanitizer_sees_a_read_beyond_the_end(sanitizer, extra):
    done = python("-c", ONE_TOO_MANY.replace("EXTRA", str(extra)), environment=sanitizer)
    assert (done.returncode == 0) == (extra == 0), done.stderr
    assert ("heap-buffer-overflow" in done.stderr) == (extra == 1), done.stderr


def test_kernels_run_in_the_emulation():
    launches = load().yhw_emulation_launches()
    call_emulated(torch.ops.yolo_hw.fake_quant_pow2.default, fake_quant_arguments())
    assert load().yhw_emulation_launches() == launches + 1


def test_the_mirror_sees_a_wrong_bit(monkeypatch):
    def wrong(overload, args, kwargs=None, *, seed=0):
        y = emulated(overload)(*args)
        y.view(torch.int32)[3] ^= 1
        return y

    with Mirror() as mirror:
        torch.ops.yolo_hw.fake_quant_pow2(*fake_quant_arguments())
    assert mirror.compared == {"fake_quant_pow2": 1}
    monkeypatch.setattr("support.cuda_emulation.call_emulated", wrong)
    with Mirror(), pytest.raises(AssertionError, match=r"fake_quant_pow2.* 1 of 700 differ, \(3,\)"):
        torch.ops.yolo_hw.fake_quant_pow2(*fake_quant_arguments())


def test_the_mirror_emulates_equal_arguments_once():
    x, *rest = fake_quant_arguments()
    other, launches = x.clone(), load().yhw_emulation_launches
    other[699] = -other[699]
    with Mirror((0, 1)) as mirror:
        begin = launches()
        for y in (x, x.clone(), other, x.view(7, 100), x):
            torch.ops.yolo_hw.fake_quant_pow2(y, *rest)
        assert launches() - begin == 2 * 3
    assert mirror.compared == {"fake_quant_pow2": 5}


def fake_quant_arguments():
    x = torch.randn(700, generator=torch.Generator().manual_seed(1)) * 40
    return x, 2, None, 0, 8, True, 0, 0
