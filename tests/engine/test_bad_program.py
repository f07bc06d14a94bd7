# SPDX-License-Identifier: Apache-2.0
"""The compiled module refuses malformed programs with an exception instead of reading foreign memory."""

import numpy as np
import pytest

from yolo_hw import _engine

SHAPE = (3, 4, 5)
POINT = (1, 1, 1, 1, 0, 0, 1, 1)  # size, stride, pad, dilation
BIG = 2**31 - 1
INT8 = (8, True)  # bits, signed


def engine(shape=SHAPE, threads=1):
    return _engine.Engine("auto", threads, shape, INT8)


def built():
    made = engine()
    made.build([])
    return made


def requantiser(channels, **changes):
    fields = {
        "shift": np.zeros(channels, np.int32),
        "params": [1, 1, 0, -128, 127, 8, -128, 127],
        "rounding": 0,
        "overflow": 0,
        "table": np.zeros(0, np.int16),
        "acc_bits": 32,
    }
    return _engine.Requantiser(**{**fields, **changes})


def conv(*, source=0, out=(2, 4, 5), weight=6, bias=2, window=POINT, groups=1, requant=None):
    ones = np.ones(weight, np.int16), np.ones(bias, np.int32)
    return engine().conv(source, out, INT8, *ones, window, groups, requant or requantiser(2))


def params(**changes):
    names = "mul_pos mul_neg shift_neg code_lo code_hi code_bits clamp_lo clamp_hi".split()
    values = dict(zip(names, [1, 1, 0, -128, 127, 8, -128, 127], strict=True))
    return requantiser(2, params=list({**values, **changes}.values()))


def test_the_program_the_others_are_broken_from_is_valid():
    assert conv() == 1
    assert conv(requant=params()) == 1


@pytest.mark.parametrize(
    "build",
    [
        lambda: conv(source=1),
        lambda: conv(source=-1),
        lambda: conv(out=(0, 4, 5), weight=0, bias=0),
        lambda: conv(out=(2, -4, 5)),
        lambda: conv(out=(2, 1 << 20, 1 << 20)),
        lambda: conv(weight=5),
        lambda: conv(bias=3),
        lambda: conv(groups=0),
        lambda: conv(groups=2),
        lambda: conv(window=(0, 1, 1, 1, 0, 0, 1, 1), weight=0),
        lambda: conv(window=(1, 1, 0, 1, 0, 0, 1, 1)),
        lambda: conv(window=(1, 1, 1, 1, -1, 0, 1, 1)),
        lambda: conv(window=(1, 1, 1, 1, BIG, 0, 1, 1)),
        lambda: conv(window=(1, 1, BIG, BIG, 0, 0, 1, 1)),
        lambda: conv(window=(3, 3, 1, 1, 0, 0, 1 << 30, 1 << 30), weight=54),
        lambda: conv(window=(3, 3, 1, 1, 0, 0, 1 << 16, 1 << 16), weight=54),
        lambda: conv(requant=requantiser(3)),
        lambda: conv(requant=requantiser(2, shift=np.array([0, 63], np.int32))),
        lambda: conv(requant=requantiser(2, shift=np.array([-63, 0], np.int32))),
        lambda: conv(requant=requantiser(2, table=np.zeros(255, np.int16))),
        lambda: conv(requant=params(shift_neg=63)),
        lambda: conv(requant=params(code_bits=17)),
        lambda: conv(requant=params(code_bits=1)),
        lambda: conv(requant=params(code_hi=128)),
        lambda: requantiser(2, rounding=4),
        lambda: requantiser(2, overflow=-1),
        lambda: engine().add([], [], INT8, requantiser(3)),
        lambda: engine().add([0, 0], [0], INT8, requantiser(3)),
        lambda: engine().add([0], [32], INT8, requantiser(3)),
        lambda: engine().add([0], [-1], INT8, requantiser(3)),
        lambda: engine().add([0], [0], INT8, requantiser(2)),
        lambda: engine().mul(0, 1, INT8, requantiser(3)),
        lambda: engine().avgpool(0, INT8, requantiser(2)),
        lambda: engine().maxpool(0, (2, 4, 5), POINT),
        lambda: engine().maxpool(0, (3, 5, 5), POINT),
        lambda: engine().maxpool(0, (3, 2, 5), (2, 2, BIG, 1, 0, 0, 1, 1)),
        lambda: engine().maxpool(0, (3, 4, 5), (2, 2, 1, 1, 2, 2, 1, 1)),
        lambda: engine().maxpool(0, (3, 4, 5), (2, 2, 1, 1, 0, 0, 2, 2)),
        lambda: engine().concat([]),
        lambda: engine().concat([0, 1]),
        lambda: engine().slice(0, 2, 4),
        lambda: engine().slice(0, -1, 2),
        lambda: engine().slice(0, 2, 2),
        lambda: engine().upsample(0, 0),
        lambda: engine().upsample(0, 1 << 20),
        lambda: engine().permute(0, SHAPE, np.full(60, 60, np.int32)),
        lambda: engine().permute(0, SHAPE, np.full(60, -1, np.int32)),
        lambda: engine().permute(0, SHAPE, np.zeros(59, np.int32)),
        lambda: engine(shape=(0, 1, 1)),
        lambda: engine(shape=(3, -1, 1)),
        lambda: engine(shape=(1 << 20, 1 << 20, 1 << 20)),
        lambda: engine(threads=100_000),
        lambda: engine(threads=-1),
        lambda: engine().run(np.zeros(SHAPE, np.int16)),
        lambda: built().run(np.zeros((3, 4), np.int16)),
        lambda: built().run(np.zeros((3, 5, 4), np.int16)),
        lambda: built().read(1),
        lambda: built().read(0),
        lambda: built().upsample(0, 2),
        lambda: built().build([]),
        lambda: engine().build([1]),
        lambda: _engine.Engine("auto", 1, SHAPE, (17, True)),
        lambda: _engine.Engine("auto", 1, SHAPE, (16, False)),
        lambda: conv(requant=requantiser(2, acc_bits=0)),
    ],
)
def test_malformed_programs_are_refused(build):
    with pytest.raises(ValueError, match="engine: "):
        build()


@pytest.mark.parametrize("codes", [np.zeros(SHAPE), np.zeros(SHAPE, np.int64), None, "codes"])
def test_other_types_than_int16_are_refused(codes):
    with pytest.raises(TypeError):
        built().run(codes)
