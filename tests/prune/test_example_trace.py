# SPDX-License-Identifier: Apache-2.0
"""Tracing: what `torch.fx` alone refuses, what it would get wrong, and that the module is left as it was."""

import pytest
import torch
from support.zoo import ZOO, example_input, flat_outputs, make
from torch import nn

from yolo_hw.errors import PruneError
from yolo_hw.prune.example_trace import EXAMPLE, trace_example


def run(traced, x):
    """Execute a traced graph node by node."""
    values = {}
    for node in traced.graph.nodes:
        if node.op == "placeholder":
            values[node] = x
            continue
        args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
        if node.op == "output":
            return flat_outputs(args[0] if isinstance(args[0], torch.Tensor) else list(args[0]))
        values[node] = traced.execute(node, args, kwargs, traced.module)
    raise AssertionError


@pytest.mark.parametrize("way", ["fx", "export"])
@pytest.mark.parametrize("name", ["resnet_basic", "yolov8", "yolov8_decoded", "shufflenet_v2", "flattened_prelu"])
def test_the_graph_computes_what_the_module_does_on_other_images(name, way):
    model, other = make(name), example_input(batch=3, seed=1)
    traced = trace_example(model, example_input(), way)
    with torch.no_grad():
        torch.testing.assert_close(run(traced, other), flat_outputs(model(other)), rtol=0, atol=0)


@pytest.mark.parametrize("name", ZOO)
def test_the_module_is_left_as_it_was(name):
    model = make(name).train()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    attributes = {path: set(vars(module)) for path, module in model.named_modules()}
    trace_example(model, example_input())
    assert {path: set(vars(module)) for path, module in model.named_modules()} == attributes
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert model.training


class OnElements(nn.Module):
    def forward(self, x):
        return x + 1 if x.sum() > 0 else x


class OnSizes(nn.Module):
    def forward(self, x):
        if x.shape[2] > 16 and len(list(x.shape)) == 4:
            x = x[:, :, ::2]
        for part in x.split(2, 3):
            x = x + part.mean()
        return x


class Forgetful(nn.Module):
    """Answers every second call."""

    calls = 0

    def forward(self, x):
        self.calls += 1
        return x * self.calls


def test_conditions_on_sizes_take_the_branch_of_the_example():
    traced = trace_example(OnSizes(), torch.rand(1, 3, 32, 8), "fx")
    shapes = [node.meta[EXAMPLE].shape for node in traced.graph.nodes if node.name.startswith("add")]
    assert shapes == [(1, 3, 16, 8)] * 4


@pytest.mark.parametrize(
    ("module", "words"),
    [(OnElements(), "elements of a tensor"), (Forgetful(), "does not compute what the module does")],
)
def test_what_cannot_be_traced_is_an_error_with_the_reason(module, words):
    with pytest.raises(PruneError, match=f"{type(module).__name__} cannot be traced: torch.fx: .*{words}"):
        trace_example(module, torch.rand(1, 3, 8, 8), "fx")


def test_an_unknown_way_is_an_error():
    with pytest.raises(PruneError, match="way must be 'auto', 'fx' or 'export', got 'jit'"):
        trace_example(OnSizes(), torch.rand(1, 3, 8, 8), "jit")
