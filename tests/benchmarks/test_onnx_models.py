# SPDX-License-Identifier: Apache-2.0
"""The ONNX forms compute what the library computes; needs onnx and onnxruntime."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.networks import random_weights, tiny_detector

from benchmarks.engine import Subject
from benchmarks.networks import model_of

onnx = pytest.importorskip("onnx", reason="needs the extra 'bench'")
runtime = pytest.importorskip("onnxruntime", reason="needs the extra 'bench'")


@pytest.fixture(scope="module")
def subject():
    model = model_of(tiny_detector(64), "tiny")
    model.load_weights(random_weights(model.network))
    return Subject("tiny", lambda: model)


def run(model, image):
    return runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(
        None, {"input": image}
    )


def test_float_model_equals_torch(subject):
    from yolo_hw.interop.onnx_float import float_model

    for got, expected in zip(run(float_model(subject.folded), subject.image(256)), subject.expected, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("both_sides", [False, True])
def test_quantised_model_is_within_rounding_of_the_integer_graph(subject, both_sides):
    from benchmarks.onnx_models import quantised_model

    model = quantised_model(subject.graph, subject.pre_ranges if both_sides else None)
    for got, codes in zip(run(model, subject.codes[None]), subject.expected_codes, strict=True):
        assert codes.std() > 5
        assert np.abs(got[0].astype(np.int64) - 128 - codes).mean() < 1


def test_single_convolution_equals_torch():
    from benchmarks.onnx_models import conv_model, quantised_conv_model

    draw = np.random.default_rng(0)
    weight, bias = (draw.standard_normal(shape, np.float32) for shape in ((8, 4, 3, 3), (8,)))
    codes = draw.integers(118, 139, (1, 4, 6, 5), np.uint8)
    image = (codes.astype(np.float32) - 128) / 32
    expected = torch.conv2d(*map(torch.from_numpy, (image, weight, bias)), padding=1).numpy()
    (got,) = run(conv_model(weight, bias, image.shape), image)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
    (got,) = run(quantised_conv_model(weight, bias, image.shape), codes.transpose(0, 2, 3, 1).copy())
    rounded = np.clip(np.rint(expected * 32), -128, 127).transpose(0, 2, 3, 1)
    assert np.abs(got.astype(np.int64) - 128 - rounded).max() <= 3


def test_unknown_node_is_named(subject):
    from benchmarks.onnx_models import _Model

    with pytest.raises(ValueError, match="out: no ONNX form for activation mish"):
        _Model({}).activation("mish", "in", "out", 0.1)
