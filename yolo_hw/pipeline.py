# SPDX-License-Identifier: Apache-2.0
"""The flow of ``yolo-hw compile``: a list of steps, each a function of the state before it.

`COMPILE_STEPS` is the order; `compile_network` runs it. This module alone knows all stages.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import nn

from hls_export.bundle import ExportOptions, GoldenOptions, export_bundle
from hls_export.bundle.golden import ADVERSARIAL, adversarial_input
from hls_export.bundle.manifest import MANIFEST, file_digest
from hls_export.config import AcceleratorConfig
from hls_export.plan import AcceleratorPlan
from hls_export.verify import VerifyReport, first_difference, require_compiler, verify_bundle
from yolo_hw.atomic import check_replaceable
from yolo_hw.darknet.layers import Shape
from yolo_hw.data.image import find_images, read_image
from yolo_hw.data.preprocess import Resize, fit_image
from yolo_hw.errors import DataError, QuantError, YoloHwError
from yolo_hw.fixedpoint import IntArray
from yolo_hw.interop.onnx_import import InputConvention, import_onnx
from yolo_hw.intgraph.execute import execute, image_codes
from yolo_hw.intgraph.graph import IntGraph
from yolo_hw.nn.darknet import DARKNET_BN_EPS, load_darknet
from yolo_hw.quant.calibrate import Calibrated, ImageBatch, calibrate
from yolo_hw.quant.config import QuantConfig
from yolo_hw.quant.fold import trace_model
from yolo_hw.quant.lower import lower_graph
from yolo_hw.quant.moments import batch_norm_moments
from yolo_hw.quant.ptq_search import SearchProgress, SearchResult, search_ptq
from yolo_hw.quant.simulate import Simulation

CALIBRATION_BATCH = 8


class Progress:
    """What the steps report to; the base class is silent."""

    def step(self, name: str) -> None:
        """A step begins."""

    def advance(self, what: str, done: int, total: int) -> None:
        """`done` of `total` units of `what` are finished."""

    def warn(self, message: str) -> None:
        """Something deserves attention, but stops nothing."""


@dataclass(frozen=True, kw_only=True)
class OnnxSource:
    """A network in an ONNX file."""

    path: Path
    """The file."""
    input_size: tuple[int, int] | None = None
    """(height, width) where the file leaves them free."""
    outputs: tuple[str, ...] | None = None
    """Where the network is to end; None: the last maps before its decoding."""
    convention: InputConvention = field(default_factory=InputConvention)
    """What it takes."""


@dataclass(frozen=True, kw_only=True)
class CompileConfig:
    """Everything ``compile`` needs. The network is `cfg` and `weights`, or `onnx`."""

    cfg: Path | None = None
    """Darknet cfg."""
    weights: Path | None = None
    """Darknet weights; None takes random ones, for trying a cfg."""
    onnx: OnnxSource | None = None
    """An ONNX file instead."""
    calib: Path
    """Calibration images: a folder, an image or a list."""
    out: Path
    """The bundle's folder."""
    quant: QuantConfig = field(default_factory=QuantConfig)
    """Word lengths, observers, rounding."""
    accelerator: AcceleratorConfig = field(default_factory=AcceleratorConfig)
    """The hardware."""
    resize: Resize = Resize.STRETCH
    """How images are brought to the network's size."""
    bn_eps: float = DARKNET_BN_EPS
    """Added to batch-norm variances."""
    max_calib: int = 48
    """Calibration images used at most."""
    golden_images: int = 1
    """Calibration images that become golden vectors, besides the adversarial ones."""
    golden: GoldenOptions = field(default_factory=GoldenOptions)
    """Size limit of the golden files."""
    skip: tuple[str, ...] = ()
    """Checks to leave out of the verification."""
    lenient: bool = False
    """Skip unknown training keys of the cfg."""
    search_seconds: float | None = None
    """Search the options of `quant` within this budget (`yolo_hw.quant.ptq_search`); None takes them as they are."""
    search_log: Path | None = None
    """File of a search's trials, to go on behind them."""
    size: tuple[int, int] | None = None
    """(height, width) of the input instead of the cfg's."""

    def __post_init__(self) -> None:
        if (self.cfg is None) == (self.onnx is None):
            raise YoloHwError("name one network: a cfg, or an ONNX file")


