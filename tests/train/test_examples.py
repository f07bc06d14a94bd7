# SPDX-License-Identifier: Apache-2.0
"""The example of training a classifier runs and writes weights that can be read."""

import os
import subprocess
import sys

import torch
from PIL import Image
from support.data import REPOSITORY

from yolo_hw.data import generate_shapes
from yolo_hw.nn import load_resnet, resnet20


def run(folder, *options):
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, REPOSITORY / "examples" / "train_classifier.py", "--epochs", "2", "--out", "new.pt"]
    found = subprocess.run(
        [str(part) for part in (*command, *options)],
        cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=180,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    return found.stdout


def test_generated_shapes(tmp_path):
    printed = run(tmp_path, "--images", 64, "--size", 16)
    assert "resnet20: 0.27 M parameters" in printed
    assert printed.count("top-1") == 2
    model = resnet20(4)
    before = model.conv1.weight.clone()
    load_resnet(model, tmp_path / "new.pt")
    assert not torch.equal(model.conv1.weight, before)


def test_class_folders_of_another_size(tmp_path):
    shapes = generate_shapes(12, 0, 20)
    for split in ("train", "val"):
        for i, label in enumerate(shapes.labels):
            folder = tmp_path / "set" / split / shapes.names[label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(shapes.image(i)).save(folder / f"{i}.png")
    printed = run(tmp_path, "--data", "set", "--size", 16, "--batch", 4)
    assert printed.count("top-1") == 2
