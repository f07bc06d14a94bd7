# SPDX-License-Identifier: Apache-2.0
"""Packed sparse weights: patterns, what is stored, round trips, errors that name the place."""

from __future__ import annotations

import io

import pytest
import torch

from yolo_hw.ops import PackedSparse, Pattern, pack_sparse


def masked(*shape: int, density: float = 0.3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator) * (torch.rand(shape, generator=generator) < density)


@pytest.mark.parametrize("text", ["unstructured", "block(16x1)", "block(4x4)", "2:4"])
def test_pattern_names_round_trip(text: str) -> None:
    assert str(Pattern.parse(text)) == text


@pytest.mark.parametrize("text", ["", "dense", "block(0x1)", "block(16)", "4:4", "0:4", "2:4 "])
def test_unknown_patterns_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="pattern must be"):
        Pattern.parse(text)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (5, 70, 3, 3), (33, 9, 5, 5), (4, 300, 1, 1), (7, 3, 1, 4)])
@pytest.mark.parametrize("pattern", ["unstructured", "block(16x1)", "block(16x4)", "block(3x2)"])
def test_dense_round_trip(shape: tuple[int, ...], pattern: str) -> None:
    weight = masked(*shape)
    packed = pack_sparse(weight, pattern, partial=True)
    assert torch.equal(packed.to_dense(), weight)
    kept = packed.positions()[packed.positions() < weight.numel()]
    assert len(kept.unique()) == len(kept) == packed.nnz >= int((weight != 0).sum())


def test_what_is_stored() -> None:
    weight = torch.zeros(3, 2, 1, 2)
    weight[0, 1, 0, 1], weight[2, 0, 0, 0], weight[2, 1, 0, 0] = 1.0, 2.0, 3.0
    packed = pack_sparse(weight)
    assert packed.values.tolist() == [[1.0], [2.0], [3.0]]
    assert packed.taps.tolist() == [0b11, 0b00, 0b10]  # channel, tap
    assert packed.starts.tolist() == [0, 1, 1, 3]
    assert (packed.nnz, packed.density) == (3, 0.25)
    assert packed.bytes == 3 * 4 + 3 * 2 + 4 * 4
    pairs = pack_sparse(weight, "block(2x1)", partial=True)
    assert pairs.values.tolist() == [[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]]
    assert pairs.starts.tolist() == [0, 1, 3]
    assert pairs.nnz == 4, "the zero of a kept block counts, the row past the last channel does not"


def test_round_trip_through_a_file() -> None:
    packed, file = pack_sparse(masked(20, 40, 3, 3), "block(4x1)", partial=True), io.BytesIO()
    torch.save(packed.state_dict(), file)
    file.seek(0)
    again = PackedSparse.from_state_dict(torch.load(file, weights_only=True))
    assert (again.shape, again.chunk, again.pattern) == (packed.shape, packed.chunk, packed.pattern)
    assert torch.equal(again.to_dense(), packed.to_dense())
    state = packed.state_dict()
    del state["taps"]
    with pytest.raises(ValueError, match="lack taps"):
        PackedSparse.from_state_dict(state)


def test_first_partly_zero_block_is_named() -> None:
    weight = torch.ones(32, 8, 3, 3)
    weight[16:, 4:, 2, 1] = 0
    pack_sparse(weight, "block(16x4)")
    weight[17, 5, 2, 1] = 1.0
    with pytest.raises(ValueError, match=r"output channel 16, input channel 4, tap \(2, 1\) is partly zero"):
        pack_sparse(weight, "block(16x4)")


def test_first_group_with_too_many_is_named() -> None:
    weight = torch.ones(4, 8, 1, 1)
    weight[:, 2:4] = weight[:, 6:] = 0
    assert pack_sparse(weight, "2:4").nnz == 16
    weight[1, 7] = 1.0
    with pytest.raises(ValueError, match=r"2:4: output channel 1, input channels 4 to 7, tap \(0, 0\) keep 3"):
        pack_sparse(weight, "2:4")


def test_weights_that_cannot_be_packed() -> None:
    with pytest.raises(ValueError, match="float32, float64 or int8"):
        pack_sparse(torch.zeros(2, 2, 1, 1, dtype=torch.float16))
    with pytest.raises(ValueError, match=r"\[K, C, R, S\]"):
        pack_sparse(torch.zeros(2, 2))
    with pytest.raises(ValueError, match="not be empty"):
        pack_sparse(torch.zeros(0, 2, 1, 1))
