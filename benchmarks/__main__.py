# SPDX-License-Identifier: Apache-2.0
"""The command line: ``python -m benchmarks [NAME...] [--threads 1,2] [--rounds N] [--only GLOB] [--list]``."""

from __future__ import annotations

import fnmatch
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import torch

from benchmarks import (
    accuracy,
    ceilings,
    engine,
    engine_memory,
    fake_quant,
    fold_bn,
    input_pipeline,
    losses,
    memory,
    mixed_precision,
    prune_rivals,
    qat_step,
    seed_rows,
    sparse_conv,
    targets,
    train_step,
)
from benchmarks.measure import Case, measure_case
from benchmarks.record import RESULTS, Row, merge_speeds, result_file, versions

SPEEDS: dict[str, Callable[[], list[Case]]] = {
    "fake_quant": fake_quant.cases,
    "fold_bn": fold_bn.cases,
    "sparse_conv": sparse_conv.cases,
    "engine": engine.cases,
    "train_step": train_step.cases,
    "qat_step": qat_step.cases,
    "losses": losses.cases,
}
"""Timed, case by case; every run measures the machine's ceilings, too."""

STUDIES: dict[str, Callable[[Path], None]] = {
    "engine_memory": engine_memory.main,
    "memory": memory.main,
    "input_pipeline": input_pipeline.main,
    "accuracy": accuracy.main,
    "mixed_precision": mixed_precision.main,
    "targets": targets.main,
    "seed_rows": seed_rows.main,
    "prune_rivals": prune_rivals.main,
}
"""Not timed; each writes a file of its own."""

ROUNDS = 21


@dataclass(frozen=True)
class Setting:
    """What to measure how often: thread counts, samples of each candidate, a glob of cases."""

    threads: list[int]
    rounds: int
    only: str


@click.command()
@click.argument("names", nargs=-1)
@click.option("--threads", default="1", show_default=True, help="Numbers of threads, like 1,2.")
@click.option("--rounds", default=ROUNDS, show_default=True, type=click.IntRange(1), help="Samples of each candidate.")
@click.option("--only", default="*", show_default=True, help="Glob of the cases to measure.")
@click.option("--list", "list_only", is_flag=True, help="Name benchmarks and cases; measure nothing.")
@click.option(
    "--results", default=RESULTS, show_default="benchmarks/results", type=click.Path(path_type=Path), help="Folder."
)
def main(names: tuple[str, ...], threads: str, rounds: int, only: str, *, list_only: bool, results: Path) -> None:
    """Run the benchmarks NAMES, by default all, and merge what they measure into the machine's file of results."""
    unknown = [name for name in names if name not in SPEEDS and name not in STUDIES]
    if unknown:
        raise click.UsageError(f"no benchmark '{unknown[0]}'; there are {', '.join([*SPEEDS, *STUDIES])}")
    counts = _thread_counts(threads)
    for name in names or (*SPEEDS, *STUDIES):
        if list_only:
            _list(name, only)
        elif name in SPEEDS:
            _measure(name, Setting(counts, rounds, only), results)
        elif only == "*":
            click.echo(f"== {name}")
            STUDIES[name](results)
        elif names:
            raise click.UsageError(f"{name} has no cases that --only could choose from")


def _thread_counts(text: str) -> list[int]:
    words = text.split(",")
    if not all(word.strip().isdecimal() and int(word) > 0 for word in words):
        raise click.UsageError(f"--threads takes numbers like 1,2, got '{text}'")
    return [int(word) for word in words]


def _chosen(name: str, only: str) -> list[Case]:
    found = [case for case in SPEEDS[name]() if fnmatch.fnmatchcase(case.name, only)]
    if not found:
        raise click.UsageError(f"{name} has no case that matches '{only}'")
    return found


def _list(name: str, only: str) -> None:
    if name in STUDIES:
        click.echo(f"{name}: {sys.modules[STUDIES[name].__module__].__doc__.splitlines()[0]}")
        return
    click.echo(f"{name}:")
    for case in _chosen(name, only):
        click.echo(f"  {case.name}: {' | '.join(candidate.name for candidate in case.candidates)}")


def _measure(name: str, setting: Setting, results: Path) -> None:
    click.echo(f"== {name}")
    rows: list[Row] = []
    missing: dict[str, str] = {}
    chosen = _chosen(name, setting.only)
    for count in setting.threads:
        torch.set_num_threads(count)
        for case in [*ceilings.cases(), *chosen]:
            if case.threads and count not in case.threads:
                continue
            found, absent = measure_case(case, count, setting.rounds)
            rows += found
            missing |= absent
            _print(case, count, found)
    for candidate, reason in missing.items():
        click.echo(f"missing: {candidate}: {reason}")
    section = {
        "command": _command(name, setting),
        "versions": versions(),
        "missing": missing,
        "rows": rows,
    }
    merge_speeds(result_file(results), name, section, replace=setting.only == "*")
    click.echo(f"{result_file(results)}: {name}, {len(rows)} rows")


def _command(name: str, setting: Setting) -> str:
    counts = ",".join(map(str, setting.threads))
    chosen = "" if setting.only == "*" else f" --only '{setting.only}'"
    limit = f"OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']} " if "OMP_NUM_THREADS" in os.environ else ""
    return f"{limit}python -m benchmarks {name} --threads {counts} --rounds {setting.rounds}{chosen}"


def _print(case: Case, threads: int, rows: list[Row]) -> None:
    click.echo(f"{case.name}, {threads} thread{'s' * (threads > 1)}")
    for row in rows:
        spread = 100 * (row["q3_s"] - row["q1_s"]) / row["median_s"]
        speeds = f"{row['gb_per_s']:8.1f} GB/s" + f"{row['gop_per_s']:9.1f} GOP/s" * (row["operations"] > 0)
        click.echo(f"  {row['candidate']:<44}{1e6 * row['median_s']:12.1f} us  +-{spread / 2:4.1f} % {speeds}")


if __name__ == "__main__":
    main()
