# SPDX-License-Identifier: Apache-2.0
"""The detector of blood cells, pruned by every method and fine-tuned alike: ``python -m benchmarks.bccd_pruning WORK``.

Every method removes what is least by its own judgement until at most `PARAMS` of the parameters and `MACS` of the
multiply-adds are left; methods that judge by batch-norm scales start from a sparse training, the others from the
trained weights. Then all are fine-tuned with the same options, the unpruned network too; --epochs chooses how long,
--seed the order and augmentation of images: runs that differ in it alone show how far the figures can be told apart.
WORK keeps what each run came to, so a study that broke off goes on.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from shutil import copyfile
from typing import Any

import click
import torch

from benchmarks.bccd import (
    CFG,
    FINE_TUNING,
    ROOT,
    Images,
    bccd_folder,
    fine_tuned,
    open_images,
    train,
    trained_model,
)
from benchmarks.record import Row
from benchmarks.resumable import once
from yolo_hw.atomic import atomic_file
from yolo_hw.data.dataset import read_names
from yolo_hw.errors import PruneError
from yolo_hw.nn.darknet import Darknet
from yolo_hw.prune.config import PruneConfig, Rounding, Scope
from yolo_hw.prune.cost import CostKind
from yolo_hw.prune.darknet_prune import carry_out, plan_pruning
from yolo_hw.prune.eagleeye import EagleEyeConfig, eagleeye
from yolo_hw.prune.gamma_report import GammaHistory
from yolo_hw.prune.gamma_sparsity import GammaSparsity, Penalty
from yolo_hw.prune.methods import METHODS
from yolo_hw.prune.random_widths import Band
from yolo_hw.prune.search_data import SearchDataConfig, open_search_data
from yolo_hw.train import Optimizer, TrainConfig

RESULTS = ROOT / "benchmarks/results/bccd_pruning.json"
GAMMAS = ROOT / "docs/results/bccd/gammas.png"
PARAMS, MACS = 0.30, 0.50
"""What may be left."""
MULTIPLE = 8
REGULAR = {"multiple_of": MULTIPLE}
VARIANTS: dict[str, dict[str, Any]] = {
    "regular": REGULAR,
    "regular-local": {**REGULAR, "method": "regular", "scope": Scope.LOCAL, "rounding": Rounding.NEAREST},
    "regular-fpgm": {**REGULAR, "method": "fpgm", "rounding": Rounding.NEAREST},
}
"""Options besides the method and the ratio; every other name is a method as it is."""
SEARCHED = "eagleeye"
LOCAL = ("l1-reconstruct", "l2-reconstruct", "fpgm")
METHOD_NAMES = ("unpruned", *VARIANTS, "normal", "slim", "l2", *LOCAL, "filters", SEARCHED)
RATIOS = tuple(percent / 100 for percent in range(20, 96))
SPARSE_TRAINING = replace(
    FINE_TUNING,
    optimizer=Optimizer.SGD,
    learning_rate=0.01,
    weight_decay=5e-4,
    epochs=30,
    batch=8,
    ema_decay=0.99,
    final_lr_ratio=0.1,
)
STRENGTH, COST_POWER = 0.06, 0.2
CANDIDATES, DELTA = 50, 0.05
SEARCH_DATA = SearchDataConfig(adapt=64, held_out=64)
"""Of `eagleeye`, which knows no limit but that of multiply-adds."""


def cost_weights(model: Darknet) -> dict[str, torch.Tensor]:
    """Return by batch norm how strongly its scales are pressed: a power of the weights of a filter, mean 1."""
    power, widths = {}, {}
    for layer in model.network.layers:
        if layer.kind == "conv" and len(layer.params) > 2:
            name = f"blocks.{layer.name}.bn"
            widths[name] = layer.shape.c
            power[name] = (layer.params[-1].numel / layer.shape.c) ** COST_POWER
    mean = sum(power[name] * widths[name] for name in power) / sum(widths.values())
    return {name: torch.full((widths[name],), value / mean) for name, value in power.items()}


def sparse_model(work: Path, images: Images) -> Darknet:
    """Train with a penalty on the scales of batch norms, or load what an earlier call has trained."""
    model = trained_model()
    done = work / "sparse.pt"
    if not done.exists():
        sparsity = GammaSparsity(["*"], STRENGTH, None, cost_weights(model), Penalty.L1_OF_FIXED_NORM)
        checkpoint = work / "sparse_last.pt"
        callbacks = [sparsity, GammaHistory(work)]
        state = train(model, images, SPARSE_TRAINING, checkpoint, callbacks=callbacks, regularisers=[sparsity])
        copyfile(work / "gammas.png", GAMMAS)
        with atomic_file(done) as temporary:
            torch.save(state.best_model.state_dict(), temporary)
    model.load_state_dict(torch.load(done, weights_only=True))
    return model.eval()


def shares(model: Darknet, config: PruneConfig) -> tuple[float, float]:
    """Return which shares of parameters and multiply-adds a config leaves."""
    plan = plan_pruning(model, config)
    cost = plan.cost_model()
    left = [cost.price(kind, plan.channels.counts) / cost.price(kind, {}) for kind in (CostKind.PARAMS, CostKind.MACS)]
    return left[0], left[1]


def smallest_ratio(model: Darknet, name: str) -> PruneConfig:
    """Return the config of the smallest ratio that leaves few enough parameters and multiply-adds."""
    options = {"method": name, "multiple_of": 1, **VARIANTS.get(name, {})}
    for ratio in RATIOS:
        config = PruneConfig(ratio=ratio, **options)
        params, macs = shares(model, config)
        if params <= PARAMS and macs <= MACS:
            return config
    raise PruneError(f"{name}: no ratio up to {RATIOS[-1]} leaves {PARAMS:.0%} of parameters and {MACS:.0%} of MACs")


def searched(model: Darknet, config: EagleEyeConfig, log: Path) -> Darknet:
    """Return the best of many random prunings, scored on training images that none of them adapts to."""
    names = read_names(CFG.with_suffix(".names"))
    data = open_search_data(bccd_folder(), model.network.input, names, SEARCH_DATA, split="train")
    return eagleeye(model, data.batches, data.score, config, log=log).best.model


def study(method: str, work: Path, images: Images, config: TrainConfig) -> Row:
    """Prune by one method, fine-tune, measure before and after."""
    known = METHODS.get(VARIANTS.get(method, {}).get("method", method))
    by_scales = method == "unpruned" or (known is not None and known.defaults.importance == "bn")
    model = sparse_model(work, images) if by_scales else trained_model()
    row: Row = {"method": method, "ratio": 0.0, "multiple_of": 1, "epochs": config.epochs, "seed": config.seed}
    if method != "unpruned":
        if method == SEARCHED:
            pruning = EagleEyeConfig(band=Band(share=MACS - DELTA, delta=DELTA), candidates=CANDIDATES)
            model = searched(model, pruning, work / f"{method}.log.json")
            row |= {"ratio": 1 - MACS, "candidates": CANDIDATES}
        else:
            ratio = smallest_ratio(model, method)
            model = carry_out(plan_pruning(model, ratio)).model
            row |= {"ratio": ratio.ratio, "multiple_of": ratio.multiple_of}
    name = run_name(method, config)
    (work / f"{name}.cfg").write_text(model.network.cfg, "utf-8")
    row |= {"params": sum(p.numel() for p in model.parameters()), "macs": model.network.macs}
    return row | fine_tuned(model, images, config, work / f"{name}.pt")


def run_name(method: str, config: TrainConfig) -> str:
    """Return what the files of a run are called."""
    epochs = "" if config.epochs == FINE_TUNING.epochs else f"_{config.epochs}"
    return f"{method}{epochs}" + (f"_seed{config.seed}" if config.seed else "")


@click.command()
@click.argument("work", type=click.Path(path_type=Path))
@click.option("--methods", default=",".join(METHOD_NAMES), show_default=True)
@click.option("--epochs", default=FINE_TUNING.epochs, show_default=True)
@click.option("--seed", default=FINE_TUNING.seed, show_default=True, help="Of the fine-tuning.")
@click.option("--threads", default=1, show_default=True)
def main(work: Path, methods: str, epochs: int, seed: int, threads: int) -> None:
    """Run the study for METHODS and write the rows of all that WORK holds."""
    torch.set_num_threads(threads)
    work.mkdir(parents=True, exist_ok=True)
    images = open_images()
    config = replace(FINE_TUNING, epochs=epochs, seed=seed)
    for method in methods.split(","):
        once(work / f"{run_name(method, config)}.json", lambda method=method: study(method, work, images, config))  # type: ignore[misc]
    found = [json.loads(path.read_text("utf-8")) for path in sorted(work.glob("*.json"))]
    rows = [row for row in found if "method" in row]
    RESULTS.write_text(json.dumps({"rows": rows}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
