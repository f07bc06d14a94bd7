# SPDX-License-Identifier: Apache-2.0
"""EagleEye: of many random prunings of about equal cost, the one that is best once its batch norms have adapted.

Li et al., "EagleEye: Fast Sub-net Evaluation for Efficient Neural Network Pruning", ECCV 2020. A candidate takes a
random share of the units of every group, those with the smallest norms. Before it is scored its running statistics are
measured on training images: the order of candidates by that score is close to that after fine-tuning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from yolo_hw.errors import PruneError
from yolo_hw.nn.darknet import Darknet
from yolo_hw.prune.adapt_bn import adapt_batch_norms
from yolo_hw.prune.config import PruneConfig
from yolo_hw.prune.cost import CostKind, CostModel
from yolo_hw.prune.darknet_surgery import PrunedDarknet, prune_darknet
from yolo_hw.prune.multiples import Regular
from yolo_hw.prune.random_widths import Band, RandomWidths
from yolo_hw.prune.scoring import Statistics
from yolo_hw.prune.search_space import SearchSpace, refuse_options
from yolo_hw.search_log import Report, Row, SearchLog, fingerprint, finite, identity_of, no_report

Score = Callable[[nn.Module], float]
"""Model -> how good it is, higher is better; on images that neither train nor finally judge the model."""


@dataclass(frozen=True, kw_only=True)
class EagleEyeConfig:
    """Options of the search.

    Attributes:
        band: What candidates may cost and how they are drawn.
        candidates: How many are scored.
        channels: Which groups take part, by what criterion units go (the L1 norm unless given; of groups of several
            layers the mean), multiples, the fewest units, the seed. Ratio, budget, policy, scope and blocks have no
            meaning here.
    """

    band: Band = field(default_factory=Band)
    candidates: int = 200
    channels: PruneConfig = field(default_factory=lambda: PruneConfig(method="eagleeye"))

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            PruneError: One is out of range or has no meaning here.
        """
        if self.candidates < 1:
            raise PruneError(f"eagleeye: candidates must be at least 1, got {self.candidates}")
        names = ("ratio", "budget", "policy", "scope", "blocks")
        refuse_options(self.channels, names, "eagleeye", "the band says what candidates may cost")


@dataclass(frozen=True)
class EagleEyeResult:
    """The outcome of a search.

    Attributes:
        best: The best candidate as a compact model with adapted batch norms, and its plan.
        row: Its measurement.
        rows: One for each candidate: ``candidate``, its number; ``score``; ``macs`` and ``params``; ``share``, of the
            network's multiply-accumulates; ``channels``, group -> units kept.
    """

    best: PrunedDarknet
    row: Row
    rows: tuple[Row, ...]


class EagleEyeSearch:
    """The candidates of a model: a function of its weights and the config alone."""

    def __init__(self, model: Darknet, config: EagleEyeConfig, statistics: Statistics | None = None) -> None:
        """Draw the candidates.

        Args:
            model: The trained model; it is not changed.
            config: Options.
            statistics: What the criterion needs beyond the weights.

        Raises:
            PruneError: The band cannot be met, or see `eligible_groups`.
        """
        self.model, self.config = model, config
        channels = config.channels
        self.space = SearchSpace(model, channels, statistics)
        self.cost = CostModel.of_module(self.space.groups, model)
        self.regular = Regular(channels.rounding, channels.narrow)
        self.widths = RandomWidths(self.cost, [candidate.width for candidate in self.space.ranked], self.regular)
        self.draws, self.shares = self.widths.draw(config.candidates, config.band, channels.seed)

    def counts(self, index: int) -> dict[str, int]:
        """Return group -> units kept of candidate `index`."""
        return dict(zip((width.name for width in self.widths.widths), self.draws[index].tolist(), strict=True))

    def make(self, index: int, batches: Iterable[Tensor]) -> PrunedDarknet:
        """Return candidate `index` as a compact model with adapted batch norms."""
        pruned = prune_darknet(self.model, self.space.plan(self.counts(index)), self.space.dead_bias)
        adapt_batch_norms(pruned.model, batches)
        return pruned

    def measure(self, index: int, batches: Iterable[Tensor], score: Score) -> Row:
        """Return the row of candidate `index`."""
        counts = self.counts(index)
        candidate = self.make(index, batches)
        return {
            "candidate": index,
            "score": finite(score(candidate.model), f"eagleeye: the score of candidate {index}"),
            "macs": int(self.cost.price(CostKind.MACS, counts)),
            "params": sum(p.numel() for p in candidate.model.parameters()),
            "share": float(self.shares[index]),
            "channels": counts,
        }

    def fingerprint(self, batches: Iterable[Tensor], score: Score) -> str:
        """Return a hash of the model, the images and all that decides what is left of a candidate."""
        images = {f"batch {i}": batch for i, batch in enumerate(batches)}
        options = (self.space.identity(), self.regular, self.config.band, self.config.channels.seed, identity_of(score))
        return fingerprint({**self.model.state_dict(), **images}, *options)  # not their number: a search may go on


def eagleeye(
    model: Darknet,
    batches: Sequence[Tensor],
    score: Score,
    config: EagleEyeConfig | None = None,
    *,
    log: str | Path | None = None,
    report: Report = no_report,
    statistics: Statistics | None = None,
) -> EagleEyeResult:
    """Search the best of many random prunings.

    The same arguments give the same result; a search that was interrupted and goes on gives it, too.

    Args:
        model: The trained model; it is not changed.
        batches: Training images [N, C, H, W] as the model takes them, for the batch norms; gone through once for each
            candidate.
        score: Judges candidates by a held-out part of the training data (see `yolo_hw.prune.search_data`). What it
            depends on beside the model, its attribute `identity` must say if there is a log.
        config: Options.
        log: JSON file of the rows, written after each candidate. If there is one of the same search, its candidates are
            not scored again; more candidates than it has may be asked for.
        report: Called after every candidate.
        statistics: What the criterion needs beyond the weights.

    Returns:
        The best candidate, of equal scores the one of fewer multiply-accumulates, and all rows.

    Raises:
        PruneError: The band cannot be met; a score is no finite number; the log is of another search.
    """
    search = EagleEyeSearch(model, config or EagleEyeConfig(), statistics)
    rows = SearchLog(log, search.fingerprint(batches, score), "eagleeye").fill(
        search.config.candidates, lambda index: search.measure(index, batches, score), report
    )
    best = min(rows, key=lambda row: (-row["score"], row["macs"], row["candidate"]))
    return EagleEyeResult(search.make(best["candidate"], batches), best, tuple(rows))
