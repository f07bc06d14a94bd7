# SPDX-License-Identifier: Apache-2.0
"""The float model against head tensors that OpenCV's darknet reader computed for real networks."""

import numpy as np
import pytest
import torch
from support.data import data_path, real_network

from yolo_hw.nn import load_darknet

OPENCV_BN_EPS = 1e-6
GOLDEN = {
    "yolo-fastest-1.1": "yolo-fastest-1.1_dog",
    "mobilenetv2-voc": "MobileNetV2-YOLO-Fastest-voc-v1_dog",
    "yoloface-50k": "yoloface-50k_face_test",
    "yoloface-500k": "yoloface-500k-v1_face_test",
}


@pytest.mark.parametrize("name", GOLDEN)
def test_head_tensors_are_those_of_opencv(name):
    cfg, weights = real_network(name)
    with np.load(data_path(f"golden/{GOLDEN[name]}.npz")) as archive:
        golden = dict(archive)
    image = torch.from_numpy(golden.pop("input_rgb_u8")).permute(2, 0, 1)[None].float() / 255
    model = load_darknet(cfg, weights, bn_eps=OPENCV_BN_EPS)
    assert image.shape[1:] == model.network.input
    with torch.inference_mode():
        found = {f"cv_conv_{head.inputs[0]}": y[0] for head, y in zip(model.network.heads, model(image), strict=True)}
    assert found.keys() == golden.keys()
    for key, expected in golden.items():
        assert found[key].shape == expected.shape
        np.testing.assert_allclose(found[key].numpy(), expected, rtol=0, atol=1e-3, err_msg=key)


def test_negative_variances_of_a_real_network_make_no_nan():
    cfg, weights = real_network("mobilenetv2-voc")
    model = load_darknet(cfg, weights)
    with torch.inference_mode():
        for y in model(torch.rand(1, *model.network.input, generator=torch.Generator().manual_seed(0))):
            assert torch.isfinite(y).all()
