# SPDX-License-Identifier: Apache-2.0
"""sparse_conv2d against torch's dense convolution, and every path against the others in every bit."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.nn import functional

from yolo_hw.ops import Activation, PackedSparse, cpu_path, pack_sparse, set_cpu_path, sparse_conv2d

PATHS = ["avx512", "avx2", "baseline"]
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=needs_cuda)]
EPS = 2.0**-24
"""Relative error of one float32 rounding."""


@pytest.fixture(autouse=True)
def best_path() -> Iterator[None]:
    yield
    set_cpu_path("best")


def available_paths() -> list[str]:
    best = cpu_path()
    return PATHS[PATHS.index(best) :]


def sparse_weight(rng: random.Random, shape: tuple[int, ...], block: tuple[int, int], density: float) -> torch.Tensor:
    """Return a weight whose blocks of (output, input) channels are zero or not; never zero inside a kept block."""
    generator = torch.Generator().manual_seed(rng.randrange(1 << 30))
    weight = torch.randn(shape, generator=generator)
    weight = torch.where(weight == 0, torch.ones(()), weight)
    cells = (-(-shape[0] // block[0]), -(-shape[1] // block[1]), *shape[2:])
    kept = (torch.rand(cells, generator=generator) < density).repeat_interleave(block[0], 0)
    return weight * kept.repeat_interleave(block[1], 1)[: shape[0], : shape[1]]


def assert_close_to_dense(y: torch.Tensor, x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, opts: Any) -> None:
    """A chain of n roundings of float32 is off by at most n eps times the sum of magnitudes."""
    exact = functional.conv2d(x.double(), w.double(), None if b is None else b.double(), **opts)
    size = functional.conv2d(x.double().abs(), w.double().abs(), None if b is None else b.double().abs(), **opts)
    terms = int((w != 0).flatten(1).sum(1).max()) + 1
    assert y.shape == exact.shape
    assert bool(((y - exact).abs() <= terms * EPS * size).all())


def random_case(rng: random.Random) -> tuple[torch.Tensor, torch.Tensor, tuple[int, int], dict[str, Any]] | None:
    groups = rng.choice([1, 1, 1, 2, 4])
    block = (rng.choice([1, 1, 2, 3, 4, 7, 8, 16]), rng.choice([1, 1, 1, 4]))
    channels = rng.randint(1, 20)
    out = rng.randint(1, 40) if groups == 1 else block[0] * rng.randint(1, 3)
    kernel = rng.choice([(1, 1), (3, 3), (5, 5), (1, 3), (3, 2), (7, 7)])
    opts = {name: [rng.choice(values) for _ in range(2)] for name, values in OPTIONS.items()}
    size = [rng.choice([1, 2, 5, 9, 13, 16, 20, 26, 33]) for _ in range(2)]
    if any(size[d] + 2 * opts["padding"][d] < opts["dilation"][d] * (kernel[d] - 1) + 1 for d in range(2)):
        return None
    weight = sparse_weight(rng, (groups * out, channels, *kernel), block, rng.choice([0, 0.02, 0.1, 0.5, 1]))
    generator = torch.Generator().manual_seed(rng.randrange(1 << 30))
    x = torch.randn(rng.choice([1, 2, 3]), groups * channels, *size, generator=generator)
    return x, weight, block, {**opts, "groups": groups}


OPTIONS = {"stride": [1, 1, 2, 3], "padding": [0, 1, 2], "dilation": [1, 1, 2, 3]}


@pytest.mark.parametrize("seed", range(12))
def test_random_layers(seed: int) -> None:
    rng, cases = random.Random(seed), 0
    while cases < 20:
        case = random_case(rng)
        if case is None:
            continue
        cases += 1
        x, weight, block, opts = case
        bias = torch.randn(weight.shape[0]) if rng.random() < 0.5 else None
        packed = pack_sparse(weight, f"block({block[0]}x{block[1]})")
        results = []
        for path in available_paths():
            set_cpu_path(path)
            results.append(sparse_conv2d(x, packed, bias, **opts))
        assert_close_to_dense(results[0], x, weight, bias, opts)
        assert all(torch.equal(results[0], other) for other in results[1:])
        out = torch.full_like(results[0], torch.nan)
        assert sparse_conv2d(x, packed, bias, out=out, **opts) is out
        assert torch.equal(out, results[0])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("pattern", ["unstructured", "block(16x4)"])
def test_codes_into_a_given_result(pattern: str, device: str) -> None:
    generator = torch.Generator().manual_seed(3)
    weight = torch.randint(-128, 0, (32, 8, 3, 3), generator=generator).to(torch.int8)
    packed = pack_sparse(weight, pattern).to(device)
    x = torch.randint(0, 256, (2, 8, 7, 9), generator=generator).to(torch.uint8).to(device)
    out = torch.empty(2, 32, 7, 9, dtype=torch.int32, device=device)
    sparse_conv2d(x, packed, padding=1, out=out)
    assert torch.equal(out, sparse_conv2d(x, packed, padding=1))


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (torch.empty(1, 8, 4, 4, dtype=torch.float64), "out must have the dtype"),
        (torch.empty(1, 8, 4, 5), r"shape \[1, 8, 4, 4\]"),
        (torch.empty(8, 4, 4), r"shape \[1, 8, 4, 4\]"),
        (torch.empty(1, 8, 4, 8)[..., ::2], "out must be contiguous"),
        (torch.empty(1, 8, 4, 4, requires_grad=True), "out= does not support automatic differentiation"),
    ],
)
def test_results_that_do_not_fit_are_refused(out: torch.Tensor, message: str) -> None:
    with pytest.raises(RuntimeError, match=f"sparse_conv2d: .*{message}"):
        sparse_conv2d(torch.zeros(1, 4, 6, 6), pack_sparse(torch.ones(8, 4, 3, 3)), out=out)


@needs_cuda
@pytest.mark.parametrize("seed", range(4))
def test_cuda_has_the_bits_of_the_cpu(seed: int) -> None:
    rng = random.Random(seed)
    cases = [case for _ in range(40) if (case := random_case(rng)) is not None]
    assert cases
    for x, weight, block, opts in cases:
        packed = pack_sparse(weight, f"block({block[0]}x{block[1]})")
        want = sparse_conv2d(x, packed, activation=Activation.LEAKY, **opts)
        got = sparse_conv2d(x.cuda(), packed.to("cuda"), activation=Activation.LEAKY, **opts)
        assert torch.equal(got.cpu(), want)


@pytest.mark.parametrize("pattern", ["unstructured", "block(16x1)"])
def test_deep_layer_runs_in_chunks(pattern: str) -> None:
    weight = sparse_weight(random.Random(3), (48, 300, 3, 3), (16, 1), 0.3)
    packed = pack_sparse(weight, pattern)
    assert packed.chunk < 300, "the test is for sums that are kept between chunks"
    x = torch.randn(1, 300, 27, 31)
    assert_close_to_dense(sparse_conv2d(x, packed, padding=1), x, weight, None, {"padding": 1})


def test_bits_depend_on_neither_threads_nor_batch() -> None:
    weight = sparse_weight(random.Random(4), (40, 100, 3, 3), (1, 1), 0.1)
    packed, x = pack_sparse(weight), torch.randn(3, 100, 19, 23)
    whole, before = sparse_conv2d(x, packed, padding=1), torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            assert torch.equal(sparse_conv2d(x, packed, padding=1), whole)
    finally:
        torch.set_num_threads(before)
    for i in range(3):
        assert torch.equal(sparse_conv2d(x[i : i + 1], packed, padding=1), whole[i : i + 1])


@pytest.mark.parametrize("device", DEVICES)
def test_table_by_hand(device: str) -> None:
    weight = torch.zeros(2, 1, 3, 3)
    weight[0, 0, 1, 1], weight[0, 0, 0, 2], weight[1, 0, 2, 0] = 2.0, 10.0, 1.0
    x, bias = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]], device=device), torch.tensor([0.5, -3.0], device=device)
    y = sparse_conv2d(x, pack_sparse(weight.to(device)), bias, padding=1)
    assert y.tolist() == [[[[2.5, 4.5], [26.5, 8.5]], [[-3.0, 0.0], [-3.0, -3.0]]]]


def test_all_zero_and_single_weight() -> None:
    x, bias = torch.randn(1, 5, 6, 6), torch.randn(7)
    weight = torch.zeros(7, 5, 3, 3)
    empty = pack_sparse(weight)
    assert (empty.nnz, empty.density) == (0, 0.0)
    assert torch.equal(sparse_conv2d(x, empty, bias), bias.reshape(1, 7, 1, 1).expand(1, 7, 4, 4))
    weight[6, 4, 2, 1] = 3.0
    y = sparse_conv2d(x, pack_sparse(weight))
    assert torch.equal(y[:, 6], 3 * x[:, 4, 2:, 1:5])
    assert not y[:, :6].any()


@pytest.mark.parametrize("shape", [(0, 4, 6, 6), (2, 4, 6, 6)])
def test_other_layouts_and_empty_batch(shape: tuple[int, ...]) -> None:
    packed, x = pack_sparse(sparse_weight(random.Random(5), (8, 4, 3, 3), (1, 1), 0.4)), torch.randn(shape)
    y = sparse_conv2d(x.to(memory_format=torch.channels_last), packed)
    assert y.is_contiguous()
    assert torch.equal(y, sparse_conv2d(x, packed))


@pytest.mark.parametrize("path", PATHS)
def test_activations(path: str) -> None:
    if path not in available_paths():
        pytest.skip(f"this processor has no {path}")
    set_cpu_path(path)
    packed = pack_sparse(torch.ones(1, 1, 1, 1))
    values = [-10.0, -1.0, 0.0, 0.5, 6.0, 7.0, float("inf"), float("-inf"), float("nan")] * 3
    x = torch.tensor(values).reshape(1, 1, 3, 9)
    expected = {
        Activation.NONE: x,
        Activation.RELU: functional.relu(x),
        Activation.RELU6: functional.relu6(x),
        Activation.LEAKY: functional.leaky_relu(x, 0.25),
    }
    for activation, want in expected.items():
        got = sparse_conv2d(x, packed, activation=activation, slope=0.25)
        assert torch.equal(got.nan_to_num(99.0), want.nan_to_num(99.0)), activation


def raw(packed: PackedSparse, x: torch.Tensor, **change: Any) -> torch.Tensor:
    """Call the operator with one argument changed."""
    arguments: dict[str, Any] = {
        "x": x,
        "values": packed.values,
        "taps": packed.taps,
        "starts": packed.starts,
        "bias": None,
        "out_channels": packed.shape.out_channels,
        "kernel_size": [packed.shape.kernel_h, packed.shape.kernel_w],
        "chunk": packed.chunk,
        "stride": [1, 1],
        "padding": [0, 0],
        "dilation": [1, 1],
        "groups": 1,
        "activation": 0,
        "slope": 0.1,
    }
    y: torch.Tensor = torch.ops.yolo_hw.sparse_conv2d(**{**arguments, **change})
    return y


BAD: list[tuple[dict[str, Any], str]] = [
    ({"x": torch.zeros(4, 6, 6)}, "4 dimensions"),
    ({"x": torch.zeros(1, 4, 6, 6, dtype=torch.float16)}, "float32, float64, int8 or uint8"),
    ({"x": torch.zeros(1, 4, 6, 6, dtype=torch.float64)}, "dtype of x"),
    ({"x": torch.zeros(1, 4, 2, 2)}, "not be smaller"),
    ({"stride": [0, 1]}, "stride must be at least 1, got 0"),
    ({"padding": [0, -1]}, "padding must be at least 0, got -1"),
    ({"groups": 3}, "multiple of 3"),
    ({"chunk": 0}, "chunk must be at least 1"),
    ({"activation": 4}, "activation must be in"),
    ({"bias": torch.zeros(3)}, "bias must have 8 values"),
    ({"taps": torch.zeros(3, dtype=torch.int16)}, "taps must have"),
    ({"starts": torch.zeros(3, dtype=torch.int32)}, "starts must have 9 entries"),
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=[message for _, message in BAD])
def test_wrong_arguments_are_named(change: dict[str, Any], message: str) -> None:
    packed = pack_sparse(torch.ones(8, 4, 3, 3))
    with pytest.raises(RuntimeError, match=f"sparse_conv2d: .*{message}"):
        raw(packed, **{"x": torch.zeros(1, 4, 6, 6), **change})


def test_index_arrays_cannot_point_outside() -> None:
    packed, x = pack_sparse(torch.ones(8, 4, 3, 3)), torch.zeros(1, 4, 6, 6)
    for bad in (-1, 9, 15, 4 << 4, 32767):  # taps 9..15 do not exist, nor does channel 4
        taps = packed.taps.clone()
        taps[5] = bad
        with pytest.raises(RuntimeError, match="taps must point into"):
            raw(packed, x, taps=taps)
    for place, value, message in [(0, 1, "run from 0"), (8, 287, "run from 0"), (3, 500, "must not fall")]:
        starts = packed.starts.clone()
        starts[place] = value
        with pytest.raises(RuntimeError, match=message):
            raw(packed, x, starts=starts)


def test_python_face_checks() -> None:
    packed = pack_sparse(torch.ones(8, 4, 3, 3))
    with pytest.raises(ValueError, match="must have 4 channels, got 5"):
        sparse_conv2d(torch.zeros(1, 5, 6, 6), packed)
    with pytest.raises(ValueError, match="slope must be at least 0"):
        sparse_conv2d(torch.zeros(1, 4, 6, 6), packed, slope=-1.0)
    blocks = pack_sparse(torch.ones(8, 2, 1, 1), "block(8x1)")
    with pytest.raises(RuntimeError, match="multiple of 8"):
        sparse_conv2d(torch.zeros(1, 4, 6, 6), blocks, groups=2)
