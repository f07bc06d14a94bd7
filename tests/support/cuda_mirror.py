# SPDX-License-Identifier: Apache-2.0
"""A pytest plugin, ``-p support.cuda_mirror``: in every test, each call of an operator is compared with its CUDA kernel.

``YHW_MIRROR_REPORT`` names a file for the number of calls compared, a JSON object by operator.
"""

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from support.cuda_emulation import Mirror

compared: Counter[str] = Counter()


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem):
    with Mirror() as mirror:
        result = yield
    compared.update(mirror.compared)
    return result


def pytest_sessionfinish(session):
    if report := os.environ.get("YHW_MIRROR_REPORT"):
        Path(report).write_text(json.dumps(compared))
