# SPDX-License-Identifier: Apache-2.0
"""Published rows of ReconstructionPruning: its KITTI YOLOv3 channel by channel, its ResNets with random weights."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.record import save_result
from yolo_hw.darknet import Network
from yolo_hw.nn import Darknet, account, resnet34, resnet50, resnet101
from yolo_hw.nn.accounting import Account
from yolo_hw.prune.config import PruneConfig
from yolo_hw.prune.darknet_surgery import darknet_groups, smaller_network
from yolo_hw.prune.groups import ChannelGroups
from yolo_hw.prune.methods import Subject, plan_channels
from yolo_hw.prune.module_prune import prune_module
from yolo_hw.prune.plan import PrunePlan

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from support.kitti import KEPT, PARAMS, SHARES, kitti_yolov3

State = dict[str, torch.Tensor]
WHOLE = ("conv_80", "conv_93", "conv_106")
"""The convolutions before the head convolutions; the published code leaves them alone."""
RESNETS = {"resnet34": resnet34, "resnet50": resnet50, "resnet101": resnet101}
PUBLISHED = {
    # network, ratio -> method -> (M FLOPs, M parameters)
    ("resnet34", 0.5): {"l1": (281.42, 10.33), "l2": (280.86, 10.23), "fpgm": (286.12, 10.73)},
    ("resnet50", 0.1): {"l1": (571.66, 22.17), "l2": (571.62, 22.16), "fpgm": (573.53, 22.45)},
    ("resnet50", 0.5): {"l1": (267.48, 10.48), "l2": (269.02, 10.47), "fpgm": (275.22, 11.88)},
    ("resnet101", 0.7): {"l1": (257.70, 9.20), "l2": (259.70, 9.24), "fpgm": (264.30, 10.76)},
    ("resnet101", 0.45): {"l1": (553.16, 19.49), "l2": (553.70, 19.54), "fpgm": (564.56, 21.12)},
    ("resnet101", 0.4): {"l1": (621.86, 21.86), "l2": (621.78, 21.89), "fpgm": (633.40, 23.39)},
}


def main(results: Path) -> None:
    """Count and prune; write seed_rows.json to the folder `results`."""
    rows = [*kitti_rows(), *resnet_rows()]
    for row in rows:
        print(row)
    save_result("seed_rows", "python -m benchmarks seed_rows", rows, results)


def kitti_rows() -> Iterator[dict[str, object]]:
    """Yield, for each ratio, the published network and what the ratio alone would leave."""
    network = kitti_yolov3()
    groups = darknet_groups(network)
    whole = cost(network).flops
    for ratio, counts in KEPT.items():
        kept = dict(zip((group.name for group in groups.prunable), counts, strict=True))
        layers = by_ratio(groups, ratio)
        sizes = {
            "published": kept,
            "ratio_agreeing": layers,
            "ratio_independent": independent(groups, ratio),
            "ratio_fpgm": fpgm_counts(network, groups, random_state(network, groups), ratio),
            "ratio_fpgm_dead": fpgm_counts(network, groups, planted_state(network, groups, kept, ratio), ratio),
        }
        row: dict[str, object] = {"network": "yolov3-kitti", "ratio": ratio, "published_params": PARAMS[ratio]}
        row["published_share"] = SHARES[ratio]
        row["dead_by_training"] = sum(max(layers[name] - count, 0) for name, count in kept.items())
        for name, chosen in sizes.items():
            found = cost(shrink(network, groups, chosen))
            row[f"{name}_params"], row[f"{name}_gflops"] = found.params, round(found.flops / 1e9, 4)
            row[f"{name}_share"] = round(found.flops / whole, 4)
        yield row


def resnet_rows() -> Iterator[dict[str, object]]:
    """Yield the published rows beside ours with random weights."""
    example = torch.zeros(1, 3, 32, 32)
    for (name, ratio), methods in PUBLISHED.items():
        torch.manual_seed(0)
        model = RESNETS[name](1000).eval()
        for method, (mflops, mparams) in methods.items():
            config = PruneConfig(method=method if method == "fpgm" else f"{method}-reconstruct", ratio=ratio)
            found = account(prune_module(model, example, config).model, (3, 32, 32), "ptflops")
            yield {
                "network": name,
                "ratio": ratio,
                "method": method,
                "published_mflops": mflops,
                "published_mparams": mparams,
                "mflops": round(found.flops / 1e6, 2),
                "mparams": round(found.params / 1e6, 2),
            }


def cost(network: Network) -> Account:
    """Count a network by the rules of the published table."""
    with torch.device("meta"):
        model = Darknet(network)
    return account(model, network.input, "ptflops-half")


def shrink(network: Network, groups: ChannelGroups, counts: Mapping[str, int]) -> Network:
    """Return the network with that many channels in each group."""
    return smaller_network(network, PrunePlan(groups, {name: np.arange(count) for name, count in counts.items()}))


def by_ratio(groups: ChannelGroups, ratio: float) -> dict[str, int]:
    """Return what one layer of each group keeps by the ratio: what all keep if they agree."""
    return {g.name: g.size - (0 if g.name in WHOLE else int(g.size * ratio)) for g in groups.prunable}


def independent(groups: ChannelGroups, ratio: float) -> dict[str, int]:
    """Return the expected union of layers that choose independently."""
    alone = by_ratio(groups, ratio)
    return {
        g.name: round(g.size * (1 - (1 - alone[g.name] / g.size) ** len(g.members)))
        for g in groups.prunable
    }  # fmt: skip


def random_state(network: Network, groups: ChannelGroups) -> State:
    """Return normal weights of every layer that makes prunable channels; everything else stays without values."""
    with torch.device("meta"):
        state = Darknet(network).state_dict()
    generator = torch.Generator().manual_seed(0)
    for group in groups.prunable:
        for member in group.members:
            assert member.filters is not None
            key = member.filters.weight
            state[key] = torch.randn(state[key].shape, generator=generator)
    return dict(state)


def planted_state(network: Network, groups: ChannelGroups, kept: Mapping[str, int], ratio: float) -> State:
    """Return random weights with as many dead filters as the training of the published network has left.

    Of each layer at most as many filters are alive as the ratio would keep, and those of a group's layers together are
    as many as are `kept`; which ones is our choice.
    """
    state, alone = random_state(network, groups), by_ratio(groups, ratio)
    for group in groups.prunable:
        count = kept[group.name]
        alive = min(alone[group.name], count)
        for number, member in enumerate(group.members):
            window = (number * alive + np.arange(alive)) % count
            dead = torch.from_numpy(np.setdiff1d(np.arange(group.size), window))
            assert member.filters is not None
            state[member.filters.weight][dead] = 0
    return state


def fpgm_counts(network: Network, groups: ChannelGroups, state: State, ratio: float) -> dict[str, int]:
    """Prune by the geometric median, union of joined layers, and drop channels whose filters are all zero."""
    params = tuple(key for key in state if key.endswith(("weight", "bias")))
    plan = plan_channels(Subject(groups, state, params), PruneConfig(method="fpgm", ratio=ratio, exclude=WHOLE))
    counts = {}
    for group in groups.prunable:
        alive: npt.NDArray[np.bool_] = np.zeros(group.size, bool)
        for member in group.members:
            assert member.filters is not None
            votes = ~plan.silent.get(group.name, {}).get(member.name, np.zeros(group.size, bool))
            alive |= votes & state[member.filters.weight].flatten(1).any(1).numpy()
        counts[group.name] = int(alive[plan.kept_units(group)].sum())
    return counts
