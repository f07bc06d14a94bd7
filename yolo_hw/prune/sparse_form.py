# SPDX-License-Identifier: Apache-2.0
"""From a masked model to one whose convolutions multiply the kept weights only."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from yolo_hw.errors import PruneError
from yolo_hw.nn.sparse_conv import BackendReport, SparseConv2d, choose_backend
from yolo_hw.prune.masks import Masks, apply_masks


@dataclass(frozen=True)
class SparseForm:
    """A model with sparse convolutions.

    Attributes:
        model: A copy; the masked convolutions are `SparseConv2d`, the rest is as it was.
        reports: By name of a convolution, what was measured; empty without an example.
    """

    model: nn.Module
    reports: dict[str, BackendReport]


def sparse_form(
    model: nn.Module, masks: Masks, pattern: str = "unstructured", example: Tensor | None = None
) -> SparseForm:
    """Return a copy of a model in which every convolution whose mask leaves something out is sparse.

    Outputs are those of the masked model but for the order of summation. The weights become `SparseConv2d.values`, so
    the copy can run and train, but not be written as darknet weights.

    Args:
        model: Float32 or float64; is not changed.
        masks: What is kept. Masks of other parameters than weights of convolutions are applied.
        pattern: Of the masks, as `yolo_hw.ops.pack_sparse` takes it. Kept weights that happen to be zero are stored.
        example: What the model takes; with it every convolution runs in the form that is faster here on its map.

    Raises:
        PruneError: A mask is not the model's, no convolution is masked, or a mask does not have the pattern.
    """
    sparse = copy.deepcopy(model)
    apply_masks(sparse, masks)
    chosen = _masked_convs(sparse, masks)
    if not chosen:
        raise PruneError("sparse_form: a mask must leave out weights of a convolution, none does")
    shapes = {} if example is None else _input_shapes(sparse, chosen, example)
    reports: dict[str, BackendReport] = {}
    for name, conv in chosen.items():
        try:
            layer = _sparse_conv(conv, masks[f"{name}.weight"], pattern)
        except ValueError as error:
            raise PruneError(f"sparse_form: {name}: {error}") from None
        parent, _, own = name.rpartition(".")
        setattr(sparse.get_submodule(parent), own, layer)
        if name in shapes:
            reports[name] = choose_backend(layer, shapes[name])
    return SparseForm(sparse, reports)


@torch.no_grad()
def _sparse_conv(conv: nn.Conv2d, mask: Tensor, pattern: str) -> SparseConv2d:
    """Return the sparse form of a convolution; the mask alone says what is stored."""
    weight = conv.weight.detach().clone()
    conv.weight.copy_(mask)
    layer = SparseConv2d.from_dense(conv, pattern)
    layer.values.copy_(functional.pad(weight.reshape(-1), (0, 1))[layer.packed.positions()])
    return layer


def _masked_convs(model: nn.Module, masks: Masks) -> dict[str, nn.Conv2d]:
    """Return the convolutions of which something is left out, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and f"{name}.weight" in masks and not bool(masks[f"{name}.weight"].all())
    }


def _input_shapes(model: nn.Module, convs: dict[str, nn.Conv2d], example: Tensor) -> dict[str, tuple[int, ...]]:
    """Return the shape of the map that each convolution takes."""
    shapes: dict[str, tuple[int, ...]] = {}

    def remember(name: str) -> object:
        return lambda _, inputs: shapes.update({name: tuple(inputs[0].shape)})

    hooks = [conv.register_forward_pre_hook(remember(name)) for name, conv in convs.items()]  # type: ignore[arg-type]
    was_training = model.training
    try:
        with torch.no_grad():
            model.eval()(example)
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    return shapes
