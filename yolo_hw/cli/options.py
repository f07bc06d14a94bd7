# SPDX-License-Identifier: Apache-2.0
"""Options that several verbs share, and what they turn into."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from yolo_hw.cli.add_options import add_options
from yolo_hw.data.dataset import read_names
from yolo_hw.data.preprocess import Resize
from yolo_hw.errors import YoloHwError, nearest
from yolo_hw.fixedpoint import Overflow, Rounding
from yolo_hw.intgraph.target_profiles import TARGETS
from yolo_hw.nn.darknet import DARKNET_BN_EPS
from yolo_hw.pipeline import CompileConfig, OnnxSource
from yolo_hw.quant.config import (
    BITS,
    AdaRoundConfig,
    CorrectBy,
    EqualiseBy,
    LeakySlope,
    Observer,
    Override,
    QuantConfig,
)

F = TypeVar("F", bound=Callable[..., Any])

FilePath = click.Path(path_type=Path)

BatchNormEpsilon = click.FloatRange(0, 1, min_open=True)


def image_size(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """Turn ``416`` or ``256x320`` into (height, width)."""
    if value is None:
        return None
    match = re.fullmatch("([0-9]{1,5})(?:x([0-9]{1,5}))?", value)
    if match is None:
        raise YoloHwError(f"--imgsz must be SIZE or HEIGHTxWIDTH, for example 416 or 256x320, got '{value}'")
    return int(match[1]), int(match[2] or match[1])


def calibration_options(function: F) -> F:
    """Add the options that name a float network and its calibration images."""
    options = [
        click.option("--cfg", type=FilePath, help="Darknet cfg."),
        click.option("--weights", type=FilePath, help="Darknet weights."),
        click.option("--random-weights", is_flag=True,
                     help="Take random weights, to try a cfg without a trained network."),
        click.option("--calib", type=FilePath, required=True,
                     help="Calibration images: a folder, an image or a list."),
        click.option("--max-calib", type=click.IntRange(1), default=48, show_default=True,
                     help="Calibration images at most."),
        click.option("--imgsz", metavar="SIZE|HxW", callback=image_size,
                     help="Input height and width: not the cfg's, or where an ONNX file leaves them free."),
        click.option("--resize", type=click.Choice([r.value for r in Resize]), default="stretch",
                     show_default=True, help="How images are brought to the network's size."),
        click.option("--bn-eps", type=BatchNormEpsilon, default=DARKNET_BN_EPS, show_default=True,
                     help="Batch-norm epsilon."),
        click.option("--lenient", is_flag=True, help="Skip unknown training keys of the cfg with a warning."),
    ]  # fmt: skip
    return add_options(function, options)


def check_network(options: dict[str, Any]) -> None:
    """Check that of the options which name a network, as many as the verb has, one is given.

    Raises:
        UsageError: None is, or several.
    """
    known = [name for name in ("cfg", "onnx", "graph") if name in options]
    if sum(options[name] is not None for name in known) != 1:
        *others, last = (f"--{name}" for name in known)
        raise click.UsageError(f"name one network: {', '.join(others)}, or {last}" if others else f"give {last}")


def calibration_config(options: dict[str, Any], onnx: OnnxSource | None = None) -> CompileConfig:
    """Build what the steps up to the integer graph need from `calibration_options`, `quant_options` and ``out``.

    Args:
        options: The values.
        onnx: The network, where it is no cfg.

    Raises:
        UsageError: Neither weights nor random ones are asked for, or both.
    """
    if onnx is None and (options["weights"] is None) != options["random_weights"]:
        raise click.UsageError("give --weights, or --random-weights")
    return CompileConfig(
        cfg=options["cfg"],
        weights=options["weights"],
        onnx=onnx,
        calib=options["calib"],
        out=options["out"],
        quant=quant_config(options),
        resize=Resize(options["resize"]),
        bn_eps=options["bn_eps"],
        max_calib=options["max_calib"],
        lenient=options["lenient"],
        size=None if onnx is not None else options["imgsz"],
    )


_OBSERVERS = click.Choice([observer.value for observer in Observer])
_FORMAT_OPTIONS = [
    click.option("--target", default="generic", show_default=True, metavar="NAME|FILE",
                 help=f"What will compute the network: {', '.join(TARGETS)}, or a .toml or .json profile."),
    click.option("--bits", type=click.Choice([str(b) for b in BITS]), show_default="8, if the target has them",
                 help="Bits of weights and activations."),
    click.option("--w-bits", type=click.Choice([str(b) for b in BITS]), help="Bits of the weights alone."),
    click.option("--a-bits", type=click.Choice([str(b) for b in BITS]), help="Bits of the activations alone."),
    click.option("--observer", type=_OBSERVERS, default="mse", show_default=True,
                 help="How activation formats are chosen."),
    click.option("--w-observer", type=_OBSERVERS, default="mse", show_default=True,
                 help="How weight formats are chosen."),
    click.option("--percentile", type=float, default=99.99, show_default=True,
                 help="Share of values that --observer percentile keeps."),
    click.option("--per-tensor", is_flag=True, help="One weight format per layer instead of per channel."),
    click.option("--equalise", type=click.FloatRange(0, 1), default=QuantConfig.equalise, show_default=True,
                 metavar="STRENGTH", help="How far channel ranges come closer behind dense convolutions."),
    click.option("--no-equalise", is_flag=True, help="Leave channel ranges as they are."),
    click.option("--equalise-by", type=click.Choice([by.value for by in EqualiseBy]), default="activations",
                 show_default=True, help="What equalisation makes even."),
    click.option("--no-bias-correction", is_flag=True, help="Leave biases as they are."),
    click.option("--signed", is_flag=True, help="No unsigned activations."),
    click.option("--rounding", type=click.Choice([r.value for r in Rounding]),
                 show_default="the target's, else half_up", help="Rounding of every shift."),
    click.option("--overflow", type=click.Choice([o.value for o in Overflow]),
                 show_default="the target's, else saturate", help="What happens outside a format."),
    click.option("--leaky", show_default="the target's, else 51/9", metavar="MUL/SHIFT",
                 help="Leaky slope MUL / 2**SHIFT."),
    click.option("--override", multiple=True, metavar="PATTERN:w=BITS,a=BITS",
                 help="Bits of the layers that match a glob pattern; may be repeated."),
]  # fmt: skip
"""Of every quantisation."""
_ROUNDING_OPTIONS = [
    click.option("--absorb-biases", is_flag=True, help="Hand constant parts of channels on to the next layer."),
    click.option("--bias-correction-by", type=click.Choice([by.value for by in CorrectBy]), default="images",
                 show_default=True, help="Where bias correction takes mean errors from."),
    click.option("--adaround", type=click.IntRange(1), is_flag=False, flag_value=AdaRoundConfig().iterations,
                 metavar="[STEPS]", help="Choose per weight whether to round up or down (minutes)."),
]  # fmt: skip
"""Of a network that is not trained any more: training finds weights and biases itself."""


def quant_options(function: F) -> F:
    """Add the options of post-training quantisation."""
    return add_options(function, [*_FORMAT_OPTIONS, *_ROUNDING_OPTIONS])


def qat_quant_options(function: F) -> F:
    """Add those of `quant_options` that training leaves something to say."""
    return add_options(function, _FORMAT_OPTIONS)


def quant_config(options: dict[str, Any]) -> QuantConfig:
    """Build the quantisation options from the values of `quant_options` or `qat_quant_options`.

    Raises:
        YoloHwError: An option means nothing beside the others.
    """
    _refuse_idle(options)
    typed: dict[str, Any] = {}  # what is left out, the target decides
    for name in ("w_bits", "a_bits"):
        if options[name] or options["bits"]:
            typed[name] = int(options[name] or options["bits"])
    if options["per_tensor"]:
        typed["per_channel"] = False
    if options["signed"]:
        typed["unsigned"] = False
    if options["rounding"]:
        typed["rounding"] = Rounding(options["rounding"])
    if options["overflow"]:
        typed["overflow"] = Overflow(options["overflow"])
    if options["leaky"]:
        typed["leaky"] = _slope(options["leaky"])
    if "adaround" in options:
        typed |= _rounding_fields(options)
    return QuantConfig(
        target=options["target"],
        a_observer=Observer(options["observer"]),
        w_observer=Observer(options["w_observer"]),
        percentile=options["percentile"],
        equalise=None if options["no_equalise"] else options["equalise"],
        equalise_by=EqualiseBy(options["equalise_by"]),
        bias_correction=not options["no_bias_correction"],
        overrides=tuple(Override.parse(text) for text in options["override"]),
        **typed,
    )


def _rounding_fields(options: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of `QuantConfig` that `qat_quant_options` lack."""
    return {
        "absorb_biases": options["absorb_biases"],
        "bias_correction_by": CorrectBy(options["bias_correction_by"]),
        "adaround": AdaRoundConfig(iterations=options["adaround"]) if options["adaround"] else None,
    }


