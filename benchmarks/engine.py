# SPDX-License-Identifier: Apache-2.0
"""Whole networks, one image at a time: the integer engine against float32 and int8 runtimes.

Every int8 candidate runs the same codes and power-of-two scales, every float32 one the same network with its batch
norms folded. What a candidate computes is compared with the reference before it is measured.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from benchmarks import ours
from benchmarks.measure import Candidate, Case, Function, PeerMissingError
from benchmarks.networks import real_model, yolov3_tiny_model
from benchmarks.onnx_models import float_model, quantised_model
from benchmarks.peers import deepsparse_function, onnxruntime_function, openvino_function, torch_function
from benchmarks.record import DATA, require_data
from yolo_hw.darknet import Network
from yolo_hw.darknet.layers import Convolutional
from yolo_hw.data import load_batches
from yolo_hw.data.synthetic import generate_scene
from yolo_hw.intgraph import execute, image_codes
from yolo_hw.intgraph import nodes as N
from yolo_hw.intgraph.graph import IntGraph
from yolo_hw.nn import Darknet
from yolo_hw.nn.blocks import ConvBlock
from yolo_hw.quant import quantise_model
from yolo_hw.quant.fold import fold_model
from yolo_hw.quant.folded import FoldedGraph

Array = npt.NDArray[Any]

FLOAT_TOLERANCE = 1e-3
"""Largest difference of a float32 candidate from torch, over the largest value."""
CODE_TOLERANCE = 0.3
"""Mean difference of an int8 candidate from the reference, over the codes' standard deviation. Others round ties to
even, and some round before leaky, too; through eighty layers this adds up. Other work would give about 1."""


@dataclass(frozen=True)
class Subject:
    """A network to run; everything is made when first asked for."""

    name: str
    load: Callable[[], Darknet]
    real: bool = False

    @cached_property
    def model(self) -> Darknet:
        """The float model in evaluation mode, batch norms folded."""
        return fused(self.load())

    @cached_property
    def folded(self) -> FoldedGraph:
        """The folded graph, whose input is pixels / 256."""
        return fold_model(self.load())

    @cached_property
    def pixels(self) -> npt.NDArray[np.uint8]:
        """[H, W, C]: a photograph for a trained network, else a generated scene."""
        shape = self.load().network.input
        if self.real:
            return load_batches(require_data() / "coco_calib_train48", shape)[0][0]
        scene = torch.from_numpy(generate_scene(0, 0).image).permute(2, 0, 1)[None].float()
        sized = nn.functional.interpolate(scene, (shape.h, shape.w), mode="bilinear")
        return np.ascontiguousarray(sized[0].permute(1, 2, 0).round().byte().numpy())

    @cached_property
    def codes(self) -> npt.NDArray[np.uint8]:
        """[C, H, W]."""
        return image_codes(self.pixels).astype(np.uint8)

    @cached_property
    def graph(self) -> IntGraph:
        """The integer graph, calibrated on `pixels`."""
        return quantise_model(self.load(), [self.pixels[None]])

    @cached_property
    def pre_ranges(self) -> dict[str, tuple[float, float]]:
        """Range before the activation of every leaky convolution, on `pixels`."""
        found = {}
        for name, result in execute(self.graph, self.codes):
            node = self.graph.node(name)
            if isinstance(node, N.Conv2d) and node.act.function == "leaky" and result.acc is not None:
                frac = node.w_frac + self.graph.inputs_of(node)[0].fmt.frac
                real = result.acc * np.exp2(-frac.astype(np.float64)).reshape(-1, 1, 1)
                found[name] = (float(real.min()), float(real.max()))
        return found

    @cached_property
    def expected(self) -> list[Array]:
        """The heads' values by torch."""
        with torch.inference_mode():
            return [head.numpy() for head in self.model(torch.from_numpy(self.image(255)))]

    @cached_property
    def expected_codes(self) -> list[Array]:
        """The heads' codes by the numpy reference."""
        found = {name: result.codes for name, result in execute(self.graph, self.codes)}
        return [found[output.tensor] for output in self.graph.outputs]

    def image(self, gain: int) -> npt.NDArray[np.float32]:
        """[1, C, H, W]: pixels / `gain`."""
        return self.codes[None].astype(np.float32) / np.float32(gain)


SUBJECTS = (
    Subject("yolov3-tiny 416", cache(yolov3_tiny_model)),
    Subject("yolo-fastest-1.1 320", cache(lambda: real_model("yolo-fastest", "yolo-fastest-1.1")), real=True),
)


def cases() -> list[Case]:
    """Return one case per network; without the real files, their network's says so."""
    return [_case(subject) if DATA.is_dir() or not subject.real else _absent(subject) for subject in SUBJECTS]


