# SPDX-License-Identifier: Apache-2.0
"""The options of a choice of channels."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from yolo_hw.errors import PruneError
from yolo_hw.prune.importance import Importance
from yolo_hw.prune.multiples import Narrow, Rounding
from yolo_hw.prune.plan import DeadBias
from yolo_hw.prune.ranking import Scope
from yolo_hw.prune.reduce import Normalisation, Reduction
from yolo_hw.prune.select import Budget, Policy


@dataclass(frozen=True, kw_only=True)
class PruneConfig:
    """How channels are chosen. What is None is up to the method.

    Attributes:
        method: A name of `yolo_hw.prune.METHODS`.
        ratio: Share of the eligible units to remove, in [0, 1); of each group under the local scope.
        budget: What the network may cost instead.
        importance: A name of `yolo_hw.prune.IMPORTANCES`, or a function of a layer's tensors.
        scope: What is ranked together.
        policy: How layers that a sum joins agree by votes; None ranks the reduced scores instead.
        reduction: How the scores of such layers become one.
        normalisation: Of each layer's scores before that.
        multiple_of: What the number of output channels of every prunable layer must be a multiple of, TM of a tile.
        input_multiple_of: The same of input channels, TN of a tile.
        rounding: Which multiple a count goes to.
        narrow: What to do where the width of a group does not reach a multiple.
        min_channels: The fewest units a group keeps.
        min_share: The smallest share of its units a group keeps.
        include: Layers whose channels may go: names, globs, ``re:``, ``type:``, ranges ``a ~ b``; None is all.
        exclude: Layers whose channels stay.
        dead_bias: What becomes of the constants that pruned channels emit.
        blocks: Residual blocks to remove, for the methods that remove layers.
        seed: Of random choices.
    """

    method: str = "regular"
    ratio: float | None = None
    budget: Budget | None = None
    importance: str | Importance | None = None
    scope: Scope | None = None
    policy: Policy | None = None
    reduction: Reduction | None = None
    normalisation: Normalisation | None = None
    multiple_of: int | None = None
    input_multiple_of: int = 1
    rounding: Rounding = Rounding.UP
    narrow: Narrow = Narrow.ERROR
    min_channels: int = 1
    min_share: float | None = None
    include: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()
    dead_bias: DeadBias | None = None
    blocks: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check what needs no model.

        Raises:
            PruneError: A number is out of range, or ratio and budget are both given.
        """
        if self.ratio is not None and self.budget is not None:
            raise PruneError("prune: either ratio or budget must be given, got both")
        if self.ratio is not None and not 0 <= self.ratio < 1:
            raise PruneError(f"prune: ratio must be at least 0 and below 1 (1 would leave nothing), got {self.ratio}")
        for name in ("multiple_of", "input_multiple_of", "min_channels"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise PruneError(f"prune: {name} must be at least 1, got {value}")
        if self.min_share is not None and not 0 <= self.min_share <= 1:
            raise PruneError(f"prune: min_share must be in [0, 1], got {self.min_share}")
        if self.blocks < 0:
            raise PruneError(f"prune: blocks must not be negative, got {self.blocks}")


ENUM_FIELDS: dict[str, type[Enum]] = {
    "scope": Scope,
    "policy": Policy,
    "reduction": Reduction,
    "normalisation": Normalisation,
    "rounding": Rounding,
    "narrow": Narrow,
    "dead_bias": DeadBias,
}
"""Fields of `PruneConfig` that are enumerations."""
