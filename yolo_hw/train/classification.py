# SPDX-License-Identifier: Apache-2.0
"""What `fit` needs to train a classifier: its images, its loss, its accuracy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from yolo_hw.darknet.layers import Shape
from yolo_hw.data.augment import LabelledImage
from yolo_hw.data.classification import ClassificationDataset
from yolo_hw.data.preprocess import Resize, fit_image
from yolo_hw.errors import DataError
from yolo_hw.train.batches import Batch
from yolo_hw.train.errors import TrainError


class ClassifiedImages:
    """A classification set as the loop's `ImageSource`: every image has one object, which fills it.

    So augmentation, batches and the loop are those of detection, and know nothing of classification.
    """

    def __init__(self, dataset: ClassificationDataset) -> None:
        """Remember the data set."""
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> LabelledImage:
        """Return image `index`."""
        image = self.dataset.image(index)
        height, width = image.shape[:2]
        box = np.array([[0, 0, width, height]], np.float64)
        return LabelledImage(image, box, self.dataset.labels[index : index + 1])


@dataclass(frozen=True)
class CrossEntropy:
    """Cross entropy of logits [N, classes] and the classes of the images, averaged over the batch.

    With smoothing s the target is ``(1 - s) onehot + s / classes`` (Szegedy et al., "Rethinking the Inception
    Architecture", CVPR 2016, section 7).
    """

    label_smoothing: float = 0.0
    """In [0, 1]."""

    def __post_init__(self) -> None:
        """Check the range."""
        if not 0 <= self.label_smoothing <= 1:
            raise TrainError(f"CrossEntropy: label_smoothing must be in [0, 1], got {self.label_smoothing}")

    def __call__(self, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Compute the loss.

        Args:
            logits: [N, classes].
            batch: One target per image.

        Returns:
            The scalar ``class``.

        Raises:
            TrainError: An image has no or several targets, or the network has too few outputs.
        """
        labels = image_labels(batch)
        if labels.numel() and int(labels.max()) >= logits.shape[1]:
            raise TrainError(f"CrossEntropy: the network has {logits.shape[1]} outputs, a label is {int(labels.max())}")
        return {"class": F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)}


def image_labels(batch: Batch) -> Tensor:
    """Return the class [N] int64 of every image of a batch.

    Raises:
        TrainError: An image has no or several targets, as after an augmentation that mixes images.
    """
    images = batch.targets[:, 0].long()
    counts = torch.bincount(images, minlength=len(batch.images))
    if not bool((counts == 1).all()):
        bad = int((counts != 1).nonzero()[0])
        raise TrainError(
            f"CrossEntropy: every image must have one target, image {bad} of the batch has {int(counts[bad])}; "
            "augmentation must neither mix images nor move objects out of them"
        )
    return batch.targets[images.argsort(), 1].long()


@dataclass(frozen=True)
class Accuracy:
    """Shares of images in [0, 1].

    Attributes:
        top1: Whose highest output is the class.
        top5: Whose class is among the five highest outputs.
        images: Number of images.
    """

    top1: float
    top5: float
    images: int


@torch.no_grad()
def measure_accuracy(
    model: nn.Module, dataset: ClassificationDataset, *, batch: int = 64, net: Shape | None = None
) -> Accuracy:
    """Measure a classifier; its mode is restored.

    Args:
        model: From images [N, 3, H, W] in [0, 1] to logits [N, classes].
        dataset: The images.
        batch: Images per run.
        net: Size the images are stretched to; None takes them as they are.

    Returns:
        The accuracy.

    Raises:
        DataError: The set is empty, or an image cannot be read.
    """
    if len(dataset) == 0:
        raise DataError("measure_accuracy: the data set must not be empty")
    parameter = next(model.parameters())
    training = model.training
    model.eval()
    hits = np.zeros(2, np.int64)
    for start in range(0, len(dataset), batch):
        chosen = range(start, min(start + batch, len(dataset)))
        images = [dataset.image(i) for i in chosen]
        if net is not None:
            images = [fit_image(image, net, Resize.STRETCH)[0] for image in images]
        x = torch.from_numpy(np.stack(images)).to(parameter.device).permute(0, 3, 1, 2).to(parameter.dtype) / 255
        logits = model(x).cpu()
        right = (
            logits.topk(min(5, logits.shape[1])).indices
            == torch.from_numpy(dataset.labels[start : chosen.stop])[:, None]
        )
        hits += [int(right[:, 0].sum()), int(right.any(1).sum())]
    model.train(training)
    return Accuracy(float(hits[0] / len(dataset)), float(hits[1] / len(dataset)), len(dataset))


@dataclass(frozen=True)
class MeasureAccuracy:
    """What `Evaluate` measures of a classifier; its fitness is the top-1 accuracy.

    Attributes:
        dataset: Held-out images.
        net: Size the images are stretched to; None takes them as they are.
    """

    dataset: ClassificationDataset
    net: Shape | None = None

    def __call__(self, model: nn.Module) -> tuple[float, dict[str, float]]:
        """Return the fitness and the figures."""
        found = measure_accuracy(model, self.dataset, net=self.net)
        return found.top1, {"top1": found.top1, "top5": found.top5}
