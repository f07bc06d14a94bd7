# SPDX-License-Identifier: Apache-2.0
"""The options of ``yolo-hw prune``, and what they turn into."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click

from hls_export.config import AcceleratorConfig
from hls_export.plan.estimate import conv_windows, estimate_cycles
from yolo_hw.cli.add_options import add_options
from yolo_hw.cli.options import BatchNormEpsilon, FilePath, parse_budget
from yolo_hw.darknet.network import Network
from yolo_hw.data.preprocess import Resize
from yolo_hw.nn.accounting import PROFILES
from yolo_hw.nn.darknet import DARKNET_BN_EPS
from yolo_hw.prune.config import ENUM_FIELDS, PruneConfig
from yolo_hw.prune.cost import CostKind, CycleEstimate
from yolo_hw.prune.figures import Accelerator
from yolo_hw.prune.importance import IMPORTANCES
from yolo_hw.prune.mask_file import MASKS
from yolo_hw.prune.methods import METHODS
from yolo_hw.prune.multiples import Narrow, Rounding
from yolo_hw.prune.pictures import COSTS_PICTURE, LAYERS_PICTURE
from yolo_hw.prune.plan import DeadBias
from yolo_hw.prune.ranking import Scope
from yolo_hw.prune.record import RECORD
from yolo_hw.prune.reduce import Normalisation, Reduction
from yolo_hw.prune.report import REPORT
from yolo_hw.prune.select import Budget, Policy

CONFIG = PruneConfig()
KINDS = [kind.value for kind in CostKind]
COUNT = click.IntRange(1)

F = TypeVar("F", bound=Callable[..., Any])


class MaskMethod(str, Enum):
    """Methods that leave out weights instead of channels; see `yolo_hw.cli.prune_masks`."""

    WEIGHTS = "weights"
    FILTER_MASKS = "filter-masks"
    GROUPS = "n-m"
    BLOCKS = "blocks"


EAGLEEYE = "eagleeye"
"""The method that searches; see `yolo_hw.cli.prune_search`."""
RESULT_SUFFIXES = (".cfg", ".weights", ".names")

METHOD_NAMES = (*METHODS, EAGLEEYE, *(method.value for method in MaskMethod))
"""What --method takes."""


def _choice(values: Iterable[Enum]) -> click.Choice[str]:
    return click.Choice([member.value for member in values])


OPTIONS = [
    click.option("--cfg", type=FilePath, required=True, help="Darknet cfg."),
    click.option("--weights", type=FilePath, help="Darknet weights; only --groups does without."),
    click.option("--out", type=FilePath, help="Folder of the results; older results there are replaced."),
    click.option("--method", type=click.Choice(METHOD_NAMES), default=CONFIG.method, show_default=True,
                 help="What goes and by which rule, see docs/prune.md."),
    click.option("--ratio", type=float, help="Share to remove, at least 0 and below 1."),
    click.option("--budget", metavar="KIND=VALUE|SHAREx", help="What the network may cost instead, such as macs=0.5x "
                 f"or params=2000000. Kinds: {', '.join(KINDS)}."),
    click.option("--importance", type=click.Choice(list(IMPORTANCES)), help="What a channel is worth. [default: the "
                 "method's]"),
    click.option("--scope", type=_choice(Scope), help="What is ranked together. [default: the method's]"),
    click.option("--policy", type=_choice(Policy), help="How layers that a sum joins agree by votes. [default: the "
                 "method's]"),
    click.option("--reduction", type=_choice(Reduction), help="How their scores become one. [default: the method's]"),
    click.option("--normalisation", type=_choice(Normalisation), help="Of each layer's scores before. [default: the "
                 "method's]"),
    click.option("--multiple-of", type=COUNT, help="Of the output channels of every layer. [default: TM of --tile, "
                 "else the method's]"),
    click.option("--input-multiple-of", type=COUNT, help="Of the input channels. [default: TN of --tile, else 1]"),
    click.option("--tile", metavar="TMxTN", help="The accelerator's tile: multiples, and cycles in budget and report."),
    click.option("--rounding", type=_choice(Rounding), default=CONFIG.rounding.value, show_default=True,
                 help="Which multiple a count goes to."),
    click.option("--narrow", type=_choice(Narrow), default=CONFIG.narrow.value, show_default=True,
                 help="What to do with widths that do not reach a multiple."),
    click.option("--min-channels", type=COUNT, default=CONFIG.min_channels, show_default=True,
                 help="The fewest units a group keeps."),
    click.option("--min-share", type=click.FloatRange(0, 1), help="The smallest share of its units a group keeps. "
                 "[default: the method's]"),
    click.option("--include", multiple=True, metavar="PATTERN", help="Layers whose channels may go: a name, a glob, "
                 "re:REGEX, type:KIND or 'a ~ b'; repeatable. [default: all]"),
    click.option("--exclude", multiple=True, metavar="PATTERN", help="Layers whose channels stay; repeatable."),
    click.option("--dead-bias", type=_choice(DeadBias), help="What becomes of the constants that pruned channels emit. "
                 "[default: the method's]"),
    click.option("--blocks", type=click.IntRange(0), default=CONFIG.blocks, show_default=True,
                 help="Residual blocks to remove, for the methods layer*."),
    click.option("--pattern", help="Of --method n-m, such as 2:4, or blocks, such as 'block(16x1)'."),
    click.option("--candidates", type=COUNT, default=200, show_default=True, help="Of --method eagleeye: how many "
                 "prunings are scored. Its --ratio is the share of multiply-adds to remove [default: 0.5]."),
    click.option("--delta", type=click.FloatRange(0, 1), default=0.05, show_default=True,
                 help="How far a candidate's share of multiply-adds may be from that."),
    click.option("--train-split", help="Part of --data that candidates adapt to and are scored on. [default: train]"),
    click.option("--adapt-images", type=COUNT, default=64, show_default=True, help="Of these, for batch norms."),
    click.option("--score-images", type=COUNT, default=128, show_default=True, help="Of these, for scores."),
    click.option("--log", type=FilePath, help="JSON file of the candidates; a search that broke off goes on there."),
    click.option("--seed", type=click.IntRange(0), default=CONFIG.seed, show_default=True, help="Of random choices."),
    click.option("--plan", "plan_file", type=FilePath, metavar="prune.json", help="Carry out this plan, as written or "
                 "edited, instead of choosing one."),
    click.option("--dry-run", is_flag=True, help="Print the plan and its figures; write nothing."),
    click.option("--groups", "show_groups", is_flag=True, help="Print the groups of channels; do nothing else."),
    click.option("--verify", is_flag=True, help="Compare the masked and the compact network in float64; exit code 1 if "
                 "they differ by more than rounding where they must not."),
    click.option("--data", type=FilePath, help="Labelled images to measure AP50 and AP50:95 on."),
    click.option("--split", help="Part of --data: a split's name or a list file. [default: val, else all]"),
    click.option("--names", type=FilePath, help="Class names of the network, one per line."),
    click.option("--images", type=FilePath, help="Sample images: for the integer engine's formats, for --verify and "
                 "--importance activation. [default: the first of --data]"),
    click.option("--max-images", type=COUNT, default=16, show_default=True, help="Sample images at most."),
    click.option("--resize", type=_choice(Resize), default=Resize.STRETCH.value, show_default=True),
    click.option("--profile", type=click.Choice(list(PROFILES)), default="macs", show_default=True,
                 help="How FLOPs are counted, see docs/accounting.md."),
    click.option("--runs", type=click.IntRange(0), default=10, show_default=True,
                 help="Timed runs before and after; 0: no times."),
    click.option("--bn-eps", type=BatchNormEpsilon, default=DARKNET_BN_EPS, show_default=True,
                 help="Batch-norm epsilon."),
    click.option("--lenient", is_flag=True, help="Skip unknown training keys of the cfg with a warning."),
    click.option("--json", "as_json", is_flag=True, help="Print JSON."),
]  # fmt: skip

CHOICE_NAMES = (
    "budget importance scope policy reduction normalisation multiple_of input_multiple_of rounding narrow min_channels "
    "min_share include exclude dead_bias blocks seed"
).split()
"""Parameters that choose channels, besides method and ratio."""

SEARCH_NAMES = "candidates delta train_split adapt_images score_images log".split()
"""Parameters of the search alone."""


def prune_options(function: F) -> F:
    """Add all options."""
    return add_options(function, OPTIONS)


def prune_config(options: dict[str, Any]) -> PruneConfig:
    """Build the options of a choice of channels.

    Raises:
        PruneError: A value is out of range, or ratio and budget are both given.
    """
    tm, tn = (None, None) if options["tile"] is None else AcceleratorConfig.parse_tile(options["tile"])
    chosen: dict[str, Any] = {
        name: None if options[name] is None else enum(options[name]) for name, enum in ENUM_FIELDS.items()
    }
    for name in ("method", "ratio", "importance", "min_channels", "min_share", "exclude", "blocks", "seed"):
        chosen[name] = options[name]
    return PruneConfig(
        **chosen,
        budget=None if options["budget"] is None else Budget(*parse_budget(options["budget"], KINDS)),
        multiple_of=options["multiple_of"] or tm,
        input_multiple_of=options["input_multiple_of"] or tn or 1,
        include=options["include"] or None,
    )


def accelerator_of(tile: str | None) -> Accelerator | None:
    """Return what estimates cycles for a tile; None without one."""
    if tile is None:
        return None
    config = AcceleratorConfig.of_tile(tile)  # with the buffers that yolo-hw compile takes if none are given
    return Accelerator((config.tm, config.tn), partial(_estimate, config))


def _estimate(config: AcceleratorConfig, network: Network) -> CycleEstimate:
    return estimate_cycles(config, conv_windows(network))


def is_result_of(name: str) -> Callable[[Path], bool]:
    """Return whether a file is one that a pruning of the network `name` writes and may replace."""
    own = {RECORD, REPORT, MASKS, LAYERS_PICTURE, COSTS_PICTURE, *(f"{name}{end}" for end in RESULT_SUFFIXES)}
    return lambda path: path.name in own and path.is_file() and not path.is_symlink()
