# SPDX-License-Identifier: Apache-2.0
"""All observers and corrections of post-training quantisation, beside other libraries' own static quantisation.

``python -m benchmarks.ptq WORK``: Yolo-Fastest-1.1, calibrated on 48 images of COCO train2017, measured on 128 of
val2017. All candidates get the same images, resizing, decoding and metric; besides AP the signal-to-noise ratio of the
raw heads on the measured images. WORK keeps every row, so a study that broke off goes on; a trial with fewer images
leaves its results there.
"""

from __future__ import annotations

import fnmatch
import json
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import torch

from benchmarks.measure import PeerMissingError
from benchmarks.networks import Case, real_case
from benchmarks.peers import library
from benchmarks.record import RESULTS, Row, save_result
from benchmarks.resumable import check_settings, once
from yolo_hw.evaluate import FloatRunner, HeadRunner, IntRunner
from yolo_hw.evaluate.onnx_runner import OnnxRunner
from yolo_hw.interop.onnx_float import float_model
from yolo_hw.quant import (
    AdaRoundConfig,
    CorrectBy,
    EqualiseBy,
    LeakySlope,
    Observer,
    Override,
    QuantConfig,
    fold_model,
    lower_graph,
    quantise_model,
)
from yolo_hw.quant.layer_statistics import Likeness
from yolo_hw.quant.ptq_search import search_ptq

PIXEL_SCALE = 1 / 256
"""Of the folded network's input: its factor 256/255 is in the first weights."""
SEARCH_SECONDS = 900.0
BASE = QuantConfig()
PLAIN = QuantConfig(equalise=None, bias_correction=False)
WIDE = QuantConfig(a_bits=16)
WIDE_HEADS = QuantConfig(overrides=tuple(Override(name, w_bits=16, a_bits=16) for name in ("conv_120", "conv_129")))
"""The two layers that compute the raw maps."""

OURS: dict[str, QuantConfig] = {
    **{f"ours: {observer.value}": replace(BASE, a_observer=observer) for observer in Observer},
    **{f"ours: {observer.value}, plain": replace(PLAIN, a_observer=observer) for observer in Observer},
    "ours: mse, equalised": replace(BASE, bias_correction=False),
    "ours: mse, equalised by weights": replace(BASE, bias_correction=False, equalise_by=EqualiseBy.WEIGHTS),
    "ours: mse, biases corrected": replace(BASE, equalise=None),
    "ours: mse, biases corrected by batch norm": replace(BASE, equalise=None, bias_correction_by=CorrectBy.BATCH_NORM),
    "ours: mse, per tensor": replace(BASE, per_channel=False),
    "ours: mse, per tensor, by weights": replace(BASE, per_channel=False, equalise_by=EqualiseBy.WEIGHTS),
    "ours: mse, biases absorbed": replace(BASE, absorb_biases=True),
    "ours: mse, fully equalised": replace(BASE, equalise=1.0),
    "ours: mse, adaround": replace(BASE, adaround=AdaRoundConfig()),
    "ours: percentile, adaround": replace(BASE, a_observer=Observer.PERCENTILE, adaround=AdaRoundConfig()),
    "ours: mse, weights 4 bits": replace(BASE, w_bits=4),
    "ours: mse, weights 4 bits, adaround": replace(BASE, w_bits=4, adaround=AdaRoundConfig()),
    "ours: heads 16 bits": WIDE_HEADS,
    "ours: heads 16 bits, adaround": replace(WIDE_HEADS, adaround=AdaRoundConfig()),
    "ours: activations 16 bits": WIDE,
    "ours: activations 16 bits, slope 3277/15": replace(WIDE, leaky=LeakySlope(3277, 15)),
    "ours: activations 16 bits, slope 3277/15, adaround": replace(
        WIDE, leaky=LeakySlope(3277, 15), adaround=AdaRoundConfig()
    ),
    "ours: weights and activations 16 bits, slope 3277/15": replace(WIDE, w_bits=16, leaky=LeakySlope(3277, 15)),
}
"""Candidates of this library by name; 8 bits, per channel, where nothing else is said."""

ORT_METHODS = ("MinMax", "Entropy", "Percentile")


@click.command()
@click.argument("work", type=click.Path(path_type=Path))
@click.option("--only", default="*", show_default=True, help="Glob of the candidates to measure.")
@click.option("--images", type=click.IntRange(1), help="Calibrate and measure on the first so many images only.")
def main(work: Path, only: str, images: int | None) -> None:
    """Measure the candidates that WORK does not hold yet; write all it holds."""
    case = real_case("yolo-fastest", "yolo-fastest-1.1", "coco.names")
    if images is not None:
        dataset = replace(case.dataset, items=case.dataset.items[:images])
        stacked = np.concatenate(case.calibration)[:images]
        case = replace(case, dataset=dataset, calibration=[stacked[i : i + 8] for i in range(0, len(stacked), 8)])
    work.mkdir(parents=True, exist_ok=True)
    check_settings(work, {"images": images})
    missing: dict[str, Row] = {}
    chosen = [(name, make) for name, make in candidates(case) if fnmatch.fnmatchcase(name, only)]
    if not chosen:
        known = ", ".join(name for name, _ in candidates(case))
        raise click.UsageError(f"--only: no candidate matches '{only}'; there are {known}")
    for name, make in chosen:
        try:
            once(row_file(work, name), lambda name=name, make=make: row_of(name, make(), case))  # type: ignore[misc]
        except PeerMissingError as error:
            missing[name] = {"candidate": name, "missing": str(error)}
    rows = []
    for name, _ in candidates(case):
        path = row_file(work, name)
        if path.exists():
            rows.append(json.loads(path.read_text("utf-8")))
        elif name in missing:
            rows.append(missing[name])
    save_result("ptq", "python -m benchmarks.ptq WORK", rows, RESULTS if images is None else work)


