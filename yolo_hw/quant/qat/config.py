# SPDX-License-Identifier: Apache-2.0
"""Options of quantisation-aware training that post-training quantisation does not have."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from yolo_hw.errors import QuantError
from yolo_hw.quant.enum_fields import convert_enum_fields


class ScaleMethod(str, Enum):
    """How the fraction bits of a tensor follow the training."""

    TQT = "tqt"
    """The logarithm of a threshold is trained (Jain et al., MLSys 2020)."""
    LSQ = "lsq"
    """The step is trained and rounded to a power of two (Esser et al., ICLR 2020)."""
    RANGE = "range"
    """The finest step that clips nothing: of a moving average of the batches' ranges, of weights as they are."""
    FIXED = "fixed"
    """Calibration decides, training does not change it."""
    GOOGLE = "google"
    """As `RANGE`, but the power of two nearest to the range: up to a third of it is clipped."""
    GOOGLE_FLOAT = "google-float"
    """As `GOOGLE` without the power of two."""
    DOREFA = "dorefa"
    """Weights on a grid over their own range behind a tanh, activations on a fixed one (Zhou et al., 2016)."""
    TPSQ = "tpsq"
    """The threshold itself is trained, the power of two nearest to it clips."""
    COSINE_PTQ = "cosine-ptq"
    """Calibration batches vote by cosine similarity, training does not change it."""

    @property
    def learns(self) -> bool:
        """Whether the step is a parameter."""
        return self in (ScaleMethod.TQT, ScaleMethod.LSQ, ScaleMethod.TPSQ)

    @property
    def power_of_two(self) -> bool:
        """Whether the step is one, without which a tensor has no integer form."""
        return self not in (ScaleMethod.GOOGLE_FLOAT, ScaleMethod.DOREFA)


class NormFold(str, Enum):
    """How a batch norm takes part in training while its statistics still move.

    Once they are frozen all that fold are one: the weights are folded with the running statistics, as they will be in
    hardware.
    """

    ONE_PASS = "one-pass"  # noqa: S105 - no password
    """Fold with the running variance, normalise the quantised convolution's result; one convolution."""
    TWO_PASS = "two-pass"  # noqa: S105
    """Statistics from a float convolution, fold with the running variance, correct by the ratio to the batch's
    (Krishnamoorthi, 2018, section 3.2.2)."""
    BATCH = "batch"
    """Statistics from a float convolution, fold with them (Jacob et al., CVPR 2018, section 3.2): the weights that are
    quantised change from batch to batch, and once more at the freeze."""
    NONE = "none"
    """Do not fold: the weights are quantised without the norm, which stays a float operation behind the convolution. It
    has no integer form; for comparison."""

    @property
    def folds(self) -> bool:
        """Whether the norm is part of the weights that are quantised."""
        return self is not NormFold.NONE


class HeadForm(str, Enum):
    """What becomes of the layers that compute the outputs of the network."""

    QUANTISED = "quantised"
    """They are layers like all others."""
    WIDE = "wide"
    """Weights and outputs have 16 bits, in training and in the integer graph."""
    FLOAT = "float"
    """Training does not round them until scales are frozen; evaluation and the integer graph are those of `WIDE`, with
    the finest steps that clip nothing."""


@dataclass(frozen=True, kw_only=True)
class QatConfig:
    """How a network is trained in its quantised form."""

    w_scale: ScaleMethod = ScaleMethod.TQT
    """Fraction bits of the weights."""
    a_scale: ScaleMethod = ScaleMethod.TQT
    """Fraction bits of the activations."""
    norm_fold: NormFold = NormFold.ONE_PASS
    """Batch norms before their statistics are frozen."""
    heads: HeadForm = HeadForm.QUANTISED
    """The layers that compute the outputs of the network."""
    range_momentum: float = 0.1
    """Weight of a batch in the moving average of `ScaleMethod.RANGE` and the two of google, and of float heads."""

    def __post_init__(self) -> None:
        convert_enum_fields(self)
        if not 0 < self.range_momentum <= 1:
            raise QuantError(f"range_momentum must be in (0, 1], got {self.range_momentum}")
