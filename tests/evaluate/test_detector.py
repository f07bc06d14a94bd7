# SPDX-License-Identifier: Apache-2.0
"""From image files to boxes in image pixels, with a runner whose head map is known."""

import numpy as np
import pytest
import torch
from PIL import Image
from support.networks import build

from yolo_hw.darknet.layers import HeadSpec, Shape
from yolo_hw.data import Resize
from yolo_hw.errors import YoloHwError
from yolo_hw.evaluate import DetectorConfig, FloatRunner, StageTimes, detect_files, detect_images
from yolo_hw.nn import Darknet, NmsConfig


class FixedRunner:
    """Finds one object in the middle of cell (row 1, column 2) of a 4x4 map, half the input wide and a quarter high."""

    input_shape = Shape(3, 64, 64)
    heads = (HeadSpec(kind="yolo", classes=2, anchors=((32.0, 16.0),)),)

    def __init__(self):
        self.batches = []

    def run(self, images):
        self.batches.append(len(images))
        raw = torch.full((len(images), 7, 4, 4), -20.0)
        raw[:, :4, 1, 2] = 0
        raw[:, [4, 6], 1, 2] = 20
        return [raw]


# centre (2.5 / 4, 1.5 / 4) = (0.625, 0.375), size (0.5, 0.25): corners 0.375, 0.25, 0.875, 0.5 of the input
@pytest.mark.parametrize(
    ("mode", "box"),
    [
        (Resize.STRETCH, [75, 25, 175, 50]),
        # 200x100 becomes 64x32 with 16 rows above: rows 0.25..0.75 of the input are the image's 0..100
        (Resize.LETTERBOX, [75, 0, 175, 50]),
    ],
)
def test_boxes_are_in_image_pixels(mode, box):
    (found,) = detect_images(FixedRunner(), [np.zeros((100, 200, 3), np.uint8)], DetectorConfig(mode))
    assert found.boxes.tolist() == [pytest.approx(box, abs=1e-3)]
    assert found.classes.tolist() == [1]
    assert found.scores.tolist() == pytest.approx([1.0])


def test_files_keep_their_order_and_bad_ones_their_place(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(5)]
    for i, path in enumerate(paths):
        Image.new("RGB", (10 + i, 20)).save(path)
    paths[1].write_text("broken")
    paths[4].unlink()
    runner = FixedRunner()
    results = list(detect_files(runner, paths, DetectorConfig(batch=2)))
    assert [result.path for result in results] == paths
    assert [str(result.path) in result.error for result in results] == [False, True, False, False, True]
    assert [result.detections is None for result in results] == [False, True, False, False, True]
    assert runner.batches == [1, 2]
    for i in (0, 2, 3):
        assert results[i].detections.boxes[0, 2].item() == pytest.approx(0.875 * (10 + i), rel=1e-5)


def test_no_images():
    assert detect_images(FixedRunner(), [], DetectorConfig()) == []
    assert list(detect_files(FixedRunner(), [], DetectorConfig())) == []


def test_float_runner_gives_the_network_pixels_over_255():
    network = build("[net]\nheight=2\nwidth=2\n[activation]\n[route]\nlayers=-1,-1\n[yolo]\nanchors=1,1\nclasses=1\n")
    image = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3) * 20
    (raw,) = FloatRunner(Darknet(network)).run(image)
    expected = np.tile(image.transpose(0, 3, 1, 2).astype(np.float32) / 255, (1, 2, 1, 1))
    assert np.array_equal(raw.numpy(), expected)


def test_float_runner_leaves_the_model_where_it_is():
    """A model in training on another device must not be moved by measuring it."""
    network = build("[net]\nheight=2\nwidth=2\n[conv]\nfilters=6\n[yolo]\nanchors=1,1\nclasses=1\n")
    model = Darknet(network).to("meta")
    runner = FloatRunner(model)
    assert not runner.model.training
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert {p.device.type for p in FloatRunner(Darknet(network), "meta").model.parameters()} == {"meta"}


def test_a_network_without_head_is_refused():
    with pytest.raises(YoloHwError, match="no detection head"):
        FloatRunner(Darknet(build("[net]\nheight=2\nwidth=2\n[maxpool]\n")))


def test_confidence_is_passed_on():
    image = np.zeros((8, 8, 3), np.uint8)
    (found,) = detect_images(FixedRunner(), [image], DetectorConfig(nms=NmsConfig(confidence=1.0)))
    assert len(found.scores) == 0


def test_stage_times_count_the_images_that_were_read(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path in paths:
        Image.new("RGB", (64, 64)).save(path)
    paths[1].unlink()
    times = StageTimes()
    list(detect_files(FixedRunner(), paths, DetectorConfig(batch=2), times))
    assert times.images == 2
    stages = times.milliseconds()
    assert list(stages) == ["read", "preprocess", "inference", "postprocess"]
    assert all(value > 0 for value in stages.values())
    assert stages["read"] == pytest.approx(1e3 * times.read / 2)
    assert set(StageTimes().milliseconds().values()) == {0}


def test_a_batch_holds_at_least_one_image():
    with pytest.raises(YoloHwError, match="batch must be at least 1, got 0"):
        DetectorConfig(batch=0)
