# SPDX-License-Identifier: Apache-2.0
"""``prune.json``: complete, reproducible, read back, edited by hand, refused where it does not fit."""

import json
from dataclasses import fields

import numpy as np
import pytest
import torch
from support.networks import CfgWriter, build, random_weights, tiny_detector, yolov3_tiny

from yolo_hw.errors import PruneError
from yolo_hw.intgraph.schema import first_violation
from yolo_hw.nn.darknet import Darknet
from yolo_hw.prune.config import PruneConfig
from yolo_hw.prune.darknet_prune import Pruned, carry_out, plan_pruning, prune_model
from yolo_hw.prune.multiples import Narrow
from yolo_hw.prune.plan import DeadBias
from yolo_hw.prune.ranking import Scope
from yolo_hw.prune.record import (
    decode_config,
    encode_config,
    load_darknet_plan,
    load_plan,
    pruning_record,
    record_bytes,
    record_schema,
    write_record,
)
from yolo_hw.prune.select import Budget, Policy


def model_of(text: str, seed: int = 0) -> Darknet:
    network = build(text)
    model = Darknet(network).eval()
    model.load_weights(random_weights(network, seed))
    return model


def residual() -> str:
    """Residual blocks, squeeze-excitation and a narrow layer."""
    cfg = CfgWriter(16, 24)
    cfg.conv(6, 3)
    cfg.conv(16, 3)
    for _ in range(2):
        cfg.conv(24)
        cfg.conv(16, 3)
        cfg.section("shortcut", from_=-3, activation="linear")
    cfg.conv(16)
    cfg.section("se", reduction=4)
    cfg.yolo([0], 1, "4,4, 8,8")
    return cfg.text()


def states_are_equal(a: Darknet, b: Darknet) -> bool:
    mine, other = a.state_dict(), b.state_dict()
    return list(mine) == list(other) and all(torch.equal(mine[key], other[key]) for key in mine)


CONFIGS = {
    "transfer": PruneConfig(ratio=0.4, multiple_of=4, narrow=Narrow.KEEP),
    "carry": PruneConfig(ratio=0.5, multiple_of=4, narrow=Narrow.KEEP, dead_bias=DeadBias.CARRY),
    "pad": PruneConfig(ratio=0.3, multiple_of=8, narrow=Narrow.PAD, exclude=("conv_5",)),
    "silent": PruneConfig(method="l2-reconstruct", ratio=0.5, multiple_of=1),
    "votes": PruneConfig(method="slim", ratio=0.5, policy=Policy.AVERAGE, scope=Scope.LOCAL),
}


@pytest.fixture(params=CONFIGS)
def pruned(request) -> Pruned:
    return prune_model(model_of(residual()), CONFIGS[request.param])


@pytest.fixture
def file(pruned, tmp_path):
    write_record(tmp_path / "prune.json", pruning_record(pruned))
    return tmp_path / "prune.json"


def edit(file, change):
    document = json.loads(file.read_text("utf-8"))
    change(document, {group["name"]: group for group in document["groups"]})
    file.write_bytes(record_bytes(document))


def test_equal_prunings_give_equal_bytes(pruned):
    again = prune_model(model_of(residual()), pruned.plan.config)
    assert record_bytes(pruning_record(pruned)) == record_bytes(pruning_record(again))


def test_the_record_holds_every_group_and_layer(pruned):
    document = pruning_record(pruned, {"params": {"before": 2, "after": 1}})
    groups = pruned.plan.channels.groups
    executed = pruned.surgery.plan
    assert first_violation(document, record_schema()) is None
    assert [entry["name"] for entry in document["groups"]] == list(groups)
    for entry in document["groups"]:
        group = groups[entry["name"]]
        left = entry.get("carried_out", entry["kept"])
        assert [member["name"] for member in entry["members"]] == [member.name for member in group.members]
        assert entry["units"] == {"before": group.size, "after": executed.counts[group.name]}
        assert left is None or left == executed.kept[group.name].tolist()
        assert (entry["kept"] is None) == (not group.prunable)
        assert (entry["protected"] or "") in entry["decision"]
        assert (entry["follows"] or "") in entry["decision"]
        if entry["carrier"] is not None:
            assert f"unit {entry['carrier']} is dead" in entry["decision"]
    for entry in document["layers"]:
        weights = [next(iter(m.parameters())) for m in (model.blocks[entry["name"].split(".")[0]]
                                                        for model in (pruned.plan.model, pruned.model))]  # fmt: skip
        if "." not in entry["name"]:
            assert [entry["outputs"]["before"], entry["outputs"]["after"]] == [len(weight) for weight in weights]


def test_what_is_read_back_prunes_alike(pruned, file):
    read = load_darknet_plan(file, model_of(residual()))
    assert read.config == pruned.plan.config
    again = carry_out(read)
    assert again.model.network.cfg == pruned.model.network.cfg
    assert states_are_equal(again.model, pruned.model)
    assert states_are_equal(again.masked_model(), pruned.masked_model())


