# SPDX-License-Identifier: Apache-2.0
"""Masks by magnitude: single weights (Han et al. 2015) and whole filters (Li et al. 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor, nn

from yolo_hw.darknet.layers import DetectionHead
from yolo_hw.errors import PruneError
from yolo_hw.nn.darknet import Darknet
from yolo_hw.prune.masks import check_ratio, lowest
from yolo_hw.prune.module_names import named
from yolo_hw.prune.ranking import Scope
from yolo_hw.prune.reduce import Normalisation, normalise


def weight_masks(
    model: nn.Module, ratio: float, names: Sequence[str] = ("*",), scope: Scope = Scope.GLOBAL
) -> dict[str, Tensor]:
    """Return masks that leave out the weights of smallest magnitude.

    Han et al., "Learning both Weights and Connections for Efficient Neural Networks", NIPS 2015. Exactly
    ``round(ratio * N)`` of the N weights that are compared are left out, but never all; of equal ones the first.

    Args:
        model: The model.
        ratio: Share to leave out, in [0, 1).
        names: Which of the parameters of two or more dimensions, see `named`.
        scope: Among what.

    Raises:
        PruneError: The ratio, a name, or weights that are no numbers.
    """
    check_ratio(ratio, "weight_masks")
    every = {name: p.detach() for name, p in model.named_parameters() if p.ndim >= 2}
    sizes = {name: every[name].abs() for name in named(every, names, "weight of two or more dimensions")}
    return masks_of_lowest(sizes, ratio, scope)


def masks_of_lowest(scores: dict[str, Tensor], ratio: float, scope: Scope) -> dict[str, Tensor]:
    """Return bool tensors of the shapes of scores; the share `ratio` with the lowest is False.

    Raises:
        PruneError: The scope is neither local nor global.
    """
    if scope is Scope.ISOMORPHIC:
        raise PruneError("masks: single weights are compared in the local or the global scope, got isomorphic")
    if scope is Scope.LOCAL:
        return {name: ~_lowest_share(s.reshape(-1), ratio).reshape(s.shape) for name, s in scores.items()}
    if not scores:
        return {}
    kept = ~_lowest_share(torch.cat([s.reshape(-1) for s in scores.values()]), ratio)
    parts = torch.split(kept, [s.numel() for s in scores.values()])
    return {name: part.reshape(s.shape).clone() for part, (name, s) in zip(parts, scores.items(), strict=True)}


def _lowest_share(scores: Tensor, ratio: float) -> Tensor:
    return lowest(scores, min(round(ratio * len(scores)), len(scores) - 1))


class FilterScore(str, Enum):
    """What the mean square of a filter's weights is divided by, so that layers can be compared."""

    LAYER_NORM = "layer_norm"
    """The Euclidean norm of the scores of all filters of its layer."""
    LAYER_MAX = "layer_max"
    """The highest score of its layer."""
    REMAINING_NORM = "remaining_norm"
    """The norm over the filters still there, when filters go one at a time and scores are taken anew each time."""


class ShareOf(str, Enum):
    """What the ratio of `filter_masks` is a share of."""

    FILTERS = "filters"
    WEIGHTS = "weights"


@dataclass(frozen=True, kw_only=True)
class FilterOptions:
    """Which filters may go, and how they are compared."""

    score: FilterScore = FilterScore.LAYER_NORM
    share_of: ShareOf = ShareOf.FILTERS
    protect_first: int = 0
    """Convolutions at the beginning that keep all filters."""
    exclude: tuple[str, ...] = ()
    """Convolutions that keep all filters, see `named`."""
    heads: bool = False
    """Whether convolutions that make the model's outputs may lose filters."""

    def __post_init__(self) -> None:
        """Check the range."""
        if self.protect_first < 0:
            raise PruneError(f"FilterOptions: protect_first must be at least 0, got {self.protect_first}")


@dataclass(frozen=True)
class FilterLayer:
    """A convolution as a list of filters.

    Attributes:
        conv: Name of its module.
        norm: Name of the batch norm after it, or None.
        is_head: Whether the model returns what it computes.
    """

    conv: str
    norm: str | None
    is_head: bool


def filter_masks(
    model: nn.Module, ratio: float, layers: Sequence[FilterLayer], options: FilterOptions | None = None
) -> dict[str, Tensor]:
    r"""Return masks that leave out whole filters: rows of weights, their biases, scale and shift of their batch norm.

    Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017. The score of a filter is the mean of its squared
    weights divided by a figure of its layer (`FilterScore`), and all filters that may go are compared. At least the
    best filter of every layer stays. ``round(ratio * N)`` of the N filters that may go are left out, of equal ones the
    first; with a share of the weights as many filters as it takes to leave out at least `ratio` of the weights.

    Args:
        model: The model.
        ratio: Share to leave out, in [0, 1), of the filters or weights of the convolutions that may lose some.
        layers: The convolutions, from the input on: `darknet_filters` or `traced_filters`.
        options: Scores, budget, what stays.

    Raises:
        PruneError: The ratio cannot be met, or a name is not there.
    """
    check_ratio(ratio, "filter_masks")
    options = options or FilterOptions()
    chosen = _may_lose(layers, options)
    parameters = dict(model.named_parameters())
    weights = [parameters[f"{layer.conv}.weight"].detach() for layer in chosen]
    scores = torch.cat([_protect_best(filter_scores(weight, options.score)) for weight in weights])
    sizes = torch.cat([torch.full((len(weight),), weight[0].numel()) for weight in weights]).to(scores.device)
    kept = ~lowest(scores, _filters_to_drop(scores, sizes, ratio, options.share_of))
    masks: dict[str, Tensor] = {}
    parts = torch.split(kept, [len(weight) for weight in weights])
    for layer, weight, part in zip(chosen, weights, parts, strict=True):
        masks[f"{layer.conv}.weight"] = part.reshape(-1, *[1] * (weight.ndim - 1)).expand_as(weight).clone()
        vectors = [f"{layer.conv}.bias", *([f"{layer.norm}.weight", f"{layer.norm}.bias"] if layer.norm else [])]
        masks |= {name: part.clone() for name in vectors if name in parameters}
    return masks


