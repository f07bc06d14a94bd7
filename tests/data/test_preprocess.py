# SPDX-License-Identifier: Apache-2.0
"""Fitting images to the network's input, and mapping boxes back."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from yolo_hw.darknet.layers import Shape
from yolo_hw.data.preprocess import LETTERBOX_FILL, Placement, Resize, fit_image

sizes = st.integers(1, 90)


def blank(height, width, value=200):
    return np.full((height, width, 3), value, np.uint8)


@settings(max_examples=150, derandomize=True, deadline=None)
@given(st.tuples(sizes, sizes), st.tuples(sizes, sizes), st.sampled_from(Resize), st.integers(0, 2**32))
def test_boxes_survive_the_way_there_and_back(image, net, mode, seed):
    (height, width), (net_h, net_w) = image, net
    canvas, placement = fit_image(blank(height, width), Shape(3, net_h, net_w), mode)
    assert canvas.shape == (net_h, net_w, 3)
    corners = torch.rand(5, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).sort(1).values
    boxes = corners.reshape(5, 4) * torch.tensor([width, height, width, height])
    torch.testing.assert_close(placement.to_image(placement.to_input(boxes)), boxes, rtol=1e-9, atol=1e-9)
    inside = placement.to_input(boxes)
    assert inside.min() >= -1e-12
    assert inside.max() <= 1 + 1e-12


@settings(max_examples=150, derandomize=True, deadline=None)
@given(sizes, sizes, sizes, sizes)
def test_letterbox_places_the_whole_image_where_it_says(height, width, net_h, net_w):
    canvas, placement = fit_image(blank(height, width), Shape(3, net_h, net_w), Resize.LETTERBOX)
    whole = torch.tensor([0, 0, width, height], dtype=torch.float64)
    left, top, right, bottom = (placement.to_input(whole) * torch.tensor([net_w, net_h] * 2)).round().int().tolist()
    assert (canvas[top:bottom, left:right] == 200).all()
    outside = np.ones((net_h, net_w), bool)
    outside[top:bottom, left:right] = False
    assert (canvas[outside] == LETTERBOX_FILL).all()
    assert right - left == net_w or bottom - top == net_h
    # the border is shared evenly
    assert 0 <= (net_w - right) - left <= 1
    assert 0 <= (net_h - bottom) - top <= 1


def test_letterbox_by_hand():
    """100x50 (width x height) into 64x64: 64x32, 16 rows of grey above and below."""
    canvas, placement = fit_image(blank(50, 100), Shape(3, 64, 64), Resize.LETTERBOX)
    assert (placement.scale_x, placement.scale_y) == (0.01, 0.01)
    assert (placement.offset_x, placement.offset_y) == (0.0, 0.25)
    assert (canvas[15] == 128).all()
    assert (canvas[16] == 200).all()
    assert (canvas[47] == 200).all()
    assert (canvas[48] == 128).all()
    found = placement.to_image(torch.tensor([0.5, 0.5, 1.0, 0.75], dtype=torch.float64))
    assert found.tolist() == [50, 25, 100, 50]


def test_stretch_by_hand():
    canvas, placement = fit_image(blank(50, 100), Shape(3, 32, 64), Resize.STRETCH)
    assert (canvas == 200).all()
    assert placement == Placement(0.01, 0.02, 0.0, 0.0, 100, 50)


def test_boxes_are_clipped_to_the_image():
    placement = Placement(0.01, 0.02, 0.0, 0.0, 100, 50)
    assert placement.to_image(torch.tensor([-0.5, -1.0, 1.5, 2.0])).tolist() == [0, 0, 100, 50]


@pytest.mark.parametrize("mode", Resize)
def test_an_image_of_the_networks_size_is_untouched(mode):
    image = np.random.default_rng(0).integers(0, 256, (24, 40, 3)).astype(np.uint8)
    canvas, placement = fit_image(image, Shape(3, 24, 40), mode)
    assert np.array_equal(canvas, image)
    boxes = torch.tensor([0.0, 0.0, 1.0, 1.0])
    assert placement.to_image(boxes).tolist() == [0, 0, 40, 24]


def test_one_channel_networks_get_grey():
    """ITU-R BT.601: 0.299 R + 0.587 G + 0.114 B."""
    image = np.zeros((2, 2, 3), np.uint8)
    image[...] = (100, 200, 50)
    canvas, _ = fit_image(image, Shape(1, 2, 2), Resize.STRETCH)
    assert canvas.shape == (2, 2, 1)
    assert (canvas == round(0.299 * 100 + 0.587 * 200 + 0.114 * 50)).all()


def test_other_channel_counts_are_refused():
    from yolo_hw.errors import YoloHwError

    with pytest.raises(YoloHwError, match="4 channels"):
        fit_image(blank(4, 4), Shape(4, 4, 4), Resize.STRETCH)
