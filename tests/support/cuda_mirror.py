# SPDX-License-Identifier: Apache-2.0
"""A pytest plugin, ``-p support.cuda_mirror``: in every test, every call of an operator is compared with CUDA.

``YHW_MIRROR_REPORT`` names a file for the number of calls compared, a JSON object by operator; ``YHW_MIRROR_SEEDS`` are
the thread orders.
"""

import json
import os
from collections import Counter
from pathlib import Path

import pytest
from support.cuda_emulation import Mirror

SEEDS = [int(seed) for seed in os.environ.get("YHW_MIRROR_SEEDS", "0 1 2").split()]
compared: Counter[str] = Counter()


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem):
    with Mirror(SEEDS) as mirror:
        result = yield
    compared.update(mirror.compared)
    return result


def pytest_sessionfinish(session):
    if report := os.environ.get("YHW_MIRROR_REPORT"):
        Path(report).write_text(json.dumps(compared))
