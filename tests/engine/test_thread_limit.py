# SPDX-License-Identifier: Apache-2.0
"""An engine that gets no threads from the system says so and lets go of those it has."""

import subprocess
import sys

PROGRAM = """
import resource
from yolo_hw._engine import Engine
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), resource.RLIM_INFINITY))
try:
    Engine("scalar", 200, (3, 4, 4), (8, True))
except RuntimeError as error:
    print("refused:", error)
"""


def test_too_few_threads_are_an_error_and_no_hang():
    found = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith("refused: ")
