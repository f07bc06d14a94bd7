# SPDX-License-Identifier: Apache-2.0
"""Mutated cfg text and weights bytes: accepted or refused with a short message, never a crash, never much memory."""

import os
import random
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.networks import build, random_cfg, random_weights, tiny_detector, yolov3_tiny, yolov4_tiny

from yolo_hw.darknet import build_network, parse_cfg, read_weights, write_weights
from yolo_hw.errors import CfgError, WeightsError

EXAMPLES = int(os.environ.get("YOLO_HW_FUZZ_EXAMPLES", "400"))
MAX_BYTES = 64 << 20
"""Far below any feature map or array that a mutated number could ask for."""
FUZZ = settings(max_examples=EXAMPLES, derandomize=True, deadline=5000)

WORDS = [
    "0", "-1", "1", "2", "3", "7", "65536", "65537", "1073741824", "-2147483648", "99999999999999999999", "9" * 5000,
    "1e9", "1e400", "-1e-400", "nan", "inf", "-inf", "0x10", "1_000", "٣", "1.5", "", " ", "-", ",", ",,", "1,",
    "-1,-1", "-1,-2,-3,-4,-5", ",".join(["-1"] * 3000), "leaky", "per_feature",
    "é\u2028x", "\x00", "=", "#", "[", "]", "[net]",
]  # fmt: skip
LINES = [
    "[net]", "[convolutional]", "[maxpool]", "[route]\nlayers=-1,-2", "[shortcut]\nfrom=-2", "[upsample]\nstride=64",
    "[reorg]\nstride=2", "[avgpool]", "[yolo]", "[region]", "[connected]\noutput=65536", "[se]", "[sam]\nfrom=-1",
    "[scale_channels]\nfrom=0", "[softmax]\ngroups=2", "[dropout]", "[depthwise]\nsize=3", "[", "]", "=", "#", "\ufeff",
    "stride=2", "size=65535", "filters=65536", "groups=3", "batch_normalize=1", "dilation=65536", "padding=65536",
    "reverse=1", "anchors=1,2,3", "mask=0,0,0,1", "num=65536", "classes=65536", "stride_x=65536", "activation=mish",
]  # fmt: skip


def mutate(text, rng):
    """Delete, double, swap, insert and cut lines; replace values and characters."""
    lines = text.splitlines()
    for _ in range(rng.choice([1, 1, 2, 3, 8])):
        at = rng.randrange(len(lines)) if lines else 0
        kind = rng.randrange(8)
        if kind == 0 or not lines:
            lines.insert(at, rng.choice(LINES))
        elif kind == 1:
            del lines[at]
        elif kind == 2:
            lines[at:at] = lines[at : at + rng.randint(1, 12)] * rng.choice([1, 1, 2, 40])
        elif kind == 3:
            other = rng.randrange(len(lines))
            lines[at], lines[other] = lines[other], lines[at]
        elif kind == 4:
            lines = lines[:at] if rng.random() < 0.2 else lines
        elif kind == 5:
            column = rng.randrange(len(lines[at]) + 1)
            lines[at] = lines[at][:column] + rng.choice(WORDS) + lines[at][column + rng.randint(0, 2) :]
        elif "=" in lines[at]:
            lines[at] = lines[at].partition("=")[0] + "=" + rng.choice(WORDS)
    return rng.choice(["\n", "\n", "\r\n", "\r"]).join(lines)


def bases():
    tiny = [tiny_detector(), yolov3_tiny(), yolov4_tiny()]
    return st.one_of(
        st.sampled_from(tiny), st.builds(lambda seed: random_cfg(random.Random(seed)), st.integers(0, 999))
    )


def peak_of(function):
    """Run `function` and return the most bytes it held."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def check_cfg(text):
    """Build the network, or be told why not in one line."""
    outcome = []

    def attempt():
        for lenient in (False, True):
            try:
                cfg = parse_cfg(text, "fuzz.cfg")
                assert cfg.text() == text
                outcome.append(build_network(cfg, lenient=lenient))
            except CfgError as error:
                outcome.append(str(error))

    assert peak_of(attempt) < MAX_BYTES
    for result in outcome:
        if isinstance(result, str):
            assert result.startswith("fuzz.cfg")
            assert len(result) < 500
            assert len(result.splitlines()) == 1
        else:
            assert min(min(layer.shape) for layer in result.layers) >= 1
            assert result.num_params <= 1 << 29
    return outcome[0]


@FUZZ
@given(bases(), st.integers(0, 2**64))
def test_mutated_cfg(text, seed):
    check_cfg(mutate(text, random.Random(seed)))


@FUZZ
@given(st.text(max_size=200))
@example("[net]\nwidth=8\nheight=8\n[conv]\nfilters=" + "9" * 5000)
@example("[net]\nwidth=8\nheight=8\n" + "[conv]\nfilters=65536\nsize=9\npad=1\n" * 50)
@example("[net]\nwidth=8\nheight=8\n[conv]\n[route]\nlayers=" + ",".join(["0"] * 70000))
def test_any_text(text):
    check_cfg(text)


def test_the_fuzz_reaches_both_outcomes():
    """A fuzz whose every input is refused at the first line would prove nothing."""
    outcomes = [check_cfg(mutate(tiny_detector(), random.Random(seed))) for seed in range(200)]
    accepted = [outcome for outcome in outcomes if not isinstance(outcome, str)]
    refused = {str(outcome).split(":")[-1][:20] for outcome in outcomes if isinstance(outcome, str)}
    assert len(accepted) > 20
    assert len(refused) > 20


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory):
    """A network, its weights file's bytes and a path to write mutations to."""
    folder = tmp_path_factory.mktemp("weights")
    network = build(tiny_detector(filters=4))
    write_weights(folder / "good.weights", network, random_weights(network))
    return network, (folder / "good.weights").read_bytes(), folder / "fuzz.weights"


def mutate_bytes(data, rng):
    """Overwrite, cut and insert bytes and floats; the header more often than its share."""
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 5])):
        kind = rng.randrange(6)
        if kind == 0 and len(data) > 20:
            bad = rng.choice([np.nan, np.inf, -np.inf, -1.0, -1e-39, 1e38, -0.0])
            struct.pack_into("<f", data, 20 + 4 * rng.randrange((len(data) - 20) // 4 or 1), bad) if len(
                data
            ) > 24 else 0
        elif kind == 1:
            data = data[: rng.randrange(len(data) + 1)]
        elif kind == 2:
            data += bytes(rng.choice([1, 4, 400]))
        elif kind == 3 and data:
            data[rng.randrange(min(len(data), 20))] = rng.choice([0, 1, 2, 3, 127, 255])
        elif data:
            data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)


@FUZZ
@given(st.integers(0, 2**64), st.booleans())
def test_mutated_weights(weights_file, seed, partial):
    network, good, path = weights_file
    data = mutate_bytes(good, random.Random(seed))
    path.write_bytes(data)
    messages = []

    def attempt():
        try:
            weights = read_weights(path, network, partial=partial)
        except WeightsError as error:
            messages.append(str(error))
        else:
            write_weights(path, network, weights)
            assert path.read_bytes() == data

    assert peak_of(attempt) < MAX_BYTES
    for message in messages:
        assert message.startswith("fuzz.weights: ")
        assert len(message) < 500


@FUZZ
@given(data=st.binary(max_size=120))
def test_any_bytes(weights_file, data):
    network, _, path = weights_file
    path.write_bytes(data)
    with pytest.raises(WeightsError):
        read_weights(path, network)
