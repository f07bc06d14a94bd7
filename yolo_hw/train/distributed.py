# SPDX-License-Identifier: Apache-2.0
"""Several processes that train one model: who is who, and what they tell each other."""

from __future__ import annotations

import gc
import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from yolo_hw.errors import YoloHwError
from yolo_hw.train.errors import TrainError

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """The processes of a run.

    Attributes:
        rank: Number of this process, from 0; process 0 writes files.
        size: Number of processes.
        local_rank: Number of this process on its machine, which is that of its GPU.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    def __post_init__(self) -> None:
        """Check the range."""
        if not 0 <= self.rank < self.size:
            raise TrainError(f"World: rank must be in [0, size), got {self.rank} of {self.size}")

    @property
    def leads(self) -> bool:
        """Whether this process writes files and messages."""
        return self.rank == 0

    def device(self, wanted: str) -> torch.device:
        """Return this process's device: ``cuda`` without a number is the GPU of its local rank."""
        try:
            device = torch.device(wanted)
        except RuntimeError:
            raise TrainError(f"device must be cpu, cuda or cuda:N, got '{wanted}'") from None
        if device.type == "cuda" and not torch.cuda.is_available():
            raise TrainError(f"device {wanted}: torch sees no CUDA device; use cpu")
        if device.type == "cuda" and self.size > 1:
            if device.index is not None:
                raise TrainError(f"device must be cuda for {self.size} processes, each takes its own, got {wanted}")
            return torch.device("cuda", self.local_rank)
        return device

    def slice(self, count: int) -> slice:
        """Return this process's part of `count` images, which lie ``rank * n .. (rank + 1) * n - 1``.

        Raises:
            TrainError: They cannot be shared equally.
        """
        if count % self.size:
            raise TrainError(f"a batch of {count} images cannot be shared equally by {self.size} processes")
        own = count // self.size
        return slice(self.rank * own, (self.rank + 1) * own)

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes."""
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def gather(self, value: T) -> list[T]:
        """Return the values of all processes in the order of their ranks, to each of them."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def lead(self, action: Callable[[], None]) -> None:
        """Let process 0 do something that may fail; all raise what it raises.

        Raises:
            TrainError: The action failed.
        """
        failed = ""
        if self.leads:
            try:
                action()
            except YoloHwError as error:
                failed = str(error)
        if failed := self.from_leader(failed):
            raise TrainError(failed)

    def from_leader(self, value: T) -> T:
        """Return process 0's value."""
        if self.size == 1:
            return value
        values: list[Any] = [value]
        dist.broadcast_object_list(values)
        return cast(T, values[0])

    def share_state(self, model: nn.Module) -> None:
        """Copy all parameters and buffers of process 0."""
        if self.size > 1:
            for tensor in model.state_dict().values():
                dist.broadcast(tensor, 0)

    def wrap(self, model: nn.Module, device: torch.device) -> nn.Module:
        """Return the module whose gradients are averaged over the processes: the model itself where there is one.

        A model whose parameters may leave the loss in the course of training says so by `parameters_rest`.
        """
        if self.size == 1:
            return model
        devices = [device] if device.type == "cuda" else None
        rest = bool(getattr(model, "parameters_rest", False))
        return DistributedDataParallel(model, device_ids=devices, find_unused_parameters=rest)


ALONE = World()


@contextmanager
def join_world(device: str) -> Iterator[World]:
    """Join the processes that ``torchrun`` started, or be alone, for the time of the block.

    The threads of gloo end with the block: one that lives on into the interpreter's end may abort the process there.

    Args:
        device: ``cuda`` talks by NCCL, anything else by gloo.

    Yields:
        This process's place.

    Raises:
        TrainError: The variables of torchrun are incomplete, or there are fewer GPUs than processes.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield World()
        return
    try:
        world = World(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))
    except (KeyError, ValueError) as error:
        raise TrainError(f"torchrun's RANK, WORLD_SIZE and LOCAL_RANK must be numbers: {error}") from None
    if world.size == 1:
        yield world
        return
    on_cuda = torch.device(device).type == "cuda"
    if on_cuda:
        if world.local_rank >= torch.cuda.device_count():
            raise TrainError(
                f"process {world.local_rank} of this machine needs a GPU of its own, there are "
                f"{torch.cuda.device_count()}: lower --nproc-per-node"
            )
        torch.cuda.set_device(world.local_rank)
    # Loaded lazily by DistributedDataParallel, it keeps the group of that moment in default arguments for good.
    importlib.import_module("torch.distributed.nn.functional")
    dist.init_process_group("nccl" if on_cuda else "gloo")
    try:
        yield world
    finally:
        gc.collect()  # of wrapped models: whoever holds the group last ends its threads
        dist.destroy_process_group()
