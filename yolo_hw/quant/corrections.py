# SPDX-License-Identifier: Apache-2.0
"""What is done about rounding after formats are chosen: biases that take up mean errors, weights rounded by choice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from yolo_hw.quant.adaround import adaround
from yolo_hw.quant.bias_correction import correct_biases, correct_biases_analytically
from yolo_hw.quant.config import CorrectBy
from yolo_hw.quant.folded import FoldedGraph
from yolo_hw.quant.moments import Moments
from yolo_hw.quant.paired import adopt_codes
from yolo_hw.quant.plan import ConvCodes, QuantPlan


@dataclass(frozen=True, eq=False)
class Corrected:
    """A graph after the corrections that a plan's options ask for.

    Attributes:
        graph: The network with corrected biases.
        chosen: Weight codes that replace those rounded to nearest.
        notes: What could not be done, one sentence each.
    """

    graph: FoldedGraph
    chosen: dict[str, ConvCodes] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def correct_rounding(
    graph: FoldedGraph,
    plan: QuantPlan,
    images: list[npt.NDArray[np.uint8]],
    moments: dict[str, Moments],
    progress: Callable[[str, int, int], None] | None = None,
) -> Corrected:
    """Correct the biases and choose the weights' rounding, as the options of `plan` say.

    Args:
        graph: The folded network.
        plan: Its formats, and codes rounded to nearest.
        images: Calibration images, batches [N, H, W, C].
        moments: What the model's batch norms know.
        progress: Called after every node.
    """
    config = plan.config
    by_images = config.bias_correction and config.bias_correction_by is CorrectBy.IMAGES
    chosen: dict[str, ConvCodes] = {}
    if config.adaround is not None:
        graph, chosen = adaround(graph, plan, images, correct_means=by_images, progress=progress)
    elif by_images:
        graph = correct_biases(graph, plan, images, progress)
    if not config.bias_correction or by_images:
        return Corrected(graph, chosen)
    graph, unknown = correct_biases_analytically(graph, adopt_codes(graph, plan, chosen), moments)
    known_of = "bias correction by batch_norm: nothing is known of some channels that these layers read"
    return Corrected(graph, chosen, [f"{known_of}: {', '.join(unknown)}"] if unknown else [])
