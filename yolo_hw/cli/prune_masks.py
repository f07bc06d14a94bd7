# SPDX-License-Identifier: Apache-2.0
"""Methods of ``yolo-hw prune`` that leave out weights: the network keeps its shape and gets masks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from yolo_hw.atomic import atomic_folder
from yolo_hw.cli.console import print_json, print_table
from yolo_hw.cli.options import refuse_unheeded
from yolo_hw.cli.prune_options import CHOICE_NAMES, SEARCH_NAMES, MaskMethod, is_result_of
from yolo_hw.errors import PruneError
from yolo_hw.nn.darknet import Darknet
from yolo_hw.prune.darknet_surgery import darknet_groups
from yolo_hw.prune.magnitude import FilterOptions, darknet_filters, filter_masks, weight_masks
from yolo_hw.prune.mask_file import MASKS, save_masks
from yolo_hw.prune.masks import MaskReport, Masks, apply_masks, mask_report
from yolo_hw.prune.match import select_layers
from yolo_hw.prune.patterns import block_masks, group_masks
from yolo_hw.prune.ranking import Scope
from yolo_hw.prune.record import RECORD
from yolo_hw.train.form import write_detector

SCHEMA_ID = "yolo_hw.masks/1"

Options = dict[str, Any]
Detector = tuple[Darknet, tuple[str, ...], int]
"""Model, names of its classes, images seen in training."""

DEFAULT_PATTERNS = {MaskMethod.GROUPS: "2:4", MaskMethod.BLOCKS: "block(16x1)"}


def prune_weights(model: Darknet, names: tuple[str, ...], seen: int, options: Options) -> None:
    """Find masks, apply them, write network, masks, record and report.

    Args:
        model: Changed in place.
        names: Its classes.
        seen: Training images that the header of its weights tells.
        options: Of the command.

    Raises:
        PruneError: An option is missing, has no effect on the method, or cannot be met.
    """
    method = MaskMethod(options["method"])
    where = f"--method {method.value}"
    heeded = {"include", "exclude", *(("scope",) if method in (MaskMethod.WEIGHTS, MaskMethod.BLOCKS) else ())}
    unheeded = [name for name in CHOICE_NAMES if name not in heeded]
    unheeded += ["tile", "verify", "data", "split", "images", "max_images", "resize", "runs", "profile", *SEARCH_NAMES]
    unheeded += [] if method in DEFAULT_PATTERNS else ["pattern"]
    unheeded += ["ratio"] if method is MaskMethod.GROUPS else []
    refuse_unheeded(unheeded, where)
    if options["ratio"] is None and method is not MaskMethod.GROUPS:
        raise PruneError(f"{where} needs a --ratio")
    masks = _FIND[method](model, options)
    apply_masks(model, masks)
    report = mask_report(model, masks)
    document = _document(method, options, report)
    if not options["dry_run"]:
        _write(options["out"], (model, names, seen), masks, document)
    if options["as_json"]:
        print_json(document)
        return
    rows = [(row.name, f"{row.masked:,}", f"{row.total:,}", f"{100 * row.rate:.1f} %",
             f"{row.kept_filters} of {row.filters}") for row in (*report.rows, report.total)]  # fmt: skip
    print_table(f"masks: {method.value}", ("parameter", "left out", "of", "share", "filters kept"), rows)
    if not options["dry_run"]:
        name = model.network.name
        click.echo(f"{options['out']}: {name}.cfg, {name}.weights, {MASKS}, {RECORD}; yolo-hw train --masks keeps them")


def _layers(model: Darknet, options: Options) -> list[str]:
    """Return the convolutions and fully connected layers that --include and --exclude leave, as module paths."""
    graph = darknet_groups(model).graph
    paths = {op.layer: op.filters.weight.removesuffix(".weight") for op in graph.ops if op.filters is not None}
    types = [graph.layers[name] for name in paths]
    chosen = select_layers(list(paths), types, options["include"] or None, options["exclude"])
    return [paths[name] for name in chosen]


def _scope(options: Options) -> Scope:
    name = options["scope"] or Scope.GLOBAL.value
    if name not in [scope.value for scope in Scope]:
        raise PruneError(f"--scope: masks are compared under global or local, got '{name}'")
    return Scope(name)


def _find_weights(model: Darknet, options: Options) -> Masks:
    return weight_masks(
        model, options["ratio"], [f"{path}.weight" for path in _layers(model, options)], _scope(options)
    )


def _find_filters(model: Darknet, options: Options) -> Masks:
    chosen = set(_layers(model, options))
    layers = darknet_filters(model)
    excluded = tuple(layer.conv for layer in layers if layer.conv not in chosen)
    return filter_masks(model, options["ratio"], layers, FilterOptions(exclude=excluded))


def _find_groups(model: Darknet, options: Options) -> Masks:
    pattern = options["pattern"] or DEFAULT_PATTERNS[MaskMethod.GROUPS]
    return group_masks(model, pattern, _layers(model, options))


def _find_blocks(model: Darknet, options: Options) -> Masks:
    pattern = options["pattern"] or DEFAULT_PATTERNS[MaskMethod.BLOCKS]
    try:
        return block_masks(model, options["ratio"], pattern, names=_layers(model, options), scope=_scope(options))
    except PruneError as error:
        raise PruneError(f"{error}; for example --exclude type:depthwise") from None


_FIND: dict[MaskMethod, Callable[[Darknet, Options], Masks]] = {
    MaskMethod.WEIGHTS: _find_weights,
    MaskMethod.FILTER_MASKS: _find_filters,
    MaskMethod.GROUPS: _find_groups,
    MaskMethod.BLOCKS: _find_blocks,
}


def _document(method: MaskMethod, options: Options, report: MaskReport) -> dict[str, Any]:
    return {
        "schema": SCHEMA_ID,
        "method": method.value,
        "ratio": options["ratio"],
        "pattern": options["pattern"] or DEFAULT_PATTERNS.get(method),
        "masked": report.total.masked,
        "weights": report.total.total,
        "parameters": {
            row.name: {"masked": row.masked, "weights": row.total, "filters": [row.kept_filters, row.filters]}
            for row in report.rows
        },
    }


def _write(folder: Path, detector: Detector, masks: Masks, document: dict[str, Any]) -> None:
    model, names, seen = detector
    with atomic_folder(folder, marker=RECORD, is_own=is_result_of(model.network.name)) as temporary:
        write_detector(temporary / model.network.name, model, names, seen)
        save_masks(temporary / MASKS, masks)
        (temporary / RECORD).write_text(json.dumps(document, indent=1) + "\n", "utf-8")
