# SPDX-License-Identifier: Apache-2.0
"""The form of a detector that a run trains, keeps and measures: the float network, or what a stage makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from yolo_hw.atomic import atomic_file
from yolo_hw.darknet.weights import Header, write_weights
from yolo_hw.data.labelled import ImageSource
from yolo_hw.evaluate import FloatRunner, HeadRunner
from yolo_hw.nn.darknet import Darknet, load_darknet


class DetectorForm:
    """The float network itself; other forms override what differs."""

    def prepare(self, model: Darknet, images: ImageSource) -> nn.Module:
        """Return what is trained.

        Args:
            model: The float network, where training starts.
            images: The training images, of the network's size.
        """
        return model

    def write(self, stem: Path, model: nn.Module, names: Sequence[str], seen: int) -> None:
        """Write the fittest model.

        Args:
            stem: Path of the files without their endings.
            model: What `prepare` has made, trained, or a copy of it.
            names: Class names.
            seen: Training images so far.
        """
        if isinstance(model, Darknet):
            write_detector(stem, model, names, seen)

    def open(self, stem: Path, device: str) -> HeadRunner:
        """Open what `write` has written, as a user would."""
        return FloatRunner(
            load_darknet(stem.with_name(f"{stem.name}.cfg"), stem.with_name(f"{stem.name}.weights")), device
        )


FLOAT = DetectorForm()


def write_detector(stem: Path, model: Darknet, names: Sequence[str] = (), seen: int = 0) -> None:
    """Write ``<stem>.cfg``, ``<stem>.weights`` and, where there are names, ``<stem>.names``.

    `seen` is the number of training images that the header of the weights tells.
    """
    cfg, weights, listed = (stem.with_name(f"{stem.name}{end}") for end in (".cfg", ".weights", ".names"))
    if names:
        with atomic_file(listed) as temporary:
            temporary.write_text("".join(f"{name}\n" for name in names), "utf-8")
    with atomic_file(cfg) as temporary:
        temporary.write_text(model.network.cfg, "utf-8")
    write_weights(weights, model.network, model.to_weights(Header(seen=seen)))
