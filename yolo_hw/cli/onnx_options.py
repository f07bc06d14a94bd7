# SPDX-License-Identifier: Apache-2.0
"""Options of a network that comes as an ONNX file, and what they turn into."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from yolo_hw.cli.add_options import add_options
from yolo_hw.cli.options import FilePath, refuse_unheeded
from yolo_hw.errors import YoloHwError
from yolo_hw.interop.onnx_import import InputConvention
from yolo_hw.pipeline import OnnxSource

F = TypeVar("F", bound=Callable[..., Any])

ONNX_NAMES = ["outputs", "input_scale", "mean", "std"]
"""Parameters of `onnx_options` besides the file."""
DARKNET_NAMES = ["weights", "random_weights", "bn_eps", "lenient"]
"""Parameters that only a cfg heeds."""


def _numbers(context: click.Context, parameter: click.Parameter, value: str) -> tuple[float, ...]:
    """Turn ``0.485,0.456,0.406`` into numbers."""
    try:
        return tuple(float(part) for part in value.split(","))
    except ValueError:
        raise YoloHwError(f"--{parameter.name} must be numbers with commas between, got '{value}'") from None


def onnx_options(function: F) -> F:
    """Add the options of an ONNX file: --onnx, --outputs, --input-scale, --mean, --std."""
    options = [
        click.option("--onnx", type=FilePath, help="A float ONNX model, instead of cfg and weights."),
        click.option("--outputs", multiple=True, metavar="NAME", help="Tensor or node (glob) where the ONNX net "
                     "ends; may be repeated. Default: the last maps before its decoding."),
        click.option("--input-scale", type=click.FloatRange(0, min_open=True), default=1.0, show_default=True,
                     help="What the ONNX network takes: (scale * pixel / 255 - mean) / std; 255 for pixels."),
        click.option("--mean", default="0", show_default=True, callback=_numbers, help="One, or per channel."),
        click.option("--std", default="1", show_default=True, callback=_numbers, help="One, or per channel."),
    ]  # fmt: skip
    return add_options(function, options)


def onnx_source(options: dict[str, Any]) -> OnnxSource | None:
    """Return the network of `onnx_options` and ``imgsz``, None where it is a cfg.

    Raises:
        YoloHwError: An option has no effect on what was named.
    """
    if options["onnx"] is None:
        refuse_unheeded(ONNX_NAMES, "a cfg")
        return None
    refuse_unheeded(DARKNET_NAMES, "an ONNX file")
    return OnnxSource(
        path=options["onnx"],
        input_size=options["imgsz"],
        outputs=options["outputs"] or None,
        convention=InputConvention(scale=options["input_scale"], mean=options["mean"], std=options["std"]),
    )