def fused(model: Darknet) -> Darknet:
    """Return a copy of a model in evaluation mode with its batch norms folded into the convolutions."""
    model = copy.deepcopy(model).eval()
    for block in model.blocks.values():
        if isinstance(block, ConvBlock) and block.bn is not None:
            block.conv, block.bn = fuse_conv_bn_eval(block.conv, block.bn), None
    return model


def _case(subject: Subject) -> Case:
    model = subject.load()
    macs = _macs(model.network)
    weights = sum(parameter.numel() for parameter in model.parameters())
    quantised = {"dtype": "int8"}
    candidates = [
        *ours.engine(subject),
        *(_wide(_torch(subject, form), weights) for form in ("eager", "channels_last", "compiled")),
        *(_wide(candidate, weights) for candidate in _float_runtimes(subject)),
        Candidate("onnxruntime int8", _checked(subject, _onnxruntime_int8), quantised),
        Candidate("openvino int8", _checked(subject, _openvino_int8), quantised),
        Candidate("deepsparse int8", _checked(subject, _deepsparse_int8), quantised),
    ]
    return Case(subject.name, tuple(candidates), weights, 2 * macs, {"network": subject.name})


def _wide(candidate: Candidate, weights: int) -> Candidate:
    """Count float32 weights."""
    return replace(candidate, bytes=4 * weights)


def _absent(subject: Subject) -> Case:
    def prepare(threads: int) -> Function:
        raise PeerMissingError(f"no folder {DATA}; YOLO_HW_DATA names the one with the network's weights")

    return Case(subject.name, (Candidate(subject.name, prepare),), 0)


def _macs(network: Network) -> int:
    return sum(
        layer.shape.numel * layer.in_shapes[0].c // layer.groups * layer.size**2
        for layer in network.layers
        if isinstance(layer, Convolutional)
    )


def _torch(subject: Subject, form: str) -> Candidate:
    def prepare(threads: int) -> Function:
        run = torch_function(lambda: copy.deepcopy(subject.model), subject.image(255), form)(threads)
        return _check_float(subject, run, f"torch {form}")

    return Candidate(f"torch fp32, {form.replace('_', ' ')}", prepare, {"dtype": "float32"})


def _float_runtimes(subject: Subject) -> list[Candidate]:
    def prepare(name: str, runtime: Callable[..., Callable[[int], Function]], **options: str) -> Candidate:
        def make(threads: int) -> Function:
            model = float_model(subject.folded)
            run = runtime(lambda: model, subject.image(256), **options)(threads)
            return run if "bf16" in name else _check_float(subject, run, name)

        return Candidate(name, make, {"dtype": name.rsplit(" ", 1)[1].replace("fp32", "float32")})

    return [
        prepare("onnxruntime fp32", onnxruntime_function),
        prepare("openvino fp32", openvino_function),
        prepare("openvino bf16", openvino_function, precision="bf16"),
        prepare("deepsparse fp32", deepsparse_function),
    ]


Runtime = Callable[[Subject], Callable[[int], Function]]


def _onnxruntime_int8(subject: Subject) -> Callable[[int], Function]:
    return onnxruntime_function(lambda: quantised_model(subject.graph, subject.pre_ranges), subject.codes[None])


def _openvino_int8(subject: Subject) -> Callable[[int], Function]:
    return openvino_function(lambda: quantised_model(subject.graph), subject.codes[None])


def _deepsparse_int8(subject: Subject) -> Callable[[int], Function]:
    return deepsparse_function(lambda: quantised_model(subject.graph, subject.pre_ranges), subject.codes[None])


def _checked(subject: Subject, runtime: Runtime) -> Callable[[int], Function]:
    """Wrap a runtime of bytes so that its codes are compared with the reference's first."""

    def prepare(threads: int) -> Function:
        run: Callable[[], Any] = runtime(subject)(threads)
        for got, codes in zip(run(), subject.expected_codes, strict=True):
            mean = float(np.abs(np.asarray(got)[0].astype(np.int64) - 128 - codes).mean())
            if mean > CODE_TOLERANCE * codes.std():
                raise ValueError(
                    f"{subject.name}: {runtime.__name__} is {mean:.1f} codes off in the mean, at most "
                    f"{CODE_TOLERANCE} of the standard deviation {codes.std():.1f} is rounding"
                )
        return run

    return prepare


def _check_float(subject: Subject, run: Callable[[], Any], name: str) -> Function:
    for got, expected in zip(run(), subject.expected, strict=True):
        error = float(np.abs(np.asarray(got) - expected).max() / np.abs(expected).max())
        if error > FLOAT_TOLERANCE:
            raise ValueError(f"{subject.name}: {name} differs by {error:.1e} of the largest value")
    return run
