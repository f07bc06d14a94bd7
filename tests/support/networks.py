# SPDX-License-Identifier: Apache-2.0
"""Cfg text of published networks and of small random ones, generated from loops; random weights for them."""

from __future__ import annotations

import random

import numpy as np

from yolo_hw.darknet import Network, Weights, build_network, parse_cfg

YOLOV3_ANCHORS = "10,13, 16,30, 33,23, 30,61, 62,45, 59,119, 116,90, 156,198, 373,326"
YOLOV4_ANCHORS = "12, 16, 19, 36, 40, 28, 36, 75, 76, 55, 72, 146, 142, 110, 192, 243, 459, 401"
TINY_ANCHORS = "10,14, 23,27, 37,58, 81,82, 135,169, 344,319"
YOLOV2_ANCHORS = "0.57273, 0.677385, 1.87446, 2.06253, 3.33843, 5.47434, 7.88282, 3.52778, 9.77052, 9.16828"


class CfgWriter:
    """Writes cfg sections one by one; every method returns the index of the layer it added."""

    def __init__(self, height: int, width: int, channels: int = 3, **options: object) -> None:
        self.sections: list[str] = []
        self.section("net", batch=64, subdivisions=16, height=height, width=width, channels=channels, **options)

    def section(self, kind: str, **options: object) -> int:
        """Add a section; `from_` becomes the key ``from``."""
        lines = [f"{key.rstrip('_')}={value}" for key, value in options.items()]
        self.sections.append("\n".join([f"[{kind}]", *lines]) + "\n")
        return len(self.sections) - 2

    def conv(self, filters: int, size: int = 1, stride: int = 1, activation: str = "leaky", **options: object) -> int:
        """Add a convolution with batch normalisation and darknet's `pad=1`."""
        options = {"batch_normalize": 1, **options}
        return self.section(
            "convolutional", filters=filters, size=size, stride=stride, pad=1, activation=activation, **options
        )

    def route(self, *layers: int, **options: object) -> int:
        """Add a route; negative numbers are relative."""
        return self.section("route", layers=",".join(map(str, layers)), **options)

    def yolo(self, mask: list[int], classes: int, anchors: str, **options: object) -> int:
        """Add the linear convolution that a head needs, and the head."""
        self.conv(len(mask) * (5 + classes), activation="linear", batch_normalize=0)
        return self.section(
            "yolo", mask=",".join(map(str, mask)), anchors=anchors, classes=classes, num=anchors.count(",") // 2 + 1,
            jitter=0.3, ignore_thresh=0.7, truth_thresh=1, random=1, **options,
        )  # fmt: skip

    def text(self) -> str:
        """Return the cfg."""
        return "\n".join(self.sections)


def build(text: str, name: str = "net.cfg") -> Network:
    """Parse and build a cfg text."""
    return build_network(parse_cfg(text, name))


def darknet_tiny(size: int = 224, classes: int = 1000) -> str:
    """A classifier that ends as darknet's do, with a mean over the map, a hidden and a last connected layer."""
    cfg = CfgWriter(size, size)
    for filters in (16, 32, 64, 128, 256):
        cfg.conv(filters, 3)
        cfg.section("maxpool", size=2, stride=2)
    cfg.conv(512, 3)
    cfg.section("avgpool")
    cfg.section("connected", output=256, activation="leaky", batch_normalize=1)
    cfg.section("connected", output=classes, activation="linear")
    cfg.section("softmax")
    return cfg.text()


def yolov2(size: int = 416, classes: int = 80) -> str:
    """YOLOv2 for COCO: Darknet-19, passthrough by reorg, region head."""
    cfg = CfgWriter(size, size)
    for i, group in enumerate([[32], [64], [128, 64, 128], [256, 128, 256], [512, 256, 512, 256, 512]]):
        if i:
            cfg.section("maxpool", size=2, stride=2)
        for k, filters in enumerate(group):
            passthrough = cfg.conv(filters, 1 if k % 2 else 3)
    cfg.section("maxpool", size=2, stride=2)
    for filters, kernel in [(1024, 3), (512, 1), (1024, 3), (512, 1), (1024, 3), (1024, 3), (1024, 3)]:
        deep = cfg.conv(filters, kernel)
    cfg.route(passthrough)
    cfg.conv(64)
    cfg.section("reorg", stride=2)
    cfg.route(-1, deep)
    cfg.conv(1024, 3)
    cfg.conv(5 * (5 + classes), activation="linear", batch_normalize=0)
    cfg.section("region", anchors=YOLOV2_ANCHORS, bias_match=1, classes=classes, coords=4, num=5, softmax=1, rescore=1)
    return cfg.text()


