# SPDX-License-Identifier: Apache-2.0
"""Data, loss, loop and metrics together: a network learns 16 images by heart."""

from __future__ import annotations

from yolo_hw.darknet import build_network, parse_cfg
from yolo_hw.data import open_dataset
from yolo_hw.data.augment import NO_AUGMENTATION
from yolo_hw.data.synthetic.dataset import write_dataset
from yolo_hw.data.synthetic.layout import SceneConfig
from yolo_hw.nn import Darknet
from yolo_hw.train import (
    DatasetImages,
    Evaluate,
    FittedImages,
    MeasureDetector,
    Optimizer,
    TrainConfig,
    detection_loss,
    fit,
    initialise,
    preload,
)

SCENES = SceneConfig(min_side_px=96, max_side_px=128, max_objects=5, min_part_px=20.0)

CONV = "[convolutional]\nbatch_normalize=1\nfilters={}\nsize=3\nstride={}\npad=1\nactivation=leaky\n"
BODY = "".join(CONV.format(*layer) for layer in ((16, 2), (32, 2), (64, 2), (64, 1), (96, 2), (96, 1)))
HEAD = """[convolutional]
filters=33
size=1
activation=linear

[yolo]
anchors=24,24, 34,34, 52,52
classes=6
num=3
scale_x_y=1.1
iou_loss=ciou
"""


def test_sixteen_images_are_learned_by_heart(tmp_path):
    write_dataset(tmp_path, 16, 11, SCENES)
    dataset = open_dataset(tmp_path)
    model = Darknet(build_network(parse_cfg(f"[net]\nwidth=128\nheight=128\nchannels=3\n{BODY}{HEAD}", "small.cfg")))
    initialise(model, 0)
    images = list(preload(FittedImages(DatasetImages(dataset), model.network.input)))
    config = TrainConfig(
        epochs=150,
        batch=8,
        optimizer=Optimizer.ADAMW,
        learning_rate=4e-3,
        warmup_epochs=5,
        ema_decay=0.95,
        augment=NO_AUGMENTATION,
    )
    loss = detection_loss(model.network, box_gradient="exact", box_weight=5.0, objectness_weight=1.0, class_weight=1.0)
    measure = Evaluate(MeasureDetector(dataset), every_epochs=config.epochs)
    state = fit(model, images, config, loss=loss, callbacks=[measure])
    figures = state.history[-1].figures
    assert figures["ap50"] >= 0.95, figures