def row_file(work: Path, name: str) -> Path:
    """Return where the row of a candidate is kept."""
    return work / f"{re.sub('[^a-z0-9.]+', '-', name.lower()).strip('-')}.json"


def row_of(name: str, runner: HeadRunner, case: Case) -> Row:
    """Measure a candidate."""
    compared = _Compared(runner, FloatRunner(case.model))
    found = case.measure(compared)
    return {"candidate": name, "heads_db": compared.heads_db, "ap50": found.ap50, "ap": found.ap}


class _Compared:
    """A `HeadRunner` that measures how far the raw heads are from another's while it runs."""

    def __init__(self, runner: HeadRunner, reference: HeadRunner) -> None:
        self.runner, self.reference = runner, reference
        self.input_shape, self.heads = runner.input_shape, runner.heads
        self.likeness = [Likeness() for _ in self.heads]

    def run(self, images: npt.NDArray[np.uint8]) -> list[torch.Tensor]:
        """See `HeadRunner.run`."""
        found = self.runner.run(images)
        for likeness, x, y in zip(self.likeness, self.reference.run(images), found, strict=True):
            likeness.update(x, y)
        return found

    @property
    def heads_db(self) -> list[float | None]:
        """Signal to noise of every head; None without noise."""
        return [round(head.sqnr_db, 2) if head.noise else None for head in self.likeness]


def candidates(case: Case) -> Iterator[tuple[str, Callable[[], HeadRunner]]]:
    """Yield names and what makes the runner."""
    yield "float", lambda: FloatRunner(case.model)
    for name, config in OURS.items():
        yield name, lambda config=config: IntRunner(quantise_model(case.model, case.calibration, config))
    yield "ours: search", lambda: searched(case)
    yield "onnxruntime: float", lambda: onnxruntime_runner(case, None)
    for method in ORT_METHODS:
        yield f"onnxruntime: {method}", lambda method=method: onnxruntime_runner(case, method)
    yield "openvino: nncf", lambda: nncf_runner(case)


def searched(case: Case) -> HeadRunner:
    """Return what the search finds within `SEARCH_SECONDS` by the noise of the heads."""
    found = search_ptq(case.model, case.calibration, SEARCH_SECONDS)
    print(f"search: {len(found.trials)} trials, best: {found.best.setting}", flush=True)
    return IntRunner(lower_graph(found.calibrated.graph, found.calibrated.plan))


def onnxruntime_runner(case: Case, method: str | None) -> HeadRunner:
    """Return the float network in onnxruntime, or its static quantisation: QDQ, 8 bits, per channel."""
    quantisation = library("onnxruntime.quantization")
    folder = Path(tempfile.mkdtemp(prefix="ptq-"))
    source, out = folder / "float.onnx", folder / "int8.onnx"
    source.write_bytes(float_model(fold_model(case.model)).SerializeToString())
    if method is not None:
        quantisation.quantize_static(
            str(source),
            str(out),
            _Reader(case.calibration),
            quant_format=quantisation.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantisation.QuantType.QUInt8,
            weight_type=quantisation.QuantType.QInt8,
            calibrate_method=getattr(quantisation.CalibrationMethod, method),
        )
    return OnnxRunner(out if method else source, case.model.network, pixel_scale=PIXEL_SCALE, threads=1)


class _Reader:
    """Feeds onnxruntime's calibration one image at a time."""

    def __init__(self, batches: list[npt.NDArray[np.uint8]]) -> None:
        self.images = iter([image[None] for batch in batches for image in batch])

    def get_next(self) -> dict[str, npt.NDArray[np.float32]] | None:
        """Return the next image, None at the end; the name is onnxruntime's."""
        image = next(self.images, None)
        return None if image is None else {"input": _floats(image)}


def nncf_runner(case: Case) -> HeadRunner:
    """Return NNCF's post-training quantisation for OpenVINO with its default options."""
    nncf, openvino = library("nncf"), library("openvino")
    core = openvino.Core()
    network = core.read_model(float_model(fold_model(case.model)).SerializeToString(), b"")
    images = [_floats(image[None]) for batch in case.calibration for image in batch]
    quantised = nncf.quantize(network, nncf.Dataset(images), subset_size=len(images))
    return _OpenVinoRunner(core.compile_model(quantised, "CPU"), case)


class _OpenVinoRunner:
    """A `HeadRunner` of an OpenVINO network with one image per call."""

    def __init__(self, network: Any, case: Case) -> None:  # noqa: ANN401 - of an optional library
        self.network = network
        self.input_shape = case.model.network.input
        self.heads = tuple(head.spec for head in case.model.network.heads)

    def run(self, images: npt.NDArray[np.uint8]) -> list[torch.Tensor]:
        """See `HeadRunner.run`."""
        maps = [[np.array(out) for out in self.network(_floats(image[None])).values()] for image in images]
        return [torch.from_numpy(np.concatenate(parts)) for parts in zip(*maps, strict=True)]


def _floats(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)).astype(np.float32) * np.float32(PIXEL_SCALE)


if __name__ == "__main__":
    main()
