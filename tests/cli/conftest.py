# SPDX-License-Identifier: Apache-2.0
"""A tiny network on disk, and a tiny set for the embedded one."""

import numpy as np
import pytest
from PIL import Image
from support.cli_runs import Files, write_network
from support.networks import tiny_detector

from yolo_hw.data.synthetic import write_dataset


@pytest.fixture(scope="session")
def files(tmp_path_factory) -> Files:
    """A tiny detector and a folder of two images."""
    folder = tmp_path_factory.mktemp("network")
    cfg, weights = write_network(folder, tiny_detector())
    images = folder / "images"
    images.mkdir()
    for seed in range(2):
        pixels = np.random.default_rng(seed).integers(0, 256, (40, 50, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(images / f"image{seed}.png")
    return Files(cfg, weights, images)


@pytest.fixture(scope="session")
def labelled(tmp_path_factory):
    """Six generated images of the embedded network's parts."""
    folder = tmp_path_factory.mktemp("generated") / "set"
    write_dataset(folder, 6, 7)
    return folder
