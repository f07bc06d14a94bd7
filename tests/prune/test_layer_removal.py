# SPDX-License-Identifier: Apache-2.0
"""Removal of residual blocks: the rest computes what it did with their branches at zero."""

import random

import numpy as np
import pytest
import torch
from support.data import real_network
from support.networks import CfgWriter, build, random_weights, yolov3, yolov4, yolov4_tiny
from support.random_net import WIDTH, make_net
from torch import nn

from yolo_hw.darknet import build_network
from yolo_hw.darknet.cfg import parse_cfg
from yolo_hw.darknet.weights import write_weights
from yolo_hw.errors import PruneError
from yolo_hw.nn.darknet import Darknet, load_darknet
from yolo_hw.prune.cfg_cut import cut_network
from yolo_hw.prune.config import PruneConfig
from yolo_hw.prune.darknet_prune import prune_model
from yolo_hw.prune.darknet_surgery import darknet_groups, prune_darknet
from yolo_hw.prune.layer_removal import find_blocks, rank_blocks, remove_blocks
from yolo_hw.prune.plan import PrunePlan


def residual(cfg, filters, convolutions=2, reference=None, activation="leaky"):
    """Add a block; `reference` is the text of its ``from``."""
    for i in range(convolutions):
        cfg.conv(filters, 1 if i % 2 else 3, activation=activation)
    return cfg.section("shortcut", from_=reference or -convolutions - 1, activation="linear")


def with_silent_blocks(model, removed):
    """Return a forward of the model in which what enters the sums from the blocks is zero."""

    def silence(module, inputs):
        return [torch.zeros_like(inputs[0][0]), *inputs[0][1:]]

    hooks = [model.blocks[b.shortcut].register_forward_pre_hook(lambda m, x: (silence(m, x),)) for b in removed]

    def forward(x):
        try:
            return model(x)
        finally:
            for hook in hooks:
                hook.remove()

    return forward


