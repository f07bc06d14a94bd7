# SPDX-License-Identifier: Apache-2.0
"""Counts become multiples; what cannot is refused, kept or padded, in words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolo_hw.errors import PruneError
from yolo_hw.prune.multiples import Narrow, Regular, Rounding, Width


def g(*numbers):
    return Width("g", *numbers)


UP, NEAREST, DOWN = Rounding.UP, Rounding.NEAREST, Rounding.DOWN
ERROR, KEEP, PAD = Narrow.ERROR, Narrow.KEEP, Narrow.PAD


@pytest.mark.parametrize(
    ("width", "ranked", "how", "count", "reason"),
    [
        # the widths and counts that a wrong index has corrupted elsewhere
        (g(24, 8), 24, (UP, ERROR), 24, None),
        (g(24, 8), 19, (UP, ERROR), 24, "rounded up from 19 to 24 (multiple of 8)"),
        (g(48, 32), 43, (UP, ERROR), 32, "rounded down from 43 to 32 (multiple of 32, the largest within 48)"),
        (g(255, 32), 252, (UP, ERROR), 224, "rounded down from 252 to 224 (multiple of 32, the largest within 255)"),
        (g(255, 32), 252, (UP, PAD), 256, "rounded up from 252 to 256 (multiple of 32): padded by 1 zero channel"),
        (g(40, 32), 40, (UP, PAD), 64, "rounded up from 40 to 64 (multiple of 32): padded by 24 zero channels"),
        (g(128, 32), 58, (UP, ERROR), 64, "rounded up from 58 to 64 (multiple of 32)"),
        (g(64, 8), 19, (DOWN, ERROR), 16, "rounded down from 19 to 16 (multiple of 8)"),
        (g(64, 8), 19, (NEAREST, ERROR), 16, "rounded down from 19 to 16 (multiple of 8)"),
        (g(64, 8), 20, (NEAREST, ERROR), 24, "rounded up from 20 to 24 (multiple of 8)"),
        (g(30, 8), 30, (UP, ERROR), 24, "rounded down from 30 to 24 (multiple of 8, the largest within 30)"),
        (g(64, 8), 16, (UP, ERROR), 16, None),
        (g(64, 8), 0, (UP, ERROR), 8, "raised from 0 to 8 (multiple of 8, at least 1)"),
        (g(64, 8, 12), 3, (UP, ERROR), 16, "raised from 3 to 16 (multiple of 8, at least 12)"),
        (g(64, 8, 12), 3, (DOWN, ERROR), 16, "raised from 3 to 16 (multiple of 8, at least 12)"),
        (g(64, 8), 5, (DOWN, ERROR), 8, "rounded up from 5 to 8 (multiple of 8)"),
        (g(64, 8, 12), 12, (UP, ERROR), 16, "rounded up from 12 to 16 (multiple of 8)"),
        (g(64, 1, 4), 2, (UP, ERROR), 4, "raised from 2 to 4 (at least 4)"),
        (g(3, 1, 8), 2, (UP, ERROR), 3, "raised from 2 to 3 (at least 8 does not fit)"),
        (g(12, 8, 10), 3, (UP, ERROR), 8, "raised from 3 to 8 (multiple of 8, at least 10 does not fit)"),
        (g(12, 8, 10), 3, (UP, PAD), 16, "raised from 3 to 16 (multiple of 8, at least 10): padded by 4 zero channels"),
        (g(24, 32), 10, (UP, PAD), 32, "narrower than the multiple 32: padded by 8 zero channels"),
        (g(24, 32), 24, (DOWN, PAD), 32, "narrower than the multiple 32: padded by 8 zero channels"),
        (g(24, 32), 10, (UP, KEEP), 24, "narrower than the multiple 32: all 24 channels stay"),
        (g(24, 32), 24, (UP, KEEP), 24, "narrower than the multiple 32: all 24 channels stay"),
        (g(1, 1), 0, (DOWN, ERROR), 1, "raised from 0 to 1 (at least 1)"),
    ],
)  # fmt: skip
def test_counts_and_their_reasons(width, ranked, how, count, reason):
    assert width.regular_count(ranked, Regular(*how)) == count
    assert width.reason(ranked, count) == reason


@pytest.mark.parametrize("rounding", Rounding)
def test_a_group_narrower_than_its_multiple_is_refused(rounding):
    with pytest.raises(
        PruneError, match="group 'conv_1': 24 channels are fewer than the multiple 32; exclude it, keep"
    ):
        Width("conv_1", 24, 32).regular_count(24, Regular(rounding))


@pytest.mark.parametrize("numbers", [{"units": 0}, {"multiple": 0}, {"minimum": -1}])
def test_numbers_below_one_are_refused(numbers):
    (field,) = numbers
    with pytest.raises(PruneError, match=f"group 'g': {field} must be at least 1, got {numbers[field]}"):
        Width(**{"name": "g", "units": 8, **numbers})


widths = st.builds(
    Width, st.just("g"), st.integers(1, 300), st.sampled_from([1, 2, 3, 4, 8, 16, 32]), st.integers(1, 40)
)
regulars = st.builds(Regular, st.sampled_from(Rounding), st.sampled_from(Narrow))


@given(widths, regulars, st.data())
def test_counts_hold_their_promises(width, regular, data):
    if width.units < width.multiple and regular.narrow is ERROR:
        return
    ranked = data.draw(st.integers(0, width.units))
    count = width.regular_count(ranked, regular)
    narrow = width.units < width.multiple
    if narrow and regular.narrow is KEEP:
        assert count == width.units
        return
    largest = width.units // width.multiple * width.multiple
    if regular.narrow is PAD:
        largest = -(-width.units // width.multiple) * width.multiple
    assert count % width.multiple == 0
    assert width.multiple <= count <= largest
    assert count >= min(width.minimum, largest)
    if regular.rounding is UP:
        assert count >= min(ranked, largest)
    free = max(width.minimum, width.multiple) <= count < largest and count - width.multiple >= width.minimum
    if free:
        bound = {UP: width.multiple - 1, DOWN: width.multiple - 1, NEAREST: width.multiple / 2}[regular.rounding]
        assert abs(count - ranked) <= bound
        assert regular.rounding is not DOWN or count <= ranked
    told = count != ranked or count > width.units
    assert (width.reason(ranked, count) is not None) == told


@given(widths, regulars)
def test_counts_grow_with_what_the_ranking_keeps(width, regular):
    if width.units < width.multiple and regular.narrow is ERROR:
        return
    counts = [width.regular_count(ranked, regular) for ranked in range(width.units + 1)]
    assert counts == sorted(counts)
