# SPDX-License-Identifier: Apache-2.0
"""yolo_hw: from a trained YOLO to a verified integer accelerator bundle for an FPGA.

The names below are resolved on first use, so that the torch-free parts (`yolo_hw.darknet`, `yolo_hw.intgraph`,
`hls_export`) do not load torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from yolo_hw.data import load_batches as load_batches
    from yolo_hw.data import open_dataset as open_dataset
    from yolo_hw.errors import YoloHwError as YoloHwError
    from yolo_hw.evaluate import FloatRunner as FloatRunner
    from yolo_hw.evaluate import IntRunner as IntRunner
    from yolo_hw.evaluate import detect_files as detect_files
    from yolo_hw.evaluate import detect_images as detect_images
    from yolo_hw.fixedpoint import FixedPoint as FixedPoint
    from yolo_hw.fixedpoint import Overflow as Overflow
    from yolo_hw.fixedpoint import Rounding as Rounding
    from yolo_hw.interop.brevitas_in import from_brevitas as from_brevitas
    from yolo_hw.interop.brevitas_out import to_brevitas as to_brevitas
    from yolo_hw.interop.onnx_float import export_float_onnx as export_float_onnx
    from yolo_hw.interop.onnx_import import InputConvention as InputConvention
    from yolo_hw.interop.onnx_import import import_onnx as import_onnx
    from yolo_hw.interop.onnx_import import load_onnx as load_onnx
    from yolo_hw.interop.onnx_integer import export_integer_onnx as export_integer_onnx
    from yolo_hw.interop.onnx_qdq import export_qdq_onnx as export_qdq_onnx
    from yolo_hw.interop.qonnx import export_qonnx as export_qonnx
    from yolo_hw.intgraph import IntGraph as IntGraph
    from yolo_hw.intgraph import image_codes as image_codes
    from yolo_hw.intgraph import load_graph as load_graph
    from yolo_hw.intgraph import save_graph as save_graph
    from yolo_hw.intgraph.engine import Engine as Engine
    from yolo_hw.nn import Darknet as Darknet
    from yolo_hw.nn import load_darknet as load_darknet
    from yolo_hw.nn import non_maximum_suppression as non_maximum_suppression
    from yolo_hw.pipeline import CompileConfig as CompileConfig
    from yolo_hw.pipeline import compile_network as compile_network
    from yolo_hw.prune import PruneConfig as PruneConfig
    from yolo_hw.prune import plan_pruning as plan_pruning
    from yolo_hw.prune import prune_model as prune_model
    from yolo_hw.prune import prune_module as prune_module
    from yolo_hw.quant import Observer as Observer
    from yolo_hw.quant import Override as Override
    from yolo_hw.quant import QuantConfig as QuantConfig
    from yolo_hw.quant import quantise_model as quantise_model
    from yolo_hw.quant.accuracy_control import AccuracyTarget as AccuracyTarget
    from yolo_hw.quant.accuracy_control import control_accuracy as control_accuracy
    from yolo_hw.quant.layer_report import measure_layers as measure_layers
    from yolo_hw.quant.ptq_search import search_ptq as search_ptq
    from yolo_hw.quant.qat import FreezeQat as FreezeQat
    from yolo_hw.quant.qat import QatConfig as QatConfig
    from yolo_hw.quant.qat import float_model as float_model
    from yolo_hw.quant.qat import lower_model as lower_model
    from yolo_hw.quant.qat import prepare_qat as prepare_qat
    from yolo_hw.quant.qat import qat_masks as qat_masks
    from yolo_hw.train import DetectorRun as DetectorRun
    from yolo_hw.train import TrainConfig as TrainConfig
    from yolo_hw.train import YoloLoss as YoloLoss
    from yolo_hw.train import detection_loss as detection_loss
    from yolo_hw.train import fit as fit
    from yolo_hw.train import train_detector as train_detector

_MODULES = {
    "yolo_hw.data": ("load_batches", "open_dataset"),
    "yolo_hw.errors": ("YoloHwError",),
    "yolo_hw.evaluate": ("FloatRunner", "IntRunner", "detect_files", "detect_images"),
    "yolo_hw.fixedpoint": ("FixedPoint", "Overflow", "Rounding"),
    "yolo_hw.interop.brevitas_in": ("from_brevitas",),
    "yolo_hw.interop.brevitas_out": ("to_brevitas",),
    "yolo_hw.interop.onnx_float": ("export_float_onnx",),
    "yolo_hw.interop.onnx_import": ("InputConvention", "import_onnx", "load_onnx"),
    "yolo_hw.interop.onnx_integer": ("export_integer_onnx",),
    "yolo_hw.interop.onnx_qdq": ("export_qdq_onnx",),
    "yolo_hw.interop.qonnx": ("export_qonnx",),
    "yolo_hw.intgraph": ("IntGraph", "image_codes", "load_graph", "save_graph"),
    "yolo_hw.intgraph.engine": ("Engine",),
    "yolo_hw.nn": ("Darknet", "load_darknet", "non_maximum_suppression"),
    "yolo_hw.pipeline": ("CompileConfig", "compile_network"),
    "yolo_hw.prune": ("PruneConfig", "plan_pruning", "prune_model", "prune_module"),
    "yolo_hw.quant": ("Observer", "Override", "QuantConfig", "quantise_model"),
    "yolo_hw.quant.accuracy_control": ("AccuracyTarget", "control_accuracy"),
    "yolo_hw.quant.layer_report": ("measure_layers",),
    "yolo_hw.quant.ptq_search": ("search_ptq",),
    "yolo_hw.quant.qat": ("FreezeQat", "QatConfig", "float_model", "lower_model", "prepare_qat", "qat_masks"),
    "yolo_hw.train": ("DetectorRun", "TrainConfig", "YoloLoss", "detection_loss", "fit", "train_detector"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = ["__version__", *_HOME]  # noqa: PLE0604


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """Import a public name's module on first use."""
    if name not in _HOME:
        raise AttributeError(f"module 'yolo_hw' has no attribute '{name}'")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
