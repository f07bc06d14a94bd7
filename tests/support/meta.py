# SPDX-License-Identifier: Apache-2.0
"""What a choice of channels looks at, without the weights of the network. Needs torch."""

from __future__ import annotations

import numpy as np
import torch

from yolo_hw.darknet import Network
from yolo_hw.nn.darknet import Darknet
from yolo_hw.prune.darknet_surgery import darknet_groups
from yolo_hw.prune.methods import Subject

SCALES = ("random", "ties", "zeros")
"""Kinds of batch-norm scales: all different, three values only, all zero."""


def scale_subject(network: Network, scales: str = "random", seed: int = 0) -> Subject:
    """Return a model of which only batch-norm scales, vectors and the matrices of ``[se]`` have values.

    Args:
        network: Typed layers.
        scales: One of `SCALES`.
        seed: Of the values.
    """
    rng = np.random.default_rng(seed)
    with torch.device("meta"):
        model = Darknet(network)
    state = model.state_dict()
    for key, tensor in state.items():
        if key.endswith("bn.weight"):
            values = {
                "random": rng.random(tensor.shape),
                "ties": rng.integers(0, 3, tensor.shape) / 2,
                "zeros": np.zeros(tensor.shape),
            }[scales]
            state[key] = torch.from_numpy(values)
        elif "squeeze" in key or "excite" in key:
            state[key] = torch.from_numpy(rng.standard_normal(tensor.shape))
    return Subject(darknet_groups(network), state, tuple(key for key, _ in model.named_parameters()))