def assert_equals_silent(model, count):
    model = model.double().eval()
    shape = model.network.input
    x = torch.randn(1, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    small, removed = remove_blocks(model, count)
    assert len(removed) == count
    assert len(small.network.layers) == len(model.network.layers) - sum(len(block.layers) for block in removed)
    with torch.no_grad():
        expected, found = with_silent_blocks(model, removed)(x), small(x)
    assert len(expected) == len(found)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    return small, removed


def randomly_weighted(text, seed=0):
    network = build(text)
    model = Darknet(network)
    model.load_weights(random_weights(network, seed))
    return model


@pytest.mark.parametrize(("text", "blocks"), [(yolov3(64), 23), (yolov4(64), 23)], ids=["v3", "v4"])
def test_removed_blocks_of_darknet_backbones_are_silent_blocks(text, blocks):
    model = randomly_weighted(text)
    assert len(find_blocks(model.network)[0]) == blocks
    for count in (8, blocks):
        assert_equals_silent(model, count)


@pytest.mark.parametrize("name", ["yolo-fastest-1.1", "mobilenetv2-voc"])
def test_removed_blocks_of_trained_networks_are_silent_blocks(name):
    model = load_darknet(*real_network(name))
    blocks, reasons = find_blocks(model.network)
    assert len(blocks) >= 5
    assert not reasons
    small, removed = assert_equals_silent(model, len(blocks) // 2)
    assert [b.score for b in removed] == sorted(b.score for b in removed)
    assert small.network.num_params < model.network.num_params
    if name == "yolo-fastest-1.1":
        assert {len(b.layers) for b in removed} <= {5}
        assert any(layer.startswith("identity") for layer in removed[0].layers)


@pytest.mark.parametrize("seed", range(12))
def test_random_networks_with_every_kind_of_reference(seed):
    rng = random.Random(seed)
    cfg = CfgWriter(16, 16)
    last = cfg.conv(WIDTH, 3)
    for _ in range(rng.randint(2, 6)):
        kind = rng.randrange(6)
        if kind <= 2:
            count = rng.randint(1, 4)
            last = residual(cfg, WIDTH, count, last if kind == 0 else None, rng.choice(["leaky", "logistic", "mish"]))
        elif kind == 3:
            cfg.section("avgpool")
            cfg.conv(WIDTH, activation="logistic")
            cfg.section("scale_channels", from_=rng.choice([-3, last]), activation="linear")
            last = cfg.conv(WIDTH)
        elif kind == 4:
            cfg.conv(WIDTH)
            cfg.section("sam", from_=rng.choice([-2, last]), activation="linear")
            last = cfg.conv(WIDTH)
        else:
            cfg.route(-1, rng.choice([last, max(last - 1, 0)]), 0)
            last = cfg.conv(WIDTH)
    residual(cfg, WIDTH, 3)
    cfg.yolo([0], 1, "4,4, 8,8")
    model = make_net(cfg.text(), seed)
    blocks = len(find_blocks(model.network)[0])
    assert blocks
    for count in range(1, blocks + 1):
        assert_equals_silent(model, count)


def test_blocks_with_gates_inside_go_as_a_whole():
    cfg = CfgWriter(16, 16)
    cfg.conv(WIDTH, 3)
    cfg.conv(WIDTH)
    cfg.section("avgpool")
    cfg.conv(WIDTH, activation="logistic")
    cfg.section("scale_channels", from_=-3, activation="linear")
    cfg.conv(WIDTH, activation="linear")
    cfg.section("dropout", probability=0.2)
    cfg.section("shortcut", from_=-7, activation="linear")
    cfg.yolo([0], 1, "4,4")
    _, removed = assert_equals_silent(make_net(cfg.text()), 1)
    assert len(removed[0].layers) == 7


def test_the_lowest_mean_scale_goes_first_and_of_equal_ones_the_first():
    cfg = CfgWriter(16, 16)
    cfg.conv(WIDTH)
    for _ in range(3):
        residual(cfg, WIDTH)
    cfg.yolo([0], 1, "4,4")
    model = make_net(cfg.text())
    for name, scale in (("conv_2", -0.5), ("conv_5", 0.2), ("conv_8", 0.2)):
        nn.init.constant_(model.blocks[name].bn.weight, scale)
    assert [block.norm for block, _ in rank_blocks(model)[0]] == ["conv_5", "conv_8", "conv_2"]
    _, removed = remove_blocks(model, 2)
    assert [block.shortcut for block in removed] == ["shortcut_6", "shortcut_9"]
    assert removed[0].layers == ("conv_4", "conv_5", "shortcut_6")
    assert removed[0].score == pytest.approx(0.2)


def two_convolutions(cfg, **second):
    cfg.conv(WIDTH)
    cfg.conv(**{"filters": WIDTH, **second})


def shortcut(cfg, **options):
    return cfg.section("shortcut", **{"from_": -3, "activation": "linear", **options})


def read_elsewhere(cfg):
    two_convolutions(cfg)
    shortcut(cfg)
    cfg.route(-1, -2)


def strided(cfg):
    cfg.conv(WIDTH, 3, 2)
    cfg.conv(WIDTH)
    cfg.route(-3)
    cfg.conv(WIDTH, 3, 2)
    shortcut(cfg)


def reads_more(cfg):
    two_convolutions(cfg)
    cfg.route(-1, 0)
    cfg.conv(WIDTH)
    shortcut(cfg)


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (lambda cfg: (two_convolutions(cfg), shortcut(cfg, activation="leaky")), "has the activation leaky"),
        (lambda cfg: (two_convolutions(cfg), shortcut(cfg, weights_type="per_feature")), "weighs its inputs"),
        (
            lambda cfg: (two_convolutions(cfg, filters=2 * WIDTH), shortcut(cfg)),
            "its inputs differ in shape: 16x16x16 and 8x16x16",
        ),
        (lambda cfg: (two_convolutions(cfg), shortcut(cfg, from_="-2,-3")), "adds 3 maps"),
        (lambda cfg: shortcut(cfg, from_=-1), "adds a map to itself"),
        (read_elsewhere, "conv_2 is read by route_4, too"),
        (strided, "route_3 lies between its two inputs and reads conv_0"),
        (reads_more, "route_3 lies between its two inputs and reads conv_0"),
        (
            lambda cfg: (two_convolutions(cfg, batch_normalize=0), shortcut(cfg)),
            "conv_2, right before the sum, has no batch norm",
        ),
        (
            lambda cfg: (cfg.section("dropout", probability=0.5), shortcut(cfg, from_=-2)),
            "identity_1, right before the sum, has no batch norm",
        ),
    ],
)
def test_reasons_against_blocks(write, reason):
    cfg = CfgWriter(16, 16)
    cfg.conv(WIDTH, 3)
    write(cfg)
    cfg.conv(WIDTH)
    cfg.yolo([0], 1, "4,4")
    blocks, reasons = find_blocks(build(cfg.text()))
    assert not blocks
    assert any(reason in why for why in reasons.values()), reasons


def test_nested_and_last_sums_stay():
    cfg = CfgWriter(16, 16)
    cfg.conv(WIDTH)
    cfg.conv(WIDTH)
    residual(cfg, WIDTH)
    cfg.conv(WIDTH)
    cfg.section("shortcut", from_=-6, activation="linear")
    residual(cfg, WIDTH)
    blocks, reasons = find_blocks(build(cfg.text()))
    assert [block.shortcut for block in blocks] == [4]
    assert reasons == {
        "shortcut_6": "holds another sum, shortcut_4",
        "shortcut_9": "is an output of the network",
    }