@dataclass
class CompileState:
    """What the steps have made so far."""

    config: CompileConfig
    progress: Progress
    model: nn.Module | None = None
    input_shape: Shape | None = None
    images: list[npt.NDArray[np.uint8]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    search: SearchResult | None = None
    calibrated: Calibrated | None = None
    graph: IntGraph | None = None
    simulated_codes: int = 0
    plan: AcceleratorPlan | None = None
    report: VerifyReport | None = None


def check_output(state: CompileState) -> None:
    """Refuse, before any work is done, an output folder that holds other things and a machine without a compiler."""
    check_destination(state.config.out, state.config.skip)


def check_destination(out: Path, skip: Collection[str]) -> None:
    """Refuse a folder that no bundle may replace and, unless ``csim`` is skipped, a machine without a compiler."""
    check_replaceable(out, MANIFEST)
    if "csim" not in skip:
        require_compiler()


def load_model(state: CompileState) -> None:
    """Read cfg and weights, or an ONNX file."""
    config = state.config
    if config.onnx is not None:
        source = config.onnx
        imported = import_onnx(
            source.path, input_size=source.input_size, outputs=source.outputs, convention=source.convention
        )
        state.model, state.input_shape = imported.model, imported.input_shape
        notes: Iterable[str] = imported.notes
    else:
        assert config.cfg is not None
        model = load_darknet(config.cfg, config.weights, bn_eps=config.bn_eps, lenient=config.lenient, size=config.size)
        state.model, state.input_shape = model, model.network.input
        notes = (f"warning: {warning}" for warning in model.network.warnings)
    for text in notes:
        state.progress.warn(text)


def load_images(state: CompileState) -> None:
    """Read the calibration images; unreadable ones are named and left out."""
    assert state.input_shape is not None
    paths = find_images(state.config.calib)
    for path in paths:
        if len(state.images) == state.config.max_calib:
            break
        try:
            image, _ = fit_image(read_image(path), state.input_shape, state.config.resize)
        except DataError as error:
            state.skipped.append(str(error))
            state.progress.warn(f"skipped: {error}")
            continue
        state.images.append(image)
        state.progress.advance("images", len(state.images), min(len(paths), state.config.max_calib))
    if not state.images:
        raise DataError(f"{state.config.calib}: none of the {len(paths)} calibration images can be read")


def calibrate_model(state: CompileState) -> None:
    """Fold batch norms, choose formats, round weights; search the options where a budget is given."""
    assert state.model is not None
    batches = image_batches(state)
    if state.config.search_seconds is not None:
        state.search = search_ptq(
            state.model,
            batches,
            state.config.search_seconds,
            config=state.config.quant,
            log=state.config.search_log,
            report=lambda done: state.progress.step(search_line(done)),
        )
        state.calibrated = state.search.calibrated
        return
    traced = trace_model(state.model, state.input_shape)
    moments = batch_norm_moments(traced)
    state.calibrated = calibrate(traced.graph, batches, state.config.quant, state.progress.advance, moments)


def search_line(done: SearchProgress) -> str:
    """Return a line on a search's last trial."""
    found = "no integer form" if done.trial.score is None else f"{done.trial.score:.2f} dB"
    return f"search: trial {done.trials}: {done.trial.setting}: {found}, {done.seconds_left:.0f} s left"


def image_batches(state: CompileState) -> list[ImageBatch]:
    """Return the calibration images as batches [N, H, W, C]."""
    return [np.stack(state.images[i : i + CALIBRATION_BATCH]) for i in range(0, len(state.images), CALIBRATION_BATCH)]


def lower_model(state: CompileState) -> None:
    """Build and check the integer graph."""
    assert state.calibrated is not None
    state.graph = lower_graph(state.calibrated.graph, state.calibrated.plan)


def check_simulation(state: CompileState) -> None:
    """First rung of the ladder: the float64 simulation equals the numpy reference, code by code.

    Raises:
        QuantError: They differ; names the first code.
    """
    assert state.calibrated is not None
    assert state.graph is not None
    simulation = Simulation(state.calibrated.graph, state.calibrated.plan)
    inputs = list(golden_images(state).items())
    inputs += [(name, adversarial_input(name, state.graph.input_shape)) for name in ADVERSARIAL]
    for i, (name, codes) in enumerate(inputs):
        pairs = zip(execute(state.graph, codes), simulation.codes(codes), strict=True)
        for (layer, expected), (_, found) in pairs:
            difference = first_difference(layer, expected.codes, found, expected.acc)
            if difference is not None:
                raise QuantError(f"simulation: image {name}: {difference}")
            state.simulated_codes += expected.codes.size
        state.progress.advance("images", i + 1, len(inputs))


def write_bundle(state: CompileState) -> None:
    """Export everything."""
    assert state.graph is not None
    config = state.config
    files = {"cfg": config.cfg, "weights": config.weights, "onnx": None if config.onnx is None else config.onnx.path}
    source = {role: file_digest(path) for role, path in files.items() if path is not None}
    options = ExportOptions(golden_images(state), source, config.golden)
    state.plan = export_bundle(
        state.graph,
        config.accelerator,
        config.out,
        options,
        lambda done, total: state.progress.advance("golden vectors", done, total),
    )


def verify(state: CompileState) -> None:
    """Read the bundle back and run every check."""
    state.report = verify_bundle(
        state.config.out, skip=state.config.skip, progress=lambda name: state.progress.step(f"verify: {name}")
    )


Step = Callable[[CompileState], None]

COMPILE_STEPS: tuple[Step, ...] = (
    check_output,
    load_model,
    load_images,
    calibrate_model,
    lower_model,
    check_simulation,
    write_bundle,
    verify,
)
"""The flow, in order."""

QUANTISE_STEPS: tuple[Step, ...] = (load_model, load_images, calibrate_model, lower_model)
"""Its part up to the integer graph."""


def compile_network(config: CompileConfig, progress: Progress | None = None) -> CompileState:
    """Bring a trained network into a verified bundle.

    Args:
        config: Inputs, outputs, options.
        progress: Receives steps and counts.

    Returns:
        The final state; `report` says whether the bundle passed.

    Raises:
        YoloHwError: Any bad input; nothing is left behind.
    """
    state = CompileState(config, progress or Progress())
    run_steps(state, COMPILE_STEPS)
    return state


def run_steps(state: CompileState, steps: Iterable[Step], before: str = "") -> None:
    """Run some of the flow; each step reports its name, behind `before`."""
    for step in steps:
        state.progress.step(before + step.__name__.replace("_", " "))
        step(state)


def golden_images(state: CompileState) -> dict[str, IntArray]:
    """Return the first images as codes [C, H, W] under names that are valid file names."""
    chosen = state.images[: state.config.golden_images]
    return {f"image{i}": image_codes(image) for i, image in enumerate(chosen)}
