# SPDX-License-Identifier: Apache-2.0
"""Accuracy of real networks on real images against figures measured with OpenCV and pycocotools."""

import json

import pytest
from support.cli_runs import run
from support.data import data_path, real_network

# AP50 in percent: OpenCV's DNN module on the same files, stretched images, score above 0.005, NMS at 0.45
OPENCV_AP50 = {"yolo-fastest-1.1": 35.27, "yolo-lite": 13.81, "mobilenetv2-voc": 25.53}
NAMES = {"yolo-fastest-1.1": "coco.names", "yolo-lite": "coco.names", "mobilenetv2-voc": "voc.names"}


@pytest.mark.slow
@pytest.mark.parametrize("name", OPENCV_AP50)
def test_float_ap50_is_that_of_opencv(name):
    """Within 0.2 points: the batch-norm epsilon moves AP50 by 0.03, resizing and sorting of equal scores the rest."""
    cfg, weights = real_network(name)
    annotations = data_path("coco_val128/instances.json")
    options = ["--cfg", cfg, "--weights", weights, "--names", cfg.parent / NAMES[name], "--data", annotations, "--json"]
    result = run("eval", *options)
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert (document["images"], document["skipped"]) == (128, 0)
    assert 100 * document["ap50"] == pytest.approx(OPENCV_AP50[name], abs=0.2)
