# SPDX-License-Identifier: Apache-2.0
"""One of several processes that measure together: ``python -m support.shard_process FOLDER STORE RANK SIZE``."""

import sys
from datetime import timedelta

import torch.distributed
from support.networks import build, random_weights, tiny_detector

from yolo_hw.data import open_dataset
from yolo_hw.evaluate import DetectorConfig, FloatRunner, evaluate_dataset
from yolo_hw.nn import Darknet, NmsConfig

CONFIG = DetectorConfig(batch=2, nms=NmsConfig(confidence=0.05))


def make_runner():
    """Return the same network in every process."""
    network = build(tiny_detector())
    model = Darknet(network)
    model.load_weights(random_weights(network, 3))
    return FloatRunner(model)


def main():
    """Measure and print the figures."""
    folder, store, rank, size = sys.argv[1:]
    if int(size) > 1:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{store}", rank=int(rank), world_size=int(size), timeout=timedelta(seconds=60)
        )
    print(evaluate_dataset(make_runner(), open_dataset(folder, ["a", "b"]), [0, 1], CONFIG))


if __name__ == "__main__":
    main()
