# SPDX-License-Identifier: Apache-2.0
"""Convolutions that use the same parameters of the float model go on sharing them in training."""

from __future__ import annotations

from torch import Tensor

from yolo_hw.errors import QuantError
from yolo_hw.quant.qat.conv import QatConv
from yolo_hw.quant.source import ConvSource, norm_vectors


def share_parameters(convs: dict[str, QatConv], sources: dict[str, ConvSource]) -> set[str]:
    """Give convolutions of the same weight, bias or batch norm the same one again, as a head does on several maps.

    Args:
        convs: By name of node, with copies of their sources' parameters.
        sources: By name of node.

    Returns:
        The names of those that share something.

    Raises:
        QuantError: Two layers use one parameter in different forms, so that it cannot be trained as one.
    """
    first: dict[int, tuple[str, str, Tensor]] = {}
    found: set[str] = set()
    for name, source in sources.items():
        for role, tensor in _parameters(source).items():
            owner, its_role, known = first.setdefault(tensor.data_ptr(), (name, role, tensor))
            if (owner, its_role) == (name, role):
                continue
            form, other = ((which, x.shape, x.stride()) for which, x in ((role, tensor), (its_role, known)))
            if form != other:
                raise QuantError(
                    f"{name}: its {role} is the {its_role} of {owner}, too, in another form; quantisation-aware "
                    "training needs layers that share parameters to be alike"
                )
            setattr(convs[name], role, getattr(convs[owner], role))
            found |= {name, owner}
    return found


def _parameters(source: ConvSource) -> dict[str, Tensor]:
    """Return what a source trains: a batch norm by its running mean, the one tensor each has."""
    found = {} if source.fixed else {"weight": source.weight}
    if source.bias is not None and not source.fixed_bias:
        found["bias"] = source.bias
    if source.norm is not None:
        found["norm"] = norm_vectors(source.norm)[2]
    return found
