# SPDX-License-Identifier: Apache-2.0
"""Networks whose size and cost their authors published: floats of the weights file, operations, strides."""

import pytest
from support.data import real_network
from support.networks import (
    build,
    yolov2,
    yolov2_tiny,
    yolov3,
    yolov3_mobilenet,
    yolov3_spp,
    yolov3_tiny,
    yolov4,
    yolov4_tiny,
)
from support.yolo_fastest import yolo_fastest

from yolo_hw.darknet import load_network

# Sizes of the released weights files in bytes: (size - header) / 4 floats. Billions of operations (2 per
# multiply-accumulate) at 416x416, YOLOv4 and YOLOv3-SPP at 608x608, as the authors' tables and `darknet` print them.
PUBLISHED = {
    yolov2: (203_934_260, 16, 29.47),
    yolov2_tiny: (44_948_596, 16, 5.41),
    yolov3: (248_007_048, 20, 65.86),
    yolov3_spp: (252_209_544, 20, 141.45),
    yolov3_tiny: (35_434_956, 20, 5.56),
    yolov4: (257_717_640, 20, 128.46),
    yolov4_tiny: (24_251_276, 20, 6.91),
}


@pytest.mark.parametrize("make", PUBLISHED, ids=lambda make: make.__name__)
def test_float_count_is_that_of_the_released_weights_file(make):
    file_bytes, header_bytes, _ = PUBLISHED[make]
    assert header_bytes + 4 * build(make()).num_params == file_bytes


@pytest.mark.parametrize("make", PUBLISHED, ids=lambda make: make.__name__)
def test_operations_are_the_published_ones(make):
    _, _, billions = PUBLISHED[make]
    # the published figures have two decimals and count a few additions besides the products
    assert 2e-9 * build(make()).macs == pytest.approx(billions, rel=2e-3)


def test_yolo_fastest_has_the_layers_of_the_released_cfg():
    released, ours = load_network(real_network("yolo-fastest-1.1")[0]), build(yolo_fastest())
    assert 20 + 4 * ours.num_params == 1_384_268
    assert ours.macs == released.macs
    assert [(a.kind, a.shape, a.inputs) for a in ours.layers] == [(a.kind, a.shape, a.inputs) for a in released.layers]


def test_yolov3_on_mobilenet_squeezes_where_its_paper_does():
    layers = build(yolov3_mobilenet()).layers
    assert [layer.shape.c for layer in layers if layer.kind == "se"] == [72, 120, 120, 480, 672, 672, 960, 960]
    depthwise = [layer for layer in layers if getattr(layer, "depthwise", False)]
    assert [layer.size for layer in depthwise] == [3] * 3 + [5] * 3 + [3] * 6 + [5] * 3


def test_yolov3_has_the_published_trainable_parameters():
    trainable = [p.numel for layer in build(yolov3()).layers for p in layer.params if p.role not in ("mean", "var")]
    assert sum(trainable) == 61_949_149


@pytest.mark.parametrize(
    ("make", "strides"),
    [
        (yolov2, [32]),
        (yolov2_tiny, [32]),
        (yolov3, [32, 16, 8]),
        (yolov3_spp, [32, 16, 8]),
        (yolov3_mobilenet, [32, 16, 8]),
        (yolo_fastest, [32, 16]),
        (yolov3_tiny, [32, 16]),
        (yolov4, [8, 16, 32]),
        (yolov4_tiny, [32, 16]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
@pytest.mark.parametrize("size", [320, 416])
def test_strides_come_from_the_graph(make, strides, size):
    network = build(make(size), "misleading-stride64.cfg")
    assert [network.stride(head) for head in network.heads] == [(s, s) for s in strides]
    assert [head.shape[1:] for head in network.heads] == [(size // s, size // s) for s in strides]


def test_yolov4_heads_take_their_masked_anchors_and_scales():
    heads = build(yolov4()).heads
    assert [head.spec.anchors for head in heads] == [
        ((12, 16), (19, 36), (40, 28)),
        ((36, 75), (76, 55), (72, 146)),
        ((142, 110), (192, 243), (459, 401)),
    ]
    assert [head.spec.scale_x_y for head in heads] == [1.2, 1.1, 1.05]


def test_layer_count_of_yolov3_is_that_of_darknet():
    """Darknet prints layers 0 to 106; the heads are 82, 94 and 106."""
    network = build(yolov3())
    assert [head.index for head in network.heads] == [82, 94, 106]
    assert len(network.layers) == 107


def test_layer_numbers_of_yolov4_are_those_of_darknet():
    """The released cfg routes to layers 54, 85, 116 and 126 and has its heads at 139, 150 and 161."""
    network = build(yolov4())
    assert [head.index for head in network.heads] == [139, 150, 161]
    read = {i for layer in network.layers if layer.kind == "route" for i in layer.inputs}
    assert {54, 85, 116, 126} <= read
