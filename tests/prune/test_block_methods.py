# SPDX-License-Identifier: Apache-2.0
"""Methods that remove residual blocks before channels: names are those of the whole network throughout."""

import pytest
from support.cli_runs import run
from support.data import data_path, real_network

from yolo_hw.errors import PruneError
from yolo_hw.nn.darknet import load_darknet
from yolo_hw.prune.config import PruneConfig
from yolo_hw.prune.darknet_prune import carry_out, plan_pruning, without_blocks
from yolo_hw.prune.layer_removal import remove_blocks
from yolo_hw.prune.record import load_darknet_plan, pruning_record, write_record


@pytest.fixture(scope="module")
def fastest():
    return load_darknet(*real_network("yolo-fastest-1.1"), size=(64, 64))


def excluded(plan):
    return {g.why_protected for g in plan.channels.groups.values() if (g.why_protected or "").startswith("excluded")}


def test_layers_are_named_as_in_the_whole_network(fastest):
    """The blocks that go are layers 25 to 34, so what was conv_100 is then conv_90."""
    config = PruneConfig(method="layer-channel", blocks=2, ratio=0.3, exclude=("conv_100",))
    plan = plan_pruning(fastest, config)
    assert [block.shortcut for block in plan.blocks] == ["shortcut_29", "shortcut_34"]
    assert excluded(plan) == {"excluded: conv_90"}
    assert plan.config.exclude == ("conv_100",)
    only = plan_pruning(fastest, PruneConfig(method="layer-channel", blocks=2, ratio=0.3, include=("conv_100",)))
    (group,) = only.channels.groups.prunable
    assert "conv_90" in [member.name for member in group.members]


def test_what_is_excluded_is_not_removed_with_its_block(fastest, tmp_path):
    config = PruneConfig(method="layer-channel", blocks=2, ratio=0.3, exclude=("conv_26",))
    plan = plan_pruning(fastest, config)
    assert "shortcut_29" not in [block.shortcut for block in plan.blocks]
    assert len(plan.blocks) == 2
    assert excluded(plan) == {"excluded: conv_26"}
    write_record(tmp_path / "prune.json", pruning_record(carry_out(plan)))
    assert load_darknet_plan(tmp_path / "prune.json", fastest).blocks == plan.blocks
    with pytest.raises(PruneError, match="shortcut_29 holds conv_26, which must stay"):
        remove_blocks(fastest, 1000, ["conv_26"])


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"method": "normal", "ratio": 0.2, "blocks": 1}, "blocks"),
        ({"method": "layer", "blocks": 1, "ratio": 0.2}, "ratio"),
        ({"method": "layer", "blocks": 1, "importance": "l1"}, "importance"),
        ({"method": "layer", "blocks": 1, "include": ("conv_3",)}, "include"),
    ],
)
def test_options_without_effect_are_refused(fastest, options, name):
    with pytest.raises(PruneError, match=f"{name} has no effect on method '{options['method']}': leave it out"):
        plan_pruning(fastest, PruneConfig(**options))


def test_other_methods_remove_no_block(fastest):
    assert without_blocks(fastest, PruneConfig(method="slim", ratio=0.5)) == (fastest, ())


def test_statistics_are_those_of_the_layers_that_are_left():
    cfg, weights = real_network("yolo-fastest-1.1")
    options = ["--method", "layer-channel", "--blocks", 2, "--ratio", 0.2, "--importance", "activation"]
    options += ["--images", data_path("images"), "--max-images", 1, "--dry-run"]
    result = run("prune", "--cfg", cfg, "--weights", weights, *options)
    assert result.exit_code == 0, result.stderr
