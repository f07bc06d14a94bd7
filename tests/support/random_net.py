# SPDX-License-Identifier: Apache-2.0
"""Small float networks from blocks that hold every layer kind, with seeded weights and images. Needs torch."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from support.networks import CfgWriter, build, random_weights
from support.zoo import INPUT_SIZE
from torch import Tensor, nn

from yolo_hw.darknet.layers import ACTIVATIONS, Shape
from yolo_hw.nn.darknet import Darknet
from yolo_hw.quant import Calibrated, QuantConfig, batch_norm_moments, calibrate
from yolo_hw.quant.calibrate import shape_of
from yolo_hw.quant.execute import float_parameters, image_tensor, run_folded
from yolo_hw.quant.fold import trace_model
from yolo_hw.quant.folded import FoldedGraph

WIDTH = 8
"""Channels between the blocks; every block also keeps the map's size."""


def _weighted_shortcut(cfg: CfgWriter) -> None:
    cfg.conv(WIDTH)
    cfg.section(
        "shortcut", from_=-2, activation="leaky", weights_type="per_channel", weights_normalization="softmax"
    )  # fmt: skip


def _shortcut(cfg: CfgWriter) -> None:
    cfg.conv(WIDTH)
    cfg.conv(WIDTH, 3)
    cfg.section("shortcut", from_="-2,-3", activation="linear")


def _grouped_route(cfg: CfgWriter) -> None:
    cfg.route(-1, groups=2, group_id=1)
    cfg.conv(WIDTH, 3)


def _spp(cfg: CfgWriter) -> None:
    cfg.section("maxpool", size=5, stride=1)
    cfg.route(-2)
    cfg.section("maxpool", size=3, stride=1)
    cfg.route(-1, -3, -4)
    cfg.conv(WIDTH, activation="relu")


def _down_and_up(cfg: CfgWriter) -> None:
    cfg.section("maxpool", size=2, stride=2)
    cfg.conv(WIDTH, 3, activation="swish")
    cfg.section("upsample", stride=2)
    cfg.route(-1, -4)
    cfg.conv(WIDTH)


def _reorg(cfg: CfgWriter, kind: str) -> None:
    cfg.section(kind, stride=2)
    cfg.conv(4 * WIDTH, groups=4)
    cfg.section(kind, stride=2, reverse=1)


def _scale_channels(cfg: CfgWriter) -> None:
    cfg.section("avgpool")
    cfg.conv(WIDTH, activation="logistic", batch_normalize=0)
    cfg.section("scale_channels", from_=-3, activation="linear")


def _scale_pixels(cfg: CfgWriter) -> None:
    cfg.conv(1, activation="logistic")
    cfg.section("scale_channels", from_=-2, scale_wh=1, activation="relu")


def _sam(cfg: CfgWriter) -> None:
    cfg.conv(WIDTH, activation="logistic")
    cfg.section("sam", from_=-2, activation="linear")


def _depthwise(cfg: CfgWriter) -> None:
    cfg.section("depthwise", size=3, pad=1, activation="relu6", batch_normalize=1)
    cfg.conv(WIDTH, 3, groups=WIDTH, dilation=2, activation="linear")


def _pointwise(cfg: CfgWriter) -> None:
    cfg.section("batchnorm")
    cfg.section("activation", activation="mish")
    cfg.section("dropout", probability=0.5)


BLOCKS: dict[str, Callable[[CfgWriter], object]] = {
    "weighted_shortcut": _weighted_shortcut,
    "shortcut": _shortcut,
    "grouped_route": _grouped_route,
    "spp": _spp,
    "down_and_up": _down_and_up,
    "reorg": lambda cfg: _reorg(cfg, "reorg"),
    "reorg3d": lambda cfg: _reorg(cfg, "reorg3d"),
    "se": lambda cfg: cfg.section("se", reduction=4),
    "scale_channels": _scale_channels,
    "scale_pixels": _scale_pixels,
    "sam": _sam,
    "depthwise": _depthwise,
    "pointwise": _pointwise,
    **{name: lambda cfg, name=name: cfg.conv(WIDTH, activation=name) for name in ACTIVATIONS},
}
"""Blocks by name; the activations are blocks, too."""

COMMON_BLOCKS = ["leaky", "relu", "linear", "shortcut", "weighted_shortcut", "spp"]
"""Those that every target profile of the library can compute."""


def net_cfg(blocks: list[str], size: tuple[int, int] = (12, 16)) -> str:
    """Return a cfg: a convolution of stride 1, the blocks, a head."""
    cfg = CfgWriter(*size)
    cfg.conv(WIDTH, 3)
    for name in blocks:
        BLOCKS[name](cfg)
    cfg.yolo([0, 1], 1, "8,8, 16,16")
    return cfg.text()


def random_net(seed: int, blocks: int = 6) -> Darknet:
    """Return a network of random blocks with random weights."""
    rng = random.Random(seed)
    return make_net(net_cfg(rng.choices(list(BLOCKS), k=blocks), (4 * rng.randint(2, 5), 4 * rng.randint(2, 5))), seed)


def make_net(text: str, seed: int = 0) -> Darknet:
    """Return the network of a cfg text with random weights, in evaluation mode."""
    network = build(text)
    model = Darknet(network)
    model.load_weights(random_weights(network, seed))
    return model.eval()


def make_images(model: nn.Module, count: int = 4, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Return smooth random images [N, H, W, C], of the network's size or that of the zoo, dark and bright ones."""
    rng = np.random.default_rng(seed)
    shape = model.network.input if isinstance(model, Darknet) else Shape(3, INPUT_SIZE, INPUT_SIZE)
    coarse = rng.integers(0, 256, (count, -(-shape.h // 4), -(-shape.w // 4), shape.c))
    images = coarse.repeat(4, 1).repeat(4, 2)[:, : shape.h, : shape.w] + rng.integers(-20, 21, (count, *shape[1:], 1))
    return images.clip(0, 255).astype(np.uint8)


def calibrate_net(model: nn.Module, config: QuantConfig | None = None, seed: int = 0) -> Calibrated:
    """Quantise a network on four images."""
    images = [make_images(model, seed=seed)]
    traced = trace_model(model, shape_of(images))
    return calibrate(traced.graph, images, config or QuantConfig(), None, batch_norm_moments(traced))


def make_uneven(model: Darknet, base: float = 2.0, count: int = 6) -> Darknet:
    """Scale the channels of every batch norm by 1, 1 / `base`, ... 1 / `base` ** (`count` - 1), over and over."""
    with torch.no_grad():
        for layer in model.network.layers:
            norm = getattr(model.block(layer.name), "bn", None)
            if norm is not None:
                scale = base ** -torch.arange(layer.shape.c).remainder(count)
                norm.weight.mul_(scale)
                norm.bias.mul_(scale)
    return model


def run_float64(graph: FoldedGraph, images: npt.NDArray[np.uint8]) -> dict[str, Tensor]:
    """Return the maps of all nodes by name, in float64."""
    x = image_tensor(images, torch.float64)
    return {r.node.name: r.out for r in run_folded(graph, x, float_parameters(graph, torch.float64))}
