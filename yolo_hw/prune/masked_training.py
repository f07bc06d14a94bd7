# SPDX-License-Identifier: Apache-2.0
"""Training that keeps masked weights at zero, with fixed masks or with masks that grow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from yolo_hw.errors import PruneError
from yolo_hw.prune.masks import Masks, apply_masks, check_masks
from yolo_hw.train.state import Callback, TrainState


class MaskKeeper:
    """Keeps the masked weights of a model exactly zero through the steps of an optimiser, in any training loop.

    Gradients of masked weights are zero, so they count in no norm; what the optimiser remembers of them is cleared when
    the masks are set; and after each of its steps they are set to zero. Parameters keep their names and their type, so
    a state dict is that of the plain model.
    """

    def __init__(self, model: nn.Module, masks: Masks, optimizer: torch.optim.Optimizer) -> None:
        """Mask the model now and after every step.

        Raises:
            PruneError: See `check_masks`.
        """
        self.model = model
        self.optimizer = optimizer
        self.masks: dict[str, Tensor] = {}
        self._hooks: list[RemovableHandle] = []
        self._after_step = optimizer.register_step_post_hook(lambda *_: self.apply())
        try:
            self.set(masks)
        except PruneError:
            self.remove()
            raise

    @torch.no_grad()
    def set(self, masks: Masks) -> None:
        """Take other masks and apply them.

        Raises:
            PruneError: See `check_masks`.
        """
        parameters = check_masks(self.model, masks)
        self.masks = {name: masks[name].to(parameter.device) for name, parameter in parameters.items()}
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        for name, parameter in parameters.items():
            gone = ~self.masks[name]
            if parameter.requires_grad:
                self._hooks.append(_without(parameter, gone))
            for value in self.optimizer.state.get(parameter, {}).values():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    value.masked_fill_(gone, 0)
        self.apply()

    def apply(self) -> None:
        """Set the masked weights to zero."""
        apply_masks(self.model, self.masks)

    def remove(self) -> None:
        """Let go of the model; its weights stay as they are."""
        for hook in (*self._hooks, self._after_step):
            hook.remove()


def _without(parameter: nn.Parameter, gone: Tensor) -> RemovableHandle:
    """Make the gradients of some weights zero."""
    hook: RemovableHandle = parameter.register_hook(lambda grad: grad.masked_fill(gone, 0))  # type: ignore[no-untyped-call]
    return hook


FindMasks = Callable[[nn.Module, float], Masks]
"""(model, ratio) to masks that leave out that share, such as `weight_masks`."""


@dataclass(frozen=True, kw_only=True)
class GradualMasks:
    """Masks that are found anew during a run, each leaving out more.

    Zhu & Gupta, "To prune, or not to prune", 2017, eq. (1).
    """

    find: FindMasks
    """From the model and the share to leave out. Masked weights are zero, so by magnitude they stay masked."""
    final: float
    """Last share, in [0, 1)."""
    initial: float = 0.0
    """First share."""
    begin: float = 0.0
    """Share of the run after which the masks begin to grow."""
    end: float = 0.7
    """Share of the run after which they stay; the rest recovers."""
    every_steps: int = 10
    """Steps between masks."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0 <= self.initial <= self.final < 1:
            raise PruneError(
                f"GradualMasks: 0 <= initial <= final < 1 must hold, got initial {self.initial}, final {self.final}"
            )
        if not 0 <= self.begin < self.end <= 1:
            raise PruneError(f"GradualMasks: 0 <= begin < end <= 1 must hold, got begin {self.begin}, end {self.end}")
        if self.every_steps < 1:
            raise PruneError(f"GradualMasks: every_steps must be at least 1, got {self.every_steps}")

    def ratio(self, step: int, total_steps: int) -> float:
        r"""Return the share left out after so many steps.

        :math:`s_f + (s_i - s_f) (1 - p)^3` with p from 0 to 1 between `begin` and `end`.
        """
        first, last = round(self.begin * total_steps), max(round(self.end * total_steps), 1)
        phase = min(max(step - first, 0) / max(last - first, 1), 1.0)
        return self.final + (self.initial - self.final) * (1 - phase) ** 3

    def is_due(self, step: int, total_steps: int) -> bool:
        """Whether masks are found anew after so many steps."""
        first, last = round(self.begin * total_steps), max(round(self.end * total_steps), 1)
        return step == last or (first <= step < last and (step - first) % self.every_steps == 0)


class MaskedTraining(Callback):
    """Keeps masked weights exactly zero, in the model and in its moving average, after every step.

    The masks are part of the checkpoint. Put it before the callbacks that measure or save, which then see masked
    weights, and which hold the masks that belong to them.
    """

    def __init__(self, masks: Masks | GradualMasks) -> None:
        """Remember the masks, or how they are found; the model is masked when the run begins."""
        self.plan = masks if isinstance(masks, GradualMasks) else None
        self.masks: dict[str, Tensor] | None = None
        if not isinstance(masks, GradualMasks):
            self.masks = {name: mask.detach().clone() for name, mask in masks.items()}
        self.keeper: MaskKeeper | None = None

    def on_start(self, state: TrainState) -> None:
        """Mask the model and its average.

        Raises:
            PruneError: The masks are not the model's.
        """
        if self.plan is not None and self.masks is None:
            self.masks = self._find(state)
        assert self.masks is not None
        self.keeper = MaskKeeper(state.model, self.masks, state.optimizer)
        self._mask_average(state)

    def on_step(self, state: TrainState, terms: dict[str, float]) -> None:
        """Find masks anew if it is time."""
        assert self.keeper is not None
        if self.plan is not None and self.plan.is_due(state.step, state.total_steps):
            self.masks = self._find(state)
            self.keeper.set(self.masks)
            self._mask_average(state)

    def on_end(self, state: TrainState) -> None:
        """Let go of the model."""
        if self.keeper is not None:
            self.keeper.remove()

    def state_dict(self) -> dict[str, Any]:
        """Return the masks, on the CPU."""
        return {"masks": {name: mask.cpu() for name, mask in (self.masks or {}).items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the masks of the run.

        Raises:
            PruneError: Fixed masks are given, and they are others.
        """
        saved: dict[str, Tensor] = state["masks"]
        if self.plan is None and (changed := _differences(self.masks or {}, saved)):
            raise PruneError(
                f"MaskedTraining: a resumed run must keep its masks; {len(changed)} differ, first '{changed[0]}'"
            )
        self.masks = saved

    def _find(self, state: TrainState) -> dict[str, Tensor]:
        """Find masks in process 0 for all."""
        assert self.plan is not None
        ratio = self.plan.ratio(state.step, state.total_steps)
        found = self.plan.find(state.model, ratio) if state.world.leads else {}
        return dict(state.world.from_leader({name: mask.cpu() for name, mask in found.items()}))

    def _mask_average(self, state: TrainState) -> None:
        assert self.masks is not None
        if state.averaged is not None:
            apply_masks(state.averaged.model, self.masks)


def _differences(a: Masks, b: Masks) -> list[str]:
    """Return the names of masks that are not in both, or not equal."""
    return sorted(n for n in a.keys() | b.keys() if n not in a or n not in b or not torch.equal(a[n].cpu(), b[n].cpu()))
