# SPDX-License-Identifier: Apache-2.0
"""Settings of all tests."""

import os

import pytest
from hypothesis import HealthCheck, settings

# The same examples on every run and no time limits, as a busy machine is no bug; HYPOTHESIS_PROFILE=explore draws new,
# more examples.
settings.register_profile("repeatable", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("explore", deadline=None, max_examples=2000, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what only a long run asks for."""
    parser.addoption("--every-combination", action="store_true", help="Not only every two options of a table together.")
