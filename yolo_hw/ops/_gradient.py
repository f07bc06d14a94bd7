# SPDX-License-Identifier: Apache-2.0
"""How a call reaches an operator: with or without its gradient formula."""

from __future__ import annotations

import torch
from torch import Tensor


def traced() -> bool:
    """Return whether a transform (torch.compile, torch.export, torch.vmap) must see the one operator."""
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()


def needs_gradient(*tensors: Tensor) -> bool:
    """Return whether autograd has to record a call with these inputs."""
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


def refuse_gradient(op: str, *tensors: Tensor) -> None:
    """Check that a call with ``out=`` needs none.

    Raises:
        RuntimeError: It does.
    """
    if needs_gradient(*tensors):
        raise RuntimeError(f"{op}: out= does not support automatic differentiation, but an argument requires grad")
