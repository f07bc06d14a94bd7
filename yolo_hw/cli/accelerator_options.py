# SPDX-License-Identifier: Apache-2.0
"""Options of the accelerator, and what they turn into."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from hls_export.config import AcceleratorConfig
from yolo_hw.cli.add_options import add_options

F = TypeVar("F", bound=Callable[..., Any])

BUFFER_NAMES = ["ifm_words", "acc_words", "max_taps"]
"""Parameters of the buffers."""


def accelerator_options(tile: str | None, about: str) -> Callable[[F], F]:
    """Return what adds --tile, --ifm-words, --acc-words and --max-taps.

    Args:
        tile: The usual tile; None where there may be no accelerator.
        about: What is said of the tile.
    """
    options = [
        click.option("--tile", default=tile, show_default=tile is not None, metavar="TMxTN", help=about),
        click.option("--ifm-words", type=int, default=AcceleratorConfig.ifm_words, show_default=True,
                     help="Input buffer, words of TN codes."),
        click.option("--acc-words", type=int, default=AcceleratorConfig.acc_words, show_default=True,
                     help="Accumulator buffer, words of TM sums."),
        click.option("--max-taps", type=int, default=AcceleratorConfig.max_taps, show_default=True,
                     help="Kernel positions of the weight buffer."),
    ]  # fmt: skip

    def add(function: F) -> F:
        return add_options(function, options)

    return add


def accelerator_config(options: dict[str, Any]) -> AcceleratorConfig:
    """Build the accelerator from the values of `accelerator_options`.

    Raises:
        ExportError: There is no such hardware.
    """
    return AcceleratorConfig.of_tile(options["tile"], **{name: options[name] for name in BUFFER_NAMES})
