# SPDX-License-Identifier: Apache-2.0
"""``yolo-hw sensitivity``: what may be pruned of a network, and what it costs to prune too much of a layer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch

from yolo_hw.cli.console import advance_all, note, print_json, print_table, progress_bar
from yolo_hw.cli.eval import class_map_of
from yolo_hw.cli.options import BatchNormEpsilon, FilePath, class_names
from yolo_hw.cli.prune_images import Samples, open_samples, statistics_of
from yolo_hw.data.preprocess import Resize
from yolo_hw.errors import PruneError
from yolo_hw.nn.darknet import DARKNET_BN_EPS, Darknet, load_darknet
from yolo_hw.prune.config import PruneConfig
from yolo_hw.prune.darknet_surgery import darknet_groups
from yolo_hw.prune.importance import IMPORTANCES
from yolo_hw.prune.preflight import Preflight, check_scales
from yolo_hw.prune.preflight_plot import plot_preflight
from yolo_hw.prune.scoring import Statistics
from yolo_hw.prune.search_data import DetectorScore
from yolo_hw.prune.search_space import SearchSpace
from yolo_hw.prune.sensitivity import (
    Metric,
    OutputError,
    Sensitivity,
    SensitivityConfig,
    random_images,
    scan_sensitivity,
)
from yolo_hw.prune.sensitivity_plot import plot_sensitivity
from yolo_hw.search_log import Progress as SearchProgress
from yolo_hw.train.callbacks import MEASURING

LOG, PICTURE, SCALES_PICTURE = "sensitivity.json", "sensitivity.png", "scales.png"
OUTPUT_ERROR = "output-error"
METRICS = {"ap50": "ap50", "ap": "ap", OUTPUT_ERROR: "relative error of the outputs"}
"""What --metric takes -> its name in files and figures."""


@click.command(
    "sensitivity",
    epilog="Example: yolo-hw sensitivity --cfg net.cfg --weights net.weights --data val/ --out sensitivity/",
)
@click.option("--cfg", type=FilePath, required=True, help="Darknet cfg.")
@click.option("--weights", type=FilePath, required=True, help="Darknet weights.")
@click.option("--out", type=FilePath, required=True, help="Folder of the results; a scan that broke off goes on there.")
@click.option("--ratios", default="0.1,0.25,0.5,0.75,0.9", show_default=True, help="Shares that go of a group's units.")
@click.option("--metric", type=click.Choice(list(METRICS)), help="[default: ap50 with --data, else output-error]")
@click.option("--tolerance", type=click.FloatRange(0), default=0.01, show_default=True,
              help="How far the metric of a safe ratio may be from that of the whole network.")  # fmt: skip
@click.option("--importance", type=click.Choice(list(IMPORTANCES)), default="l1", show_default=True,
              help="Which units go first.")  # fmt: skip
@click.option(
    "--include", multiple=True, metavar="PATTERN", help="Layers to look at, see yolo-hw prune. [default: all]"
)
@click.option("--exclude", multiple=True, metavar="PATTERN", help="Layers to leave out.")
@click.option("--data", type=FilePath, help="Labelled images to measure on.")
@click.option("--split", help="Part of --data. [default: val, else all]")
@click.option("--names", type=FilePath, help="Class names of the network, one per line.")
@click.option("--images", type=FilePath, help="Images for output-error. [default: noise]")
@click.option("--max-images", type=click.IntRange(1), default=16, show_default=True, help="Of these at most.")
@click.option("--resize", type=click.Choice([r.value for r in Resize]), default=Resize.STRETCH.value, show_default=True)
@click.option("--bn-eps", type=BatchNormEpsilon, default=DARKNET_BN_EPS, show_default=True, help="Batch-norm epsilon.")
@click.option("--lenient", is_flag=True, help="Skip unknown training keys of the cfg with a warning.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(**options: Any) -> None:  # noqa: ANN401
    """Prune one group of layers at a time and measure; say how many batch-norm scales are small enough to go."""
    model = load_darknet(options["cfg"], options["weights"], bn_eps=options["bn_eps"], lenient=options["lenient"])
    for warning in model.network.warnings:
        note(f"warning: {warning}")
    metric_name = options["metric"] or ("ap50" if options["data"] is not None else OUTPUT_ERROR)
    config = SensitivityConfig(
        ratios=_ratios(options["ratios"]),
        metric=METRICS[metric_name],
        channels=PruneConfig(
            method="sensitivity",
            importance=options["importance"],
            include=options["include"] or None,
            exclude=options["exclude"],
        ),
    )
    samples = open_samples(options, model.network)
    statistics = statistics_of(options["importance"], model, samples)
    metric = _metric(metric_name, model, samples, options)
    SearchSpace(model, config.channels, statistics)  # what can be refused is refused before anything is written
    folder: Path = options["out"]
    folder.mkdir(parents=True, exist_ok=True)
    found = _scan(model, metric, config, statistics, folder / LOG)
    plot_sensitivity(folder / PICTURE, found)
    scales = _scales(model, folder)
    _print(found, scales, options)


def _ratios(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise PruneError(f"--ratios must be numbers such as 0.1,0.5, got '{text}'") from None


def _metric(name: str, model: Darknet, samples: Samples, options: dict[str, Any]) -> Metric:
    """Return what measures a model.

    Raises:
        PruneError: Average precision is asked for without labelled images.
    """
    if name == OUTPUT_ERROR:
        batches = list(samples.tensors()) if samples.pixels else [random_images(model)]
        return OutputError(model, batches)
    if samples.dataset is None:
        raise PruneError(f"--metric {name} needs labelled images: give --data")
    if not model.network.heads:
        raise PruneError(f"--metric {name}: {model.network.name} has no detection head to measure")
    classes = model.network.heads[0].spec.classes
    names = class_names(options["names"], classes) if options["names"] is not None else ()
    detector = replace(MEASURING, resize=samples.resize)
    return DetectorScore(samples.dataset, class_map_of(names, samples.dataset, classes), detector, name)


def _scan(
    model: Darknet, metric: Metric, config: SensitivityConfig, statistics: Statistics | None, log: Path
) -> Sensitivity:
    with torch.no_grad(), progress_bar("points", 1) as progress:

        def report(done: SearchProgress) -> None:
            progress.update(progress.tasks[0].id, total=done.total, completed=done.done - 1)  # an earlier run's, too
            advance_all(progress)

        return scan_sensitivity(model, metric, config, log=log, report=report, statistics=statistics)


def _scales(model: Darknet, folder: Path) -> Preflight | None:
    """Judge the batch-norm scales and draw them; a network without any is told so."""
    try:
        found = check_scales(darknet_groups(model), model.state_dict())
    except PruneError as error:
        note(f"no verdict on batch-norm scales: {error}")
        return None
    plot_preflight(folder / SCALES_PICTURE, found)
    return found


def _print(found: Sensitivity, scales: Preflight | None, options: dict[str, Any]) -> None:
    safe = {group: found.safe_ratio(group, options["tolerance"]) for group in found.curves}
    if options["as_json"]:
        print_json(
            {
                "metric": found.metric,
                "baseline": found.baseline,
                "ratios": list(found.ratios),
                "curves": {group: list(values) for group, values in found.curves.items()},
                "safe": safe,
                "scales": None if scales is None else {"safe": scales.safe, "verdict": scales.verdict()},
            }
        )
        return
    rows = [
        (group, *(f"{value:.4f}" for value in values), f"{safe[group]:.0%}") for group, values in found.curves.items()
    ]
    columns = ("group", *(f"{ratio:.0%}" for ratio in found.ratios), "safe")
    title = f"{found.metric} with one group pruned; the whole network: {found.baseline:.4f}"
    print_table(title, columns, rows, f"safe: within {options['tolerance']:g} of the whole network")
    if scales is not None:
        click.echo(f"batch-norm scales: {scales.verdict()}")
    click.echo(f"{options['out']}: {LOG}, {PICTURE}" + ("" if scales is None else f", {SCALES_PICTURE}"))
