# SPDX-License-Identifier: Apache-2.0
"""Structured pruning beside Torch-Pruning: time, multiples, exactness, and who keeps what by the geometric median.

The same model in float64, half of the channels of every group by filter norms, counts rounded to 8. Torch-Pruning
works on the model itself, so it gets a copy, made before its time starts; ours leaves the model as it is. Outputs are
compared with those of two models of full size: with scales and shifts of the pruned channels at zero, and with scales
alone at zero, as training for sparse scales leaves them, so that those channels still emit constants.
"""

from __future__ import annotations

import copy
import importlib
import importlib.metadata
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter, process_time
from types import ModuleType

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.measure import rotations, summarise
from benchmarks.record import save_result
from yolo_hw.nn import Darknet, resnet50
from yolo_hw.nn.blocks import UpsampleBlock
from yolo_hw.prune.config import PruneConfig
from yolo_hw.prune.darknet_prune import Pruned, prune_model
from yolo_hw.prune.module_prune import prune_module
from yolo_hw.prune.plan import DeadBias, PrunePlan
from yolo_hw.prune.ranking import Scope
from yolo_hw.prune.reduce import Normalisation, Reduction
from yolo_hw.prune.surgery import mask
from yolo_hw.prune.traced_surgery import PrunedModule

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from support import networks, random_net, zoo

ROUNDS = 11
MULTIPLE = 8
RATIO = 0.5
CONFIG = PruneConfig(
    method="l2",
    importance="l2",
    scope=Scope.LOCAL,
    reduction=Reduction.MEAN,
    normalisation=Normalisation.NONE,
    multiple_of=MULTIPLE,
    dead_bias=DeadBias.ZERO,
    ratio=RATIO,
)


@dataclass(frozen=True)
class Task:
    """A model to prune.

    Attributes:
        name: For the table.
        model: Of full size, float64, in evaluation mode.
        example: An input.
        heads: Modules whose outputs stay.
    """

    name: str
    model: nn.Module
    example: Tensor
    heads: Sequence[nn.Module]


def tasks() -> list[Task]:
    """Return the models."""
    yolo = interpolated(random_net.make_net(networks.yolov3(64)).double())
    heads = [yolo.block(f"conv_{index}").conv for index in (81, 93, 105)]
    torch.manual_seed(0)
    resnet = zoo.settle(resnet50(1000)).double().eval()
    detector = zoo.make("yolov8", 32)
    return [
        Task("YOLOv3", yolo, noise(1, 3, 64, 64), heads),
        Task("ResNet-50", resnet, noise(1, 3, 32, 32), [resnet.fc]),
        Task("C2f detector", detector, noise(1, 3, 64, 64), last_layers(detector)),
    ]


class Interpolated(nn.Module):
    """Enlargement as most code has it; Torch-Pruning takes the channels of `repeat_interleave` for repeated."""

    def forward(self, inputs: list[Tensor]) -> Tensor:
        """[N, C, H, W] to [N, C, 2 H, 2 W]."""
        return functional.interpolate(inputs[0], scale_factor=2, mode="nearest")


def interpolated(model: Darknet) -> Darknet:
    """Return the model with its enlargements replaced."""
    for name, block in model.blocks.items():
        if isinstance(block, UpsampleBlock):
            model.blocks[name] = Interpolated()
    return model


