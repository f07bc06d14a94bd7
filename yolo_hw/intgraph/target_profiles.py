# SPDX-License-Identifier: Apache-2.0
"""The target profiles that come with the library, and reading others from a file.

The numbers are those of published source code, named in each profile's `about`. None of these accelerators was run:
a profile says which integers a target of that kind can take, not that its driver takes this library's files.
"""

from __future__ import annotations

import json
from dataclasses import fields, replace
from enum import Enum
from pathlib import Path
from typing import Any, get_type_hints

import tomlkit
from tomlkit.exceptions import TOMLKitError

from yolo_hw.errors import QuantError, nearest
from yolo_hw.fixedpoint import Overflow, Rounding
from yolo_hw.intgraph.schema import first_violation
from yolo_hw.intgraph.target import Slope, Span, TargetProfile

GENERIC = TargetProfile(
    name="generic",
    about="The numeric contract of this library and of the accelerator it exports (docs/numerics.md), nothing else.",
)

DPU_LIKE = TargetProfile(
    name="dpu-like",
    about="An int8 engine with the rules that Vitis AI and AMD Quark publish in refine.py for the DPU: DPU_ROUND is "
    "floor(x + 1/2); power-of-two scales per tensor; shift_cut = wpos + ipos - opos in 0..16; leaky only 26/256; "
    "add reads its inputs with shift_read 0..7 (Quark; Vitis AI: 0..15, the narrower is taken) and writes with "
    "shift_write -15..15; concat and pool at equal positions; 8-bit biases, as its quantiser "
    "makes them, with shift_bias up to 15 (Quark; Vitis "
    "AI: 16). Signed 8-bit image. Not modelled: negative shift_bias (a bias finer than the accumulator, which the "
    "contract would round once, the DPU elsewhere); the accumulator's width, which is not published (32 is "
    "taken); the DPU's own approximations of sigmoid, hard-sigmoid and average, which are this library's tables "
    "and reciprocals here; position ranges of sigmoid (input 0..15, output >= 7).",
    roundings=(Rounding.HALF_UP,),
    overflows=(Overflow.SATURATE,),
    w_bits=(8,),
    a_bits=(8,),
    unsigned=False,
    image_bytes=False,
    per_channel=False,
    conv_shift=Span(0, 16),
    element_shift=Span(-15, 15),
    align_shift=Span(0, 7),
    acc_bits=32,
    bias_bits=8,
    bias_shift=Span(0, 15),
    leaky=(Slope(26, 8),),
    activations=("linear", "leaky", "relu", "relu6", "logistic", "h_sigmoid"),
    table_bits=8,
    ops=("conv2d", "add", "mul", "avgpool", "maxpool", "concat", "slice", "upsample"),
)

DHM_INT16 = TargetProfile(
    name="dhm-int16",
    about="The 16-bit engine of dhm2013724/yolov2_xilinx_fpga with INTERWIDTH = 19: Q of 0..15 per tensor for maps "
    "(IQ, OQ), weights (WQ) and 16-bit biases (BQ); asserts 0 <= WQ + IQ - 19, 19 - BQ, 19 - OQ < 32; floor; wrap; "
    "leaky 0xccc / 2**15. With the asserts the accumulator has 19..30 fraction bits, and a bias is shifted left "
    "by WQ + IQ - BQ, 4..30. Add and upsample as in its fork for YOLOv3. Not modelled: every *product* is shifted "
    "right by WQ + IQ - 19 before it is summed, while the contract rounds once, after the sum, so codes differ "
    "from the engine's wherever WQ + IQ > 19 (about half a unit of 2**-19 per product); leaky's two floors; sums "
    "of 2**12 and above, which its 32-bit accumulator of 19 fraction bits cannot hold; kernel sizes, depthwise "
    "groups, pool strides.",
    roundings=(Rounding.FLOOR,),
    overflows=(Overflow.WRAP,),
    w_bits=(16,),
    a_bits=(16,),
    unsigned=False,
    image_bytes=False,
    per_channel=False,
    conv_shift=Span(4, 30),
    align_shift=Span(0, 15),
    acc_frac=Span(19, 30),
    bias_bits=16,
    bias_shift=Span(4, 30),
    a_frac=Span(0, 15),
    w_frac=Span(0, 15),
    leaky=(Slope(0xCCC, 15),),
    activations=("linear", "leaky", "relu"),
    table_bits=0,
    ops=("conv2d", "add", "maxpool", "concat", "upsample", "reorg"),
)

SHIFT_LEAKY = TargetProfile(
    name="shift-leaky",
    about="The generic contract without a multiplier behind the accumulator: leaky is a right shift by 3 (1/8, as the "
    "predecessor's FPGA classes had it) or by another whole number of bits. A network trained with 0.1 computes "
    "another function with 1/8: 108 of the 128 negative bytes differ; train it with the slope it will have.",
    leaky=(Slope(1, 3), *(Slope(1, shift) for shift in (1, 2, 4, 5, 6, 7, 8))),
)

