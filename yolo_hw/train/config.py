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


class Schedule(str, Enum):
    """How the learning rate falls after the warm-up: see `yolo_hw.train.schedule.learning_rate`."""

    COSINE = "cosine"
    LINEAR = "linear"
    MULTI_STEP = "multi_step"
    CONSTANT = "constant"


class Precision(str, Enum):
    """Number format of the forward pass and of the gradients of its maps; weights and their updates are float32."""

    FLOAT32 = "fp32"
    BFLOAT16 = "bf16"
    FLOAT16 = "fp16"
    """CUDA only; the loss is scaled so that small gradients survive (Micikevicius et al., "Mixed Precision Training",
    ICLR 2018, section 3.2)."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train, whatever the model and the loss."""

    epochs: int = 50
    """Passes over the data."""
    batch: int = 32
    """Images per step, whatever the number of micro-batches and processes."""
    accumulate: int = 1
    """Micro-batches a process makes of its part of a batch. Only memory and batch-norm statistics depend on it."""
    optimizer: Optimizer = Optimizer.SGD
    learning_rate: float = 0.01
    """Its highest value, reached after the warm-up."""
    schedule: Schedule = Schedule.COSINE
    final_lr_ratio: float = 0.01
    """Last learning rate relative to the highest, in [0, 1]; of the cosine and the linear schedule."""
    milestones: tuple[float, ...] = (0.8, 0.9)
    """Parts of the run, in (0, 1), after which the multi-step schedule multiplies by `step_ratio`."""
    step_ratio: float = 0.1
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
    freeze: tuple[str, ...] = ()
    """Names or glob patterns of modules whose parameters and batch-norm statistics stay as they are."""
    precision: Precision = Precision.FLOAT32
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Random changes of the images."""
    seed: int = 0
    """Of everything random: order, augmentation, torch."""
    device: str = "cpu"
    channels_last: bool = True
    """Memory format of images and convolution weights; faster on most machines, equal in meaning."""
    sync_batch_norm: bool = False
    """Batch-norm statistics over the images of all processes, not of each one's own."""
    workers: int = 0
    """Processes that prepare batches; 0 prepares them in the training process."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("epochs", "batch", "accumulate"):
            _require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        for name in ("warmup_epochs", "weight_decay", "clip_norm", "seed", "workers"):
            _require(getattr(self, name) >= 0, name, "at least 0", getattr(self, name))
        for name in ("momentum", "ema_decay"):
            _require(0 <= getattr(self, name) < 1, name, "in [0, 1)", getattr(self, name))
        for name in ("final_lr_ratio", "step_ratio"):
            _require(0 <= getattr(self, name) <= 1, name, "in [0, 1]", getattr(self, name))
        rising = all(a < b for a, b in zip((0.0, *self.milestones), (*self.milestones, 1.0), strict=True))
        _require(rising, "milestones", "rising parts of the run in (0, 1)", self.milestones)
        _require(self.learning_rate > 0, "learning_rate", "positive", self.learning_rate)
        _require(
            self.warmup_epochs <= self.epochs, "warmup_epochs", f"at most epochs={self.epochs}", self.warmup_epochs
        )
        on_cpu = self.device.partition(":")[0] == "cpu"
        _require(
            not (on_cpu and self.precision is Precision.FLOAT16),
            "precision",
            "fp32 or bf16 on the CPU, which has no fast arithmetic for fp16",
            self.precision.value,
        )


def _require(holds: bool, name: str, what: str, found: object) -> None:
    if not holds:
        raise TrainError(f"TrainConfig: {name} must be {what}, got {found}")
