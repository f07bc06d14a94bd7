# SPDX-License-Identifier: Apache-2.0
"""``yolo-hw prune``: from a trained network to a smaller one, with a plan, a report and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from hls_export.bundle.manifest import file_digest
from yolo_hw.atomic import atomic_folder, check_replaceable
from yolo_hw.cli.console import note, print_json, print_table
from yolo_hw.cli.eval import class_map_of
from yolo_hw.cli.main import EXIT_DIFFERENCE
from yolo_hw.cli.options import class_names, refuse_unheeded
from yolo_hw.cli.prune_images import Samples, open_samples, statistics_of
from yolo_hw.cli.prune_masks import prune_weights
from yolo_hw.cli.prune_options import (
    CHOICE_NAMES,
    EAGLEEYE,
    SEARCH_NAMES,
    MaskMethod,
    accelerator_of,
    is_result_of,
    prune_config,
    prune_options,
)
from yolo_hw.cli.prune_search import search_channels
from yolo_hw.darknet.network import load_network
from yolo_hw.darknet.weights import read_weights
from yolo_hw.errors import PruneError
from yolo_hw.evaluate import IntRunner
from yolo_hw.nn.darknet import Darknet
from yolo_hw.prune.compare import Difference, compare_outputs
from yolo_hw.prune.cost import CycleEstimate
from yolo_hw.prune.darknet_prune import DarknetPlan, Pruned, carry_out, plan_pruning, without_blocks
from yolo_hw.prune.darknet_surgery import darknet_groups
from yolo_hw.prune.figures import Figure, accuracy_figures, count_figures, cycle_figures, recorded, speed_figures
from yolo_hw.prune.pictures import write_pictures
from yolo_hw.prune.preflight import check_scales
from yolo_hw.prune.record import RECORD, layers_before_and_after, load_darknet_plan, pruning_record, write_record
from yolo_hw.prune.regularity import irregular_layers
from yolo_hw.prune.report import (
    REPORT,
    Table,
    constant_words,
    figure_table,
    group_table,
    irregular_table,
    regularity_words,
    write_report,
)
from yolo_hw.quant.post_training import quantise_model
from yolo_hw.train.callbacks import MEASURING
from yolo_hw.train.form import write_detector

RANDOM_IMAGES = 2
"""Of noise, for --verify."""

MASK_METHODS = tuple(method.value for method in MaskMethod)


@dataclass(frozen=True)
class Subject:
    """The network to prune.

    Attributes:
        model: It, with weights.
        names: Its classes, empty where they are not named.
        seen: Training images that the header of its weights tells.
        source: SHA-256 of its files.
    """

    model: Darknet
    names: tuple[str, ...]
    seen: int
    source: dict[str, str]


@click.command(
    "prune",
    epilog="Example: yolo-hw prune --cfg net.cfg --weights net.weights --ratio 0.5 --multiple-of 16 --out pruned/",
)
@prune_options
def command(**options: Any) -> int:  # noqa: ANN401
    """Remove channels, whole blocks or single weights; --dry-run shows what would go."""
    if options["show_groups"]:
        _print_groups(options)
        return 0
    if options["weights"] is None:
        raise click.UsageError("name the trained weights with --weights")
    if options["out"] is None and not options["dry_run"]:
        raise click.UsageError("name a folder for the results with --out, or only look with --dry-run")
    if not options["dry_run"]:
        check_replaceable(options["out"], RECORD, is_result_of(options["cfg"].stem))
    subject = _read_subject(options)
    if options["method"] in MASK_METHODS and options["plan_file"] is None:
        prune_weights(subject.model, subject.names, subject.seen, options)
        return 0
    return _prune_channels(subject, options)


def _prune_channels(subject: Subject, options: dict[str, Any]) -> int:
    refuse_unheeded(["pattern"], f"--method {options['method']}")
    samples = open_samples(options, subject.model.network)
    pruned = _prune(subject, samples, options)
    figures = _measure(subject, pruned, samples, options)
    differences = _compare(pruned.plan, samples) if options["verify"] else []
    if not options["dry_run"]:
        _write(options["out"], subject, pruned, figures)
    if options["as_json"]:
        print_json(_document(pruned, figures, differences))
    else:
        _print(pruned, figures, differences, options)
    must_be_equal = not pruned.surgery.inexact
    return EXIT_DIFFERENCE if must_be_equal and not all(d.is_exact for d in differences) else 0


def _read_subject(options: dict[str, Any]) -> Subject:
    network = load_network(options["cfg"], lenient=options["lenient"])
    for warning in network.warnings:
        note(f"warning: {warning}")
    weights = read_weights(options["weights"], network)
    model = Darknet(network, options["bn_eps"])
    model.load_weights(weights)
    names: tuple[str, ...] = ()
    if options["names"] is not None:
        if not network.heads:
            raise PruneError(f"--names: {network.name} has no detection head")
        names = class_names(options["names"], network.heads[0].spec.classes)
    source = {name: file_digest(options[name]) for name in ("cfg", "weights")}
    return Subject(model.eval(), names, weights.header.seen, source)


def _prune(subject: Subject, samples: Samples, options: dict[str, Any]) -> Pruned:
    if options["method"] == EAGLEEYE and options["plan_file"] is None:
        config = prune_config(options)
        statistics = statistics_of(config.importance, subject.model, samples)
        return search_channels(subject.model, subject.names, config, statistics, options)
    refuse_unheeded(SEARCH_NAMES, f"--method {options['method']}")
    plan = _make_plan(subject, samples, options)
    if plan.config.importance == "bn" and options["plan_file"] is None and plan.config.ratio:
        config = replace(plan.config, include=None, exclude=())  # the plan's groups know what stays
        warning = check_scales(plan.channels.groups, plan.model.state_dict(), config).warning(plan.config.ratio)
        if warning is not None:
            note(f"warning: {warning}")
    return carry_out(plan)


def _make_plan(subject: Subject, samples: Samples, options: dict[str, Any]) -> DarknetPlan:
    """Read the plan, or choose one."""
    if options["plan_file"] is not None:
        refuse_unheeded(["method", "ratio", *CHOICE_NAMES], "--plan, which has its own")
        plan = load_darknet_plan(options["plan_file"], subject.model)
        if plan.config.method == EAGLEEYE:
            note("warning: a plan of eagleeye: batch norms adapt in its search only, here they stay as they are")
        return plan
    config = prune_config(options)
    cycles: CycleEstimate | None = None
    accelerator = accelerator_of(options["tile"])
    if config.budget is not None and config.budget.kind == "cycles" and accelerator is None:
        raise PruneError("--budget cycles needs the accelerator's tile: give --tile TMxTN")
    left, _ = without_blocks(subject.model, config)
    if accelerator is not None:
        cycles = accelerator.estimate(left.network)
    statistics = statistics_of(config.importance, left, samples)
    return plan_pruning(subject.model, config, statistics=statistics, cycles=cycles)


def _measure(subject: Subject, pruned: Pruned, samples: Samples, options: dict[str, Any]) -> list[Figure]:
    models = (subject.model, pruned.model)
    config = replace(MEASURING, resize=samples.resize)
    class_map: Sequence[int] = ()
    if samples.dataset is not None:
        class_map = class_map_of(subject.names, samples.dataset, len(subject.names) or _classes(subject.model))
    figures = accuracy_figures(models, samples.dataset, class_map, config)
    figures += count_figures(models, options["profile"])

    def engine(model: Darknet) -> IntRunner:
        return IntRunner(quantise_model(model, samples.batches()), threads=torch.get_num_threads())

    runs = 0 if options["dry_run"] else options["runs"]
    figures += speed_figures(models, runs, engine if samples.pixels else None, "no sample images are given")
    return figures + cycle_figures(models, accelerator_of(options["tile"]))


def _compare(plan: DarknetPlan, samples: Samples) -> list[Difference]:
    generator = torch.Generator().manual_seed(0)
    noise = [torch.rand((1, *plan.model.network.input), generator=generator) for _ in range(RANDOM_IMAGES)]
    given: list[Tensor] = [torch.from_numpy(p).permute(2, 0, 1)[None].float() / 255 for p in samples.pixels]
    return compare_outputs(plan, [*noise, *given])


def _write(folder: Path, subject: Subject, pruned: Pruned, figures: Sequence[Figure]) -> None:
    name = subject.model.network.name
    with atomic_folder(folder, marker=RECORD, is_own=is_result_of(name)) as temporary:
        write_detector(temporary / name, pruned.model, subject.names, subject.seen)
        write_record(temporary / RECORD, pruning_record(pruned, recorded(figures), subject.source))
        write_report(temporary / REPORT, pruned, figures)
        write_pictures(temporary, layers_before_and_after(pruned), figures, name)


def _document(pruned: Pruned, figures: Sequence[Figure], differences: Sequence[Difference]) -> dict[str, Any]:
    return {
        "figures": {f.key: {"before": f.before, "after": f.after, "absent": f.absent or None} for f in figures},
        "removed_blocks": [block.shortcut for block in pruned.plan.blocks],
        "layers": {old.name: [old.out_channels, new.out_channels] for old, new in layers_before_and_after(pruned)},
        "irregular": [vars(entry) for entry in irregular_layers(pruned)],
        "dropped": pruned.surgery.dropped,
        "inexact_at_borders": pruned.surgery.inexact,
        "differences": [vars(difference) for difference in differences],
    }


def _print(
    pruned: Pruned, figures: Sequence[Figure], differences: Sequence[Difference], options: dict[str, Any]
) -> None:
    if options["dry_run"]:
        _print_table(group_table(pruned))
    footer = [constant_words(pruned), regularity_words(pruned, irregular_layers(pruned))]
    _print_table(figure_table(figures), "\n".join(footer))
    irregular = irregular_table(pruned)
    if irregular.rows:
        _print_table(irregular)
    if differences:
        _print_differences(differences)
    if not options["dry_run"]:
        click.echo(f"{options['out']}: {pruned.model.network.name}.cfg, .weights, {RECORD}, {REPORT}, pictures")


def _print_differences(differences: Sequence[Difference]) -> None:
    rows = [
        (d.output, "-" if d.interior is None else f"{d.interior:.3g}", f"{d.border:.3g}", f"{d.size:.3g}")
        for d in differences
    ]
    columns = ("output", "interior", "border", "largest output")
    print_table("largest |masked - compact| in float64", columns, rows, "border: the outermost rows and columns")


def _print_groups(options: dict[str, Any]) -> None:
    network = load_network(options["cfg"], lenient=options["lenient"])
    groups = darknet_groups(network)
    if options["as_json"]:
        print_json(
            {
                name: {
                    "units": group.size,
                    "protected": group.why_protected,
                    "follows": group.why_follows,
                    "members": [member.name for member in group.members],
                    "consumers": list(group.consumers),
                }
                for name, group in groups.items()
            }
        )
    else:
        click.echo(groups.details())


def _print_table(table: Table, footer: str = "") -> None:
    print_table(table.title, table.columns, table.rows, footer)


def _classes(model: Darknet) -> int:
    if not model.network.heads:
        raise PruneError(f"--data: {model.network.name} has no detection head to measure")
    return model.network.heads[0].spec.classes
