# SPDX-License-Identifier: Apache-2.0
"""Which quantiser a `ScaleMethod` names."""

from __future__ import annotations

from yolo_hw.quant.qat.config import ScaleMethod
from yolo_hw.quant.qat.quantiser import FixedQuantiser, Grid, LsqQuantiser, Quantiser, RangeQuantiser, TqtQuantiser
from yolo_hw.quant.qat.seed.cosine import CosineQuantiser
from yolo_hw.quant.qat.seed.dorefa import DorefaActivations, DorefaWeights
from yolo_hw.quant.qat.seed.google import GoogleFloatQuantiser, GoogleQuantiser
from yolo_hw.quant.qat.seed.tpsq import TpsqQuantiser

_FOLLOWING = {
    ScaleMethod.RANGE: RangeQuantiser,
    ScaleMethod.GOOGLE: GoogleQuantiser,
    ScaleMethod.GOOGLE_FLOAT: GoogleFloatQuantiser,
}
_OTHERS = {
    ScaleMethod.TQT: TqtQuantiser,
    ScaleMethod.LSQ: LsqQuantiser,
    ScaleMethod.FIXED: FixedQuantiser,
    ScaleMethod.TPSQ: TpsqQuantiser,
    ScaleMethod.COSINE_PTQ: CosineQuantiser,
}


def make_quantiser(
    method: ScaleMethod, grid: Grid, channels: int = 1, momentum: float = 1.0, *, of_weights: bool = False
) -> Quantiser:
    """Return the quantiser of a method.

    Args:
        method: Its name.
        grid: Word length, sign, rounding, overflow.
        channels: 1 for one step per tensor, else the size of dimension 0.
        momentum: Weight of a batch's range, for methods that follow it.
        of_weights: Whether it rounds weights, which `ScaleMethod.DOREFA` treats in another way than activations.
    """
    if method in _FOLLOWING:
        return _FOLLOWING[method](grid, channels, momentum)
    if method is ScaleMethod.DOREFA:
        return DorefaWeights(grid, channels) if of_weights else DorefaActivations(grid, channels)
    return _OTHERS[method](grid, channels)
