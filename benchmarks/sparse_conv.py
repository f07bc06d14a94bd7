# SPDX-License-Identifier: Apache-2.0
"""Convolutions with pruned weights, one layer at a time: convolution and bias, batch 1.

A layer's dense candidates and all its patterns and sparsities are one case, so that every speed-up is a ratio within
one run. DeepSparse gets the unstructured weights; no other runtime here makes use of zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from benchmarks import ours
from benchmarks.layers import SPARSE, ConvLayer
from benchmarks.measure import Candidate, Case, Function
from benchmarks.onnx_models import conv_model, quantised_conv_model
from benchmarks.peers import deepsparse_function, onnxruntime_function, openvino_function, torch_function
from benchmarks.pruning import prune

SPARSITIES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
PATTERNS = ("unstructured", "16x1")
DENSE = {"dense": True}


def cases() -> list[Case]:
    """Return one case per layer."""
    return [_case(layer) for layer in SPARSE]


@cache
def pruned(layer: ConvLayer, pattern: str, sparsity: float) -> npt.NDArray[np.float32]:
    """The layer's weights [K, C, R, S], pruned."""
    return prune(layer.weight(), pattern, sparsity)


def _case(layer: ConvLayer) -> Case:
    candidates = [*_dense_float(layer), _dense_int8(layer)]
    for sparsity in SPARSITIES:
        candidates.append(_deepsparse(layer, sparsity))
        candidates += ours.sparse_engine(layer, sparsity)
        for pattern in PATTERNS:
            candidates += ours.sparse_conv(layer, pattern, sparsity)
        candidates += ours.sparse_conv_codes(layer, sparsity)
    facts = {"network": layer.network, "layer": layer.name}
    return Case(layer.name, tuple(candidates), 4 * layer.elements(), 2 * layer.macs, facts)


def _dense_float(layer: ConvLayer) -> list[Candidate]:
    def module() -> nn.Module:
        conv = nn.Conv2d(layer.c, layer.k, layer.size, padding=layer.size // 2)
        conv.load_state_dict({"weight": torch.from_numpy(layer.weight()), "bias": torch.from_numpy(layer.bias())})
        return conv

    def model() -> Any:  # noqa: ANN401 - onnx may be absent
        return conv_model(layer.weight(), layer.bias(), layer.image().shape)

    facts = {"dtype": "float32", **DENSE}
    makers: dict[str, Callable[[int], Function]] = {
        "onnxruntime fp32": onnxruntime_function(model, layer.image()),
        "openvino fp32": openvino_function(model, layer.image()),
        "torch fp32, channels last": torch_function(module, layer.image(), "channels_last"),
        "torch fp32, compiled": torch_function(module, layer.image(), "compiled"),
    }
    return [Candidate(name, maker, facts) for name, maker in makers.items()]


def _dense_int8(layer: ConvLayer) -> Candidate:
    """The fastest form that onnxruntime has: unsigned activations and signed weights, channels last on both sides."""

    def model() -> Any:  # noqa: ANN401
        return quantised_conv_model(layer.weight(), layer.bias(), layer.image().shape)

    rows = np.random.default_rng(2).integers(0, 256, (1, layer.map, layer.map, layer.c), np.uint8)
    facts = {"dtype": "int8", **DENSE}
    size = layer.elements() + 3 * layer.k
    return Candidate("onnxruntime int8", onnxruntime_function(model, rows), facts, bytes=size)


def _deepsparse(layer: ConvLayer, sparsity: float) -> Candidate:
    def model() -> Any:  # noqa: ANN401
        weight = pruned(layer, "unstructured", sparsity)
        return conv_model(weight, layer.bias(), layer.image().shape)

    facts = {"dtype": "float32", "pattern": "unstructured", "sparsity": sparsity}
    operations = round(2 * layer.macs * (1 - sparsity))
    name = f"deepsparse fp32, {sparsity:.0%}"
    return Candidate(name, deepsparse_function(model, layer.image()), facts, operations)
