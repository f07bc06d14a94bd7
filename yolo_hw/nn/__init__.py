# SPDX-License-Identifier: Apache-2.0
"""Networks in torch: the darknet model with its heads and non-maximum suppression, residual classifiers, accounting."""

from yolo_hw.nn.accounting import PROFILES, Account, LayerAccount, Profile, account
from yolo_hw.nn.darknet import DARKNET_BN_EPS, Darknet, load_darknet
from yolo_hw.nn.heads import Candidates, decode_head, decode_heads
from yolo_hw.nn.nms import Detections, NmsConfig, non_maximum_suppression
from yolo_hw.nn.resnet import RESNETS, ResNet, load_resnet, resnet18, resnet20, resnet34, resnet50, resnet101

__all__ = [
    "DARKNET_BN_EPS",
    "PROFILES",
    "RESNETS",
    "Account",
    "Candidates",
    "Darknet",
    "Detections",
    "LayerAccount",
    "NmsConfig",
    "Profile",
    "ResNet",
    "account",
    "decode_head",
    "decode_heads",
    "load_darknet",
    "load_resnet",
    "non_maximum_suppression",
    "resnet18",
    "resnet20",
    "resnet34",
    "resnet50",
    "resnet101",
]
