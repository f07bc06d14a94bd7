# SPDX-License-Identifier: Apache-2.0
"""The detector of blood cells in ``examples/bccd`` finds what its page says, as floats and as integers."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.data import data_path

from yolo_hw.data import load_batches, open_dataset
from yolo_hw.evaluate import DetectorConfig, FloatRunner, IntRunner, evaluate_dataset
from yolo_hw.nn import NmsConfig, load_darknet
from yolo_hw.quant import QuantConfig, quantise_model

EXAMPLE = Path(__file__).parents[2] / "examples" / "bccd"
MEASURING = DetectorConfig(nms=NmsConfig(confidence=0.005, iou=0.5))


@pytest.fixture(scope="module")
def cells():
    return open_dataset(data_path("bccd/BCCD"), split="val")


@pytest.fixture(scope="module")
def model():
    return load_darknet(EXAMPLE / "bccd-tiny.cfg", EXAMPLE / "bccd-tiny.weights")


def test_float_model(model, cells):
    found = evaluate_dataset(FloatRunner(model), cells, range(3), MEASURING)
    assert found.images == 87
    assert found.ap50 >= 0.85
    assert all(entry.ap50 >= 0.75 for entry in found.classes)


def test_integers_lose_little(model, cells):
    batches = load_batches(data_path("bccd/train.txt"), model.network.input, limit=32)
    graph = quantise_model(model, batches, QuantConfig(w_bits=8, a_bits=8))
    floats = evaluate_dataset(FloatRunner(model), cells, range(3), MEASURING)
    codes = evaluate_dataset(IntRunner(graph), cells, range(3), MEASURING)
    assert codes.ap50 >= floats.ap50 - 0.03