@pytest.mark.parametrize("pruned", ["transfer"], indirect=True)
def test_an_edited_choice_is_carried_out(pruned, file):
    name = next(name for name, kept in pruned.plan.channels.kept.items() if len(kept) < 16)
    kept = pruned.plan.channels.kept[name].tolist()
    gone = next(unit for unit in range(pruned.plan.channels.groups[name].size) if unit not in kept)
    wanted = sorted([*kept[1:], gone])
    edit(file, lambda _, groups: groups[name].update(kept=wanted))
    plan = load_plan(file, model_of(residual()))
    assert plan.kept[name].tolist() == wanted
    others = set(plan.kept) - {name}
    assert all(np.array_equal(plan.kept[other], pruned.plan.channels.kept[other]) for other in others)
    edit(file, lambda _, groups: groups[name].update(kept=wanted[:-1]))
    assert carry_out(load_darknet_plan(file, model_of(residual()))).surgery.plan.counts[name] == len(kept) - 1


def test_every_option_survives_the_file():
    config = PruneConfig(
        method="l2", budget=Budget("macs", 0.5, relative=True), include=("conv_*",), exclude=("a ~ b",),
        dead_bias=DeadBias.CARRY, narrow=Narrow.PAD, policy=Policy.UNION, seed=3,
    )  # fmt: skip
    document = json.loads(json.dumps(encode_config(config)))
    assert decode_config(document) == config
    assert set(document) == {field.name for field in fields(PruneConfig)}
    assert set(document) == set(record_schema()["properties"]["config"]["properties"])


def test_lists_of_numbers_take_one_line(pruned):
    lines = record_bytes(pruning_record(pruned)).decode().splitlines()
    kept = [line for line in lines if line.lstrip().startswith('"kept": [')]
    assert kept
    assert all(line.endswith("],") for line in kept)


# what to change in the document or the entry of conv_1 -> what the error must say
MISTAKES = {
    "unknown group": (
        lambda d, g: g["conv_1"].update(name="conv_11"),
        "the model has no group 'conv_11'; did you mean",
    ),
    "a group twice": (lambda d, g: d["groups"].append(g["conv_1"]), "group 'conv_1' is there twice"),
    "another width": (lambda d, g: g["conv_1"]["units"].update(before=17), "the file has 17 units, the model 16"),
    "unit out of range": (lambda d, g: g["conv_1"].update(kept=[0, 16]), "must be different indices below 16"),
    "a unit beyond 64 bits": (lambda d, g: g["conv_1"].update(kept=[0, 10**30]), "different indices below 16"),
    "a unit twice": (lambda d, g: g["conv_1"].update(kept=[3, 3]), "must be different indices below 16"),
    "not rising": (lambda d, g: g["conv_1"].update(kept=[3, 1]), "kept must rise, with -1 for added units at the end"),
    "padding inside": (lambda d, g: g["conv_1"].update(kept=[-1, 3]), "kept must rise, with -1 for added units at the"),
    "nothing left": (lambda d, g: g["conv_1"].update(kept=[]), "at least 1 of 16 units must stay"),
    "scores": (lambda d, g: g["conv_1"].update(scores=[1.0]), "must have 16 scores, got 1"),
    "a head": (lambda d, g: g["conv_10"].update(kept=[0]), "kept must be null, the group detection head"),
    "no number": (lambda d, g: g["conv_1"].update(kept=["a"]), r"\$\.groups\[2\]\.kept"),
    "unknown key": (lambda d, g: g["conv_1"].update(keep=[1]), "'keep' was unexpected"),
    "unknown schema": (lambda d, g: d.update(schema="yolo_hw.prune/2"), "'yolo_hw.prune/1' was expected"),
    "dead_bias": (lambda d, g: d["config"].update(dead_bias="move"), "'move' is not one of"),
    "silent layer": (lambda d, g: g["conv_1"].update(silent={"conv_9": [0]}), "'conv_9' does not make its channels"),
    "silent unit": (lambda d, g: g["conv_1"].update(silent={"conv_1": [16]}), "must be below 16, got 16"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("pruned", ["transfer"], indirect=True)
def test_mistakes_are_named(pruned, file, mistake):
    change, message = MISTAKES[mistake]
    edit(file, change)
    with pytest.raises(PruneError, match=message) as caught:
        load_plan(file, model_of(residual()))
    assert str(caught.value).startswith(str(file))


@pytest.mark.parametrize("pruned", ["transfer"], indirect=True)
def test_a_record_of_another_network_is_refused(pruned, file):
    with pytest.raises(PruneError, match=r"the file has|the model has no group"):
        load_plan(file, model_of(tiny_detector()))


def test_a_plan_leaves_groups_alone_that_the_file_does_not_name(tmp_path):
    model = model_of(yolov3_tiny(32))
    plan = plan_pruning(model, PruneConfig(method="l1-reconstruct", ratio=0.5))
    document = pruning_record(carry_out(plan))
    document["groups"] = document["groups"][:3]
    write_record(tmp_path / "prune.json", document)
    counts = load_plan(tmp_path / "prune.json", model).counts
    assert counts[document["groups"][1]["name"]] == document["groups"][1]["units"]["after"] < 16
    assert all(counts[name] == group.size for name, group in list(plan.channels.groups.items())[3:])
