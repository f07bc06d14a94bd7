# SPDX-License-Identifier: Apache-2.0
"""What all detection losses promise: the choice by head, the normaliser, precision, errors."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from support.loss_heads import NET, SIZE, batch, head, random_batch, random_maps, region_spec, total, yolo_spec
from support.networks import build, yolov2, yolov3_tiny, yolov4_tiny

from yolo_hw.train import (
    Batch,
    BoxGradient,
    BoxLoss,
    Focal,
    LossConfig,
    RegionConfig,
    RegionLoss,
    TrainError,
    YoloLoss,
    detection_loss,
)

YOLO = [
    head(yolo_spec((40.0, 30.0), (30.0, 50.0), scale_x_y=1.5), (2, 2)),
    head(yolo_spec((12.0, 12.0), (16.0, 24.0), scale_x_y=1.2), (4, 4)),
]
SCALED = [head(yolo_spec((12.0, 12.0), (40.0, 30.0), scale_x_y=2.0, new_coords=True), (4, 4))]
REGION = [head(region_spec((1.0, 1.5), (2.5, 2.0)), (4, 4))]
FULL = LossConfig(
    truth_iou=0.6,
    objectness_smooth=0.5,
    label_smoothing=0.1,
    class_focal=Focal(),
    class_balance=(1.0, 2.0, 3.0),
    max_box_gradient=0.5,
)
LOSSES = {
    "yolo": YoloLoss(YOLO, NET, [LossConfig()] * 2),
    "yolo_mse": YoloLoss(YOLO, NET, [LossConfig(box_loss=BoxLoss.MSE)] * 2),
    "yolo_full": YoloLoss(YOLO, NET, [FULL] * 2),
    "yolo_darknet": YoloLoss(YOLO, NET, [LossConfig(box_gradient=BoxGradient.DARKNET)] * 2),
    "scaled_yolo": YoloLoss(SCALED, NET, [LossConfig()]),
    "region": RegionLoss(REGION, NET, [RegionConfig(rescore=True)]),
}
ALL = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


def part_of(data, images):
    """Return the batch of a range of images."""
    mine = (data.targets[:, 0] >= images.start) & (data.targets[:, 0] < images.stop)
    targets = data.targets[mine].clone()
    targets[:, 0] -= images.start
    return Batch(data.images[images.start : images.stop], targets)


@ALL
@pytest.mark.parametrize("cuts", [(3,), (1, 2, 3, 4, 5), (2, 5)], ids=str)
def test_batch_in_parts_has_the_gradient_of_the_whole(loss, cuts):
    data = random_batch(12, 6, 3, seed=0)
    whole = random_maps(loss.heads, 6, seed=1)
    terms = loss(whole, data)
    total(terms).backward()

    edges = (0, *cuts, 6)
    parts = [range(a, b) for a, b in pairwise(edges)]
    positives = torch.stack([loss.positives(part_of(data, part)) for part in parts]).sum()
    assert positives == loss.positives(data)
    split = random_maps(loss.heads, 6, seed=1)
    sums = dict.fromkeys(terms, 0.0)
    for part in parts:
        found = loss([raw[part.start : part.stop] for raw in split], part_of(data, part), positives)
        total(found).backward()
        sums = {name: value + found[name].item() for name, value in sums.items()}
    assert sums == pytest.approx({name: value.item() for name, value in terms.items()}, rel=1e-12, abs=1e-12)
    for mine, wanted in zip(split, whole, strict=True):
        torch.testing.assert_close(mine.grad, wanted.grad, rtol=1e-12, atol=1e-12)


@ALL
def test_doubled_batch_has_the_same_loss(loss):
    """The normaliser grows with the batch, so a step is as strong with many images as with few."""
    data = random_batch(4, 2, 3, seed=2)
    maps = [raw.detach() for raw in random_maps(loss.heads, 2, seed=3)]
    again = data.targets.clone()
    again[:, 0] += 2
    doubled = Batch(torch.cat([data.images] * 2), torch.cat([data.targets, again]))
    single, double = loss(maps, data), loss([torch.cat([raw, raw]) for raw in maps], doubled)
    for name, value in single.items():
        torch.testing.assert_close(double[name], value)


@ALL
def test_positives_are_what_the_plain_call_divides_by(loss):
    data = random_batch(7, 2, 3, seed=4)
    maps = random_maps(loss.heads, 2, seed=5)
    plain, shared = loss(maps, data), loss(maps, data, loss.positives(data))
    undivided = loss(maps, data, 1)
    for name, value in plain.items():
        assert value == shared[name]
        torch.testing.assert_close(value * loss.positives(data), undivided[name])


@ALL
def test_images_without_objects_have_a_finite_loss_and_only_objectness(loss):
    data = batch([], dtype=torch.float64)
    maps = random_maps(loss.heads, 2, seed=6)
    assert loss.positives(data) == 0
    terms = loss(maps, data)
    total(terms).backward()
    assert terms["box"] == terms["class"] == 0
    assert terms["objectness"] > 0
    for raw, h in zip(maps, loss.heads, strict=True):
        by_anchor = raw.grad.reshape(2, len(h.spec.anchors), -1, *h.shape[1:])
        assert not by_anchor[:, :, :4].any()
        assert not by_anchor[:, :, 5:].any()
        assert torch.isfinite(by_anchor).all()


@ALL
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_narrow_maps_are_computed_in_float32(loss, dtype):
    """Equal to the loss of the same, already rounded, values in float32; under autocast, too."""
    data = random_batch(6, 2, 3, seed=7)
    data = Batch(data.images, data.targets.float())
    narrow = random_maps(loss.heads, 2, seed=8, dtype=dtype)
    wide = [raw.detach().float().requires_grad_() for raw in narrow]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = loss(narrow, data)
    total(terms).backward()
    reference = loss(wide, data)
    total(reference).backward()
    for name, value in terms.items():
        assert value.dtype == torch.float32
        assert value == reference[name]
    for mine, wanted in zip(narrow, wide, strict=True):
        torch.testing.assert_close(mine.grad.float(), wanted.grad, rtol=0.02, atol=1e-6)


@ALL
def test_memory_format_does_not_matter(loss):
    data = random_batch(6, 2, 3, seed=9)
    maps = random_maps(loss.heads, 2, seed=10)
    last = [raw.detach().contiguous(memory_format=torch.channels_last).requires_grad_() for raw in maps]
    total(loss(maps, data)).backward()
    total(loss(last, data)).backward()
    for mine, wanted in zip(last, maps, strict=True):
        torch.testing.assert_close(mine.grad, wanted.grad)


@ALL
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_gives_what_the_cpu_gives(loss):
    data = random_batch(6, 2, 3, seed=11)
    maps = random_maps(loss.heads, 2, seed=12)
    there = [raw.detach().cuda().requires_grad_() for raw in maps]
    moved = Batch(data.images.cuda(), data.targets.cuda())
    terms, wanted = loss(there, moved), loss(maps, data)
    assert loss.positives(moved) == loss.positives(data)
    for name, value in wanted.items():
        torch.testing.assert_close(terms[name].cpu(), value)
    total(terms).backward()
    total(wanted).backward()
    for mine, reference in zip(there, maps, strict=True):
        torch.testing.assert_close(mine.grad.cpu(), reference.grad)


@ALL
def test_larger_images_have_larger_maps(loss):
    """Training at several sizes: maps and positives of images of twice the size."""
    data = random_batch(6, 2, 3, seed=13, size=(2 * SIZE, 2 * SIZE))
    larger = [head(h.spec, (2 * h.shape.h, 2 * h.shape.w)) for h in loss.heads]
    assert all(torch.isfinite(value) for value in loss(random_maps(larger, 2, seed=14), data).values())
    assert loss.positives(data) > 0
    with pytest.raises(TrainError, match=r"images must be multiples of the stride \d+x\d+, got 70x64"):
        loss(random_maps(loss.heads, 2, seed=14), batch([], size=(70, SIZE)))


@ALL
def test_wrong_maps_and_targets_are_refused(loss):
    data = random_batch(3, 2, 3, seed=15)
    maps = random_maps(loss.heads, 2, seed=16)
    name = type(loss).__name__
    with pytest.raises(TrainError, match=f"{name}: there must be one map for each of {len(maps)} heads, got 0"):
        loss([], data)
    with pytest.raises(TrainError, match=rf"{name}: the map of \w+ must be \[2, 16, \d, \d\], got \[2, 15, \d, \d\]"):
        loss([raw[:, 1:] for raw in maps], data)
    with pytest.raises(TrainError, match=rf"{name}: classes must be in \[0, 3\), got 3 to 3"):
        loss(maps, batch([[0, 3, 0.5, 0.5, 0.2, 0.2]], dtype=torch.float64))


def test_loss_of_a_network_is_that_of_its_heads():
    yolo = detection_loss(build(yolov4_tiny()))
    assert isinstance(yolo, YoloLoss)
    assert [config.box_loss for config in yolo.configs] == [BoxLoss(h.training.iou_loss) for h in yolo.heads]
    assert isinstance(detection_loss(build(yolov2())), RegionLoss)
    assert all(c.box_loss is BoxLoss.GIOU for c in detection_loss(build(yolov3_tiny()), box_loss="giou").configs)


def test_options_of_the_caller_hold_for_all_heads():
    network = build(yolov3_tiny())
    config = LossConfig(ignore_iou=0.6)
    assert YoloLoss.of_network(network, config).configs == (config, config)
    assert (
        YoloLoss.of_network(network, config, box_weight=2.0).configs
        == (LossConfig(ignore_iou=0.6, box_weight=2.0),) * 2
    )
    assert RegionLoss.of_network(build(yolov2()), RegionConfig(), thresh=0.4).configs == (RegionConfig(thresh=0.4),)


BACKBONE = "[net]\nheight=32\nwidth=32\n[convolutional]\nfilters=7\n"
REGION_SECTION = "[region]\nclasses=2\nnum=1\nanchors=1,1\n"
YOLO_SECTION = "[yolo]\nclasses=2\nnum=1\nanchors=1,1\n"


@pytest.mark.parametrize(
    ("text", "found"),
    [(BACKBONE, "none"), (BACKBONE + REGION_SECTION + YOLO_SECTION, r"\[region\] and \[yolo\]")],
    ids=["no_head", "both"],
)
def test_networks_without_one_kind_of_head_are_refused(text, found):
    with pytest.raises(TrainError, match=rf"needs heads of one kind, \[yolo\] or \[region\], got {found}"):
        detection_loss(build(text))
