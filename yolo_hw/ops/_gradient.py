# SPDX-License-Identifier: Apache-2.0
"""Whether a call needs a gradient."""

from __future__ import annotations

import torch
from torch import Tensor


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