def yolov2_tiny(size: int = 416, classes: int = 80) -> str:
    """YOLOv2-tiny for COCO, with the pool of size 2 and stride 1."""
    cfg = CfgWriter(size, size)
    for i, filters in enumerate((16, 32, 64, 128, 256, 512)):
        cfg.conv(filters, 3)
        cfg.section("maxpool", size=2, stride=2 if i < 5 else 1)
    cfg.conv(1024, 3)
    cfg.conv(512, 3)
    cfg.conv(5 * (5 + classes), activation="linear", batch_normalize=0)
    cfg.section("region", anchors=YOLOV2_ANCHORS, bias_match=1, classes=classes, coords=4, num=5, softmax=1, rescore=1)
    return cfg.text()


def _darknet53(cfg: CfgWriter) -> tuple[int, int]:
    """Darknet-53 without its classifier; returns the ends of the stages of stride 8 and 16."""
    cfg.conv(32, 3)
    ends = []
    for filters, blocks in [(64, 1), (128, 2), (256, 8), (512, 8), (1024, 4)]:
        cfg.conv(filters, 3, 2)
        for _ in range(blocks):
            cfg.conv(filters // 2)
            cfg.conv(filters, 3)
            end = cfg.section("shortcut", from_=-3, activation="linear")
        ends.append(end)
    return ends[2], ends[3]


def _spatial_pyramid(cfg: CfgWriter) -> None:
    """Pools of three windows beside the map itself."""
    for i, window in enumerate((5, 9, 13)):
        if i:
            cfg.route(-2 * i)
        cfg.section("maxpool", stride=1, size=window)
    cfg.route(-1, -3, -5, -6)


def _yolov3_heads(cfg: CfgWriter, skips: tuple[int, int], classes: int, *, spp: bool = False) -> str:
    """The three scales of YOLOv3 on a backbone's last map and its maps of stride 8 and 16."""
    for filters, mask, skip in [(512, [6, 7, 8], None), (256, [3, 4, 5], skips[1]), (128, [0, 1, 2], skips[0])]:
        if skip is not None:
            cfg.route(-4)
            cfg.conv(filters)
            cfg.section("upsample", stride=2)
            cfg.route(-1, skip)
        elif spp:
            _alternate(cfg, filters, 3)
            _spatial_pyramid(cfg)
        for _ in range(2 if spp and skip is None else 3):
            cfg.conv(filters)
            cfg.conv(2 * filters, 3)
        cfg.yolo(mask, classes, YOLOV3_ANCHORS)
    return cfg.text()


def yolov3(size: int = 416, classes: int = 80) -> str:
    """YOLOv3: Darknet-53 and three heads."""
    cfg = CfgWriter(size, size)
    return _yolov3_heads(cfg, _darknet53(cfg), classes)


def yolov3_spp(size: int = 608, classes: int = 80) -> str:
    """YOLOv3 with a spatial pyramid before the first head."""
    cfg = CfgWriter(size, size)
    return _yolov3_heads(cfg, _darknet53(cfg), classes, spp=True)


MOBILENET_V3_LARGE = (
    # kernel, expanded, out, squeeze and excite, activation, stride
    (3, 16, 16, False, "relu", 1), (3, 64, 24, False, "relu", 2), (3, 72, 24, False, "relu", 1),
    (5, 72, 40, True, "relu", 2), (5, 120, 40, True, "relu", 1), (5, 120, 40, True, "relu", 1),
    (3, 240, 80, False, "h_swish", 2), (3, 200, 80, False, "h_swish", 1), (3, 184, 80, False, "h_swish", 1),
    (3, 184, 80, False, "h_swish", 1), (3, 480, 112, True, "h_swish", 1), (3, 672, 112, True, "h_swish", 1),
    (5, 672, 160, True, "h_swish", 2), (5, 960, 160, True, "h_swish", 1), (5, 960, 160, True, "h_swish", 1),
)  # fmt: skip
"""Howard et al., "Searching for MobileNetV3", ICCV 2019, table 1."""


def yolov3_mobilenet(size: int = 416, classes: int = 80) -> str:
    """The heads of YOLOv3 on MobileNetV3-large, in ``[depthwise]`` and ``[se]`` sections."""
    cfg = CfgWriter(size, size)
    last, channels, ends = cfg.conv(16, 3, 2, "h_swish"), 16, {}
    for kernel, expanded, filters, squeezes, activation, stride in MOBILENET_V3_LARGE:
        if stride == 2:
            ends[channels] = last
        if expanded != channels:
            cfg.conv(expanded, activation=activation)
        cfg.section(
            "depthwise", batch_normalize=1, filters=expanded, size=kernel, stride=stride, pad=1, activation=activation
        )
        if squeezes:
            cfg.section("se", reduction=4)
        end = cfg.conv(filters, activation="linear")
        if stride == 1 and filters == channels:
            end = cfg.section("shortcut", from_=last - end - 1, activation="linear")
        last, channels = end, filters
    cfg.conv(960, activation="h_swish")
    return _yolov3_heads(cfg, (ends[40], ends[112]), classes)


def yolov3_tiny(size: int = 416, classes: int = 80) -> str:
    """YOLOv3-tiny, with the pool of size 2 and stride 1."""
    cfg = CfgWriter(size, size)
    for filters in (16, 32, 64, 128, 256):
        skip = cfg.conv(filters, 3)
        cfg.section("maxpool", size=2, stride=2)
    cfg.conv(512, 3)
    cfg.section("maxpool", size=2, stride=1)
    cfg.conv(1024, 3)
    cfg.conv(256)
    cfg.conv(512, 3)
    cfg.yolo([3, 4, 5], classes, TINY_ANCHORS)
    cfg.route(-4)
    cfg.conv(128)
    cfg.section("upsample", stride=2)
    cfg.route(-1, skip)
    cfg.conv(256, 3)
    cfg.yolo([0, 1, 2], classes, TINY_ANCHORS)
    return cfg.text()


def _csp_stage(cfg: CfgWriter, filters: int, blocks: int) -> int:
    """One stage of CSPDarknet-53; the first one keeps the full width in both branches."""
    half = filters if blocks == 1 else filters // 2
    cfg.conv(filters, 3, 2, "mish")
    cfg.conv(half, activation="mish")
    cfg.route(-2)
    cfg.conv(half, activation="mish")
    for _ in range(blocks):
        cfg.conv(filters // 2, activation="mish")
        cfg.conv(half, 3, activation="mish")
        cfg.section("shortcut", from_=-3, activation="linear")
    cfg.conv(half, activation="mish")
    cfg.route(-1, -(3 * blocks + 4))
    return cfg.conv(filters, activation="mish")


def _alternate(cfg: CfgWriter, filters: int, count: int) -> int:
    """1x1 and 3x3 convolutions in turn, starting and ending with 1x1."""
    for i in range(count):
        last = cfg.conv(filters if i % 2 == 0 else 2 * filters, 1 if i % 2 == 0 else 3)
    return last


def yolov4(size: int = 608, classes: int = 80) -> str:
    """YOLOv4: CSPDarknet-53 with mish, SPP, PAN."""
    cfg = CfgWriter(size, size, mosaic=1)
    cfg.conv(32, 3, activation="mish")
    stages = [_csp_stage(cfg, *stage) for stage in [(64, 1), (128, 2), (256, 8), (512, 8), (1024, 4)]]
    _alternate(cfg, 512, 3)
    _spatial_pyramid(cfg)
    tops = [_alternate(cfg, 512, 3)]
    for filters, skip in [(256, stages[3]), (128, stages[2])]:
        cfg.conv(filters)
        cfg.section("upsample", stride=2)
        cfg.route(skip)
        cfg.conv(filters)
        cfg.route(-1, -3)
        tops.append(_alternate(cfg, filters, 5))
    for filters, mask, scale in [(128, [0, 1, 2], 1.2), (256, [3, 4, 5], 1.1), (512, [6, 7, 8], 1.05)]:
        if filters > 128:
            cfg.route(-4)
            cfg.conv(filters, 3, 2)
            cfg.route(-1, tops[0 if filters == 512 else 1])
            _alternate(cfg, filters, 5)
        cfg.conv(2 * filters, 3)
        cfg.yolo(mask, classes, YOLOV4_ANCHORS, scale_x_y=scale, iou_loss="ciou", nms_kind="greedynms", beta_nms=0.6)
    return cfg.text()


def yolov4_tiny(size: int = 416, classes: int = 80) -> str:
    """YOLOv4-tiny: half of the channels through grouped routes."""
    cfg = CfgWriter(size, size)
    cfg.conv(32, 3, 2)
    cfg.conv(64, 3, 2)
    for filters in (64, 128, 256):
        cfg.conv(filters, 3)
        cfg.route(-1, groups=2, group_id=1)
        cfg.conv(filters // 2, 3)
        cfg.conv(filters // 2, 3)
        cfg.route(-1, -2)
        skip = cfg.conv(filters)
        cfg.route(-6, -1)
        cfg.section("maxpool", size=2, stride=2)
    cfg.conv(512, 3)
    cfg.conv(256)
    cfg.conv(512, 3)
    cfg.yolo([3, 4, 5], classes, TINY_ANCHORS, scale_x_y=1.05)
    cfg.route(-4)
    cfg.conv(128)
    cfg.section("upsample", stride=2)
    cfg.route(-1, skip)
    cfg.conv(256, 3)
    cfg.yolo([1, 2, 3], classes, TINY_ANCHORS, scale_x_y=1.05)
    return cfg.text()


def tiny_detector(size: int = 32, classes: int = 2, filters: int = 8) -> str:
    """A detector of four convolutions for tests that run the whole flow."""
    cfg = CfgWriter(size, size)
    cfg.conv(filters, 3, 2)
    cfg.conv(2 * filters, 3, 2)
    cfg.section("maxpool", size=2, stride=1)
    cfg.conv(filters)
    cfg.yolo([0, 1], classes, "8,8, 16,16")
    return cfg.text()


def random_cfg(rng: random.Random, layers: int = 6) -> str:
    """Return a valid cfg of random sections; a head at the end half of the time."""
    cfg = CfgWriter(8 * rng.randint(1, 3), 8 * rng.randint(1, 3), rng.choice([1, 3, 4]))
    activations = "linear leaky relu mish swish logistic".split()
    last = cfg.conv(4 * rng.randint(1, 3), 3, activation=rng.choice(activations))
    for _ in range(rng.randint(0, layers)):
        kind = rng.randrange(8)
        if kind == 0:
            last = cfg.conv(4 * rng.randint(1, 3), rng.choice([1, 3, 5]), activation=rng.choice(activations))
        elif kind == 1:
            cfg.conv(4, rng.choice([1, 3]), batch_normalize=0)
            last = cfg.section("shortcut", from_=-1, activation="linear")
        elif kind == 2:
            last = cfg.section("maxpool", size=rng.choice([2, 3, 5]), stride=1)
        elif kind == 3:
            last = cfg.route(-1, last)
        elif kind == 4:
            cfg.route(-1, groups=2, group_id=rng.randint(0, 1))
            last = cfg.conv(8)
        elif kind == 5:
            last = cfg.section("upsample", stride=1)
        elif kind == 6:
            last = cfg.section("dropout", probability=0.5)
        else:
            cfg.conv(8, batch_normalize=rng.randint(0, 1))
            last = cfg.section("depthwise", size=3, pad=1, activation="relu", batch_normalize=1)
    if rng.random() < 0.5:
        cfg.yolo([0], rng.randint(1, 3), "4,4, 8,8")
    return cfg.text()


def random_weights(network: Network, seed: int = 0) -> Weights:
    """Return weights of a plausible scale: variances in [0.5, 1.5), everything else normal."""
    rng = np.random.default_rng(seed)
    layers = {}
    for layer in network.layers:
        arrays = {}
        for param in layer.params:
            fan_in = max(int(np.prod(param.shape[1:])), 1)
            values = rng.standard_normal(param.shape, np.float32) / np.float32(fan_in**0.5)
            arrays[param.role] = rng.random(param.shape, np.float32) + 0.5 if param.role == "var" else values
        if arrays:
            layers[layer.index] = arrays
    return Weights(layers, loaded_layers=len(network.layers))
