# SPDX-License-Identifier: Apache-2.0
"""``yolo-hw prune --method eagleeye``: the search of `yolo_hw.prune.eagleeye` on a data set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from yolo_hw.cli.console import advance_all, progress_bar
from yolo_hw.data.preprocess import Resize
from yolo_hw.errors import PruneError
from yolo_hw.nn.darknet import Darknet
from yolo_hw.prune.config import PruneConfig
from yolo_hw.prune.darknet_prune import DarknetPlan, Pruned
from yolo_hw.prune.eagleeye import EagleEyeConfig, eagleeye
from yolo_hw.prune.plan import DeadBias
from yolo_hw.prune.random_widths import Band
from yolo_hw.prune.scoring import Statistics
from yolo_hw.prune.search_data import SearchDataConfig, open_search_data
from yolo_hw.search_log import Progress as SearchProgress
from yolo_hw.train.callbacks import MEASURING

DEFAULT_RATIO = 0.5


def search_channels(
    model: Darknet,
    names: tuple[str, ...],
    config: PruneConfig,
    statistics: Statistics | None,
    options: dict[str, Any],
) -> Pruned:
    """Search, and return the best candidate with its batch norms adapted.

    Args:
        model: The trained model.
        names: Its classes.
        config: Method eagleeye: `ratio` is the share of multiply-accumulates to remove.
        statistics: What the criterion needs beyond the weights.
        options: ``data``, ``train_split``, ``candidates``, ``delta``, ``adapt_images``, ``score_images``, ``resize``,
            ``log``.

    Raises:
        PruneError: There are no labelled training images, or see `eagleeye`.
    """
    if options["data"] is None or not names:
        raise PruneError("--method eagleeye scores candidates on labelled training images: give --data and --names")
    ratio = DEFAULT_RATIO if config.ratio is None else config.ratio
    settings = EagleEyeConfig(
        band=Band(share=1 - ratio, delta=options["delta"]),
        candidates=options["candidates"],
        channels=replace(config, ratio=None),  # the share of multiply-accumulates is the band's
    )
    detector = replace(MEASURING, resize=Resize(options["resize"]))
    wanted = SearchDataConfig(
        adapt=options["adapt_images"], held_out=options["score_images"], detector=detector, seed=config.seed
    )
    data = open_search_data(options["data"], model.network.input, names, wanted, split=options["train_split"])
    log: Path | None = options["log"]
    with progress_bar("candidates", settings.candidates) as progress:

        def report(done: SearchProgress) -> None:
            advance_all(progress)

        result = eagleeye(model, data.batches, data.score, settings, log=log, report=report, statistics=statistics)
    done = replace(config, importance=config.importance or "l1", dead_bias=config.dead_bias or DeadBias.TRANSFER)
    return Pruned(result.best.model, DarknetPlan(done, model, result.best.surgery.plan), result.best.surgery)
