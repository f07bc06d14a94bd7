# SPDX-License-Identifier: Apache-2.0
"""Physical pruning of any traceable torch module, and rebuilding a pruned module from its class."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from yolo_hw.errors import PruneError
from yolo_hw.prune.constants import find_groups
from yolo_hw.prune.example_trace import undisturbed
from yolo_hw.prune.groups import ChannelGroups
from yolo_hw.prune.movement import Tracked
from yolo_hw.prune.plan import DeadBias, PrunePlan
from yolo_hw.prune.positions import kept_positions
from yolo_hw.prune.surgery import State, Surgery, compact, operate
from yolo_hw.prune.torch_graph import TracedChannels, trace_model
from yolo_hw.prune.traced_rewrite import fit_graph

FORMAT = 1
"""Of the document `PrunedModule.document` returns."""


@dataclass(frozen=True, eq=False)
class PrunedModule:
    """A pruned module and how it came about.

    Attributes:
        model: The compact module: of the user's own class, or a `torch.fx.GraphModule` where numbers in its code had to
            be changed.
        surgery: The plan as carried out, and the states.
        channels: The module it was made from, traced.
        rewritten: Nodes of the code that got new numbers.
    """

    model: nn.Module
    surgery: Surgery
    channels: TracedChannels
    rewritten: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """Return all that `rebuild` needs beside the class and the state dict, of json's types."""
        plan, traced = self.surgery.plan, self.channels.traced
        return {
            "format": FORMAT,
            "way": traced.way,
            "inputs": [list(x.shape) for x in traced.inputs],
            "kept": {name: np.asarray(kept).tolist() for name, kept in plan.kept.items()},
            "new_biases": list(self.surgery.new_biases),
        }


def traced_groups(channels: TracedChannels) -> ChannelGroups:
    """Return the channel groups of a traced module."""
    return find_groups(channels.graph)


def prune_traced(channels: TracedChannels, plan: PrunePlan, dead_bias: DeadBias = DeadBias.TRANSFER) -> PrunedModule:
    """Carry out a plan.

    Args:
        channels: The module the plan was made for, traced; it is not changed.
        plan: The choice of channels.
        dead_bias: What becomes of the constants that pruned channels emit.

    Returns:
        The compact module.

    Raises:
        PruneError: See `operate`; or the code does something with channel numbers that cannot be fitted.
    """
    surgery = operate(plan, dict(channels.traced.module.state_dict()), dead_bias)
    model, rewritten = _with_state(channels, surgery.plan, surgery.compact)
    return PrunedModule(model, surgery, channels, rewritten)


def masked_module(channels: TracedChannels, surgery: Surgery) -> nn.Module:
    """Return the module of full size whose pruned channels are dead."""
    masked = copy.deepcopy(channels.traced.module)
    masked.load_state_dict(surgery.masked)
    return masked


def rebuild(module: nn.Module, document: Mapping[str, Any]) -> nn.Module:
    """Return a module of a pruned one's structure, to load its state dict into.

    Args:
        module: An unpruned module of the class and options the pruned one came from.
        document: See `PrunedModule.document`.

    Returns:
        The module; its parameters are slices of `module`'s.

    Raises:
        PruneError: The document is of another format or for another module.
    """
    if document.get("format") != FORMAT:
        raise PruneError(f"document: format must be {FORMAT}, got {document.get('format')!r}")
    parameter = next(module.parameters(), torch.empty(0))
    inputs = tuple(torch.zeros(shape, dtype=parameter.dtype, device=parameter.device) for shape in document["inputs"])
    channels = trace_model(module, inputs, document["way"])
    kept = {name: np.array(units, np.int64) for name, units in document["kept"].items()}
    plan = PrunePlan(traced_groups(channels), kept)
    state: State = dict(module.state_dict())
    for key in document["new_biases"]:
        weight = state[f"{key.removesuffix('bias')}weight"]
        state[key] = torch.zeros(len(weight), dtype=weight.dtype, device=weight.device)
    return _with_state(channels, plan, compact(plan, state))[0]


def _with_state(channels: TracedChannels, plan: PrunePlan, state: State) -> tuple[nn.Module, tuple[str, ...]]:
    """Return a module with compact tensors, and the nodes of its code that had to be changed."""
    small = copy.deepcopy(channels.traced.module)
    groups = {
        op.filters.name: len(kept_positions(plan, op.inputs[0].labels)) // (op.inputs[0].channels // op.filters.groups)
        for op in channels.graph.ops
        if op.filters is not None and op.whole_groups
    }
    before = small.state_dict()  # shares memory with the parameters
    for path, tensor in state.items():
        if path in before and before[path].shape == tensor.shape:
            before[path].copy_(tensor)
        else:
            _set(small, path, tensor)
    for name, module in small.named_modules():
        _count(module, groups.get(name))
    for node, known in channels.results.items():  # norms without tensors count, too
        if node.op == "call_module" and isinstance(known, Tracked):
            module = small.get_submodule(str(node.target))
            if isinstance(module, nn.modules.instancenorm._InstanceNorm):
                module.num_features = len(kept_positions(plan, known.ids()))
    with undisturbed(small):
        graph, rewritten = fit_graph(channels, plan, small)
    return (_graph_module(channels, graph, small) if rewritten else small), rewritten


def _set(model: nn.Module, path: str, tensor: Tensor) -> None:
    """Replace a parameter or buffer, or add a bias."""
    owner_path, _, name = path.rpartition(".")
    owner = model.get_submodule(owner_path)
    if name in owner._buffers:
        owner._buffers[name] = tensor.detach().clone()
        return
    old = owner._parameters.get(name)
    trained = True if old is None else old.requires_grad
    owner.register_parameter(name, nn.Parameter(tensor.detach().clone(), requires_grad=trained))


def _count(module: nn.Module, groups: int | None) -> None:
    """Set the attributes that count channels to what the tensors have."""
    if isinstance(module, (nn.Conv1d, nn.Conv2d)):
        module.groups = module.groups if groups is None else groups
        module.out_channels, module.in_channels = module.weight.shape[0], module.weight.shape[1] * module.groups
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)):
        sizes = [len(x) for x in (module.weight, module.running_mean) if x is not None]
        module.num_features = sizes[0] if sizes else module.num_features
    elif isinstance(module, nn.PReLU):
        module.num_parameters = len(module.weight)


def _graph_module(channels: TracedChannels, graph: fx.Graph, small: nn.Module) -> fx.GraphModule:
    """Return the fitted code with the modules and tensors of `small`; keys of its state dict stay the same."""
    root: dict[str, Any] = {}
    for node in graph.nodes:
        target = str(node.target)
        if node.op == "call_module":
            root[target] = small.get_submodule(target)
        elif node.op == "get_attr":
            owner, _, name = target.rpartition(".")
            constant = channels.traced.constants.get(target)
            root[target] = constant if constant is not None else getattr(small.get_submodule(owner), name)
    model = fx.GraphModule(root, graph, type(small).__name__)
    model.training = small.training
    return model