def test_too_many_blocks_are_refused_with_what_there_is():
    model = randomly_weighted(yolov4_tiny(64))
    with pytest.raises(PruneError, match=r"1 residual blocks are to go, net has 0 that can and 0 that cannot"):
        remove_blocks(model, 1)
    cfg = CfgWriter(16, 16)
    cfg.conv(WIDTH)
    residual(cfg, WIDTH)
    two_convolutions(cfg)
    cfg.section("shortcut", from_=-3, activation="relu")
    cfg.yolo([0], 1, "4,4")
    with pytest.raises(PruneError, match=r"has 1 that can and 1 that cannot: shortcut_6 has the activation relu"):
        remove_blocks(make_net(cfg.text()), 2)
    with pytest.raises(PruneError, match="at least 1, got 0"):
        remove_blocks(model, 0)


COMMENTED = """# head of the file
[net]
width=16
height=16
channels=3

[convolutional]
filters=4
activation = leaky   # of the stem

# first block
[convolutional]
batch_normalize=1
filters=4
activation=leaky

# its sum
[shortcut]
from = -2
activation=linear

# second stage
[convolutional]
batch_normalize=1
filters=4
activation=leaky

[route]
layers =  -1 , 2, -4

[convolutional]
filters=4
activation=linear
"""


def test_the_text_of_the_cfg_stays_but_for_what_is_removed():
    network = build(COMMENTED)
    small = cut_network(network, {1, 2}, {2: 0})
    start = COMMENTED.index("[convolutional]\nbatch_normalize=1")
    stop = COMMENTED.index("# second stage")
    expected = COMMENTED[:start] + COMMENTED[stop:].replace("-1 , 2, -4", "-1 , 0, -2")
    assert small.cfg == expected
    assert small.layers[2].inputs == (1, 0, 0)


def test_layers_that_are_read_cannot_just_go():
    network = build(COMMENTED)
    with pytest.raises(PruneError, match=r"conv_3: reads shortcut_2, which goes without another layer in its place"):
        cut_network(network, {1, 2}, {})
    with pytest.raises(PruneError, match=r"conv_3: must read layers \(0,\) .* its cfg says \(1,\)"):
        cut_network(network, {2}, {2: 0})


def test_the_smaller_model_is_a_copy_in_the_mode_and_type_of_the_other():
    model = randomly_weighted(yolov3(64)).half().train()
    model.blocks["conv_0"].bn.eval()
    model.blocks["conv_0"].conv.weight.requires_grad_(False)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    small, _ = remove_blocks(model, 1)
    assert small.training
    assert not small.blocks["conv_0"].bn.training
    assert not small.blocks["conv_0"].conv.weight.requires_grad
    assert {p.dtype for p in small.parameters()} == {torch.float16}
    assert all(p.device.type == "cpu" for p in small.parameters())
    with torch.no_grad():
        for p in small.parameters():
            p.zero_()
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    rebuilt = Darknet(build(small.network.cfg))
    assert rebuilt.state_dict().keys() == small.state_dict().keys()
    assert [block.layer.name for block in small.blocks.values()] == list(small.blocks)
    assert parse_cfg(small.network.cfg).sections[0].type == "net"


def test_a_network_that_was_read_leniently_can_be_pruned():
    cfg = CfgWriter(16, 16, own_training_key=3)
    cfg.conv(WIDTH)
    residual(cfg, WIDTH)
    cfg.yolo([0], 1, "4,4")
    model = Darknet(build_network(parse_cfg(cfg.text()), lenient=True))
    groups = darknet_groups(model)
    smaller = prune_darknet(model, PrunePlan(groups, {groups.prunable[0].name: np.arange(4)}))
    assert smaller.model.network.num_params < model.network.num_params
    assert "own_training_key=3" in remove_blocks(model, 1)[0].network.cfg


def test_methods_that_remove_blocks_write_a_model_that_reads_back(tmp_path):
    model = load_darknet(*real_network("yolo-fastest-1.1"), size=(64, 64)).double()
    x = torch.rand(1, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for config in (
        PruneConfig(method="layer", blocks=3),
        PruneConfig(method="layer-channel", blocks=3, ratio=0.2),
        PruneConfig(method="layer-channel-regular", blocks=3, ratio=0.2, multiple_of=4),
    ):
        pruned = prune_model(model, config)
        assert len(pruned.plan.blocks) == 3
        assert len(pruned.model.network.layers) == len(model.network.layers) - 15
        cfg, weights = tmp_path / "small.cfg", tmp_path / "small.weights"
        cfg.write_text(pruned.model.network.cfg, "utf-8")
        write_weights(weights, pruned.model.network, pruned.model.to_weights())
        with torch.no_grad():
            expected, found = pruned.model(x), load_darknet(cfg, weights).double()(x)
        for a, b in zip(expected, found, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
