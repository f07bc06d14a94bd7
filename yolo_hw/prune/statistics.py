# SPDX-License-Identifier: Apache-2.0
"""What importances learn from data: gradients of a loss and the size of activations.

Everything is collected in evaluation mode, so that batch norms use and keep their running statistics; the model's
modes, gradients and `requires_grad` are afterwards what they were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

from yolo_hw.errors import PruneError, nearest

Batch = TypeVar("Batch")


def collect_taylor(
    model: nn.Module, names: Sequence[str], batches: Iterable[Batch], loss: Callable[[nn.Module, Batch], Tensor]
) -> dict[str, Tensor]:
    """Return the squared first-order change of the loss if an output channel's parameters were zero.

    ``score[k] = sum_batches (sum_p g_p * p)^2`` over all parameters p of channel k in the module. For a convolution it
    is the estimate for the filter, for a batch norm, with ``g_gamma * gamma + g_beta * beta``, that for a gate behind.

    Molchanov et al., "Importance Estimation for Neural Network Pruning", CVPR 2019, equation 8 and section 3.2.

    Args:
        model: The network.
        names: Paths of modules, as in `nn.Module.named_modules`, whose parameters have output channels first.
        batches: What `loss` takes; sums of squares depend on the size of batches.
        loss: Runs the model on a batch and returns a scalar.

    Returns:
        Path -> float64 [K] on the CPU.

    Raises:
        PruneError: A path names no module with parameters; there is no batch; the loss is no finite scalar, or does not
            depend on a module.
    """
    parameters = _parameters(model, names)
    scores = {name: torch.zeros(len(own[0]), dtype=torch.float64) for name, own in parameters.items()}
    for gradients in _gradients(model, parameters, batches, loss):
        for name, own in parameters.items():
            change = torch.stack([_products(p, g) for p, g in zip(own, gradients[name], strict=True)]).sum(0)
            scores[name] += change.square().cpu()
    return scores


def collect_gradients(
    model: nn.Module, names: Sequence[str], batches: Iterable[Batch], loss: Callable[[nn.Module, Batch], Tensor]
) -> dict[str, Tensor]:
    """Return the gradients of the modules' `weight`, summed over batches: path -> float32 like the weight, on the CPU.

    Arguments and errors are those of `collect_taylor`.
    """
    parameters = {name: [own[0]] for name, own in _parameters(model, names).items()}
    sums = {name: torch.zeros(weight.shape) for name, (weight,) in parameters.items()}
    for gradients in _gradients(model, parameters, batches, loss):
        for name, (gradient,) in gradients.items():
            sums[name] += gradient.cpu()
    return sums


def collect_activations(
    model: nn.Module,
    names: Sequence[str],
    batches: Iterable[Batch],
    forward: Callable[[nn.Module, Batch], object] = lambda model, batch: model(batch),
) -> dict[str, Tensor]:
    """Return the mean magnitude of each channel of the modules' outputs.

    Args:
        model: The network.
        names: Paths of modules that return one map [N, K, ...].
        batches: What `forward` takes; every image counts the same.
        forward: Runs the model on a batch.

    Returns:
        Path -> float64 [K] on the CPU.

    Raises:
        PruneError: A path names no module, a module returns no map or does not run, or there is no batch.
    """
    sums: dict[str, Tensor] = {}
    counts = dict.fromkeys(names, 0)

    def watch(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            if not isinstance(output, Tensor) or output.ndim < 2:
                raise PruneError(
                    f"activations of '{name}': must be one tensor [N, K, ...], got {type(output).__name__}"
                )
            others = [axis for axis in range(output.ndim) if axis != 1]
            found = torch.linalg.vector_norm(output.detach(), 1, others, dtype=torch.float64).cpu()
            sums[name] = sums.get(name, torch.zeros_like(found)) + found
            counts[name] += output.numel() // len(found)

        return hook

    modules = {name: _module(model, name) for name in names}
    hooks = [module.register_forward_hook(watch(name)) for name, module in modules.items()]
    try:
        with _evaluating(model), torch.no_grad():
            for batch in _some(batches):
                forward(model, batch)
    finally:
        for hook in hooks:
            hook.remove()
    for name in names:
        if not counts[name]:
            raise PruneError(f"activations of '{name}': the module must run, the batches did not reach it")
    return {name: sums[name] / counts[name] for name in names}


def _gradients(
    model: nn.Module,
    parameters: dict[str, list[nn.Parameter]],
    batches: Iterable[Batch],
    loss: Callable[[nn.Module, Batch], Tensor],
) -> Iterator[dict[str, list[Tensor]]]:
    """Yield the gradients of each module's parameters for one batch after the other; `.grad` is not touched."""
    flat = [p for own in parameters.values() for p in own]
    with _evaluating(model), _differentiable(flat):
        for i, batch in enumerate(_some(batches)):
            with torch.enable_grad():
                value = loss(model, batch)
                if value.numel() != 1 or not value.isfinite():
                    raise PruneError(f"loss of batch {i}: must be one finite number, is {value.detach().tolist()}")
                found = iter(torch.autograd.grad(value.sum(), flat, allow_unused=True) if value.requires_grad else ())
            gradients = {name: [next(found, None) for _ in own] for name, own in parameters.items()}
            unused = [name for name, own in gradients.items() if any(g is None for g in own)]
            if unused:
                raise PruneError(f"loss of batch {i}: must depend on every layer, it does not on '{unused[0]}'")
            yield {name: [g for g in own if g is not None] for name, own in gradients.items()}


def _products(parameter: Tensor, gradient: Tensor) -> Tensor:
    """Return ``sum g * p`` of every output channel, float64 [K]."""
    products: Tensor = parameter.detach().double() * gradient.double()
    return products.reshape(len(parameter), -1).sum(1)


def _parameters(model: nn.Module, names: Sequence[str]) -> dict[str, list[nn.Parameter]]:
    """Return each module's own parameters, its weight first."""
    found = {name: list(_module(model, name).parameters(recurse=False)) for name in names}
    for name, own in found.items():
        if not own:
            raise PruneError(f"gradients of '{name}': the module must have parameters of its own, it has none")
        if len({len(p) for p in own}) > 1:
            shapes = ", ".join(str(list(p.shape)) for p in own)
            raise PruneError(f"gradients of '{name}': parameters must have output channels first, they are {shapes}")
    return found


def _module(model: nn.Module, name: str) -> nn.Module:
    modules: dict[str, nn.Module] = dict(model.named_modules())
    if name not in modules:
        raise PruneError(f"statistics: the model has no module '{name}'{nearest(name, modules)}")
    return modules[name]


def _some(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Yield the batches, of which there must be one."""
    empty = True
    for batch in batches:
        empty = False
        yield batch
    if empty:
        raise PruneError("statistics: at least one batch is needed, there is none")


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def _differentiable(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    required = [p.requires_grad for p in parameters]
    try:
        for p in parameters:
            p.requires_grad_(True)
        yield
    finally:
        for p, was in zip(parameters, required, strict=True):
            p.requires_grad_(was)
