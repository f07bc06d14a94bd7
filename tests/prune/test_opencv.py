# SPDX-License-Identifier: Apache-2.0
"""OpenCV loads the pruned cfg and weights of a real network and computes what our model computes.

OpenCV 5 has no darknet reader. Where the installed one is of that version, an OpenCV 4 in a folder of its own is used:
``pip install "opencv-python-headless<5" --no-deps --target DIR``, with DIR in YOLO_HW_OPENCV4.
"""

import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from support.data import data_path, real_network

from yolo_hw.darknet import write_weights
from yolo_hw.nn.darknet import load_darknet
from yolo_hw.prune.config import PruneConfig
from yolo_hw.prune.darknet_prune import prune_model
from yolo_hw.prune.multiples import Narrow
from yolo_hw.prune.plan import DeadBias

OPENCV_BN_EPS = 1e-6
FORWARD = """
import sys
import cv2, numpy as np
cfg, weights, image, out, *names = sys.argv[1:]
net = cv2.dnn.readNetFromDarknet(cfg, weights)
net.setInput(np.load(image))
np.savez(out, **dict(zip(names, net.forward(names))))
"""


def opencv_maps(folder, names, image):
    """Return name -> map of the files in `folder` by OpenCV."""
    environment = dict(os.environ)
    if not hasattr(cv2.dnn, "readNetFromDarknet"):
        if "YOLO_HW_OPENCV4" not in os.environ:
            pytest.skip(
                f"OpenCV {cv2.__version__} has no darknet reader; set YOLO_HW_OPENCV4 to a folder with version 4"
            )
        environment["PYTHONPATH"] = os.environ["YOLO_HW_OPENCV4"]
    np.save(folder / "image.npy", image)
    files = [folder / name for name in ("small.cfg", "small.weights", "image.npy", "maps.npz")]
    subprocess.run([sys.executable, "-c", FORWARD, *map(str, files), *names], check=True, env=environment)
    with np.load(files[-1]) as archive:
        return dict(archive)


@pytest.mark.parametrize(
    "config",
    [
        PruneConfig(method="regular", ratio=0.3, multiple_of=4),
        PruneConfig(method="regular", ratio=0.5, multiple_of=8, narrow=Narrow.PAD, dead_bias=DeadBias.CARRY),
        PruneConfig(method="fpgm", ratio=0.5),
    ],
    ids=["regular", "padded", "fpgm"],
)
def test_opencv_agrees_on_pruned_yolo_fastest(config, tmp_path):
    model = load_darknet(*real_network("yolo-fastest-1.1"), bn_eps=OPENCV_BN_EPS).eval()
    pruned = prune_model(model, config).model.eval()
    assert pruned.network.macs < 0.9 * model.network.macs
    (tmp_path / "small.cfg").write_text(pruned.network.cfg, "utf-8")
    write_weights(tmp_path / "small.weights", pruned.network, pruned.to_weights())
    picture = cv2.imread(str(data_path("images/dog.jpg")))
    image = cv2.dnn.blobFromImage(picture, 1 / 255, pruned.network.input[:0:-1], swapRB=True)
    with torch.inference_mode():
        wanted = [y.numpy() for y in pruned(torch.from_numpy(image))]
    names = [f"conv_{head.inputs[0]}" for head in pruned.network.heads]
    found = opencv_maps(tmp_path, names, image)
    for name, ours in zip(names, wanted, strict=True):
        assert found[name].shape == ours.shape
        assert np.abs(found[name] - ours).max() <= 2e-5 * np.abs(ours).max()
