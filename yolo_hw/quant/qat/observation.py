# SPDX-License-Identifier: Apache-2.0
"""Running a quantised model on calibration images for what its modules see of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from yolo_hw.quant.calibrate import ImageBatch
from yolo_hw.quant.qat.quantiser import Quantiser


@torch.no_grad()
def run_images(model: nn.Module, images: ImageBatch) -> None:
    """Run a quantised model in evaluation on [N, H, W, C] uint8, its modules' modes as before afterwards."""
    modes = {module: module.training for module in model.modules()}
    where = next(model.parameters())
    x = torch.from_numpy(images).to(where.device).permute(0, 3, 1, 2).to(where.dtype) / 255
    model.eval()
    try:
        for _ in model.run(x):  # type: ignore[operator]
            pass
    finally:
        for module, mode in modes.items():
            module.training = mode


def show_batches(model: nn.Module, quantisers: Iterable[nn.Module], batches: list[ImageBatch]) -> None:
    """Show quantisers of activations what they are given, batch by batch; none where none wants to see it."""
    observing = [quantiser for quantiser in quantisers if isinstance(quantiser, Quantiser) and quantiser.observes]
    if not observing:
        return
    for index, images in enumerate(batches):
        with ExitStack() as hooks:
            for quantiser in observing:
                hooks.enter_context(_observed(quantiser, first=index == 0))
            run_images(model, images)


@contextmanager
def _observed(quantiser: Quantiser, first: bool) -> Iterator[None]:
    """Let a quantiser see what a batch calls it with; of one that tensors share, only the first call starts anew."""
    fresh = [first]

    def see(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        quantiser.observe(inputs[0].detach(), fresh[0])
        fresh[0] = False

    handle = quantiser.register_forward_pre_hook(see)
    try:
        with quantiser.one_batch():
            yield
    finally:
        handle.remove()
