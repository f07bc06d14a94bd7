# SPDX-License-Identifier: Apache-2.0
"""sparse_conv2d of 8-bit codes: the exact sums, on every path and device."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from support.cpu_paths import supported_paths
from torch import Tensor
from torch.nn import functional

from yolo_hw.ops import PackedSparse, pack_sparse, set_cpu_path, sparse_conv2d

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
PLACES = [*supported_paths(), pytest.param("cuda", marks=needs_cuda)]
"""The paths of the CPU, and the GPU."""


@pytest.fixture(autouse=True)
def best_path() -> Iterator[None]:
    yield
    set_cpu_path("best")


def convolve(place: str, x: Tensor, packed: PackedSparse, bias: Tensor | None = None, **options: Any) -> Tensor:
    """Run on a path of the CPU or on the GPU."""
    if place != "cuda":
        set_cpu_path(place)
        return sparse_conv2d(x, packed, bias, **options)
    bias = None if bias is None else bias.cuda()
    return sparse_conv2d(x.cuda(), packed.to("cuda"), bias, **options).cpu()


class Layer(NamedTuple):
    """A random layer; `weight` has `pattern`."""

    x: Tensor
    weight: Tensor
    bias: Tensor
    pattern: str
    options: dict[str, Any]

    def expected(self) -> Tensor:
        """The sums by float64, in which they are exact."""
        doubles = (t.double() for t in (self.x, self.weight, self.bias))
        return functional.conv2d(*doubles, **self.options).to(torch.int32)


PATTERNS = {"unstructured": (1, 1), "block(16x1)": (16, 1), "block(16x4)": (16, 4), "block(8x3)": (8, 3)}


def random_layer(rng: random.Random, pattern: str, dtype: torch.dtype) -> Layer:
    block, groups = PATTERNS[pattern], rng.choice([1, 1, 2, 3])
    channels, kernel = rng.randint(1, 21), rng.choice([(1, 1), (3, 3), (5, 5), (1, 3)])
    out = groups * block[0] * rng.randint(1, 2) if groups > 1 else rng.randint(1, 40)
    options = {
        "stride": [rng.choice([1, 1, 2, 3]) for _ in range(2)],
        "padding": [rng.choice([0, 1, 2]) for _ in range(2)],
        "dilation": [rng.choice([1, 1, 2]) for _ in range(2)],
        "groups": groups,
    }
    size = [rng.choice([9, 10, 13, 17, 26, 33]) for _ in range(2)]
    generator = torch.Generator().manual_seed(rng.randrange(1 << 30))
    info = torch.iinfo(dtype)
    shape = (rng.choice([1, 2]), groups * channels, *size)
    x = torch.randint(info.min, info.max + 1, shape, generator=generator).to(dtype)
    weight = torch.randint(-128, 127, (out, channels, *kernel), generator=generator)
    weight = torch.where(weight == 0, 127, weight)
    cells = (-(-out // block[0]), -(-channels // block[1]), *kernel)
    kept = torch.rand(cells, generator=generator) < rng.choice([0, 0.1, 0.5, 1])
    kept = kept.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)[:out, :channels]
    bias = torch.randint(-(2**20), 2**20, (out,), generator=generator).to(torch.int32)
    return Layer(x, (weight * kept).to(torch.int8), bias, pattern, options)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8])
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("place", PLACES)
def test_random_layers(place: str, pattern: str, dtype: torch.dtype) -> None:
    rng = random.Random(f"{pattern} {dtype}")
    for _ in range(15):
        layer = random_layer(rng, pattern, dtype)
        packed = pack_sparse(layer.weight, pattern)
        y = convolve(place, layer.x, packed, layer.bias, **layer.options)
        assert y.dtype == torch.int32
        assert torch.equal(y, layer.expected())


@pytest.mark.parametrize("pattern", ["unstructured", "block(16x4)"])
@pytest.mark.parametrize("place", PLACES)
def test_deep_layer_runs_in_chunks(place: str, pattern: str) -> None:
    generator = torch.Generator().manual_seed(7)
    kept = torch.rand(2, 300, 3, 3, generator=generator).repeat_interleave(16, 0).repeat_interleave(4, 1) < 0.2
    weight = torch.randint(1, 128, (32, 1200, 3, 3), generator=generator) * kept
    x = torch.randint(-128, 128, (1, 1200, 14, 15), generator=generator).to(torch.int8)
    layer = Layer(x, weight.to(torch.int8), torch.zeros(32, dtype=torch.int32), pattern, {"padding": 1})
    packed = pack_sparse(layer.weight, pattern)
    assert packed.chunk < 300, "the test is for sums that are kept between chunks"
    assert torch.equal(convolve(place, x, packed, **layer.options), layer.expected())


@pytest.mark.parametrize("ends", [(-128, -128), (127, -128), (-128, 127), (255, -128), (255, 127)])
@pytest.mark.parametrize("place", PLACES)
def test_extreme_sums(place: str, ends: tuple[int, int]) -> None:
    code, weight = ends
    x = torch.full((1, 1030, 5, 5), code, dtype=torch.uint8 if code > 127 else torch.int8)
    w = torch.full((17, 1030, 3, 3), weight, dtype=torch.int8)
    y = convolve(place, x, pack_sparse(w, "block(16x4)"), padding=1)
    assert y[0, :, 2, 2].tolist() == [1030 * 9 * code * weight] * 17
    assert y[0, :, 0, 0].tolist() == [1030 * 4 * code * weight] * 17, "outside of the map is code 0"


@pytest.mark.parametrize("place", PLACES)
def test_sums_wrap(place: str) -> None:
    x, w = torch.full((1, 4, 1, 1), -128, dtype=torch.int8), torch.full((1, 4, 1, 1), -128, dtype=torch.int8)
    y = convolve(place, x, pack_sparse(w), torch.tensor([2**31 - 1], dtype=torch.int32))
    assert y.item() == np.int64(2**31 - 1 + 4 * 128 * 128 - 2**32)


def test_bits_depend_on_neither_threads_nor_batch_nor_layout() -> None:
    layer = random_layer(random.Random(2), "block(16x4)", torch.int8)
    packed, x = pack_sparse(layer.weight, layer.pattern), torch.cat([layer.x, layer.x.flip(2)])
    whole, before = sparse_conv2d(x, packed, layer.bias, **layer.options), torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            assert torch.equal(sparse_conv2d(x, packed, layer.bias, **layer.options), whole)
    finally:
        torch.set_num_threads(before)
    last = x[-1:].to(memory_format=torch.channels_last)
    assert torch.equal(sparse_conv2d(last, packed, layer.bias, **layer.options), whole[-1:])
    assert sparse_conv2d(x[:0], packed, layer.bias, **layer.options).shape == (0, *whole.shape[1:])


def test_what_is_stored() -> None:
    weight = torch.zeros(2, 6, 1, 2, dtype=torch.int8)
    weight[0, 1, 0, 1], weight[0, 3, 0, 1], weight[1, 5, 0, 0] = 5, -7, 9
    packed = pack_sparse(weight)
    assert packed.values.tolist() == [[[0, 5, 0, -7]], [[0, 9, 0, 0]]]
    assert packed.taps.tolist() == [0b01, 0b10]  # quad, tap
    assert packed.starts.tolist() == [0, 1, 2]
    assert packed.nnz == 6, "the zeros of a quad count, channels past the last do not"
    assert torch.equal(packed.to_dense(), weight)
    again = PackedSparse.from_state_dict(packed.state_dict())
    assert torch.equal(again.to_dense(), weight)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"values": torch.ones(4, 2, dtype=torch.int8)}, r"\[blocks, block_rows, 4\]"),
    ({"values": torch.ones(4, 2, 3, dtype=torch.int8)}, r"\[blocks, block_rows, 4\]"),
    ({"values": torch.ones(33, dtype=torch.int8)[1:].reshape(4, 2, 4)}, "aligned"),
    ({"values": torch.ones(4, 2)}, "or int8 for int8"),
    ({"bias": torch.zeros(2)}, "or int32 for int8"),
    ({"activation": 1}, r"activation must be 0 \(none\)"),
    ({"taps": torch.tensor([0, 1, 2, 4], dtype=torch.int16)}, "taps must point into"),
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=[message for _, message in BAD])
def test_wrong_arguments_are_named(change: dict[str, Any], message: str) -> None:
    packed = pack_sparse(torch.ones(2, 16, 1, 1, dtype=torch.int8), "block(2x4)")
    arguments: dict[str, Any] = {
        "x": torch.zeros(1, 16, 3, 3, dtype=torch.int8),
        "values": packed.values,
        "taps": packed.taps,
        "starts": packed.starts,
        "bias": None,
        "out_channels": 2,
        "kernel_size": [1, 1],
        "chunk": packed.chunk,
        "stride": [1, 1],
        "padding": [0, 0],
        "dilation": [1, 1],
        "groups": 1,
        "activation": 0,
        "slope": 0.0,
    }
    torch.ops.yolo_hw.sparse_conv2d(**arguments)
    with pytest.raises(RuntimeError, match=f"sparse_conv2d: .*{message}"):
        torch.ops.yolo_hw.sparse_conv2d(**{**arguments, **change})


def test_opcheck() -> None:
    layer = random_layer(random.Random(5), "block(16x4)", torch.uint8)
    p, o = pack_sparse(layer.weight, layer.pattern), layer.options
    geometry = (list(p.shape[2:]), p.chunk, o["stride"], o["padding"], o["dilation"], o["groups"], 0, 0.0)
    arguments = (layer.x, p.values, p.taps, p.starts, layer.bias, p.shape.out_channels, *geometry)
    torch.library.opcheck(torch.ops.yolo_hw.sparse_conv2d.default, arguments)
    compiled = torch.compile(lambda x: sparse_conv2d(x, p, layer.bias, **o), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(layer.x), layer.expected())
