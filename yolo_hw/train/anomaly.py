# SPDX-License-Identifier: Apache-2.0
"""Finding out where a number stopped being finite."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from yolo_hw.train.sync_batch_norm import SyncBatchNorm2d


@torch.no_grad()
def explain_loss(model: nn.Module, images: Tensor, terms: Mapping[str, Tensor]) -> str:
    """Say where a loss that is not finite comes from: the images, the first bad layer and its weights, or the loss.

    Runs the model once more; only called when the run is lost anyway.
    """
    if not torch.isfinite(images).all():
        return "the images hold values that are not finite"
    found: list[str] = []

    def watch(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            if not found and isinstance(output, Tensor) and not torch.isfinite(output).all():
                found.append(f"{name} ({type(module).__name__}) is the first layer whose output is not finite")
                found.extend(f", as is its {role}" for role, p in module.named_parameters() if not p.isfinite().all())

        return hook

    hooks = [module.register_forward_hook(watch(name)) for name, module in model.named_modules() if _is_leaf(module)]
    # Batch norms over several processes would wait for the others.
    waiting = [m for m in model.modules() if isinstance(m, (nn.SyncBatchNorm, SyncBatchNorm2d)) and m.training]
    try:
        for module in waiting:
            module.eval()
        model(images)
    finally:
        for module in waiting:
            module.train()
        for hook in hooks:
            hook.remove()
    broken = [name for name, term in terms.items() if not torch.isfinite(term)]
    return "".join(found) or f"all layers are finite, the loss term {', '.join(broken)} is not"


def _is_leaf(module: nn.Module) -> bool:
    return next(module.children(), None) is None


def explain_gradient(model: nn.Module) -> str:
    """Name the parameters whose gradient is not finite."""
    names = [name for name, p in model.named_parameters() if p.grad is not None and not torch.isfinite(p.grad).all()]
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"the gradient of {names[0]}{more} is not finite" if names else "the gradient's norm overflows"
