# SPDX-License-Identifier: Apache-2.0
"""From a module to the list of operators that it executes, by `torch.export`."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._ops import OpOverload
from torch.export import ExportedProgram

from yolo_hw.errors import QuantError
from yolo_hw.quant.traced.values import BATCH


@dataclass(frozen=True, eq=False)
class Captured:
    """A module as ATen operators that write into nothing.

    Attributes:
        nodes: Placeholders, operators and the output, in order.
        tensors: The module's own parameters and buffers, and constants of its code, by placeholder.
        outputs: How the module packs its results, a `torch.utils._pytree.TreeSpec`.
    """

    nodes: tuple[fx.Node, ...]
    tensors: dict[str, Tensor]
    outputs: Any


def capture(module: nn.Module, shape: tuple[int, ...], like: Tensor) -> Captured:
    """Run a module in evaluation mode on a batch of zeros and write down its operators.

    Args:
        module: Takes one tensor [N, C, H, W]; its mode is restored.
        shape: C, H, W.
        like: Of the image's dtype and device.

    Raises:
        QuantError: The module cannot be captured; says why.
    """
    example = torch.zeros(BATCH, *shape, dtype=like.dtype, device=like.device)
    with evaluation(module):
        try:
            program = torch.export.export(module, (example,), strict=False)
            if any(_overwrites(node) for node in program.graph.nodes):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", FutureWarning)  # of torch's own tree specifications
                    program = program.run_decompositions({})
        except Exception as error:  # whatever the user's code raises under tracing
            first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise QuantError(
                f"{type(module).__name__}: torch.export cannot follow its forward for images {list(example.shape)}: "
                f"{first_line}"
            ) from error
    images = [spec.arg.name for spec in program.graph_signature.input_specs if spec.kind.name == "USER_INPUT"]
    if len(images) != 1:
        raise QuantError(f"{type(module).__name__}: must take one tensor, the images; takes {len(images)}")
    return Captured(tuple(program.graph.nodes), _tensors(program, module), program.call_spec.out_spec)


@contextmanager
def evaluation(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode for a while."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def _tensors(program: ExportedProgram, module: nn.Module) -> dict[str, Tensor]:
    """Return the module's own tensors, not copies, by the names of the placeholders."""
    signature = program.graph_signature
    own = dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))
    found: dict[str, Tensor] = {}
    for placeholders in (signature.inputs_to_parameters, signature.inputs_to_buffers):
        found |= {placeholder: own[name] for placeholder, name in placeholders.items()}
    constants = signature.inputs_to_lifted_tensor_constants
    return found | {placeholder: program.constants[name] for placeholder, name in constants.items()}


def _overwrites(node: fx.Node) -> bool:
    """Whether an operator writes into a tensor that something else reads."""
    if not isinstance(node.target, OpOverload) or not node.target._schema.is_mutable:
        return False
    written = node.args[0] if node.args else None
    return not (isinstance(written, fx.Node) and _is_last_reader(written))


def _is_last_reader(node: fx.Node) -> bool:
    """Whether the only user of a node is the only one of its memory."""
    if len(node.users) != 1 or not isinstance(node.target, OpOverload):
        return False
    if not any(result.alias_info for result in node.target._schema.returns):
        return True
    return all(_is_last_reader(read) for read in node.all_input_nodes)
