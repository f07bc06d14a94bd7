# SPDX-License-Identifier: Apache-2.0
"""A detection set made by this library: photographs of machine parts, drawn, lit and labelled from a seed."""

from yolo_hw.data.synthetic.dataset import SyntheticDataset, write_dataset
from yolo_hw.data.synthetic.layout import SceneConfig
from yolo_hw.data.synthetic.scene import PART_NAMES, Scene, generate_scene

__all__ = ["PART_NAMES", "Scene", "SceneConfig", "SyntheticDataset", "generate_scene", "write_dataset"]
