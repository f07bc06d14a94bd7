# SPDX-License-Identifier: Apache-2.0
"""Run the benchmarks and write their tables: ``python benchmarks/run.py [NAME...]``; without names, all of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
BENCHMARKS = ("memory", "engine_speed", "accuracy", "observers")


def main(names: list[str]) -> None:
    """Run each benchmark in its own process."""
    unknown = set(names) - set(BENCHMARKS)
    if unknown:
        raise SystemExit(f"no benchmark '{min(unknown)}'; there are {', '.join(BENCHMARKS)}")
    for name in names or BENCHMARKS:
        print(f"== {name}", flush=True)
        subprocess.run([sys.executable, str(HERE / f"{name}.py")], check=True)
    subprocess.run([sys.executable, str(HERE / "make_table.py")], check=True)


if __name__ == "__main__":
    main(sys.argv[1:])
