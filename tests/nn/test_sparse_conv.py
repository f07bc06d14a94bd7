# SPDX-License-Identifier: Apache-2.0
"""SparseConv2d: from a dense layer, training, state, compilation, choice of the backend."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pytest
import torch
from torch import nn

from yolo_hw.nn import sparse_conv
from yolo_hw.nn.sparse_conv import ConvOptions, SparseConv2d, choose_backend
from yolo_hw.ops import Activation, pack_sparse


def dense_layer(seed: int = 0, density: float = 0.25) -> nn.Conv2d:
    torch.manual_seed(seed)
    conv = nn.Conv2d(6, 10, 3, stride=2, padding=1)
    with torch.no_grad():
        conv.weight *= torch.rand_like(conv.weight) < density
    return conv


def test_from_dense_gives_the_same_values() -> None:
    conv, x = dense_layer(), torch.randn(2, 6, 11, 9)
    layer = SparseConv2d.from_dense(conv, activation=Activation.LEAKY, slope=0.2)
    torch.testing.assert_close(layer(x), nn.functional.leaky_relu(conv(x), 0.2))
    assert "unstructured" in repr(layer)
    with pytest.raises(ValueError, match="number of zeros"):
        SparseConv2d.from_dense(nn.Conv2d(2, 2, 3, padding="same"))


@pytest.mark.parametrize("backend", ["sparse", "dense"])
def test_training_changes_kept_weights_only(backend: str) -> None:
    conv, x = dense_layer(), torch.randn(4, 6, 8, 8)
    layer = SparseConv2d.from_dense(conv)
    layer.backend = backend
    before = layer.packed.to_dense().detach()
    target = torch.randn_like(layer(x))
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.05)
    losses = []
    for _ in range(20):
        optimiser.zero_grad()
        loss = (layer(x) - target).square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    after = layer.packed.to_dense().detach()
    assert bool(((after != before) == (before != 0)).all())


def test_both_backends_agree_and_the_kept_dense_weight_follows_the_values() -> None:
    layer, x = SparseConv2d.from_dense(dense_layer()), torch.randn(1, 6, 8, 8)
    with torch.no_grad():
        for _ in range(2):
            layer.backend = "sparse"
            sparse = layer(x)
            layer.backend = "dense"
            torch.testing.assert_close(layer(x), sparse)
            layer.values.mul_(2.0)


def test_state_of_another_pattern_is_loaded() -> None:
    source = SparseConv2d.from_dense(dense_layer(1, 0.5), "block(5x1)", partial=True)
    target = SparseConv2d.from_dense(dense_layer(2))
    target.load_state_dict(source.state_dict())
    x = torch.randn(1, 6, 7, 7)
    assert torch.equal(target(x), source(x))
    assert target.pattern == source.pattern


def test_compiles_and_exports_without_a_break() -> None:
    layer, x = SparseConv2d.from_dense(dense_layer(), activation=Activation.RELU), torch.randn(2, 6, 8, 8)
    compiled = torch.compile(layer, fullgraph=True)
    assert torch.equal(compiled(x), layer(x))
    compiled(x).sum().backward()
    got, layer.values.grad = layer.values.grad, None
    layer(x).sum().backward()
    assert got is not None
    torch.testing.assert_close(got, layer.values.grad)
    assert torch.equal(torch.export.export(layer, (x,)).module()(x), layer(x))


@pytest.mark.parametrize(("times", "winner"), [((1.0, 2.0), "sparse"), ((3.0, 2.0), "dense")])
def test_the_faster_backend_is_chosen_and_logged(
    times: Sequence[float], winner: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sparse_conv, "_medians", lambda *calls: list(times))
    layer = SparseConv2d.from_dense(dense_layer())
    with caplog.at_level(logging.INFO, logger="yolo_hw.nn.sparse_conv"):
        report = choose_backend(layer, (1, 6, 8, 8))
    assert (report.backend, layer.backend, report.speedup) == (winner, winner, times[1] / times[0])
    assert caplog.messages[0].startswith(winner)


def test_choice_is_measured_for_a_weight() -> None:
    weight = dense_layer().weight.detach()
    report = choose_backend(weight, (1, 6, 8, 8), options=ConvOptions(padding=1))
    assert min(report.sparse_seconds, report.dense_seconds) > 0
    assert report.backend == ("sparse" if report.speedup >= 1 else "dense")
    assert report.density == pack_sparse(weight).density


def test_weights_of_int8_are_refused() -> None:
    weight = torch.ones(2, 2, 1, 1, dtype=torch.int8)
    with pytest.raises(ValueError, match=r"got torch\.int8"):
        SparseConv2d(pack_sparse(weight))
    with pytest.raises(ValueError, match=r"got torch\.int8"):
        choose_backend(weight, (1, 2, 3, 3))
