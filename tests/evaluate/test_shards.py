# SPDX-License-Identifier: Apache-2.0
"""Several processes that share the images measure exactly what one does."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from support.data import REPOSITORY
from support.shard_process import CONFIG, make_runner

from yolo_hw.data import open_dataset
from yolo_hw.errors import DataError, YoloHwError
from yolo_hw.evaluate import (
    Shard,
    detect_dataset,
    detect_shard,
    evaluate_dataset,
    evaluate_detections,
    merge_shards,
)

IMAGES = 11


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eleven noisy images with one labelled object each; the fifth cannot be read."""
    root = tmp_path_factory.mktemp("set")
    (root / "images").mkdir()
    (root / "labels").mkdir()
    for i in range(IMAGES):
        pixels = np.random.default_rng(i).integers(0, 256, (40, 50, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{i:02}.png")
        (root / "labels" / f"{i:02}.txt").write_text(f"{i % 2} 0.5 0.5 0.{3 + i % 5} 0.4\n")
    data = (root / "images" / "04.png").read_bytes()
    (root / "images" / "04.png").write_bytes(data[: len(data) // 2])
    return root


@pytest.fixture(scope="module")
def dataset(folder):
    return open_dataset(folder, ["a", "b"])


@pytest.mark.parametrize("batch", [1, 2, 3, 20])
@pytest.mark.parametrize("world_size", [1, 2, 3, 13])
def test_shards_hold_every_image_once_and_whole_batches(batch, world_size):
    shards = [Shard(rank, world_size).indices(IMAGES, batch) for rank in range(world_size)]
    assert sorted(index for shard in shards for index in shard) == list(range(IMAGES))
    for shard in shards:
        parts = [shard[i : i + batch] for i in range(0, len(shard), batch)]
        assert all(part == list(range(part[0], part[0] + len(part))) and part[0] % batch == 0 for part in parts)


def test_one_two_and_three_shards_give_identical_numbers(dataset):
    runner = make_runner()
    results = {}
    for world_size in (1, 2, 3):
        parts = [detect_shard(runner, dataset, CONFIG, Shard(rank, world_size)) for rank in range(world_size)]
        merged = merge_shards(parts[::-1], IMAGES)
        assert merged.detections[4] is None
        assert len(merged.errors) == 1
        assert merged.times.images == IMAGES - 1
        results[world_size] = merged, evaluate_detections(dataset, merged.detections, [0, 1])
    whole, metrics = results[1]
    assert sum(len(d.scores) for d in whole.detections if d is not None) > 20
    assert metrics.ap50 > 0
    for world_size in (2, 3):
        merged, again = results[world_size]
        for a, b in zip(whole.detections, merged.detections, strict=True):
            assert (a is None) == (b is None)
            assert a is None or all(torch.equal(getattr(a, k), getattr(b, k)) for k in ("boxes", "scores", "classes"))
        assert repr(again) == repr(metrics)  # repr, as undefined figures are NaN
    assert repr(evaluate_dataset(runner, dataset, [0, 1], CONFIG)) == repr(metrics)


def start(folder, store, rank, size):
    paths = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "support.shard_process", *map(str, (folder, store, rank, size))]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_processes_of_a_group_measure_what_one_process_does(folder, tmp_path):
    printed = []
    for processes in ([start(folder, tmp_path / "1", 0, 1)], [start(folder, tmp_path / "2", r, 2) for r in (0, 1)]):
        for process in processes:
            out, error = process.communicate(timeout=120)
            assert process.returncode == 0, error
            printed.append(out)
    assert printed[0].startswith("DetectionMetrics(")
    assert printed[1] == printed[2] == printed[0]


def test_bad_shards_are_refused(dataset):
    with pytest.raises(YoloHwError, match="rank must be in"):
        Shard(2, 2)
    part = detect_shard(make_runner(), dataset, CONFIG, Shard(0, 2))
    for parts in ([part], [part, part]):
        with pytest.raises(YoloHwError, match="each of the 11 images once"):
            merge_shards(parts, IMAGES)


def test_a_set_without_a_readable_image_is_refused(folder, tmp_path):
    (tmp_path / "x.png").write_text("broken")
    with pytest.raises(DataError, match="none of the 1 images"):
        detect_dataset(make_runner(), open_dataset(tmp_path, ["a", "b"]), CONFIG)
