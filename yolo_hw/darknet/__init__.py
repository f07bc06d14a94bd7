# SPDX-License-Identifier: Apache-2.0
"""The darknet front end: cfg text <-> typed network, ``.weights`` <-> arrays. Needs no torch."""

from yolo_hw.darknet.cfg import Cfg, Option, Section, parse_cfg, read_cfg
from yolo_hw.darknet.network import Network, build_network, load_network
from yolo_hw.darknet.weights import Weights, read_weights, write_weights

__all__ = [
    "Cfg",
    "Network",
    "Option",
    "Section",
    "Weights",
    "build_network",
    "load_network",
    "parse_cfg",
    "read_cfg",
    "read_weights",
    "write_weights",
]