def filter_scores(weight: Tensor, score: FilterScore = FilterScore.LAYER_NORM) -> Tensor:
    """Return the score of each filter, float64 [K], in [0, 1]; zeros for a layer of zeros.

    Filters that go one at a time, the lowest first, need no loop: when filter i goes, those with lower scores are gone,
    so its score is s_i over the norm of all that are not lower, and these rise with s_i.

    Args:
        weight: [K, ...].
        score: What the mean squares are divided by.
    """
    squares = weight.detach().double().flatten(1).square().mean(1)
    if score is not FilterScore.REMAINING_NORM:
        how = Normalisation.MAX if score is FilterScore.LAYER_MAX else Normalisation.L2
        return torch.from_numpy(normalise(squares.cpu(), how)).to(squares.device)
    order = squares.argsort(stable=True)
    remaining = squares[order].square().flip(0).cumsum(0).flip(0).sqrt()
    divisor = torch.empty_like(squares).scatter_(0, order, remaining)
    return torch.where(squares > 0, squares / divisor, 0.0)


def _protect_best(scores: Tensor) -> Tensor:
    """Give the last of the best filters of a layer a score that is never among the lowest."""
    best = len(scores) - 1 - int(scores.flip(0).argmax())
    scores[best] = float("inf")
    return scores


def _may_lose(layers: Sequence[FilterLayer], options: FilterOptions) -> list[FilterLayer]:
    """Return the convolutions that may lose filters."""
    names = [layer.conv for layer in layers]
    excluded = set(named(names, options.exclude, "convolution")) | set(names[: options.protect_first])
    chosen = [layer for layer in layers if layer.conv not in excluded and (options.heads or not layer.is_head)]
    if not chosen:
        raise PruneError(
            f"filter_masks: a convolution must be left to prune; of {len(layers)}, {len(excluded)} are excluded and "
            f"{sum(layer.is_head for layer in layers)} are heads"
        )
    return chosen


def _filters_to_drop(scores: Tensor, sizes: Tensor, ratio: float, share_of: ShareOf) -> int:
    """Return how many of the lowest filters go; those that stay have the score infinity."""
    free = int(torch.isfinite(scores).sum())
    if share_of is ShareOf.FILTERS:
        count = round(ratio * len(scores))
    else:
        order = scores.argsort(stable=True)
        dropped = sizes[order].cumsum(0)
        count = int((dropped < ratio * int(sizes.sum())).sum()) + 1 if ratio else 0
    if count > free:
        raise PruneError(
            f"filter_masks: ratio {ratio} of the {share_of.value} needs {count} filters to go, but only {free} of "
            f"{len(scores)} may: every layer keeps its best"
        )
    return count


def darknet_filters(model: Darknet) -> list[FilterLayer]:
    """Return the convolutions of a darknet model."""
    network = model.network
    makes_output = {layer.index for layer in network.outputs}
    makes_output |= {i for layer in network.outputs if isinstance(layer, DetectionHead) for i in layer.inputs}
    found = []
    for layer in network.layers:
        block = model.block(layer.name)
        if isinstance(getattr(block, "conv", None), nn.Conv2d):
            norm = None if block.bn is None else f"blocks.{layer.name}.bn"
            found.append(FilterLayer(f"blocks.{layer.name}.conv", norm, layer.index in makes_output))
    return found


def traced_filters(model: nn.Module, example: Tensor) -> list[FilterLayer]:
    """Return the convolutions of any model in the order in which they run, from one forward pass.

    A batch norm belongs to the convolution whose output it takes. A head is a convolution whose output, or a view of
    it, the model returns.

    Args:
        model: Run in evaluation mode and left in the mode it is in.
        example: What it takes.
    """
    convs: list[tuple[str, Tensor]] = []
    norms: dict[int, str] = {}
    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(lambda _, __, y, name=name: convs.append((name, y))))
        elif isinstance(module, nn.BatchNorm2d):
            hooks.append(module.register_forward_pre_hook(lambda _, x, name=name: norms.update({id(x[0]): name})))
    was_training = model.training
    try:
        with torch.no_grad():
            returned = {t.untyped_storage().data_ptr() for t in _tensors(model.eval()(example))}
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    found = {name: FilterLayer(name, norms.get(id(y)), y.untyped_storage().data_ptr() in returned) for name, y in convs}
    return list(found.values())


def _tensors(value: object) -> list[Tensor]:
    """Return the tensors in nested sequences and dictionaries."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [t for item in value for t in _tensors(item)] if isinstance(value, (list, tuple)) else []
