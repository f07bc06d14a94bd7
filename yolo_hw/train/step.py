# SPDX-License-Identifier: Apache-2.0
"""One optimiser step: micro-batches, mixed precision, several processes, and the same result without them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from yolo_hw.train.anomaly import explain_gradient, explain_loss
from yolo_hw.train.batches import Batch
from yolo_hw.train.config import Precision
from yolo_hw.train.errors import TrainError
from yolo_hw.train.schedule import learning_rate
from yolo_hw.train.state import TrainState

Loss = Callable[[Any, Batch], dict[str, Tensor]]
"""(outputs of the model, batch) to named scalars whose sum is reduced; each a mean over the images of the batch.

A loss that is a mean over something else is a `CountedLoss`. Several losses add up: a sequence of them is a loss, too.
"""

Regulariser = Callable[[nn.Module], dict[str, Tensor]]
"""Model to named scalars that are added to the loss once per step, whatever the size of the batch."""

ADVICE = "lower learning_rate, lengthen warmup_epochs or set clip_norm, and resume from the last checkpoint"


@runtime_checkable
class CountedLoss(Protocol):
    """A loss that is divided by a count of its own, that of the positives, instead of the images."""

    def positives(self, batch: Batch) -> Tensor:
        """Return what the terms of a batch are divided by, a scalar; counts of parts add up."""

    def __call__(self, outputs: Any, batch: Batch, positives: Tensor | None = None) -> dict[str, Tensor]:  # noqa: ANN401
        """Return the terms, divided by `positives`, or by the batch's own where it is None."""


AnyLoss = Loss | CountedLoss | Sequence[Loss | CountedLoss]
"""What `fit` takes for a loss."""


