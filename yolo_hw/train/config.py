# SPDX-License-Identifier: Apache-2.0
"""The options of a training run."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from yolo_hw.data.augment import AugmentConfig
from yolo_hw.train.errors import TrainError


class Optimizer(str, Enum):
    """How gradients become steps."""

    SGD = "sgd"
    """Stochastic gradient descent with Nesterov momentum."""
    ADAMW = "adamw"
    """Loshchilov & Hutter, "Decoupled Weight Decay Regularization", ICLR 2019."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train, whatever the model and the loss."""

    epochs: int = 50
    """Passes over the data."""
    batch: int = 32
    """Images per step."""
    optimizer: Optimizer = Optimizer.SGD
    learning_rate: float = 0.01
    """Its highest value, reached after the warm-up."""
    final_lr_ratio: float = 0.01
    """Last learning rate relative to the highest, in [0, 1]."""
    warmup_epochs: float = 1.0
    """Length of the linear rise from zero; may be a fraction."""
    momentum: float = 0.9
    """Momentum of SGD, beta1 of AdamW."""
    weight_decay: float = 5e-4
    """On weights of convolutions and linear maps; never on biases and batch norms."""
    clip_norm: float = 10.0
    """Gradients are scaled down to this Euclidean norm over all parameters; 0 switches it off."""
    ema_decay: float = 0.999
    """Decay of the averaged weights per step; 0 switches the average off."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Random changes of the images."""
    seed: int = 0
    """Of everything random: order, augmentation, torch."""
    device: str = "cpu"
    channels_last: bool = True
    """Memory format of images and convolution weights; faster on most machines, equal in meaning."""
    workers: int = 0
    """Processes that prepare batches; 0 prepares them in the training process."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("epochs", "batch"):
            _require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        for name in ("warmup_epochs", "weight_decay", "clip_norm", "seed", "workers"):
            _require(getattr(self, name) >= 0, name, "at least 0", getattr(self, name))
        for name in ("momentum", "ema_decay"):
            _require(0 <= getattr(self, name) < 1, name, "in [0, 1)", getattr(self, name))
        _require(self.learning_rate > 0, "learning_rate", "positive", self.learning_rate)
        _require(0 <= self.final_lr_ratio <= 1, "final_lr_ratio", "in [0, 1]", self.final_lr_ratio)
        _require(self.warmup_epochs < self.epochs, "warmup_epochs", f"below epochs={self.epochs}", self.warmup_epochs)


def _require(holds: bool, name: str, what: str, found: object) -> None:
    if not holds:
        raise TrainError(f"TrainConfig: {name} must be {what}, got {found}")
