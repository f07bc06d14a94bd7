# SPDX-License-Identifier: Apache-2.0
"""A tiny detector and a tiny set for the tests of training."""

from __future__ import annotations

import pytest
from support.one_thread import one_thread  # noqa: F401 - a fixture
from support.tiny_training import detector, pictures


@pytest.fixture
def make_model():
    return detector


@pytest.fixture(scope="session")
def squares():
    """Eight grey images with one bright square each, red (class 0) or blue (class 1)."""
    return pictures()
