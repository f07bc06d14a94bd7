# SPDX-License-Identifier: Apache-2.0
"""``python -m yolo_hw``: the command line, for launchers that start modules, such as torchrun."""

from __future__ import annotations

from yolo_hw.cli.main import main

if __name__ == "__main__":
    main()