HLS4ML_LIKE = TargetProfile(
    name="hls4ml-like",
    about="What hls4ml makes of a QONNX graph with ROUND quantisers: ap_fixed with AP_RND_CONV and AP_SAT (or "
    "AP_SAT_SYM for narrow ones), one type per tensor, weights and maps alike; leaky 1/8, the slope with which "
    "its C simulation was seen to give the same codes. Not modelled: the width of accum_t, which its "
    "configuration chooses (48 bits here); resources and unroll limits; pools whose stride is not their size, "
    "which its streaming mode refuses; tables, which it fills by its own rule (none are allowed here).",
    roundings=(Rounding.HALF_EVEN,),
    overflows=(Overflow.SATURATE, Overflow.SATURATE_SYMMETRIC),
    per_channel=False,
    leaky=(Slope(1, 3),),
    activations=("linear", "leaky", "relu"),
    table_bits=0,
    ops=("conv2d", "add", "mul", "avgpool", "maxpool", "concat", "upsample"),
)

NNGEN_LIKE = TargetProfile(
    name="nngen-like",
    about="The rounding of NNgen's requantiser: half away from zero, symmetric clipping, signed codes; leaky by a "
    "multiplier, its round(0.1 * 2**31) / 2**31 here as 6554 / 2**16. Not modelled: NNgen multiplies by an "
    "integer scale before the shift and keeps a float scale per map, while the contract's scales are powers of "
    "two, the case in which that integer is 1; biases are stored at the accumulator's fraction bits.",
    roundings=(Rounding.HALF_AWAY,),
    overflows=(Overflow.SATURATE_SYMMETRIC,),
    unsigned=False,
    image_bytes=False,
    per_channel=False,
    conv_shift=Span(0, 47),
    leaky=(Slope(6554, 16), Slope(1, 3)),
    activations=("linear", "leaky", "relu"),
    table_bits=0,
    ops=("conv2d", "add", "mul", "avgpool", "maxpool", "concat", "slice", "upsample"),
)

TARGETS: dict[str, TargetProfile] = {
    profile.name: profile for profile in (GENERIC, DPU_LIKE, DHM_INT16, SHIFT_LEAKY, HLS4ML_LIKE, NNGEN_LIKE)
}
"""The profiles by name."""


def find_target(name: str) -> TargetProfile:
    """Return a profile of `TARGETS`, or of a file whose name ends in ``.toml`` or ``.json``.

    Raises:
        QuantError: There is none of that name, or the file is no profile.
    """
    if name.endswith((".toml", ".json")):
        return load_target(Path(name))
    if name not in TARGETS:
        raise QuantError(
            f"target '{name}' is unknown{nearest(name, TARGETS)}; it must be one of {', '.join(TARGETS)}, or a file "
            ".toml or .json"
        )
    return TARGETS[name]


def load_target(path: Path) -> TargetProfile:
    """Read a profile from TOML or JSON.

    The keys are the fields of `TargetProfile`, `name` and `about` are required; ``base`` names the profile of `TARGETS`
    that gives all fields left out (default: generic). Spans and slopes are arrays of two integers; ``leaky = "any"``
    allows every slope, ``activations = "any"`` every function.

    Raises:
        QuantError: The file cannot be read, or breaks the schema; names the place.
    """
    try:
        text = path.read_text("utf-8")
        document: Any = tomlkit.parse(text).unwrap() if path.suffix == ".toml" else json.loads(text)
    except (OSError, ValueError, TOMLKitError) as error:
        raise QuantError(f"{path}: a target profile must be readable TOML or JSON: {error}") from None
    wrong = first_violation(document, target_schema())
    if wrong is not None:
        raise QuantError(f"{path}: {wrong}")
    base = TARGETS[document.pop("base", GENERIC.name)]
    try:
        return replace(base, **{field: _value(field, value) for field, value in document.items()})
    except QuantError as error:
        raise QuantError(f"{path}: {error}") from None


def _value(field: str, value: Any) -> Any:  # noqa: ANN401
    """Turn a value of a document that follows the schema into a field's."""
    hint = get_type_hints(TargetProfile)[field]
    if hint is Span:
        return Span(*value)
    if value == "any" and field in ("leaky", "activations"):
        return None
    if field == "leaky":
        return tuple(Slope(*slope) for slope in value)
    if field in _ENUMS:
        return tuple(_ENUMS[field](entry) for entry in value)
    return tuple(value) if isinstance(value, list) else value


_ENUMS: dict[str, type[Enum]] = {"roundings": Rounding, "overflows": Overflow}


def target_schema() -> dict[str, Any]:
    """Return the JSON Schema of a profile file, made from the fields of `TargetProfile`."""
    integer = {"type": "integer"}
    pair = {"type": "array", "items": integer, "minItems": 2, "maxItems": 2}
    shapes: dict[Any, dict[str, Any]] = {
        str: {"type": "string", "minLength": 1},
        bool: {"type": "boolean"},
        int: integer,
        Span: pair,
        tuple[int, ...]: {"type": "array", "items": integer, "minItems": 1},
        tuple[str, ...]: {"type": "array", "items": {"type": "string"}, "minItems": 1},
        tuple[str, ...] | None: {
            "anyOf": [{"const": "any"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]
        },
        tuple[Slope, ...] | None: {"anyOf": [{"const": "any"}, {"type": "array", "items": pair, "minItems": 1}]},
    }
    for key, values in ((tuple[Rounding, ...], list(Rounding)), (tuple[Overflow, ...], list(Overflow))):
        shapes[key] = {"type": "array", "items": {"enum": [value.value for value in values]}, "minItems": 1}
    hints = get_type_hints(TargetProfile)
    properties: dict[str, Any] = {field.name: shapes[hints[field.name]] for field in fields(TargetProfile)}
    return {
        "type": "object",
        "properties": {**properties, "base": {"enum": list(TARGETS)}},
        "required": ["name", "about"],
        "additionalProperties": False,
    }
