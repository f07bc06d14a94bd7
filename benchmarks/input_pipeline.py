# SPDX-License-Identifier: Apache-2.0
"""Images per second of the input pipeline at 416x416: decoding, mosaic, affine map, colour, by number of workers.

The settings are measured in turn, round after round; a rate counts from the third batch of an iteration, when the
workers are at work. Figures are medians over the rounds.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from statistics import median
from time import perf_counter

import cv2

from benchmarks.record import require_data, save_result
from yolo_hw.darknet.layers import Shape
from yolo_hw.data import open_dataset
from yolo_hw.data.augment import NO_AUGMENTATION, AugmentConfig
from yolo_hw.train import CachedImages, DatasetImages, FittedImages, ImageSource, TrainConfig
from yolo_hw.train.batches import run_batches

NET = Shape(3, 416, 416)
BATCH = 16
BATCHES = 12
"""Of one measurement."""
WARM_UP = 2
ROUNDS = 5
WORKERS = (0, 1, 2)
CACHE_BYTES = 1 << 30

AUGMENT = AugmentConfig(mosaic=1.0, scale=0.5, translate=0.1, rotate=5.0, shear=2.0)


def main(results: Path) -> None:
    """Measure; write input_pipeline.json to the folder `results`."""
    cv2.setNumThreads(1)
    files = FittedImages(DatasetImages(open_dataset(require_data() / "bccd" / "train.txt")), NET)
    cached = CachedImages(files, CACHE_BYTES)
    for index in range(len(cached)):
        cached[index]
    cases: dict[tuple[str, int], tuple[ImageSource, AugmentConfig]] = {}
    for workers in WORKERS:
        cases["decode, resize", workers] = (files, NO_AUGMENTATION)
        cases["decode, mosaic, affine, HSV", workers] = (files, AUGMENT)
        cases["from the cache, mosaic, affine, HSV", workers] = (cached, AUGMENT)
    rates: dict[tuple[str, int], list[float]] = {key: [] for key in cases}
    for _ in range(ROUNDS):
        for key, (source, augment) in cases.items():
            rates[key].append(images_per_second(source, augment, key[1]))
    rows = [
        {"pipeline": name, "workers": workers, "images_per_s": round(median(found), 1), "rounds": ROUNDS}
        for (name, workers), found in rates.items()
    ]
    for row in rows:
        print(row)
    save_result("input_pipeline", "python -m benchmarks input_pipeline", rows, results)


def images_per_second(source: ImageSource, augment: AugmentConfig, workers: int) -> float:
    """Return the rate of one iteration."""
    config = TrainConfig(epochs=1000, batch=BATCH, augment=augment, workers=workers)
    batches = run_batches(source, config, 0)
    for _ in islice(batches, WARM_UP):
        pass
    start = perf_counter()
    for _ in islice(batches, BATCHES):
        pass
    seconds = perf_counter() - start
    batches.close()
    return BATCH * BATCHES / seconds
