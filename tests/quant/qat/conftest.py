# SPDX-License-Identifier: Apache-2.0
"""Small trainings have one processor thread each."""

from support.one_thread import one_thread  # noqa: F401 - a fixture
