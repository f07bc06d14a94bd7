# SPDX-License-Identifier: Apache-2.0
"""The vote of calibration batches, and biases corrected by small steps."""

import copy
import io

import numpy as np
import pytest
import torch
from support.ladder import assert_qat_ladder
from support.qat import images_of
from support.random_net import make_images, make_net, net_cfg

from yolo_hw.errors import QuantError
from yolo_hw.quant import QuantConfig
from yolo_hw.quant.qat import QatConfig, ScaleMethod, lower_model, prepare_qat
from yolo_hw.quant.qat.quantiser import Grid
from yolo_hw.quant.qat.seed.cosine import CosineQuantiser, most_similar
from yolo_hw.quant.qat.seed.snr_correction import SnrConfig, correct_biases_by_snr

COSINE = QatConfig(w_scale=ScaleMethod.COSINE_PTQ, a_scale=ScaleMethod.COSINE_PTQ)
FOUR_BITS = QuantConfig(w_bits=4, a_bits=8)


def calibrated(model, config=None):
    batches = [make_images(model, 4, seed=seed) for seed in range(3)]
    return prepare_qat(model, config, qat=COSINE, batches=batches), batches


def test_the_choice_is_the_largest_cosine():
    x = torch.randn(500, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    cosines = []
    for frac in range(-4, 12):
        rounded = (torch.ldexp(x, torch.tensor(frac)) + 0.5).floor().clamp(-8, 7).numpy()
        product = np.linalg.norm(rounded) * np.linalg.norm(x.numpy())
        cosines.append(rounded @ x.numpy() / product if product else 0.0)
    assert most_similar(x, Grid(4), 1).tolist() == [int(np.argmax(cosines)) - 4]


@pytest.mark.parametrize(
    ("sizes", "frac"), [((1, 1, 8), 7), ((8, 1, 8), 4), ((1, 8), 4), ((8, 1), 4), ((0.5, 1, 8, 1), 7), ((0,), 7)]
)
def test_batches_vote_and_the_coarsest_wins_a_tie(sizes, frac):
    """Values that are powers of two or nothing: the cosine is 1 with the finest step that clips nothing."""
    quantiser = CosineQuantiser(Grid(8))
    for index, size in enumerate(sizes):
        quantiser.observe(torch.tensor([-size, 0.0]), first=index == 0)
    assert quantiser.frac().tolist() == [frac]
    quantiser.observe(torch.tensor([-4.0]), first=True)
    assert quantiser.frac().tolist() == [5]


def test_what_a_relu_removes_does_not_vote():
    assert most_similar(torch.tensor([-300.0, 1.0]), Grid(8, signed=False), 1).tolist() == [7]


def test_training_leaves_the_vote():
    qat, _ = calibrated(make_net(net_cfg(["leaky", "shortcut"])))
    before = [quantiser.frac().tolist() for quantiser in qat.formats.values()]
    qat.train()(100 * images_of_any(qat))
    assert [quantiser.frac().tolist() for quantiser in qat.formats.values()] == before


def images_of_any(qat):
    return torch.rand(2, *qat.graph.input_shape, generator=torch.Generator().manual_seed(0))


def test_a_loaded_model_is_the_saved_one():
    """Folding is nothing that happens to the weights at some call, so it cannot happen twice."""
    model = make_net(net_cfg(["leaky", "shortcut", "relu"]))
    qat, batches = calibrated(model)
    correct_biases_by_snr(qat, batches)
    buffer = io.BytesIO()
    torch.save(qat.state_dict(), buffer)
    for _ in range(2):
        buffer.seek(0)
        other = prepare_qat(model, qat=COSINE)
        other.load_state_dict(torch.load(buffer, weights_only=True))
        for one, two in zip(qat(images_of(model)), other(images_of(model)), strict=True):
            assert torch.equal(one, two)
        qat = other
    assert_qat_ladder(other, make_images(model, 1, seed=9)[0])


def mean_errors(qat, like, images):
    """Distance of channel means behind every convolution from those of the float layer `like` on the same input."""
    found = []

    def look(conv, inputs, output):
        reference = like.convs[names[conv]]
        wanted = reference.convolve(inputs[0], *reference.folded())
        found.append(float((output - wanted).mean((0, 2, 3)).abs().mean()))

    names = {conv: name for name, conv in qat.convs.items()}
    handles = [conv.register_forward_hook(look) for conv in qat.convs.values()]
    with torch.no_grad():
        qat.eval()(images)
    for handle in handles:
        handle.remove()
    return np.array(found)


def test_biases_take_the_mean_error_out():
    model = make_net(net_cfg(["leaky", "shortcut", "mish"]))
    qat, batches = calibrated(model, FOUR_BITS)
    untouched = copy.deepcopy(qat)
    images = torch.from_numpy(np.concatenate(batches)).permute(0, 3, 1, 2).float() / 255
    before = mean_errors(qat, untouched, images)
    config = SnrConfig(rate=0.2, fine_rate=0.2, stop_db=200, settled_db=0)
    snr = correct_biases_by_snr(qat, batches * 5, config)
    after = mean_errors(qat, untouched, images)
    assert set(snr) == set(qat.convs)
    # 0.8**15 of what was there, but for the rounding of biases and for inputs that moved meanwhile
    assert after.sum() < 0.3 * before.sum()
    assert_qat_ladder(qat, make_images(model, 1, seed=9)[0])


def test_a_layer_that_is_good_enough_is_left_alone():
    model = make_net(net_cfg(["leaky"]))
    qat, batches = calibrated(model)
    before = copy.deepcopy(qat.state_dict())
    snr = correct_biases_by_snr(qat, batches, SnrConfig(stop_db=0.0))
    assert all(value > 0 for value in snr.values())
    assert all(torch.equal(value, before[name]) for name, value in qat.state_dict().items())
    correct_biases_by_snr(qat, batches, SnrConfig(stop_db=100.0))
    changed = {name for name, value in qat.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.endswith("bias") for name in changed)


def test_a_layer_that_rests_is_left_alone():
    model = make_net(net_cfg(["leaky"]))
    one, batches = calibrated(model, FOUR_BITS)
    two = copy.deepcopy(one)
    settling = SnrConfig(stop_db=1000.0, settled_db=1000.0)
    correct_biases_by_snr(one, batches[:1], settling)
    correct_biases_by_snr(two, batches[:1] * 4, settling)
    for (name, value), other in zip(one.state_dict().items(), two.state_dict().values(), strict=True):
        assert torch.equal(value, other), name


def test_it_needs_a_calibrated_model_and_images():
    model = make_net(net_cfg(["leaky"]))
    with pytest.raises(QuantError, match="needs a calibrated model and at least one batch"):
        correct_biases_by_snr(prepare_qat(model, qat=COSINE), [make_images(model)])
    qat, _ = calibrated(model)
    with pytest.raises(QuantError, match="needs a calibrated model and at least one batch"):
        correct_biases_by_snr(qat, [])
    assert lower_model(qat).nodes
