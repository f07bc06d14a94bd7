# SPDX-License-Identifier: Apache-2.0
"""ONNX files as head runners: against the float model, and what is refused."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.networks import build, random_weights, tiny_detector

from yolo_hw.errors import YoloHwError
from yolo_hw.evaluate import DetectorConfig, FloatRunner, OnnxRunner, detect_images
from yolo_hw.nn import Darknet, NmsConfig

NETWORK = build(tiny_detector())
HEAD = NETWORK.heads[0].in_shapes[0]


def value(name, shape, kind="tensor(float)"):
    return SimpleNamespace(name=name, shape=shape, type=kind)


class Session:
    """Stands for onnxruntime's: the head map is the mean of the image, and it keeps what it was given."""

    inputs = (value("image", ["N", *NETWORK.input]),)
    outputs = (value("head", ["N", *HEAD]),)

    def __init__(self, path, options, providers):
        self.given = []

    def get_inputs(self):
        return self.inputs

    def get_outputs(self):
        return self.outputs

    def run(self, names, feed):
        (x,) = feed.values()
        self.given.append(x)
        return [np.broadcast_to(x.mean((1, 2, 3), dtype=np.float32)[:, None, None, None], (len(x), *HEAD)).copy()]


@pytest.fixture
def open_fake(monkeypatch, tmp_path):
    """Open a file with a runtime whose session has the given inputs and outputs."""

    def make(inputs=Session.inputs, outputs=Session.outputs, **options):
        session = type("Fake", (Session,), {"inputs": inputs, "outputs": outputs})
        runtime = SimpleNamespace(SessionOptions=SimpleNamespace, InferenceSession=session)
        monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
        (tmp_path / "net.onnx").write_bytes(b"")
        return OnnxRunner(tmp_path / "net.onnx", NETWORK, **options)

    return make


IMAGES = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3)).astype(np.uint8)


@pytest.mark.parametrize(("batch", "runs"), [("N", [5]), (None, [5]), (1, [1] * 5), (2, [2, 2, 2]), (8, [8])])
def test_batches_of_any_size_fit_the_file(open_fake, batch, runs):
    runner = open_fake((value("image", [batch, *NETWORK.input]),), (value("head", [batch, *HEAD]),))
    (maps,) = runner.run(IMAGES)
    assert [len(x) for x in runner._session.given] == runs
    assert maps.shape == (5, *HEAD)
    assert maps[:, 0, 0, 0].numpy() == pytest.approx(IMAGES.mean((1, 2, 3)) / 255)


def test_pixels_are_scaled_for_float_inputs_only(open_fake):
    runner = open_fake(pixel_scale=1 / 256)
    runner.run(IMAGES)
    assert runner._session.given[0].dtype == np.float32
    assert np.array_equal(runner._session.given[0], (IMAGES / np.float32(256)).transpose(0, 3, 1, 2))
    runner = open_fake((value("image", ["N", *NETWORK.input], "tensor(uint8)"),))
    runner.run(IMAGES)
    assert runner._session.given[0].dtype == np.uint8
    assert np.array_equal(runner._session.given[0], IMAGES.transpose(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inputs": Session.inputs * 2}, "must have one input, got 2"),
        ({"inputs": (value("x", [1, 3, 32, 64]),)}, r"must be \[N, 3, 32, 32\], got \[1, 3, 32, 64\]"),
        ({"inputs": (value("x", ["N", *NETWORK.input], "tensor(int32)"),)}, "must be float32 or uint8"),
        ({"outputs": ()}, "one output per head of net, 1, got 0"),
        ({"outputs": (value("y", ["N", 255, 8, 8]),)}, "output y must be the raw map of yolo_5"),
        ({"outputs": (value("y", ["N", *HEAD], "tensor(uint8)"),)}, "output y must be the raw map"),
    ],
)
def test_what_does_not_fit_the_network_is_refused(open_fake, options, message):
    with pytest.raises(YoloHwError, match=message):
        open_fake(**options)


def test_a_missing_runtime_is_named_with_the_way_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(YoloHwError, match=r"needs onnxruntime: pip install 'yolo-hw\[onnx\]'"):
        OnnxRunner(tmp_path / "net.onnx", NETWORK)


def write_onnx(path, model):
    """Export a darknet model, batch norms folded; the folded network takes pixels / 256."""
    from yolo_hw.interop.onnx_float import float_model
    from yolo_hw.quant.fold import fold_model

    path.write_bytes(float_model(fold_model(model)).SerializeToString())


def test_a_file_computes_what_the_float_model_does(tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    model = Darknet(NETWORK)
    model.load_weights(random_weights(NETWORK, 3))
    write_onnx(tmp_path / "net.onnx", model.eval())
    runner = OnnxRunner(tmp_path / "net.onnx", NETWORK, pixel_scale=1 / 256, threads=1)
    torch.testing.assert_close(runner.run(IMAGES), FloatRunner(model).run(IMAGES), rtol=1e-4, atol=1e-4)
    config = DetectorConfig(nms=NmsConfig(confidence=0.1))
    for a, b in zip(
        detect_images(runner, list(IMAGES), config),
        detect_images(FloatRunner(model), list(IMAGES), config),
        strict=True,
    ):
        assert len(a.scores) == len(b.scores) > 0
        torch.testing.assert_close(a.scores, b.scores, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("content", [None, b"", b"no model"])
def test_files_that_are_no_models_are_named(tmp_path, content):
    pytest.importorskip("onnxruntime")
    if content is not None:
        (tmp_path / "net.onnx").write_bytes(content)
    with pytest.raises(YoloHwError, match=r"net\.onnx: (no such|onnxruntime cannot load)"):
        OnnxRunner(tmp_path / "net.onnx", NETWORK)
