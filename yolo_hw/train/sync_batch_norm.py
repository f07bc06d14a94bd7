# SPDX-License-Identifier: Apache-2.0
"""Batch norm over the images of all processes."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from yolo_hw.train.errors import TrainError


def synchronise_batch_norms(model: nn.Module, device: torch.device) -> nn.Module:
    """Replace the batch norms of a model by ones with statistics over all processes; parameters are kept.

    On CUDA they are torch's own; torch has none for the CPU.
    """
    if device.type == "cuda":
        return cast(nn.Module, nn.SyncBatchNorm.convert_sync_batchnorm(model))  # type: ignore[no-untyped-call]
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncBatchNorm2d
        elif isinstance(module, nn.modules.batchnorm._BatchNorm) and not isinstance(module, SyncBatchNorm2d):
            raise TrainError(f"sync_batch_norm: {type(module).__name__} has no form for several processes on the CPU")
    return model


class _SumOverProcesses(torch.autograd.Function):
    """The sum of a tensor over all processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:  # noqa: ANN401
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # noqa: ANN401
        total = grad.clone()
        dist.all_reduce(total)
        return total


def _sum(values: Tensor) -> Tensor:
    return cast(Tensor, _SumOverProcesses.apply(values))  # type: ignore[no-untyped-call]


class SyncBatchNorm2d(nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` whose training statistics are those of the maps of all processes together."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise [N, C, H, W]."""
        if not self.training or not dist.is_initialized():
            return super().forward(x)
        wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
        count = wide.new_full((1,), wide.numel() // wide.shape[1])
        sums = _sum(torch.cat([wide.sum((0, 2, 3)), count]))
        mean, total = sums[:-1] / sums[-1], sums[-1]
        centred = wide - mean[:, None, None]
        var = _sum(centred.square().sum((0, 2, 3))) / total
        with torch.no_grad():
            self._update(mean, var * (total / (total - 1)))
        y = centred * (var + self.eps).rsqrt()[:, None, None]
        if self.weight is not None:
            y = y * self.weight[:, None, None] + self.bias[:, None, None]
        return y.to(x.dtype)

    def _update(self, mean: Tensor, var: Tensor) -> None:
        """Move the running statistics; without a momentum they are plain averages."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(var, momentum)
