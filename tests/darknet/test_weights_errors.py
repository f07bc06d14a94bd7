# SPDX-License-Identifier: Apache-2.0
"""Weights files that do not fit: layer, offset, floats expected and found."""

import os
import struct
import tracemalloc

import numpy as np
import pytest
from support.networks import build, random_weights, tiny_detector

from yolo_hw.darknet import read_weights, write_weights
from yolo_hw.darknet.weights import VARIANCE_TOLERANCE
from yolo_hw.errors import WeightsError

HEADER = struct.pack("<3iQ", 0, 2, 5, 0)
CFG = (
    "[net]\nheight=8\nwidth=8\nchannels=1\n"
    "[convolutional]\nbatch_normalize=1\nfilters=2\n"  # line 5, conv_0: 4 * 2 + 2 = 10 floats
    "[maxpool]\nsize=2\n"
    "[convolutional]\nfilters=3\n"  # line 10, conv_2: 3 + 6 = 9 floats
)


@pytest.fixture
def network():
    return build(CFG, "small.cfg")


def failure(network, path, floats, header=HEADER, **options):
    path.write_bytes(header + np.asarray(floats, "<f4").tobytes())
    with pytest.raises(WeightsError) as caught:
        read_weights(path, network, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_too_short_names_layer_line_offset_and_floats(network, tmp_path):
    message = failure(network, tmp_path / "w.weights", range(15))
    assert message.startswith("w.weights: conv_2 (line 10 of small.cfg) needs 9 floats at byte 60, found 5;")
    assert "the network has 19 floats, the file 15" in message


def test_too_long_names_the_end(network, tmp_path):
    message = failure(network, tmp_path / "w.weights", range(22))
    assert "ends at byte 96 after 19 floats, found 3 floats more" in message


def test_partial_must_end_at_a_layer(network, tmp_path):
    message = failure(network, tmp_path / "w.weights", range(11), partial=True)
    assert "conv_2 (line 10 of small.cfg) needs 9 floats at byte 60, found 1;" in message


def test_partial_must_cover_something(network, tmp_path):
    message = failure(network, tmp_path / "w.weights", [], partial=True)
    assert "conv_0 (line 5 of small.cfg) needs 10 floats at byte 20, found 0;" in message


def test_split_float(network, tmp_path):
    message = failure(network, tmp_path / "w.weights", range(19), header=HEADER + b"\0")
    assert "77 bytes after the header are not a whole number of float32" in message


@pytest.mark.parametrize("size", [0, 1, 15])
def test_no_header(network, tmp_path, size):
    (tmp_path / "w.weights").write_bytes(HEADER[:size])
    with pytest.raises(WeightsError, match=f"header of at least 16 bytes, got {size} bytes"):
        read_weights(tmp_path / "w.weights", network)


def test_cut_header(network, tmp_path):
    (tmp_path / "w.weights").write_bytes(HEADER[:18])
    with pytest.raises(WeightsError, match="header must have 20 bytes, got 18"):
        read_weights(tmp_path / "w.weights", network)


@pytest.mark.parametrize(
    "start", [b"\x89PNG\r\n\x1a\n0000", b"PK\x03\x04" * 4, struct.pack("<3i", -1, 2, 5), b"\xff" * 16]
)
def test_other_formats(network, tmp_path, start):
    message = failure(network, tmp_path / "w.weights", range(19), header=start + bytes(8))
    assert "not a darknet weights file" in message


def test_missing_file_and_folder(network, tmp_path):
    with pytest.raises(WeightsError, match=r"none\.weights: cannot read the weights file: No such file"):
        read_weights(tmp_path / "none.weights", network)
    with pytest.raises(WeightsError, match="cannot read the weights file: Is a directory"):
        read_weights(tmp_path, network)


def test_endless_device(network):
    with pytest.raises(WeightsError, match="regular file"):
        read_weights("/dev/zero", network)


@pytest.mark.parametrize(("bad", "at"), [(np.nan, 9), (np.inf, 11), (-np.inf, 18), (np.nan, 0)])
def test_numbers_must_be_finite(network, tmp_path, bad, at):
    floats = np.arange(19, dtype=np.float32)
    floats[at] = bad
    message = failure(network, tmp_path / "w.weights", floats)
    layer, role, inside = {9: ("conv_0", "weight", 1), 11: ("conv_2", "bias", 1), 18: ("conv_2", "weight", 5),
                           0: ("conv_0", "bias", 0)}[at]  # fmt: skip
    assert message.startswith(f"w.weights: {layer}: {role} must be finite, got 1 NaN or infinite values of ")
    assert f"the first at {inside};" in message


def test_negative_variances_are_refused(network, tmp_path):
    floats = np.arange(19, dtype=np.float32)
    floats[7] = -0.5
    message = failure(network, tmp_path / "w.weights", floats)
    assert message.startswith("w.weights: conv_0: variances must not be negative, got -0.5 at 1")


@pytest.mark.parametrize("variance", [0.0, -0.0, 1e-45, -1e-45, -1e-39, -1e-12, -VARIANCE_TOLERANCE, 2.7e6])
def test_rounding_residues_of_variances_make_no_nan(network, tmp_path, variance):
    """Trained files hold variances such as -1e-39; the output must be finite and equal that of variance 0."""
    import torch

    from yolo_hw.nn import Darknet

    weights = random_weights(network, seed=1)
    weights.layers[0]["var"][:] = variance
    write_weights(tmp_path / "w", network, weights)
    outputs = []
    for value in (variance, max(variance, 0.0)):
        weights.layers[0]["var"][:] = value
        model = Darknet(network).eval()
        model.load_weights(read_weights(tmp_path / "w", network) if value == variance else weights)
        outputs.append(model(torch.ones(1, 1, 8, 8))[0])
    assert torch.isfinite(outputs[0]).all()
    assert torch.equal(*outputs)


def test_a_huge_file_is_refused_by_its_size(network, tmp_path):
    """10 GB of zeros (a sparse file): refused before anything of it is read."""
    path = tmp_path / "huge.weights"
    path.write_bytes(HEADER)
    os.truncate(path, 20 + 4 * 2_500_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(WeightsError, match=r"ends at byte 96 after 19 floats, found 2499999981 floats more"):
            read_weights(path, network)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_writing_checks_shapes(network, tmp_path):
    weights = random_weights(network)
    weights.layers[2]["bias"] = weights.layers[2]["bias"][:2]
    with pytest.raises(WeightsError, match=r"conv_2: bias must have shape \(3,\), got \(2,\)"):
        write_weights(tmp_path / "w", network, weights)
    assert list(tmp_path.iterdir()) == []


def test_weights_of_another_net(tmp_path):
    other = build(tiny_detector(filters=12))
    write_weights(tmp_path / "other.weights", other, random_weights(other))
    with pytest.raises(WeightsError, match="weights of another cfg"):
        read_weights(tmp_path / "other.weights", build(tiny_detector(filters=8)))
