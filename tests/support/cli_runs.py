# SPDX-License-Identifier: Apache-2.0
"""A tiny network on disk, and the command line run in this process or in one of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from click.testing import CliRunner, Result
from support.data import REPOSITORY
from support.networks import build, random_weights

from yolo_hw.cli.main import main
from yolo_hw.darknet import write_weights


@dataclass(frozen=True)
class Files:
    """A network and two images."""

    cfg: Path
    weights: Path
    images: Path

    def arguments(self, **changes: object) -> list[str]:
        """Return ``--cfg ... --weights ...``, with other or further options from `changes`."""
        options = {"cfg": self.cfg, "weights": self.weights, **changes}
        return [part for key, value in options.items() for part in (f"--{key}", str(value))]


def write_network(folder: Path, text: str, stem: str = "net") -> tuple[Path, Path]:
    """Write a cfg and random weights for it."""
    cfg, weights = folder / f"{stem}.cfg", folder / f"{stem}.weights"
    cfg.write_text(text)
    network = build(text)
    write_weights(weights, network, random_weights(network))
    return cfg, weights


def run(*arguments: object) -> Result:
    """Run the command line in this process."""
    return CliRunner().invoke(main, [str(a) for a in arguments])


def run_process(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    """Run the command line as users do, in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    code = "from yolo_hw.cli.main import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True, text=True, check=False, env=environment, timeout=120, **options,
    )  # fmt: skip
