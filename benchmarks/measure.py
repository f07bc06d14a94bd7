# SPDX-License-Identifier: Apache-2.0
"""The measurement: every candidate of a case in turn, again and again, so that a noisy machine is noisy for all.

A sample is the mean of as many calls as fill `MIN_SAMPLE_S`, after one call that is not timed and brings caches and
sleeping threads back; the order rotates from round to round. What is reported are medians and quartiles of the samples.
"""

from __future__ import annotations

import gc
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from time import perf_counter

import numpy as np

Function = Callable[[], object]

MIN_SAMPLE_S = 1e-3
"""A sample of a shorter function repeats it; perf_counter's own 50 ns are then 0.005 % of it."""
LONG_CALL_S = 0.1
"""From here on the call itself is warm-up enough, and every sample is one call."""


class PeerMissingError(Exception):
    """A candidate cannot run here; the message says why. It is reported by name, never left out silently."""


@dataclass(frozen=True)
class Candidate:
    """One way to do the work of a case.

    Attributes:
        name: What the tables call it.
        prepare: Number of threads -> the function to measure. Raises `PeerMissingError`.
        facts: What distinguishes it besides the name, for tables and figures.
        operations: Of one call, where it is not the case's; None is the case's.
        bytes: Likewise.
    """

    name: str
    prepare: Callable[[int], Function]
    facts: Mapping[str, object] = field(default_factory=dict)
    operations: int | None = None
    bytes: int | None = None


@dataclass(frozen=True)
class Case:
    """The same work for several candidates.

    Attributes:
        name: Unique in its benchmark; what ``--only`` matches.
        candidates: Measured in turn.
        bytes: Read and written by one call at least.
        operations: Additions and multiplications of one call, 0 where bytes are all that counts.
        facts: Shape, pattern, ..., for tables and figures.
        threads: The thread counts it can be measured on; empty means all.
    """

    name: str
    candidates: tuple[Candidate, ...]
    bytes: int
    operations: int = 0
    facts: Mapping[str, object] = field(default_factory=dict)
    threads: tuple[int, ...] = ()


@dataclass(frozen=True)
class Timing:
    """Seconds of one call.

    Attributes:
        median_s: Median of the samples.
        q1_s: First quartile.
        q3_s: Third quartile.
        mad_s: Median absolute deviation from the median.
        min_s: Smallest sample.
        samples: Their number.
        calls: Calls in each.
    """

    median_s: float
    q1_s: float
    q3_s: float
    mad_s: float
    min_s: float
    samples: int
    calls: int


def summarise(samples: Sequence[float], calls: int) -> Timing:
    """Return the statistics of `samples` seconds per call."""
    if not samples:
        raise ValueError("a timing needs at least one sample")
    values = np.asarray(samples, np.float64)
    q1, median, q3 = (float(v) for v in np.percentile(values, (25, 50, 75)))
    mad = float(np.median(np.abs(values - median)))
    return Timing(median, q1, q3, mad, float(values.min()), len(samples), calls)


def calls_per_sample(seconds: float) -> int:
    """Return how often a function of `seconds` is called for one sample."""
    return max(1, math.ceil(MIN_SAMPLE_S / max(seconds, 1e-9)))


def rotations(names: Sequence[str], rounds: int) -> Iterable[list[str]]:
    """Yield the order of every round; each name takes every place equally often."""
    for first in range(rounds):
        cut = first % len(names)
        yield [*names[cut:], *names[:cut]]


def measure_functions(functions: Mapping[str, Function], rounds: int) -> dict[str, Timing]:
    """Measure functions in turn.

    Args:
        functions: By name; at least one.
        rounds: Samples of each.

    Returns:
        The timing of each.
    """
    calls = {name: _calibrate(function) for name, function in functions.items()}
    samples: dict[str, list[float]] = {name: [] for name in functions}
    collecting = gc.isenabled()
    gc.disable()
    try:
        for order in rotations(list(functions), rounds):
            gc.collect(0)
            for name in order:
                samples[name].append(_sample(functions[name], *calls[name]))
    finally:
        if collecting:
            gc.enable()
    return {name: summarise(values, calls[name][0]) for name, values in samples.items()}


def measure_case(case: Case, threads: int, rounds: int) -> tuple[list[dict[str, object]], dict[str, str]]:
    """Measure a case.

    Returns:
        A row per candidate that runs here, and for the others name -> reason.
    """
    functions, missing = {}, {}
    for candidate in case.candidates:
        try:
            functions[candidate.name] = candidate.prepare(threads)
        except PeerMissingError as error:
            missing[candidate.name] = str(error)
    timings = measure_functions(functions, rounds) if functions else {}
    by_name = {candidate.name: candidate for candidate in case.candidates}
    return [_row(case, by_name[name], threads, timing) for name, timing in timings.items()], missing


def _row(case: Case, candidate: Candidate, threads: int, timing: Timing) -> dict[str, object]:
    size = case.bytes if candidate.bytes is None else candidate.bytes
    operations = case.operations if candidate.operations is None else candidate.operations
    return {
        "case": case.name,
        "threads": threads,
        "candidate": candidate.name,
        **case.facts,
        **candidate.facts,
        "bytes": size,
        "operations": operations,
        "gb_per_s": size / timing.median_s / 1e9,
        "gop_per_s": operations / timing.median_s / 1e9,
        **asdict(timing),
    }


def _calibrate(function: Function) -> tuple[int, bool]:
    """Warm a function up; return the calls of a sample and whether an untimed call precedes them."""
    function()
    start = perf_counter()
    function()
    seconds = perf_counter() - start
    if seconds < MIN_SAMPLE_S:
        seconds = _timed(function, calls_per_sample(seconds))
    return calls_per_sample(seconds), seconds < LONG_CALL_S


def _sample(function: Function, calls: int, warm: bool) -> float:
    if warm:
        function()
    return _timed(function, calls)


def _timed(function: Function, calls: int) -> float:
    """Seconds of one of `calls` calls."""
    start = perf_counter()
    for _ in itertools.repeat(None, calls):
        function()
    return (perf_counter() - start) / calls
