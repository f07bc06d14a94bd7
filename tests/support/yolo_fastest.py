# SPDX-License-Identifier: Apache-2.0
"""Cfg text of Yolo-Fastest."""

from __future__ import annotations

from support.networks import CfgWriter

FASTEST_ANCHORS = "12, 18,  37, 49,  52,132, 115, 73, 119,199, 242,238"


def _inverted(cfg: CfgWriter, hidden: int, filters: int, stride: int = 1, shortcut: bool = False) -> int:
    """Expansion, depthwise convolution by `groups`, linear projection."""
    cfg.conv(hidden)
    cfg.conv(hidden, 3, stride, groups=hidden)
    last = cfg.conv(filters, activation="linear")
    if shortcut:
        cfg.section("dropout", probability=0.15)
        last = cfg.section("shortcut", from_=-5, activation="linear")
    return last


def _separable(cfg: CfgWriter, filters: int) -> None:
    """Two 5x5 depthwise convolutions (of padding 2, that is pad=1), each with a linear 1x1."""
    for _ in range(2):
        cfg.conv(filters, 5, groups=filters)
        cfg.conv(filters, activation="linear")


def yolo_fastest(size: int = 320, classes: int = 80) -> str:
    """Yolo-Fastest 1.1: inverted residuals, SPP, two heads of depthwise convolutions."""
    cfg = CfgWriter(size, size)
    cfg.conv(8, 3, 2)
    _inverted(cfg, 8, 4)
    _inverted(cfg, 8, 4, shortcut=True)
    _inverted(cfg, 24, 8, 2)
    for _ in range(2):
        _inverted(cfg, 32, 8, shortcut=True)
    _inverted(cfg, 32, 8, 2)
    for _ in range(2):
        _inverted(cfg, 48, 8, shortcut=True)
    _inverted(cfg, 48, 16)
    for _ in range(4):
        _inverted(cfg, 96, 16, shortcut=True)
    _inverted(cfg, 96, 24, 2)
    for _ in range(4):
        skip = _inverted(cfg, 136, 24, shortcut=True)
    _inverted(cfg, 136, 48, 2)
    for _ in range(5):
        _inverted(cfg, 224, 48, shortcut=True)
    for i, window in enumerate((3, 5, 9)):
        if i:
            cfg.route(-2 * i)
        cfg.section("maxpool", stride=1, size=window)
    cfg.route(-1, -3, -5, -6)
    cfg.conv(96)
    _separable(cfg, 96)
    cfg.yolo([3, 4, 5], classes, FASTEST_ANCHORS)
    cfg.route(-7)
    cfg.section("upsample", stride=2)
    cfg.route(-1, skip)
    _separable(cfg, 120)
    cfg.yolo([0, 1, 2], classes, FASTEST_ANCHORS)
    return cfg.text()
