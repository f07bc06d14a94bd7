# SPDX-License-Identifier: Apache-2.0
"""Weights files: headers, order of arrays, byte-identical round trip, partial files."""

import random
import struct

import numpy as np
import pytest
from support.data import REAL_NETWORKS, real_network
from support.networks import build, random_cfg, random_weights, tiny_detector, yolov3

from yolo_hw.darknet import load_network, read_weights, write_weights
from yolo_hw.darknet.weights import Header

NEW_HEADER = struct.pack("<3iQ", 0, 2, 5, 2**40 + 7)
OLD_HEADER = struct.pack("<3iI", 0, 1, 0, 640)


def file_of(path, header, floats):
    path.write_bytes(header + np.asarray(floats, "<f4").tobytes())
    return path


@pytest.mark.parametrize(
    ("header", "size", "version", "seen"),
    [
        (NEW_HEADER, 20, (0, 2, 5), 2**40 + 7),
        (OLD_HEADER, 16, (0, 1, 0), 640),
        (struct.pack("<3iQ", 1, 0, 0, 3), 20, (1, 0, 0), 3),
        (struct.pack("<3iI", 0, 0, 9, 2**32 - 1), 16, (0, 0, 9), 2**32 - 1),
    ],
    ids=["0.2", "0.1", "1.0", "0.0"],
)
def test_both_header_versions(header, size, version, seen):
    parsed = Header.unpack(header + bytes(8), "x.weights")
    assert len(header) == size == parsed.size
    assert (parsed.major, parsed.minor, parsed.revision, parsed.seen) == (*version, seen)
    assert parsed.pack() == header


@pytest.mark.parametrize("header", [NEW_HEADER, OLD_HEADER], ids=["new", "old"])
def test_arrays_come_in_darknets_order(tmp_path, header):
    """Convolution: bias, scale, mean, variance, weights; connected: bias, weights, then the statistics."""
    network = build(
        "[net]\nheight=2\nwidth=1\nchannels=2\n"
        "[convolutional]\nbatch_normalize=1\nfilters=2\n"  # 4 * 2 + 2 * 2
        "[convolutional]\nfilters=1\n"  # 1 + 2
        "[connected]\noutput=1\nbatch_normalize=1\n"  # 1 + 2 + 3
        "[batchnorm]\n"  # 4
        "[se]\nreduction=1\n"  # 1 + 1
    )
    weights = read_weights(file_of(tmp_path / "w", header, np.arange(27)), network)
    flat = [{role: array.ravel().tolist() for role, array in weights.of(layer).items()} for layer in network.layers]
    assert flat == [
        {"bias": [0, 1], "scale": [2, 3], "mean": [4, 5], "var": [6, 7], "weight": [8, 9, 10, 11]},
        {"bias": [12], "weight": [13, 14]},
        {"bias": [15], "weight": [16, 17], "scale": [18], "mean": [19], "var": [20]},
        {"bias": [21], "scale": [22], "mean": [23], "var": [24]},
        {"weight1": [25], "weight2": [26]},
    ]
    assert weights.layers[0]["weight"].shape == (2, 2, 1, 1)


def test_connected_weights_of_very_old_files_are_transposed(tmp_path):
    """A version above 1000 stores [inputs, outputs]; darknet transposes them on loading."""
    network = build("[net]\nheight=1\nwidth=1\nchannels=3\n[connected]\noutput=2\n")
    header = struct.pack("<3iQ", 1001, 0, 0, 0)
    path = file_of(tmp_path / "w", header, [8, 9, 0, 1, 2, 3, 4, 5])
    weights = read_weights(path, network)
    assert weights.layers[0]["weight"].tolist() == [[0, 2, 4], [1, 3, 5]]
    write_weights(tmp_path / "again", network, weights)
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("header", [NEW_HEADER, OLD_HEADER], ids=["new", "old"])
@pytest.mark.parametrize("seed", range(5))
def test_synthetic_round_trip_is_byte_identical(tmp_path, header, seed):
    network = build(random_cfg(random.Random(seed)))
    floats = np.random.default_rng(seed).standard_normal(network.num_params).astype("<f4")
    floats = np.abs(floats)
    floats[::7] = 1e-42  # denormal
    floats[::5] = -0.0
    path = file_of(tmp_path / "in", header, floats)
    write_weights(tmp_path / "out", network, read_weights(path, network))
    assert (tmp_path / "out").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("name", REAL_NETWORKS)
def test_real_files_round_trip_byte_for_byte(tmp_path, name):
    cfg, weights = real_network(name)
    network = load_network(cfg)
    write_weights(tmp_path / "out", network, read_weights(weights, network))
    assert (tmp_path / "out").read_bytes() == weights.read_bytes()


@pytest.mark.parametrize("name", REAL_NETWORKS)
def test_real_files_survive_the_model(tmp_path, name):
    """Through the torch model and back; only variances below zero are allowed to change (to zero)."""
    from yolo_hw.nn import load_darknet

    cfg, path = real_network(name)
    model = load_darknet(cfg, path)
    before = read_weights(path, model.network)
    after = model.to_weights(before.header)
    for layer in model.network.layers:
        for role, array in before.of(layer).items():
            expected = np.where(array < 0, np.float32(0), array) if role == "var" else array
            assert np.array_equal(after.layers[layer.index][role], expected), (layer.name, role)


def test_random_weights_round_trip_through_arrays(tmp_path):
    network = build(tiny_detector())
    weights = random_weights(network, seed=3)
    write_weights(tmp_path / "w", network, weights)
    again = read_weights(tmp_path / "w", network)
    assert again.loaded_layers == len(network.layers)
    for index, arrays in weights.layers.items():
        for role, array in arrays.items():
            assert np.array_equal(again.layers[index][role], array)


def test_darknet53_backbone_file_ends_after_layer_74():
    """The published darknet53.conv.74 has 162,482,580 bytes and a header of 20."""
    layers = build(yolov3()).layers[:75]
    assert sum(param.numel for layer in layers for param in layer.params) == (162_482_580 - 20) // 4


BACKBONE = "[net]\nheight=8\nwidth=8\nchannels=1\n" + "[convolutional]\nfilters=2\n[maxpool]\nsize=2\nstride=2\n" * 3


def test_partial_backbone(tmp_path):
    network = build(BACKBONE)  # 4, 6 and 6 floats in layers 0, 2 and 4
    path = file_of(tmp_path / "w.conv.4", NEW_HEADER, range(10))
    weights = read_weights(path, network, partial=True)
    assert sorted(weights.layers) == [0, 2]
    assert weights.layers[2]["weight"].ravel().tolist() == [6, 7, 8, 9]
    assert weights.loaded_layers == 4  # the pool after layer 2 owns nothing and is covered too
    write_weights(tmp_path / "again", network, weights)
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_partial_backbone_fills_the_first_layers_of_a_model(tmp_path):
    from yolo_hw.nn import load_darknet

    (tmp_path / "net.cfg").write_text(BACKBONE)
    model = load_darknet(tmp_path / "net.cfg", file_of(tmp_path / "w", NEW_HEADER, range(10)), partial=True)
    assert model.block("conv_2").arrays()["bias"].tolist() == [4, 5]
    assert model.block("conv_4").arrays()["bias"].tolist() != [0, 0]  # left at its initial values


def test_a_complete_file_is_also_accepted_as_partial(tmp_path):
    network = build(BACKBONE)
    weights = read_weights(file_of(tmp_path / "w", NEW_HEADER, range(16)), network, partial=True)
    assert weights.loaded_layers == len(network.layers)
