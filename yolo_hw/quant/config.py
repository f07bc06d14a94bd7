# SPDX-License-Identifier: Apache-2.0
"""Options of post-training quantisation."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any

from yolo_hw.errors import QuantError
from yolo_hw.fixedpoint import Overflow, Rounding
from yolo_hw.intgraph.requant import NumericContract
from yolo_hw.intgraph.target import TargetProfile
from yolo_hw.intgraph.target_profiles import GENERIC, TARGETS, find_target
from yolo_hw.quant.enum_fields import convert_enum_fields

BITS = (*range(2, 9), 16)
"""Word lengths of weights and activations."""

DEFAULT_BITS = 8

_OF_TARGET: Any = None
"""Default of the options that the target decides; `QuantConfig` replaces it by the target's value."""


class Observer(str, Enum):
    """How the fraction bits of a tensor are chosen from what was seen in calibration."""

    MAX = "max"
    """The finest step with which nothing is clipped."""
    PERCENTILE = "percentile"
    """The finest step with which at most 1 - `percentile` of the values are clipped."""
    MSE = "mse"
    """The step with the smallest mean squared error."""
    COSINE = "cosine"
    """The step with the largest cosine similarity between the values and their rounded form."""
    KL = "kl"
    """The step whose codes keep most of the values' distribution (`yolo_hw.quant.divergence`)."""


class EqualiseBy(str, Enum):
    """What channel equalisation makes even."""

    ACTIVATIONS = "activations"
    """The channel ranges of the maps, measured on the calibration images."""
    WEIGHTS = "weights"
    """The ranges of the weights on both sides of a tensor; helps where a layer has one step for all weights."""


class CorrectBy(str, Enum):
    """Where bias correction takes the mean rounding error from."""

    IMAGES = "images"
    """Measured on the calibration images."""
    BATCH_NORM = "batch_norm"
    """Computed from the statistics in the batch norms; no image takes part."""


@dataclass(frozen=True, kw_only=True)
class AdaRoundConfig:
    """How AdaRound searches (`yolo_hw.quant.adaround`)."""

    iterations: int = 500
    """Steps of the optimiser per layer."""
    patches: int = 4096
    """Output positions sampled per layer, over all images."""
    batch: int = 256
    """Positions per step."""
    learning_rate: float = 0.03
    """Of Adam."""
    regulariser: float = 0.1
    """Weight of the pressure towards whole codes, relative to the layer's error under rounding to nearest."""
    seed: int = 0
    """Of the sampling."""

    def __post_init__(self) -> None:
        for name in ("iterations", "patches", "batch"):
            if getattr(self, name) < 1:
                raise QuantError(f"adaround {name} must be at least 1, got {getattr(self, name)}")
        for name in ("learning_rate", "regulariser"):
            if not 0 < getattr(self, name) < float("inf"):
                raise QuantError(f"adaround {name} must be positive, got {getattr(self, name)}")


@dataclass(frozen=True)
class LeakySlope:
    """Integer form of leaky's negative slope: ``mul * 2**-shift``."""

    mul: int = 51
    shift: int = 9
    """51 / 2**9 rounds like 0.1 on every negative int8 code (docs/numerics.md, section 3)."""

    def __post_init__(self) -> None:
        if not (0 < self.mul < 1 << 16 and 0 <= self.shift < 32):
            raise QuantError(
                f"leaky slope: mul must be in [1, 65535] and shift in [0, 31], got {self.mul}, {self.shift}"
            )

    def __str__(self) -> str:
        return f"{self.mul}/{self.shift}"


@dataclass(frozen=True)
class Override:
    """Word lengths of the layers whose name matches a glob pattern.

    Attributes:
        pattern: For example ``conv_0`` or ``conv_12*``.
        w_bits: Bits of the weights, None keeps the default.
        a_bits: Bits of the layer's output, None keeps the default.
    """

    pattern: str
    w_bits: int | None = None
    a_bits: int | None = None

    @classmethod
    def parse(cls, text: str) -> Override:
        """Parse ``PATTERN:w=8,a=16``."""
        pattern, colon, rest = text.partition(":")
        values: dict[str, int] = {}
        try:
            for item in rest.split(","):
                key, _, value = item.partition("=")
                name = {"w": "w_bits", "a": "a_bits"}[key.strip()]
                if name in values:
                    raise KeyError(name)
                values[name] = int(value)
        except (KeyError, ValueError):
            colon = ""
        if not colon or not pattern:
            raise QuantError(f"an override must be PATTERN:w=BITS,a=BITS (one may be left out), got '{text}'")
        return cls(pattern, **values)


