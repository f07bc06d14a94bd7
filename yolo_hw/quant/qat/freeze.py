# SPDX-License-Identifier: Apache-2.0
"""The points of a training at which what moves with the batches comes to rest."""

from __future__ import annotations

from yolo_hw.errors import QuantError
from yolo_hw.quant.qat.model import QatModel
from yolo_hw.train.state import Callback, TrainState


class FreezeQat(Callback):
    """Freezes batch-norm statistics and fraction bits after given shares of a run.

    Before the freeze a layer is normalised by each batch, after it as in hardware; the last part of a run lets the
    weights settle for that. Whether something is frozen is part of the model's state, so a resumed run goes on alike.
    """

    def __init__(self, norms_at: float = 0.7, scales_at: float = 0.9) -> None:
        """Choose the points.

        Args:
            norms_at: Share of the steps after which batch-norm statistics rest, in [0, 1].
            scales_at: Share of the steps after which fraction bits rest, in [0, 1].

        Raises:
            QuantError: A share is not in [0, 1].
        """
        for name, share in (("norms_at", norms_at), ("scales_at", scales_at)):
            if not 0 <= share <= 1:
                raise QuantError(f"{name} must be a share of the steps in [0, 1], got {share}")
        self.norms_at, self.scales_at = norms_at, scales_at

    def on_start(self, state: TrainState) -> None:
        """Check the model; a share of 0 freezes before the first step."""
        if not isinstance(state.model, QatModel):
            raise QuantError(f"FreezeQat: the model must come from prepare_qat, got {type(state.model).__name__}")
        self._apply(state)

    def on_step(self, state: TrainState, terms: dict[str, float]) -> None:
        """Freeze what is due."""
        self._apply(state)

    def _apply(self, state: TrainState) -> None:
        for share, freeze in ((self.norms_at, QatModel.freeze_norms), (self.scales_at, QatModel.freeze_scales)):
            if state.step >= share * state.total_steps:
                assert isinstance(state.model, QatModel)
                freeze(state.model)
