# SPDX-License-Identifier: Apache-2.0
"""What a search needs of a data set: two parts of the training images that share none."""

import numpy as np
import pytest
import torch
from PIL import Image
from support.data import REPOSITORY, data_path
from support.networks import tiny_detector
from support.random_net import make_net

from yolo_hw.data import DetectionDataset, Resize, open_dataset
from yolo_hw.errors import DataError, PruneError
from yolo_hw.evaluate import DetectorConfig, FloatRunner, evaluate_dataset
from yolo_hw.nn.darknet import load_darknet
from yolo_hw.prune.config import PruneConfig
from yolo_hw.prune.eagleeye import EagleEyeConfig, eagleeye
from yolo_hw.prune.random_widths import Band
from yolo_hw.prune.search_data import (
    DetectorScore,
    ImageBatches,
    SearchDataConfig,
    open_search_data,
    split_dataset,
)

BCCD = REPOSITORY / "examples/bccd"


def squares(folder, count=12, names=("square",)):
    """Write a YOLO folder of pictures with a white square each, all in ``train``."""
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 60, (40, 40, 3)).astype(np.uint8)
        pixels[8:24, i : i + 16] = 250
        for part in ("images", "labels"):
            (folder / part / "train").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / "images/train" / f"{i:02}.png")
        (folder / "labels/train" / f"{i:02}.txt").write_text(f"0 {(i + 8) / 40} 0.4 0.4 0.4\n")
    return open_dataset(folder, names)


def test_batches_hold_the_images_in_order():
    images = [np.full((2, 3, 3), value, np.uint8) for value in (0, 51, 255)]
    batches = ImageBatches(images, 2)
    assert [batch.shape for batch in batches] == [(2, 3, 2, 3), (1, 3, 2, 3)]
    assert torch.equal(torch.cat(list(batches))[:, 0, 0, 0], torch.tensor([0, 51, 255]) / 255)
    assert torch.equal(batches[-1], batches[1:][0])
    with pytest.raises(IndexError):
        batches[2]
    with pytest.raises(PruneError, match="at least 1 image and 1 per batch, got 0 and 1"):
        ImageBatches([], 1)


def test_the_parts_share_no_image_and_follow_from_the_seed(tmp_path):
    dataset = squares(tmp_path)
    model = make_net(tiny_detector(classes=1))
    shape = model.network.input
    config = SearchDataConfig(adapt=5, held_out=6, seed=3)
    data = split_dataset(dataset, shape, ("square",), config)
    assert (len(data.adapted_on), len(data.scored_on)) == (5, 6)
    assert not set(data.adapted_on) & set(data.scored_on)
    assert [tuple(batch.shape) for batch in data.batches] == [(5, 3, 32, 32)]
    again = open_search_data(tmp_path, shape, ("square",), config)
    assert (again.adapted_on, again.scored_on) == (data.adapted_on, data.scored_on)
    assert torch.equal(again.batches[0], data.batches[0])
    assert again.score(model) == data.score(model)
    other = split_dataset(dataset, shape, ("square",), SearchDataConfig(adapt=5, held_out=6, seed=4))
    assert set(other.scored_on) != set(data.scored_on)


@pytest.mark.parametrize("figure", ["ap50", "ap", "fitness", "f1"])
def test_the_score_is_a_figure_of_the_evaluation(tmp_path, figure):
    dataset = squares(tmp_path)
    model = make_net(tiny_detector(classes=1))
    config = DetectorConfig()
    metrics = evaluate_dataset(FloatRunner(model), dataset, [0], config)
    assert DetectorScore(dataset, [0], config, figure)(model) == np.nan_to_num(getattr(metrics, figure))


def test_the_identity_of_a_score_is_that_of_its_images_labels_and_options(tmp_path):
    dataset = squares(tmp_path)
    halves = [DetectionDataset(dataset.names, dataset.items[part]) for part in (slice(3), slice(3, None))]
    scores = [DetectorScore(d, [0], DetectorConfig()) for d in (dataset, *halves)]
    scores += [DetectorScore(dataset, [0], DetectorConfig(), "ap"), DetectorScore(dataset, [0, -1], DetectorConfig())]
    scores.append(DetectorScore(dataset, [0], DetectorConfig(resize=Resize.LETTERBOX)))
    assert len({score.identity for score in scores}) == len(scores)
    assert DetectorScore(squares(tmp_path), [0], DetectorConfig()).identity == scores[0].identity


def test_sets_that_cannot_be_split_are_refused(tmp_path):
    dataset = squares(tmp_path, 4)
    shape = make_net(tiny_detector(classes=1)).network.input
    with pytest.raises(PruneError, match="3 images to adapt and 2 held-out ones are wanted, the set has 4"):
        split_dataset(dataset, shape, ("square",), SearchDataConfig(adapt=3, held_out=2))
    empty = DetectionDataset(dataset.names, ())
    with pytest.raises(DataError, match="the 0 held-out images have no object of the network's classes"):
        DetectorScore(empty, [0], DetectorConfig())
    with pytest.raises(PruneError, match="score must be one of ap50, ap, fitness, f1, got 'recall'"):
        SearchDataConfig(score="recall")
    with pytest.raises(PruneError, match="adapt and held_out must be at least 1, got 0, 128"):
        SearchDataConfig(adapt=0)


def test_search_on_blood_cells_keeps_a_detector_that_detects():
    model = load_darknet(BCCD / "bccd-tiny.cfg", BCCD / "bccd-tiny.weights")
    names = (BCCD / "bccd-tiny.names").read_text("utf-8").split()
    source = data_path("bccd/BCCD")
    data = open_search_data(source, model.network.input, names, SearchDataConfig(adapt=16, held_out=8))
    listed = {path.stem for path in (*data.adapted_on, *data.scored_on)}
    assert listed <= set((source / "ImageSets/Main/train.txt").read_text("utf-8").split())
    channels = PruneConfig(method="eagleeye", multiple_of=8)
    config = EagleEyeConfig(band=Band(share=0.8, delta=0.05), candidates=3, channels=channels)
    result = eagleeye(model, data.batches, data.score, config)
    assert all(row["macs"] < 0.86 * model.network.macs for row in result.rows)
    assert 0.2 < result.row["score"] <= data.score(model) + 0.05