@dataclass(frozen=True, kw_only=True)
class QuantConfig:
    """How a network is brought to integers."""

    target: str | TargetProfile = GENERIC.name
    """What will compute the network: a name of `TARGETS`, a profile, or the file of one (.toml, .json), read once."""
    w_bits: int = _OF_TARGET
    """Bits of the weights, sign included. Default: 8 where the target has them, else its most."""
    a_bits: int = _OF_TARGET
    """Bits of the activations, with the same default."""
    w_observer: Observer = Observer.MSE
    """Chooses the weights' fraction bits."""
    a_observer: Observer = Observer.MSE
    """Chooses the activations' fraction bits."""
    percentile: float = 99.99
    """For `Observer.PERCENTILE`, in percent."""
    per_channel: bool = _OF_TARGET
    """One number of fraction bits per output channel of the weights, else one per layer. Default: as the target can."""
    equalise: float | None = 0.5
    """Strength of channel equalisation behind dense convolutions in [0, 1]; depthwise ones get all of it; None: off."""
    equalise_by: EqualiseBy = EqualiseBy.ACTIVATIONS
    """What equalisation makes even; the strength concerns activations only."""
    absorb_biases: bool = False
    """Hand the part of a channel that never falls on to the next layer's bias, which shrinks the tensor's range."""
    bias_correction: bool = True
    """Move the mean rounding error of every channel into the bias."""
    bias_correction_by: CorrectBy = CorrectBy.IMAGES
    """Where the mean error comes from."""
    adaround: AdaRoundConfig | None = None
    """Round weights up or down so that each layer's output stays closest; None rounds to nearest."""
    unsigned: bool = _OF_TARGET
    """Activations that cannot be negative (after relu, ...) use unsigned codes. Default: if the target can."""
    overrides: tuple[Override, ...] = ()
    """Per-layer word lengths; the last match wins."""
    rounding: Rounding = _OF_TARGET
    """Rounding of weights, activations and of the datapath alike. Default: the target's, half_up if it has any."""
    overflow: Overflow = _OF_TARGET
    """What happens to values outside their format. Default: the target's, saturate if it has any."""
    leaky: LeakySlope = _OF_TARGET
    """Integer form of leaky's slope. Default: the target's, 51 / 2**9 if it has any."""

    def __post_init__(self) -> None:
        if isinstance(self.target, str) and self.target not in TARGETS:
            object.__setattr__(self, "target", find_target(self.target))
        options = _target_options(self.profile)
        for name, allowed in options.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, allowed[0])
        convert_enum_fields(self)
        for name, allowed in options.items():
            if name in ("w_bits", "a_bits"):
                _check_bits(name, getattr(self, name))
            if self.profile.leaky is not None or name != "leaky":
                self._check_target(name, getattr(self, name), allowed)
        for override in self.overrides:
            if override.w_bits is None and override.a_bits is None:
                raise QuantError(f"override '{override.pattern}' must give w_bits, a_bits or both")
            for name, maybe in (("w", override.w_bits), ("a", override.a_bits)):
                if maybe is not None:
                    _check_bits(f"{override.pattern}:{name}", maybe)
                    allowed = self.profile.w_bits if name == "w" else self.profile.a_bits
                    self._check_target(f"{override.pattern}:{name}", maybe, allowed)
        if self.equalise is not None and not 0 <= self.equalise <= 1:
            raise QuantError(f"equalise must be in [0, 1], got {self.equalise}")
        if not 50 < self.percentile <= 100:
            raise QuantError(f"percentile must be in (50, 100], got {self.percentile}")

    def _check_target(self, option: str, found: object, allowed: tuple[object, ...]) -> None:
        if found not in allowed:
            known = ", ".join(_text(value) for value in allowed)
            raise QuantError(
                f"{option}={_text(found)} is not possible on target '{self.profile.name}', which has {known}"
            )

    @cached_property
    def profile(self) -> TargetProfile:
        """The target."""
        return find_target(self.target) if isinstance(self.target, str) else self.target

    def weight_bits(self, name: str) -> int:
        """Return the weight bits of layer `name`."""
        matches = [o.w_bits for o in self.overrides if o.w_bits and fnmatch.fnmatchcase(name, o.pattern)]
        return matches[-1] if matches else self.w_bits

    def activation_bits(self, name: str) -> int:
        """Return the bits of the output of layer `name`."""
        matches = [o.a_bits for o in self.overrides if o.a_bits and fnmatch.fnmatchcase(name, o.pattern)]
        return matches[-1] if matches else self.a_bits

    @property
    def contract(self) -> NumericContract:
        """The arithmetic of the integer graph.

        Accumulators have 32 bits, or 48 if any word has more than 8 bits and the target has more than 32.
        """
        widest = max(self.w_bits, self.a_bits, *[b or 0 for o in self.overrides for b in (o.w_bits, o.a_bits)], 0)
        return NumericContract(self.rounding, self.overflow, 32 if widest <= 8 or self.profile.acc_bits <= 32 else 48)


def _target_options(profile: TargetProfile) -> dict[str, tuple[Any, ...]]:
    """Return what the target allows of every option it decides, the default first."""
    slopes = (LeakySlope(),) if profile.leaky is None else tuple(LeakySlope(*slope) for slope in profile.leaky)
    return {
        "w_bits": _default_first(profile.w_bits),
        "a_bits": _default_first(profile.a_bits),
        "per_channel": (True, False) if profile.per_channel else (False,),
        "unsigned": (True, False) if profile.unsigned else (False,),
        "rounding": profile.roundings,
        "overflow": profile.overflows,
        "leaky": slopes,
    }


def _default_first(bits: tuple[int, ...]) -> tuple[int, ...]:
    default = DEFAULT_BITS if DEFAULT_BITS in bits else max(bits)
    return (default, *(b for b in bits if b != default))


def _text(value: object) -> str:
    return str(value.value if isinstance(value, Enum) else value)


def _check_bits(name: str, bits: int) -> None:
    if bits not in BITS:
        raise QuantError(f"{name} must be one of {', '.join(map(str, BITS))}, got {bits}")