def _refuse_idle(options: dict[str, Any]) -> None:
    """Refuse options of `quant_options` that the others leave without effect."""
    if click.get_current_context(silent=True) is None:  # they come from a file
        return
    if Observer.PERCENTILE.value not in (options["observer"], options["w_observer"]):
        refuse_unheeded(["percentile"], "observers other than percentile")
    if options["no_equalise"]:
        refuse_unheeded(["equalise", "equalise_by"], "channels that --no-equalise leaves as they are")
    if options["equalise_by"] == EqualiseBy.WEIGHTS.value:
        refuse_unheeded(["equalise"], "channels whose weights are made even")
    if options["no_bias_correction"] and "bias_correction_by" in options:
        refuse_unheeded(["bias_correction_by"], "biases that --no-bias-correction leaves as they are")
    if options["w_bits"] and options["a_bits"]:
        refuse_unheeded(["bits"], "word lengths that --w-bits and --a-bits give")


def _slope(text: str) -> LeakySlope:
    mul, _, shift = text.partition("/")
    if not (re.fullmatch("[0-9]{1,6}", mul) and re.fullmatch("[0-9]{1,2}", shift)):
        raise YoloHwError(f"--leaky must be MUL/SHIFT, for example 51/9, got '{text}'")
    return LeakySlope(int(mul), int(shift))


