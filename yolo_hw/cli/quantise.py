# SPDX-License-Identifier: Apache-2.0
"""``yolo-hw quantise``: an integer graph, what quantisation does to its layers, and word lengths chosen by it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import torch

from yolo_hw.atomic import atomic_folder, check_replaceable
from yolo_hw.cli.accelerator_options import BUFFER_NAMES
from yolo_hw.cli.console import advance_all, note, print_json, print_table, progress_bar, step_progress
from yolo_hw.cli.main import EXIT_DIFFERENCE
from yolo_hw.cli.onnx_options import onnx_options, onnx_source
from yolo_hw.cli.options import (
    FilePath,
    calibration_config,
    calibration_options,
    check_network,
    quant_options,
    refuse_unheeded,
)
from yolo_hw.cli.quantise_options import (
    AP50,
    KINDS,
    LABELLED_NAMES,
    OUTPUT_ERROR,
    SCORES,
    SEARCH_NAMES,
    sensitivity_config,
    word_length_options,
)
from yolo_hw.cli.quantise_prices import BitBudget, Prices, budget_pricing
from yolo_hw.cli.quantise_score import EngineScore, OutputScore, open_score
from yolo_hw.errors import QuantError
from yolo_hw.evaluate.detector import FloatRunner
from yolo_hw.intgraph.graph import IntGraph
from yolo_hw.intgraph.io import save_graph
from yolo_hw.nn.darknet import Darknet
from yolo_hw.pipeline import QUANTISE_STEPS, CompileState, calibrate_model, image_batches, lower_model, run_steps
from yolo_hw.quant import bit_files
from yolo_hw.quant.accuracy_control import (
    AccuracyTarget,
    Controlled,
    GraphScore,
    Trial,
    check_long_words,
    control_accuracy,
)
from yolo_hw.quant.bit_choices import ACTIVATIONS, WEIGHTS
from yolo_hw.quant.calibrate import Calibrated
from yolo_hw.quant.fold import trace_model
from yolo_hw.quant.layer_report import LayerReport, measure_layers
from yolo_hw.quant.mixed import BitChoice, choose_bits, layer_works
from yolo_hw.quant.moments import batch_norm_moments
from yolo_hw.quant.output_error import OutputError, output_damage
from yolo_hw.quant.report_files import COLUMNS, REPORT_FILE, encode_report, table_rows, verdict, write_report
from yolo_hw.quant.report_pictures import SQNR_PICTURE, write_pictures
from yolo_hw.quant.sensitivity import Metric, Sensitivity, SensitivityConfig, scan_sensitivity
from yolo_hw.quant.sensitivity_plot import SENSITIVITY_PICTURE, plot_sensitivity
from yolo_hw.search_log import Progress as SearchProgress

GRAPH_FOLDER = "graph"
DOCUMENTS = {REPORT_FILE, bit_files.SENSITIVITY_FILE, bit_files.WORD_LENGTHS_FILE, bit_files.CONTROL_FILE}
OWN = {GRAPH_FOLDER, SQNR_PICTURE, SENSITIVITY_PICTURE, *DOCUMENTS}


@dataclass
class Subject:
    """What has been made so far.

    Attributes:
        state: Model, images and the network in the bits of the options.
        calibrated: The network in the bits that were chosen.
        graph: The same as integers.
        score: Scores networks on labelled images; None without.
        sensitivity: If it was measured.
        choice: Word lengths within a budget: the choice, its uniform cost, the measured output error.
        controlled: The result of accuracy control.
    """

    state: CompileState
    calibrated: Calibrated
    graph: IntGraph
    score: EngineScore | None = None
    sensitivity: Sensitivity | None = None
    choice: tuple[BitChoice, float, float] | None = None
    controlled: Controlled | None = None


@click.command(
    "quantise",
    epilog="Example: yolo-hw quantise --cfg net.cfg --weights net.weights --calib calib/ --budget bytes=0.6 --out q/",
)
@calibration_options
@onnx_options
@click.option("--out", type=FilePath, required=True, help="Folder of graph, report and pictures; an older is replaced.")
@quant_options
@word_length_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(**options: Any) -> int:  # noqa: ANN401
    """Quantise a network and report on every layer; choose word lengths. Exit code 1 if --max-drop is out of reach."""
    budget = None if options["budget"] is None else BitBudget.parse(options["budget"])
    _refuse(options, budget)
    check_network(options)
    config = calibration_config(options, onnx_source(options))
    if options["max_drop"] is not None:
        check_long_words(KINDS[options["kinds"]], config.quant.profile)
    scan = sensitivity_config(options, config.quant, budget)
    pricing = None if budget is None else budget_pricing(budget, options)
    check_replaceable(options["out"], REPORT_FILE, _is_own)
    with step_progress() as progress:
        state = CompileState(config, progress)
        run_steps(state, QUANTISE_STEPS)
    assert state.calibrated is not None
    assert state.graph is not None
    subject = Subject(state, state.calibrated, state.graph)
    prices = None if pricing is None else pricing(state.calibrated, state.graph, scan.a_bits)
    limit = None if budget is None or prices is None else budget.limit(prices)
    if options["data"] is not None:
        assert isinstance(state.model, Darknet)
        subject.score = open_score(options, state.model)
    if options["sensitivity"] or budget is not None or options["max_drop"] is not None:
        subject.sensitivity = _scan(subject, scan, options["log"])
    if prices is not None and limit is not None:
        _choose(subject, prices, limit, options["time_limit"])
    if options["max_drop"] is not None:
        _control(subject, options)
    report = _report(subject, options)
    _write(subject, report, options)
    _print(subject, report, options)
    return EXIT_DIFFERENCE if subject.controlled is not None and not subject.controlled.reached else 0


def _refuse(options: dict[str, Any], budget: BitBudget | None) -> None:
    """Refuse options that contradict each other or have no effect."""
    searches = options["sensitivity"] or budget is not None or options["max_drop"] is not None
    if budget is not None and options["max_drop"] is not None:
        raise QuantError("--budget and --max-drop both choose word lengths: give one of them")
    if searches:
        refuse_unheeded(["override"], "--sensitivity, --budget and --max-drop, which vary the bits of every layer")
    else:
        refuse_unheeded(SEARCH_NAMES, "quantisation alone, without --sensitivity, --budget or --max-drop")
    if budget is None:
        refuse_unheeded(["cycles", "tile", *BUFFER_NAMES, "time_limit"], "quantisation without --budget")
    if options["max_drop"] is None:
        refuse_unheeded(["kinds", "drop_of"], "quantisation without --max-drop")
    _refuse_scores(options, searches)


def _refuse_scores(options: dict[str, Any], searches: bool) -> None:
    """Refuse to measure average precision without heads or images, and images that nothing measures on."""
    bounded = options["max_drop"] is not None and options["drop_of"] == AP50
    scored = bounded or (searches and options["metric"] == AP50)
    if options["onnx"] is not None and (scored or options["data"] is not None):
        raise QuantError(
            f"{options['onnx']}: average precision needs the detection heads of a cfg, an ONNX network has none: leave "
            f"out --data and --metric {AP50}, and bound the outputs' error with --max-drop and --drop-of {OUTPUT_ERROR}"
        )
    if scored and options["data"] is None:
        raise QuantError(
            "--max-drop and --metric ap50 measure average precision on labelled images: give --data, or --drop-of "
            f"{OUTPUT_ERROR}"
        )
    if not scored:
        refuse_unheeded(LABELLED_NAMES, f"quantisation without --max-drop of {AP50} or --metric {AP50}")


def _is_own(path: Path) -> bool:
    pages = path.name.startswith(("histograms_", "weights_")) and path.suffix == ".png"
    return (path.name in OWN or pages) and not path.is_symlink()


def _scan(subject: Subject, config: SensitivityConfig, log: Path | None) -> Sensitivity:
    with progress_bar("sensitivity", 1) as progress:

        def report(done: SearchProgress) -> None:
            progress.update(progress.tasks[0].id, total=done.total, completed=done.done - 1)  # an earlier run's, too
            advance_all(progress)

        return scan_sensitivity(
            subject.calibrated,
            image_batches(subject.state),
            config,
            score=subject.score if config.metric is Metric.SCORE and subject.score is not None else None,
            log=_log_file(log, bit_files.SENSITIVITY_FILE),
            report=report,
        )


def _log_file(folder: Path | None, name: str) -> Path | None:
    return None if folder is None else folder / name


def _choose(subject: Subject, prices: Prices, limit: float, time_limit: float) -> None:
    """Choose word lengths, quantise with them and measure."""
    assert subject.sensitivity is not None
    config = subject.state.config
    works = layer_works(subject.calibrated.reference)
    choice = choose_bits(
        subject.sensitivity, works, prices.layer, limit, group_cost=prices.group, time_limit=time_limit
    )
    chosen = replace(config, quant=replace(config.quant, overrides=choice.overrides))
    with step_progress() as progress:
        state = replace(subject.state, config=chosen, progress=progress)
        run_steps(state, (calibrate_model, lower_model), "chosen word lengths: ")
    assert state.calibrated is not None
    assert state.graph is not None
    subject.calibrated, subject.graph = state.calibrated, state.graph
    measured = output_damage(state.calibrated.reference, state.graph, image_batches(state), torch.get_num_threads())
    subject.choice = (choice, prices.uniform, measured)


def _control(subject: Subject, options: dict[str, Any]) -> None:
    """Raise word lengths until the score is kept."""
    state = subject.state
    assert state.model is not None
    assert subject.sensitivity is not None
    score, baseline = _bounded_score(subject, options["drop_of"])
    title = SCORES[options["drop_of"]]
    target = AccuracyTarget(baseline=baseline, max_drop=options["max_drop"], kinds=KINDS[options["kinds"]])

    def report(trial: Trial) -> None:
        note(f"{trial.stage}: {len(trial.raised)} units in 16 bits, {title} {trial.score:.3f} (float {baseline:.3f})")

    traced = trace_model(state.model, state.input_shape)
    subject.controlled = control_accuracy(
        traced.graph,
        image_batches(state),
        score,
        target,
        sensitivity=subject.sensitivity,
        config=state.config.quant,
        moments=batch_norm_moments(traced),
        log=_log_file(options["log"], bit_files.CONTROL_FILE),
        report=report,
    )
    subject.calibrated, subject.graph = subject.controlled.calibrated, subject.controlled.graph


def _bounded_score(subject: Subject, drop_of: str) -> tuple[GraphScore, float]:
    """Return what ``--max-drop`` bounds, and its value in float."""
    if drop_of == OUTPUT_ERROR:
        return OutputScore(OutputError(subject.calibrated.reference, image_batches(subject.state))), 100.0
    assert isinstance(subject.state.model, Darknet)
    assert subject.score is not None
    return subject.score, subject.score(FloatRunner(subject.state.model))


def _report(subject: Subject, options: dict[str, Any]) -> LayerReport:
    calibrated, batches = subject.calibrated, image_batches(subject.state)
    images = [image[None] for batch in batches for image in batch][: options["report_images"]]
    with step_progress() as progress:
        progress.step("measure layers")
        advance: Callable[[str, int, int], None] = progress.advance
        return measure_layers(
            calibrated.reference, calibrated.plan, images, hurt_db=options["hurt_db"], progress=advance
        )


def _documents(subject: Subject, report: LayerReport, options: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the JSON documents by file name."""
    documents = {REPORT_FILE: encode_report(report)}
    if subject.sensitivity is not None:
        documents[bit_files.SENSITIVITY_FILE] = bit_files.encode_sensitivity(subject.sensitivity)
    if subject.choice is not None:
        choice, uniform, measured = subject.choice
        documents[bit_files.WORD_LENGTHS_FILE] = bit_files.encode_choice(choice, uniform, measured)
    if subject.controlled is not None:
        control = bit_files.encode_control(subject.controlled)
        documents[bit_files.CONTROL_FILE] = {"drop_of": options["drop_of"], **control}
    return documents