class Stepper:
    """Makes the steps of a run."""

    def __init__(self, state: TrainState, loss: AnyLoss, regularisers: Sequence[Regulariser]) -> None:
        """Remember the run and what it reduces."""
        self.state = state
        self.losses = tuple(loss) if isinstance(loss, Sequence) else (loss,)
        self.regularisers = tuple(regularisers)
        self.forward = state.world.wrap(state.model, state.device)

    def __call__(self, batch: Batch) -> dict[str, float]:
        """Make one step and return the loss terms of the whole batch, of all processes."""
        state, config = self.state, self.state.config
        self._set_rate()
        state.model.train()
        for module in state.frozen:
            module.eval()
        state.optimizer.zero_grad(set_to_none=True)
        parts = list(split(batch, config.accumulate))
        sums: dict[str, Tensor] = {}
        shares = [self._shares(loss, parts) for loss in self.losses]
        for index, part in enumerate(parts):
            is_last = part is parts[-1]
            with self._no_exchange(not is_last):
                terms, total = self._loss(part, [share[index] for share in shares])
                if is_last:
                    for regulariser in self.regularisers:
                        found = regulariser(state.model)
                        _join(terms, {name: term / state.world.size for name, term in found.items()})
                        total = total + torch.stack(list(found.values())).sum()
                self._check(part, terms)
                state.scaler.scale(total).backward()  # type: ignore[no-untyped-call]
            for name, term in terms.items():
                sums[name] = sums[name] + term.detach() if name in sums else term.detach()
        self._update()
        return self._report(sums)

    def _loss(self, part: Batch, shares: Sequence[Tensor | None]) -> tuple[dict[str, Tensor], Tensor]:
        """Return the named terms of a micro-batch, and what to reduce: the processes' gradients are averaged."""
        world = self.state.world
        with self._autocast():
            outputs = self.forward(part.images)
        terms: dict[str, Tensor] = {}
        for loss, share in zip(self.losses, shares, strict=True):
            if isinstance(loss, CountedLoss):
                found = loss(outputs, part, share)
            else:
                found = loss(outputs, part)
                if share is not None:
                    found = {name: term * share for name, term in found.items()}
            _join(terms, found)
        return terms, torch.stack(list(terms.values())).sum() * world.size

    def _shares(self, loss: Loss | CountedLoss, parts: list[Batch]) -> list[Tensor | None]:
        """What the terms of each part are divided by, or multiplied with, so that they add up to the batch's."""
        world = self.state.world
        if world.size == len(parts) == 1:
            return [None]
        if isinstance(loss, CountedLoss):
            total = world.sum(torch.stack([loss.positives(part) for part in parts]).sum())
            return [total] * len(parts)
        images = torch.tensor([float(len(part.images)) for part in parts], device=self.state.device)
        return list(images / world.sum(images.sum()))

    def _update(self) -> None:
        state, config = self.state, self.state.config
        state.scaler.unscale_(state.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(state.model.parameters(), config.clip_norm or float("inf"))
        if config.precision is not Precision.FLOAT16 and not torch.isfinite(norm):
            raise TrainError(f"{_place(state)}: {explain_gradient(state.model)}; {ADVICE}")
        state.scaler.step(state.optimizer)  # left out where a scaled gradient has overflowed
        state.scaler.update()
        if state.scaler.is_enabled() and state.scaler.get_scale() < 1:  # no step was made for long
            raise TrainError(f"{_place(state)}: {explain_gradient(state.model)} at any scale of the loss; {ADVICE}")
        if state.averaged is not None:
            state.averaged.update(state.model)
        state.step += 1

    def _report(self, sums: dict[str, Tensor]) -> dict[str, float]:
        values = self.state.world.sum(torch.stack([term.float() for term in sums.values()]))
        return dict(zip(sums, values.tolist(), strict=True))

    def _check(self, part: Batch, terms: dict[str, Tensor]) -> None:
        if not torch.isfinite(torch.stack(list(terms.values())).sum()):
            with self._autocast():
                found = explain_loss(self.state.model, part.images, terms)
            raise TrainError(f"{_place(self.state)}: {found}; {ADVICE}")

    def _set_rate(self) -> None:
        state = self.state
        rate = learning_rate(state.step, state.steps_per_epoch, state.config)
        for group in state.optimizer.param_groups:
            group["lr"] = rate

    def _no_exchange(self, wanted: bool) -> AbstractContextManager[Any]:
        """Gradients of micro-batches before the last stay in their process."""
        if wanted and isinstance(self.forward, DistributedDataParallel):
            return self.forward.no_sync()
        return nullcontext()

    def _autocast(self) -> AbstractContextManager[Any]:
        precision = self.state.config.precision
        if precision is Precision.FLOAT32:
            return nullcontext()
        dtype = torch.bfloat16 if precision is Precision.BFLOAT16 else torch.float16
        return torch.autocast(self.state.device.type, dtype)


def _place(state: TrainState) -> str:
    """Say which step it is."""
    return f"epoch {state.epoch + 1}, step {state.step}"


def _join(terms: dict[str, Tensor], more: dict[str, Tensor]) -> None:
    """Add named terms to others."""
    if twice := sorted(terms.keys() & more.keys()):
        raise TrainError(f"two losses or regularisers call a term '{twice[0]}': names must differ")
    terms |= more


def split(batch: Batch, parts: int) -> Iterator[Batch]:
    """Cut a batch into at most `parts` micro-batches of neighbouring images, of nearly equal size."""
    if parts == 1:
        yield batch
        return
    first = 0
    for images in batch.images.tensor_split(min(parts, len(batch.images))):
        image = batch.targets[:, 0]
        targets = batch.targets[(image >= first) & (image < first + len(images))].clone()
        targets[:, 0] -= first
        first += len(images)
        yield Batch(images, targets)


@contextmanager
def shared_momentum(model: nn.Module, parts: int) -> Iterator[None]:
    """Let `parts` updates of batch-norm statistics in a step move them as far as one: ``1 - (1 - m)**(1 / parts)``."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        if norm.momentum is not None:
            norm.momentum = 1 - (1 - norm.momentum) ** (1 / parts)
    try:
        yield
    finally:
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum
