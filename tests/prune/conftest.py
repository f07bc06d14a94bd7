# SPDX-License-Identifier: Apache-2.0
"""A tiny detector and a tiny set for the tests of pruning."""

from __future__ import annotations

import pytest
from support.one_thread import one_thread  # noqa: F401 - a fixture
from support.tiny_training import pictures


@pytest.fixture(scope="session")
def squares():
    """Eight grey images with one bright square each."""
    return pictures()
