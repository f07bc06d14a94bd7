# SPDX-License-Identifier: Apache-2.0
"""Training: a loop that takes the loss, the data and everything else as arguments."""

from yolo_hw.train.batches import Batch, ImageSource
from yolo_hw.train.best import SaveBest
from yolo_hw.train.callbacks import Evaluate, MeasureDetector, ShowProgress, measure
from yolo_hw.train.checkpoint import Checkpoint, SaveCheckpoint, load_checkpoint, restore, save_checkpoint
from yolo_hw.train.classification import Accuracy, ClassifiedImages, CrossEntropy, MeasureAccuracy, measure_accuracy
from yolo_hw.train.config import Optimizer, Precision, Schedule, TrainConfig
from yolo_hw.train.distributed import World, join_world
from yolo_hw.train.errors import TrainError
from yolo_hw.train.initialise import initialise
from yolo_hw.train.loop import fit
from yolo_hw.train.loss import detection_loss
from yolo_hw.train.loss_config import BoxGradient, BoxLoss, LossConfig, RegionConfig
from yolo_hw.train.loss_detection import DetectionLoss, LossTerms
from yolo_hw.train.loss_entropy import Focal
from yolo_hw.train.loss_region import RegionLoss
from yolo_hw.train.loss_yolo import YoloLoss
from yolo_hw.train.records import RecordResults
from yolo_hw.train.run import TrainedDetector, train_detector
from yolo_hw.train.run_options import DetectorRun
from yolo_hw.train.sources import CachedImages, DatasetImages, FittedImages, preload
from yolo_hw.train.state import Callback, Measured, TrainState
from yolo_hw.train.step import CountedLoss, Loss, Regulariser
from yolo_hw.train.targets import AssignConfig

__all__ = [
    "Accuracy",
    "AssignConfig",
    "Batch",
    "BoxGradient",
    "BoxLoss",
    "CachedImages",
    "Callback",
    "Checkpoint",
    "ClassifiedImages",
    "CountedLoss",
    "CrossEntropy",
    "DatasetImages",
    "DetectionLoss",
    "DetectorRun",
    "Evaluate",
    "FittedImages",
    "Focal",
    "ImageSource",
    "Loss",
    "LossConfig",
    "LossTerms",
    "MeasureAccuracy",
    "MeasureDetector",
    "Measured",
    "Optimizer",
    "Precision",
    "RecordResults",
    "RegionConfig",
    "RegionLoss",
    "Regulariser",
    "SaveBest",
    "SaveCheckpoint",
    "Schedule",
    "ShowProgress",
    "TrainConfig",
    "TrainError",
    "TrainState",
    "TrainedDetector",
    "World",
    "YoloLoss",
    "detection_loss",
    "fit",
    "initialise",
    "join_world",
    "load_checkpoint",
    "measure",
    "measure_accuracy",
    "preload",
    "restore",
    "save_checkpoint",
    "train_detector",
]
