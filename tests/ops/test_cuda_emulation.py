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

from support.cuda_emulation import NAMESPACE, Mirror, build, call_emulated, cuda_operators, cuda_sources, emulated, load
from yolo_hw.ops import _library

ROOT = Path(__file__).resolve().parents[2]
WITHOUT_KERNELS = "not compile and not export and not opcheck and not vmap"
"""Tests whose tracing does not work under a dispatch mode; they run no kernels that others do not."""


@pytest.fixture(scope="module", autouse=True)
def _libraries():
    _library.load_library()
    load()


def test_every_cuda_operator_is_emulated():
    assert cuda_operators()
    for path in cuda_sources():
        assert "YHW_LIBRARY_CUDA(m)" in path.read_text(), f"{path.name}: register by csrc/library.h"
    for name in cuda_operators():
        for library in ("yolo_hw", NAMESPACE):
            assert torch._C._dispatch_has_kernel_for_dispatch_key(f"{library}::{name}", "CPU"), (library, name)


def test_the_tests_of_all_operators_hold_for_their_cuda_kernels(tmp_path):
    report = tmp_path / "compared.json"
    environment = os.environ | {"YHW_MIRROR_REPORT": str(report), "PYTHONPATH": f"{ROOT}/tests:{ROOT}"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "support.cuda_mirror", "-p", "no:cacheprovider"]
    others = [str(path) for path in (ROOT / "tests" / "ops").glob("test_*.py") if "cuda_emulation" not in path.name]
    done = subprocess.run(
        [*command, "-k", WITHOUT_KERNELS, *others], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    compared = json.loads(report.read_text())
    assert set(compared) == cuda_operators()
    assert min(compared.values()) >= 5, compared


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


def fake_quant_arguments():
    x = torch.randn(700, generator=torch.Generator().manual_seed(1)) * 40
    return x, torch.tensor([2], dtype=torch.int32), 0, 8, True, 0, 0
