# SPDX-License-Identifier: Apache-2.0
"""Where the weights of a folded graph come from: the live tensors of a float model.

Folding forgets them, training cannot: a quantised network in training holds weights and batch norms apart, and gives
them back to the float model afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from yolo_hw.quant.folded import Float64Array, FoldedGraph

Norm = nn.BatchNorm1d | nn.BatchNorm2d


@dataclass(frozen=True, eq=False)
class ConvSource:
    """The parameters of one convolution, as views of the model's own tensors.

    Attributes:
        weight: [K, C / groups, R, S].
        norm: The batch norm behind it, or None.
        bias: [K]; None where there is none.
        gain: Constant factor of the weights that the model does not know, such as 256/255 of the pixels.
        fixed: Whether the weight is no parameter: a constant of the architecture, or derived from parameters.
        fixed_bias: The same of the bias.
    """

    weight: Tensor
    norm: Norm | None = None
    bias: Tensor | None = None
    gain: float = 1.0
    fixed: bool = False
    fixed_bias: bool = False

    def folded(self) -> tuple[Float64Array, Float64Array]:
        r"""Fold the batch norm with its running statistics, in float64.

        .. math::
            s = \gamma / \sqrt{\max(\sigma^2, 0) + \epsilon}, \quad w' = g w s, \quad b' = \beta + (b - \mu) s

        Returns:
            Weight [K, C / groups, R, S] and bias [K].

        Reference:
            Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
            Inference", CVPR 2018, eq. (14).
        """
        weight, bias = _float64(self.weight), np.zeros(self.weight.shape[0])
        if self.bias is not None:
            bias = _float64(self.bias)
        if self.norm is not None:
            scale, beta, mean, var = (_float64(x) for x in norm_vectors(self.norm))
            factor = scale / np.sqrt(np.maximum(var, 0) + self.norm.eps)
            weight, bias = weight * factor.reshape(-1, 1, 1, 1), beta + (bias - mean) * factor
        return weight * self.gain, bias

    @torch.no_grad()
    def load(self, weight: Tensor, norm: Norm | None, bias: Tensor | None) -> None:
        """Copy trained parameters, of the shapes of this source's, into the model."""
        if not self.fixed:
            self.weight.copy_(weight)
        if self.bias is not None and not self.fixed_bias:
            assert bias is not None
            self.bias.copy_(bias)
        if self.norm is not None:
            assert norm is not None
            for mine, other in zip(norm_vectors(self.norm), norm_vectors(norm), strict=True):
                mine.copy_(other)


def norm_vectors(norm: Norm) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return gamma, beta, running mean and running variance, [K] each; ones and zeros where the norm has none."""
    mean, var = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
    gamma = torch.ones_like(var) if norm.weight is None else norm.weight
    beta = torch.zeros_like(mean) if norm.bias is None else norm.bias
    return gamma, beta, mean, var


@dataclass(frozen=True, eq=False)
class TracedModel:
    """A float model as a folded graph, and the tensors its weights were folded from.

    Attributes:
        graph: The folded graph.
        sources: By the name of every convolution of the graph.
        pack: Turns the maps [N, K, h, w] of the graph's outputs into what the model returns; None: it returns them.
    """

    graph: FoldedGraph
    sources: dict[str, ConvSource]
    pack: Callable[[list[Tensor]], Any] | None = None


def _float64(x: Tensor) -> Float64Array:
    return cast(Float64Array, x.detach().double().cpu().numpy())
