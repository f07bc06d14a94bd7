# SPDX-License-Identifier: Apache-2.0
"""The options of ``yolo-hw quantise``, and what they turn into."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

from yolo_hw.cli.accelerator_options import accelerator_options
from yolo_hw.cli.add_options import add_options
from yolo_hw.cli.options import FilePath
from yolo_hw.cli.quantise_prices import BitBudget
from yolo_hw.errors import QuantError
from yolo_hw.quant.bit_choices import ACTIVATIONS, WEIGHTS
from yolo_hw.quant.config import QuantConfig
from yolo_hw.quant.layer_report import HURT_DB
from yolo_hw.quant.mixed import BudgetKind
from yolo_hw.quant.sensitivity import Metric, SensitivityConfig

F = TypeVar("F", bound=Callable[..., Any])

KINDS = {"both": (WEIGHTS, ACTIVATIONS), "weights": (WEIGHTS,), "activations": (ACTIVATIONS,)}
"""--raise -> what may go to 16 bits."""

AP50, OUTPUT_ERROR = "ap50", "output-error"
METRICS = {OUTPUT_ERROR: Metric.OUTPUT_ERROR, "curvature": Metric.CURVATURE, AP50: Metric.SCORE}
"""--metric -> what is measured."""
SCORES = {AP50: "AP50", OUTPUT_ERROR: "outputs %"}
"""--drop-of -> its name in tables."""

SEARCH_NAMES = ["metric", "w_choices", "a_choices", "log"]
"""Parameters of a sensitivity scan."""
LABELLED_NAMES = ["data", "split", "names", "max_images"]
"""Parameters of a score."""


def word_length_options(function: F) -> F:
    """Add the options of sensitivity, mixed precision, accuracy control and report."""
    options = [
        click.option("--sensitivity", is_flag=True,
                     help="Measure what every word length of every layer costs; table and picture."),
        click.option("--budget", metavar="KIND=VALUE|SHAREx",
                     help="Choose word lengths within a budget of bytes, macbits or cycles: bytes=0.6x is a share "
                     "of the network in the bits of the options, bytes=200000 a number."),
        click.option("--cycles", type=FilePath, metavar="FILE",
                     help='For --budget cycles: JSON of layer -> {"W_BITSxA_BITS": cycles}.'),
        accelerator_options(None, "For --budget cycles: this accelerator's own cycles, in place of a table."),
        click.option("--max-drop", type=click.FloatRange(0), metavar="POINTS",
                     help="Raise as few layers as possible to 16 bits so that --drop-of falls by no more."),
        click.option("--drop-of", type=click.Choice(list(SCORES)), default=AP50, show_default=True,
                     help="What --max-drop bounds: AP50 on --data in points, or the squared error of the raw "
                     "outputs on the calibration images in percent of their energy."),
        click.option("--raise", "kinds", type=click.Choice(list(KINDS)), default="both", show_default=True,
                     help="What --max-drop may raise."),
        click.option("--metric", type=click.Choice(list(METRICS)), default=OUTPUT_ERROR, show_default=True,
                     help="What damage is."),
        click.option("--w-choices", metavar="BITS,...",
                     help="Word lengths of weights to try. [default: 2 to 8; those of the options where --tile "
                     "counts cycles]"),
        click.option("--a-choices", metavar="BITS,...",
                     help="Word lengths of activations to try. [default: those of the options with --budget "
                     "bytes, 8,16 where --tile counts cycles, 4,8 with other budgets, else 4,8,16]"),
        click.option("--time-limit", type=click.FloatRange(0, min_open=True), default=60.0, show_default=True,
                     help="Seconds for each run of the integer program."),
        click.option("--log", type=FilePath, help="Folder of what is measured: an interrupted search goes on."),
        click.option("--data", type=FilePath, help="Labelled images for AP50."),
        click.option("--split", help="Part of --data. [default: val, else all]"),
        click.option("--names", type=FilePath, help="Class names of the network, one per line."),
        click.option("--max-images", type=click.IntRange(1), help="Use only the first images of --data."),
        click.option("--report-images", type=click.IntRange(1), default=8, show_default=True,
                     help="Calibration images that report and sensitivity measure on."),
        click.option("--hurt-db", type=click.FloatRange(0), default=HURT_DB, show_default=True,
                     help="A layer alone with less signal to noise hurts."),
    ]  # fmt: skip
    return add_options(function, options)


def sensitivity_config(options: dict[str, Any], config: QuantConfig, budget: BitBudget | None) -> SensitivityConfig:
    """Return which word lengths are tried, and how."""
    w_bits, a_bits = SensitivityConfig().w_bits, SensitivityConfig().a_bits
    profile = config.profile
    if options["max_drop"] is not None:  # the order of layers at the bits they have is all it needs
        w_bits, a_bits = (config.w_bits,), (config.a_bits,)
    elif budget is not None and options["tile"] is not None:  # its cycles are those of one or of two bytes per code
        w_bits, a_bits = (config.w_bits,), (8, 16)
    elif budget is not None:
        a_bits = (config.a_bits,) if budget.kind is BudgetKind.BYTES else (4, 8)
    return SensitivityConfig(
        w_bits=_bits(options["w_choices"], "w") or _possible(w_bits, profile.w_bits, config.w_bits),
        a_bits=_bits(options["a_choices"], "a") or _possible(a_bits, profile.a_bits, config.a_bits),
        metric=METRICS[options["metric"]],
        images=options["report_images"],
    )


def _possible(usual: tuple[int, ...], known: tuple[int, ...], own: int) -> tuple[int, ...]:
    """Return those of the usual word lengths that the target has, that of the options where it has none of them."""
    return tuple(bits for bits in usual if bits in known) or (own,)


def _bits(text: str | None, what: str) -> tuple[int, ...]:
    if text is None:
        return ()
    if not re.fullmatch("[0-9]{1,2}(,[0-9]{1,2})*", text):
        raise QuantError(f"--{what}-choices must be word lengths such as 4,8, got '{text}'")
    return tuple(int(part) for part in text.split(","))
