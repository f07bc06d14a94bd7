# SPDX-License-Identifier: Apache-2.0
"""What quantisers are shown in calibration."""

import numpy as np
import pytest
import torch
from support.random_net import make_images, make_net, net_cfg
from torch import nn

from yolo_hw.quant import QuantConfig
from yolo_hw.quant.qat import NormFold, QatConfig, ScaleMethod, prepare_qat
from yolo_hw.quant.qat.observation import show_batches
from yolo_hw.quant.qat.quantiser import Grid, Quantiser
from yolo_hw.quant.qat.seed.cosine import most_similar


class Recorder(Quantiser):
    """Remembers what it is shown."""

    observes = True

    def __init__(self):
        super().__init__(Grid(8))
        self.seen = []

    def observe(self, x, first):
        self.seen.append((float(x.max()), first))

    def forward(self, x, limits=None):
        return x


class Twice(nn.Module):
    """Uses one quantiser for two tensors."""

    def __init__(self):
        super().__init__()
        self.one = nn.Parameter(torch.ones(1))
        self.shared = Recorder()

    def run(self, x):
        yield "a", self.shared(x * self.one)
        yield "b", self.shared(2 * x * self.one)


def test_batches_in_order_and_one_first_tensor():
    model = Twice()
    show_batches(model, [model.shared, nn.Identity()], [np.full((1, 2, 2, 3), v, np.uint8) for v in (51, 255)])
    assert [first for _, first in model.shared.seen] == [True, False, False, False]
    assert [value for value, _ in model.shared.seen] == pytest.approx([0.2, 0.4, 1, 2])
    model.shared(torch.ones(1))
    assert len(model.shared.seen) == 4


@pytest.mark.parametrize("norm_fold", [NormFold.BATCH, NormFold.NONE])
def test_weights_are_shown_as_they_are_rounded(norm_fold):
    model = make_net(net_cfg(["leaky"]))
    for method in (ScaleMethod.GOOGLE, ScaleMethod.COSINE_PTQ, ScaleMethod.TPSQ):
        config = QuantConfig(w_bits=4, per_channel=False)
        qat = QatConfig(w_scale=method, norm_fold=norm_fold)
        for conv in prepare_qat(model, config, qat=qat, batches=[make_images(model)]).convs.values():
            weight = conv.rounded_weight().detach()
            if method is ScaleMethod.GOOGLE:
                assert conv.quantiser.largest.item() == weight.abs().max().item()
            else:
                assert conv.quantiser.frac().tolist() == most_similar(weight, Grid(4), 1).tolist()
