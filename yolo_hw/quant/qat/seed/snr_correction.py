# SPDX-License-Identifier: Apache-2.0
"""Bias correction by small steps, layer by layer, until the signal stands far enough above the rounding error."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from yolo_hw.errors import QuantError
from yolo_hw.quant.calibrate import ImageBatch
from yolo_hw.quant.layer_statistics import finite_decibels
from yolo_hw.quant.qat.conv import QatConv
from yolo_hw.quant.qat.model import QatModel
from yolo_hw.quant.qat.observation import run_images


@dataclass(frozen=True, kw_only=True)
class SnrConfig:
    """When a bias moves how far."""

    rate: float = 0.05
    """Share of the mean error that a batch takes out."""
    fine_rate: float = 0.025
    """The same above `fine_db`."""
    fine_db: float = 32.0
    """Signal over error, averaged, from which steps are smaller."""
    stop_db: float = 34.4
    """From which a layer is left as it is."""
    memory: float = 0.8
    """Weight of the past in the average."""
    settled_db: float = 0.01
    """A layer whose average moves less than this is left as it is, too."""


class _Layer:
    """One convolution and how far its correction has come; the reference is the float layer it had at the start."""

    def __init__(self, conv: QatConv, config: SnrConfig) -> None:
        bias = _bias_of(conv)
        assert bias is not None
        self.conv, self.config, self.moves = conv, config, bias
        self.weight, self.bias = (tensor.detach().clone() for tensor in conv.folded())
        self.snr: float | None = None
        self.done = False

    def see(self, conv: QatConv, inputs: tuple[Tensor, ...], found: Tensor) -> None:
        """Take in one batch: what the rounded layer makes of its input."""
        if self.done:
            return
        wanted = self.conv.convolve(inputs[0], self.weight, self.bias)
        error = found - wanted
        power, noise = (float(x.double().square().mean()) for x in (wanted, error))
        if noise == 0:
            self.snr, self.done = float("inf"), True
            return
        snr = finite_decibels(power, noise)
        before, config = self.snr, self.config
        self.snr = snr if before is None else config.memory * before + (1 - config.memory) * snr
        settled = before is not None and abs(self.snr - before) < config.settled_db
        self.done = settled or self.snr > config.stop_db
        if not self.done:
            rate = config.rate if self.snr <= config.fine_db else config.fine_rate
            self.moves.sub_(rate * error.mean((0, 2, 3)))


@torch.no_grad()
def correct_biases_by_snr(
    qat: QatModel, batches: list[ImageBatch], config: SnrConfig | None = None
) -> dict[str, float]:
    r"""Move the biases of a calibrated model toward those that leave no mean error.

    Each batch takes a share r of the mean error of every convolution, on the input that the rounded network gives it,
    out of the bias: :math:`b \leftarrow b - r \, \overline{Q(w) * x + b - (w * x + b_0)}`, until the average of
    :math:`10 \log_{10} (\overline{f^2} / \overline{e^2})` is high enough or rests. Unlike
    `yolo_hw.quant.bias_correction` it does not see the errors that earlier layers have made.

    Args:
        qat: The model; changed: shifts of batch norms, and biases of convolutions without one.
        batches: Images [N, H, W, C] uint8.
        config: Rates and bounds.

    Returns:
        By convolution with a bias: the average signal over error in dB; infinite where nothing is rounded.

    Raises:
        QuantError: The model is not calibrated, or there is no image.
    """
    if not qat.calibrated or not batches:
        raise QuantError(f"{qat.graph.name}: bias correction needs a calibrated model and at least one batch of images")
    layers = {}
    for key, conv in qat.convs.items():
        assert isinstance(conv, QatConv)
        if _bias_of(conv) is not None:
            layers[key.replace("/", ".")] = _Layer(conv, config or SnrConfig())
    handles = [layer.conv.register_forward_hook(layer.see) for layer in layers.values()]
    try:
        for images in batches:
            run_images(qat, images)
    finally:
        for handle in handles:
            handle.remove()
    return {name: layer.snr for name, layer in layers.items() if layer.snr is not None}


def _bias_of(conv: QatConv) -> Tensor | None:
    """Return what is added to every value of a channel: behind the batch norm, if there is one."""
    return conv.bias if conv.norm is None else conv.norm.bias