QAT_QUANT_NAMES = (
    "target bits w_bits a_bits observer w_observer percentile per_tensor equalise no_equalise equalise_by "
    "no_bias_correction signed rounding overflow leaky override"
).split()
"""Parameters of `qat_quant_options`."""
QUANT_NAMES = [*QAT_QUANT_NAMES, "absorb_biases", "bias_correction_by", "adaround"]
"""Parameters of `quant_options`."""


def parse_budget(text: str, kinds: Iterable[str]) -> tuple[str, float, bool]:
    """Parse ``macs=0.5x``, half of what there is, ``macs=0.5``, the same, as nothing costs up to 1, or ``macs=2e6``.

    Returns:
        What is counted, the value, whether it is a share.

    Raises:
        YoloHwError: It is none of them, or nothing is counted under that name.
    """
    kinds = list(kinds)
    match = re.fullmatch(r"([a-z]+)=([0-9]*\.?[0-9]+(?:e[0-9]+)?)(x?)", text)
    if match is None:
        raise YoloHwError(f"--budget must be KIND=VALUE or KIND=SHAREx, such as {kinds[0]}=0.5x, got '{text}'")
    if match[1] not in kinds:
        known = ", ".join(kinds)
        raise YoloHwError(f"--budget: kind must be one of {known}, got '{match[1]}'{nearest(match[1], kinds)}")
    value = float(match[2])
    return match[1], value, bool(match[3]) or value <= 1


def refuse_unheeded(names: list[str], where: str) -> None:
    """Refuse options that were given, but have no effect here.

    Raises:
        YoloHwError: Names the option.
    """
    context = click.get_current_context()
    typed = {parameter.name: parameter.opts[0] for parameter in context.command.params}
    for name in names:
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise YoloHwError(f"{typed[name]} has no effect on {where}: leave it out")


def class_names(path: Path | None, count: int) -> tuple[str, ...]:
    """Return the class names of a file, or numbers.

    Raises:
        YoloHwError: The file has another number of classes.
    """
    if path is None:
        return tuple(str(i) for i in range(count))
    names = read_names(path)
    if len(names) != count:
        raise YoloHwError(f"{path}: the network has {count} classes, the file {len(names)} names")
    return names
