# SPDX-License-Identifier: Apache-2.0
"""Strategies for networks and for the options they are quantised with; what is printed of a failure rebuilds it."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from support.random_net import BLOCKS, COMMON_BLOCKS, make_net, net_cfg

from yolo_hw.fixedpoint import Overflow
from yolo_hw.intgraph.target import TargetProfile
from yolo_hw.intgraph.target_profiles import TARGETS
from yolo_hw.nn.darknet import Darknet
from yolo_hw.quant import AdaRoundConfig, CorrectBy, EqualiseBy, LeakySlope, Observer, Override, QuantConfig
from yolo_hw.quant.config import BITS
from yolo_hw.quant.qat import NormFold, QatConfig, ScaleMethod

SLOPES = (LeakySlope(), LeakySlope(1, 3), LeakySlope(26, 8), LeakySlope(3276, 15))


def _bits(allowed: tuple[int, ...]) -> st.SearchStrategy[int]:
    """Word lengths that calibration and target have; shrinks to 8 where it can."""
    return st.sampled_from(sorted(set(BITS) & set(allowed), key=lambda bits: abs(bits - 8)))


def _overrides(profile: TargetProfile) -> st.SearchStrategy[tuple[Override, ...]]:
    """Other word lengths for the first convolution or for all."""
    patterns = st.sampled_from(["conv_0", "conv_*"])
    override = st.builds(Override, patterns, _bits(profile.w_bits), _bits(profile.a_bits))
    return st.lists(override, max_size=1).map(tuple)


@st.composite
def quant_configs(draw: st.DrawFn, **options: st.SearchStrategy[Any]) -> QuantConfig:
    """Any target with any options it has; those after the target's own are named by the caller."""
    target = draw(st.sampled_from(list(TARGETS)))
    profile = TARGETS[target]
    slopes = SLOPES if profile.leaky is None else tuple(LeakySlope(*slope) for slope in profile.leaky)
    chosen = {
        "w_bits": _bits(profile.w_bits),
        "a_bits": _bits(profile.a_bits),
        "rounding": st.sampled_from(profile.roundings),
        "overflow": st.sampled_from(profile.overflows),
        "per_channel": st.booleans() if profile.per_channel else st.just(False),
        "unsigned": st.booleans() if profile.unsigned else st.just(False),
        "leaky": st.sampled_from(slopes),
        "w_observer": st.sampled_from(Observer),
        "a_observer": st.sampled_from(Observer),
        "equalise": st.sampled_from([None, 0.5, 1.0]),
        "equalise_by": st.sampled_from(EqualiseBy),
        "bias_correction": st.booleans(),
        "overrides": _overrides(profile),
        **options,
    }
    return QuantConfig(target=target, **{name: draw(strategy) for name, strategy in chosen.items()})


POST_TRAINING = {
    "absorb_biases": st.booleans(),
    "bias_correction_by": st.sampled_from(CorrectBy),
    "adaround": st.sampled_from([None, AdaRoundConfig(iterations=5)]),
}
"""Options of calibration that training replaces."""


@st.composite
def qat_configs(draw: st.DrawFn, config: QuantConfig) -> QatConfig:
    """Ways of training that keep the integer form; a threshold that wraps has no gradient."""
    wraps = config.overflow is Overflow.WRAP
    scales = [method for method in ScaleMethod if method.power_of_two and not (method.learns and wraps)]
    return QatConfig(
        w_scale=draw(st.sampled_from(scales)),
        a_scale=draw(st.sampled_from(scales)),
        norm_fold=draw(st.sampled_from([fold for fold in NormFold if fold.folds])),
    )


@st.composite
def nets(draw: st.DrawFn, config: QuantConfig, most: int = 4) -> tuple[list[str], tuple[int, int], int]:
    """Blocks that the target can compute, the image's height and width, the seed of the weights."""
    blocks = COMMON_BLOCKS if config.profile.activations is not None else sorted(BLOCKS)
    sides = st.sampled_from([8, 12, 16])
    return draw(st.lists(st.sampled_from(blocks), max_size=most)), (draw(sides), draw(sides)), draw(st.integers(0, 99))


def build_net(net: tuple[list[str], tuple[int, int], int]) -> Darknet:
    """Return a network of `nets`."""
    blocks, size, seed = net
    return make_net(net_cfg(blocks, size), seed)
