# SPDX-License-Identifier: Apache-2.0
"""The report of a pruning: a table before and after, what became of every group, what is no multiple and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from yolo_hw.atomic import atomic_file
from yolo_hw.prune.darknet_prune import Pruned
from yolo_hw.prune.figures import Figure
from yolo_hw.prune.methods import method_summary
from yolo_hw.prune.pictures import COSTS_PICTURE, LAYERS_PICTURE
from yolo_hw.prune.record import RECORD, decision, encode_config, layers_before_and_after
from yolo_hw.prune.regularity import Irregular, irregular_layers

REPORT = "report.md"

FIGURE_COLUMNS = ("", "before", "after", "left")
GROUP_COLUMNS = ("group", "<made by", "<read by", "before", "after", "<why")
LAYER_COLUMNS = ("layer", "outputs before", "after", "inputs before", "after", "left")
IRREGULAR_COLUMNS = ("layer", "<side", "channels", "multiple", "<why")

Rows = list[tuple[object, ...]]
MOST_NAMES = 3
"""Layers of a group that a row names; the others are counted."""


@dataclass(frozen=True)
class Table:
    """Rows for the console and for Markdown.

    Attributes:
        title: What it shows.
        columns: Names; those after the first that begin with ``<`` are left-aligned.
        rows: Cells.
    """

    title: str
    columns: tuple[str, ...]
    rows: Rows

    def markdown(self) -> list[str]:
        """Return the lines of the table."""
        left = [i == 0 or column.startswith("<") for i, column in enumerate(self.columns)]
        lines = [_row(column.lstrip("<") for column in self.columns), _row("---" if own else "---:" for own in left)]
        return lines + [_row(str(cell).replace("|", "\\|") for cell in row) for row in self.rows]


def figure_table(figures: Sequence[Figure]) -> Table:
    """Return the figures before and after; those that could not be had say why."""
    return Table("before and after", FIGURE_COLUMNS, [(figure.title, *figure.shown()) for figure in figures])


def group_table(pruned: Pruned) -> Table:
    """Return one row for every group: who makes and reads its channels, how many stay and why."""
    counts = pruned.surgery.plan.counts
    rows: Rows = [
        (
            group.name,
            _names([member.name for member in group.members]),
            _names(group.consumers),
            group.size,
            counts[group.name],
            decision(pruned, group),
        )
        for group in pruned.plan.channels.groups.values()
    ]
    return Table(f"groups: {len(rows)}", GROUP_COLUMNS, rows)


def layer_table(pruned: Pruned) -> Table:
    """Return the channels of every convolution and fully connected layer before and after."""
    rows: Rows = [
        (
            before.name,
            before.out_channels,
            after.out_channels,
            before.in_channels,
            after.in_channels,
            f"{100 * after.out_channels / before.out_channels:.0f} %",
        )
        for before, after in layers_before_and_after(pruned)
    ]
    return Table("channels of the layers", LAYER_COLUMNS, rows)


def irregular_table(pruned: Pruned) -> Table:
    """Return the numbers of channels that are no multiple."""
    rows: Rows = [(f.layer, f.side, f.channels, f.multiple, f.why) for f in irregular_layers(pruned)]
    return Table("no multiple", IRREGULAR_COLUMNS, rows)


def report_text(pruned: Pruned, figures: Sequence[Figure]) -> str:
    """Return the report as Markdown; pictures are named relative to the folder."""
    plan = pruned.plan
    lines = [
        f"# {plan.model.network.name}, pruned",
        "",
        f"Method {plan.config.method}: {method_summary(plan.config.method)}. Every choice with scores: "
        f"[{RECORD}]({RECORD}).",
        "",
        _options(pruned),
        "",
        *figure_table(figures).markdown(),
        "",
        f"![Before and after]({COSTS_PICTURE})",
        "",
        *_blocks(pruned),
        "## Regular channels",
        "",
        *_regularity(pruned),
        "",
        "## Constants of pruned channels",
        "",
        *_constants(pruned),
        "",
        "## Groups",
        "",
        *group_table(pruned).markdown(),
        "",
        "## Layers",
        "",
        f"![Channels of the layers]({LAYERS_PICTURE})",
        "",
        *layer_table(pruned).markdown(),
        "",
    ]
    return "\n".join(lines)


def write_report(path: str | Path, pruned: Pruned, figures: Sequence[Figure]) -> None:
    """Write `report_text`."""
    with atomic_file(path) as temporary:
        temporary.write_text(report_text(pruned, figures), "utf-8")


def regularity_words(pruned: Pruned, irregular: Sequence[Irregular]) -> str:
    """Return in one sentence whether numbers of channels are multiples."""
    config = pruned.plan.config
    if (config.multiple_of or 1) == 1 and config.input_multiple_of == 1:
        return "No multiple was asked for."
    asked = f"{config.multiple_of or 1} output channels and {config.input_multiple_of} input channels"
    if not irregular:
        return f"Every layer has multiples of {asked}."
    return f"Every layer has multiples of {asked}, but for {len(irregular)}:"


def constant_words(pruned: Pruned) -> str:
    """Return in words whether the pruned model computes what the masked one does."""
    inexact, dropped = pruned.surgery.inexact, pruned.surgery.dropped
    before = (
        "Before its batch norms adapted to images, the pruned model computed what the model with masked channels does"
    )
    words = before if pruned.is_adapted else "The pruned model computes what the model with masked channels does"
    if inexact:
        readers = _names(list(dict.fromkeys(inexact.values())))
        words += f", but for the borders of maps that {readers} pad with zeros"
    words += "."
    if dropped:
        words += f" The constants of {_names(list(dropped))} were set to zero in both: no bias can take them up."
    return words


def _regularity(pruned: Pruned) -> list[str]:
    table = irregular_table(pruned)
    lines = [regularity_words(pruned, irregular_layers(pruned))]
    return [*lines, "", *table.markdown()] if table.rows else lines


def _constants(pruned: Pruned) -> list[str]:
    lines = [constant_words(pruned)]
    inexact, dropped = pruned.surgery.inexact, pruned.surgery.dropped
    items = [f"- {name}: inexact at the border of {layer}" for name, layer in inexact.items()]
    items += [f"- {name}: dropped, {layer} cannot take them up" for name, layer in dropped.items()]
    return [*lines, "", *items] if items else lines


def _options(pruned: Pruned) -> str:
    options = {name: value for name, value in encode_config(pruned.plan.config).items() if value not in (None, [])}
    return ", ".join(f"{name} {value}" for name, value in options.items() if name != "method")


def _blocks(pruned: Pruned) -> list[str]:
    if not pruned.plan.blocks:
        return []
    lines = ["## Removed blocks", ""]
    for block in pruned.plan.blocks:
        lines.append(f"- {block.shortcut}: {', '.join(block.layers)} (mean scale {block.score:.4g})")
    return [*lines, "", "Layers and groups below have the names and numbers they have without these blocks.", ""]


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(names[:MOST_NAMES])
    return shown if len(names) <= MOST_NAMES else f"{shown} and {len(names) - MOST_NAMES} more"


def _row(cells: object) -> str:
    assert hasattr(cells, "__iter__")
    return f"| {' | '.join(cells)} |"