def _write(subject: Subject, report: LayerReport, options: dict[str, Any]) -> None:
    """Write everything; the folder appears complete or not at all."""
    with atomic_folder(options["out"], marker=REPORT_FILE, is_own=_is_own) as folder:
        save_graph(subject.graph, folder / GRAPH_FOLDER)
        write_report(report, folder / REPORT_FILE)
        for name, document in _documents(subject, report, options).items():
            if name != REPORT_FILE:
                bit_files.write_document(document, folder / name)
        write_pictures(report, folder)
        if subject.sensitivity is not None:
            plot_sensitivity(folder / SENSITIVITY_PICTURE, subject.sensitivity)


def _print(subject: Subject, report: LayerReport, options: dict[str, Any]) -> None:
    if options["as_json"]:
        print_json({Path(name).stem: document for name, document in _documents(subject, report, options).items()})
        return
    if subject.sensitivity is not None and options["sensitivity"]:
        for kind in (WEIGHTS, ACTIVATIONS):
            columns, rows = bit_files.sensitivity_table(subject.sensitivity, kind)
            print_table(f"damage ({options['metric']}) with one unit quantised", columns, rows)
    if subject.choice is not None:
        _print_choice(subject, options)
    if subject.controlled is not None:
        title = SCORES[options["drop_of"]]
        columns = ("trial", "in 16 bits", title, "drop", "<verdict")
        print_table("accuracy control", columns, bit_files.trial_rows(subject.controlled), subject.controlled.verdict)
        columns = ("unit", "<what", "rank", "damage", f"{title} without")
        print_table("in 16 bits", columns, bit_files.raised_rows(subject.controlled))
    print_table(f"{report.name}: {report.images} images", COLUMNS, table_rows(report), verdict(report))
    click.echo(f"{options['out']}: {', '.join(sorted(path.name for path in options['out'].iterdir()))}")


def _print_choice(subject: Subject, options: dict[str, Any]) -> None:
    assert subject.choice is not None
    assert subject.sensitivity is not None
    choice, uniform, measured = subject.choice
    footer = (
        f"{options['budget']}: cost {choice.cost:.6g} of {choice.budget:.6g}, {100 * choice.cost / uniform:.1f} % of "
        f"the uniform network's; sum of damages ({options['metric']}) {choice.damage:.3e}, measured output error "
        f"{measured:.3e}"
    )
    if choice.gap:
        footer += f"; stopped by --time-limit, at most {100 * choice.gap:.2g} % from the optimum"
    columns = ("unit", "<what", "bits", "damage", "share")
    print_table("word lengths", columns, bit_files.choice_rows(choice, subject.sensitivity), footer)
