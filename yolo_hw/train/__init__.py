# SPDX-License-Identifier: Apache-2.0
"""Training: a loop that takes the loss, the data and everything else as arguments."""

from yolo_hw.train.batches import Batch, DatasetImages, FittedImages, ImageSource, preload
from yolo_hw.train.callbacks import Evaluate, ShowProgress, measure
from yolo_hw.train.checkpoint import Checkpoint, SaveCheckpoint, load_checkpoint, restore, save_checkpoint
from yolo_hw.train.config import Optimizer, TrainConfig
from yolo_hw.train.errors import TrainError
from yolo_hw.train.initialise import initialise
from yolo_hw.train.loop import Callback, TrainState, fit
from yolo_hw.train.loss import BoxLoss, LossConfig, YoloLoss
from yolo_hw.train.targets import AssignConfig

__all__ = [
    "AssignConfig",
    "Batch",
    "BoxLoss",
    "Callback",
    "Checkpoint",
    "DatasetImages",
    "Evaluate",
    "FittedImages",
    "ImageSource",
    "LossConfig",
    "Optimizer",
    "SaveCheckpoint",
    "ShowProgress",
    "TrainConfig",
    "TrainError",
    "TrainState",
    "YoloLoss",
    "fit",
    "initialise",
    "load_checkpoint",
    "measure",
    "preload",
    "restore",
    "save_checkpoint",
]
