# SPDX-License-Identifier: Apache-2.0
"""A tiny detector and a tiny set for the tests of pruning."""

from __future__ import annotations

import pytest
import torch
from support.tiny_training import pictures


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny models are faster on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def squares():
    """Eight grey images with one bright square each."""
    return pictures()
