# SPDX-License-Identifier: Apache-2.0
"""Keeping the solver's own remarks out of standard output, which belongs to tables and JSON."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

STDOUT, STDERR = 1, 2


@contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Send what compiled code prints to standard output to standard error meanwhile.

    HiGHS prints a line of debugging there (``transformNewIntegerFeasibleSolution``) whatever its options say. It goes
    through C's buffer, which is flushed at both ends so that nothing crosses over.
    """
    sys.stdout.flush()
    libc = ctypes.CDLL(None)
    libc.fflush(None)
    try:
        saved = os.dup(STDOUT)
    except OSError:  # standard output is closed: nothing can get there
        yield
        return
    try:
        os.dup2(STDERR, STDOUT)
        yield
    finally:
        libc.fflush(None)
        os.dup2(saved, STDOUT)
        os.close(saved)