def noise(*shape: int) -> Tensor:
    """Return float64 noise."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def last_layers(model: nn.Module) -> list[nn.Module]:
    """Return the convolutions without a batch norm behind them: those of the heads."""
    return [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.bias is not None]


# --- ours


@dataclass(frozen=True)
class Result:
    """A pruned model.

    Attributes:
        model: The small model.
        masked: Whether constants stay -> the model of full size it is compared with.
        plan: Ours.
    """

    model: nn.Module
    masked: Callable[[bool], nn.Module]
    plan: PrunePlan | None = None


def ours(task: Task, config: PruneConfig) -> Result:
    """Prune with this library."""
    pruned: Pruned | PrunedModule
    if isinstance(task.model, Darknet):
        pruned = prune_model(task.model, config)
    else:
        pruned = prune_module(task.model, task.example, config)
    plan = pruned.surgery.plan

    def masked(constants: bool) -> nn.Module:
        full = copy.deepcopy(task.model)
        full.load_state_dict(mask(plan, dict(full.state_dict()), set() if constants else set(plan.groups)))
        return full

    return Result(pruned.model, masked, plan)


# --- Torch-Pruning


def torch_pruning() -> ModuleType:
    """Return the library, or stop with what to install."""
    try:
        return importlib.import_module("torch_pruning")
    except ImportError:
        raise SystemExit("prune_rivals: needs torch-pruning (pip install torch-pruning==1.6.1)") from None


def rival(task: Task, model: nn.Module, importance: Callable[..., Tensor]) -> Result:
    """Prune a copy of the model with Torch-Pruning."""
    tp = torch_pruning()
    copies = dict(zip(task.model.modules(), model.modules(), strict=True))
    pruner = tp.pruner.MetaPruner(
        model,
        task.example,
        importance=importance,
        pruning_ratio=RATIO,
        round_to=MULTIPLE,
        ignored_layers=[copies[head] for head in task.heads],
    )
    gone: list[tuple[nn.Module, list[int]]] = []
    for group in pruner.step(interactive=True):
        for dependency, indices in group:
            if isinstance(dependency.target.module, nn.BatchNorm2d):
                gone.append((dependency.target.module, [int(i) for i in indices]))
        group.prune()
    originals = {copied: original for original, copied in copies.items()}

    def masked(constants: bool) -> nn.Module:
        names = {module: name for name, module in task.model.named_modules()}
        full = copy.deepcopy(task.model)
        for module, indices in gone:
            norm = full.get_submodule(names[originals[module]])
            with torch.no_grad():
                norm.weight[indices] = 0
                norm.bias[indices] *= constants
        return full

    return Result(model, masked)


# --- what is compared


def irregular(model: nn.Module, heads: int) -> int:
    """Return how many convolutions beyond the heads have a number of outputs that is no multiple."""
    counts = [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)]
    return max(sum(count % MULTIPLE != 0 for count in counts) - heads, 0)


def largest_difference(found: object, wanted: object) -> float:
    """Return the largest difference as a share of the largest value."""
    pairs = zip(leaves(found), leaves(wanted), strict=True)
    return max(float((f - w).abs().max() / w.abs().max()) for f, w in pairs)


def leaves(outputs: object) -> list[Tensor]:
    """Return the tensors of nested outputs."""
    if isinstance(outputs, Tensor):
        return [outputs]
    assert isinstance(outputs, (list, tuple))
    return [tensor for item in outputs for tensor in leaves(item)]


def compare(task: Task) -> list[dict[str, object]]:
    """Time both in turn and look at what they made."""
    tp = torch_pruning()
    candidates = {
        "torch-pruning": lambda model: rival(
            task, model, tp.importance.MagnitudeImportance(p=2, group_reduction="mean", normalizer=None)
        ),
        "yolo_hw": lambda _: ours(task, CONFIG),
        "yolo_hw, carried": lambda _: ours(task, replace(CONFIG, dead_bias=DeadBias.CARRY)),
    }
    times: dict[str, list[float]] = {name: [] for name in candidates}
    cpu_times: dict[str, list[float]] = {name: [] for name in candidates}
    results: dict[str, Result] = {}
    failures: dict[str, str] = {}
    for order in rotations(list(candidates), ROUNDS):
        for name in order:
            model = copy.deepcopy(task.model)
            start, cpu = perf_counter(), process_time()
            try:
                results[name] = candidates[name](model)
            except (IndexError, RuntimeError, ValueError) as error:  # of the other library; ours raises PruneError
                failures[name] = f"{type(error).__name__}: {error}"
            times[name].append(perf_counter() - start)
            cpu_times[name].append(process_time() - cpu)
    rows: list[dict[str, object]] = []
    for name, result in results.items():
        try:
            with torch.no_grad():
                found = result.model.eval()(task.example)
        except RuntimeError as error:
            failures[name] = f"{type(error).__name__}: {error}"
            continue
        with torch.no_grad():
            wanted = [result.masked(constants).eval()(task.example) for constants in (False, True)]
        rows.append(
            {
                "model": task.name,
                "candidate": name,
                "median_s": summarise(times[name], 1).median_s,
                "min_s": min(times[name]),
                "cpu_s": summarise(cpu_times[name], 1).median_s,
                "params": sum(p.numel() for p in result.model.parameters()),
                "irregular": irregular(result.model, len(task.heads)),
                "error_without_constants": largest_difference(found, wanted[0]),
                "error_with_constants": largest_difference(found, wanted[1]),
            }
        )
    rows += [{"model": task.name, "candidate": name, "failed": why} for name, why in failures.items()]
    for row in rows:
        print(row)
    return rows


def oracle(weight: Tensor, count: int) -> set[int]:
    """Return the filters farthest from all others, by every distance computed on its own."""
    filters = weight.double().flatten(1).numpy()
    sums = [float(np.sqrt(((filters - one) ** 2).sum(1)).sum()) for one in filters]
    return set(np.argsort(sums)[len(sums) - count :].tolist())


def overlaps() -> list[dict[str, object]]:
    """Compare who is kept by the geometric median in YOLOv3-tiny, layer by layer, with the definition."""
    tp = torch_pruning()
    model = random_net.make_net(networks.yolov3_tiny(64)).double()
    task = Task("YOLOv3-tiny", model, noise(1, 3, 64, 64), [model.block(n).conv for n in ("conv_15", "conv_22")])
    plan = ours(task, replace(CONFIG, importance="fpgm", multiple_of=1, dead_bias=DeadBias.ZERO)).plan
    assert plan is not None
    kept = {name: {"yolo_hw": set(plan.kept_units(plan.groups[name]).tolist())} for name in plan.kept}
    copied = copy.deepcopy(model)
    pruner = tp.pruner.MetaPruner(
        copied,
        task.example,
        importance=tp.importance.FPGMImportance(),
        pruning_ratio=RATIO,
        ignored_layers=[copied.block(n).conv for n in ("conv_15", "conv_22")],
    )
    names = {module: name.split(".")[1] for name, module in copied.named_modules() if isinstance(module, nn.Conv2d)}
    for group in pruner.step(interactive=True):
        root, indices = group[0]
        name = names[root.target.module]
        kept[name]["torch-pruning"] = set(range(root.target.module.out_channels)) - {int(i) for i in indices}
    shared = {"yolo_hw": 0, "torch-pruning": 0}
    total = dict(shared)
    for name, found in kept.items():
        for candidate, units in found.items():
            best = oracle(model.block(name).conv.weight.detach(), len(units))
            shared[candidate] += len(units & best)
            total[candidate] += len(best)
    return [
        {"model": "YOLOv3-tiny", "candidate": name, "fpgm_overlap": shared[name] / total[name], "kept": total[name]}
        for name in shared
    ]


def main(results: Path) -> None:
    """Compare; write prune_rivals.json to the folder `results`."""
    torch_pruning()
    torch.set_num_threads(1)
    print(f"torch-pruning {importlib.metadata.version('torch-pruning')}")
    rows = [row for task in tasks() for row in compare(task)]
    save_result("prune_rivals", "python -m benchmarks prune_rivals", [*rows, *overlaps()], results)
