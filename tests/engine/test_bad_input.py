# SPDX-License-Identifier: Apache-2.0
"""The engine refuses images and options that do not fit, and takes any memory layout."""

import threading

import numpy as np
import pytest
from support.random_graph import random_graph, random_input

from yolo_hw.darknet.layers import Shape
from yolo_hw.errors import GraphError
from yolo_hw.fixedpoint import FixedPoint
from yolo_hw.intgraph import INPUT, IntGraph, NumericContract, Output, TensorInfo, execute, run_outputs
from yolo_hw.intgraph import nodes as N
from yolo_hw.intgraph.engine import MAX_THREADS, Engine, engine_paths

GRAPH = random_graph(11, size=(9, 12))
CODES = random_input(GRAPH, 11)


def run_engine(codes):
    return Engine(GRAPH, threads=1).run(codes)


def run_reference(codes):
    return list(execute(GRAPH, codes))


@pytest.mark.parametrize("run", [run_engine, run_reference])
@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (CODES[0], "shape"),
        (CODES[:, :-1], "shape"),
        (CODES[None], "shape"),
        (np.zeros((0, 9, 12), np.int64), "shape"),
        (CODES.transpose(0, 2, 1), "shape"),
        (CODES.astype(np.float64), "integer codes, got float64"),
        (CODES > 0, "integer codes, got bool"),
        (CODES.astype(object), "integer codes, got object"),
        (np.where(CODES[0, 0, 0] == CODES, 256, CODES), r"must lie in \[0, 255\]"),
        (np.where(CODES[0, 0, 0] == CODES, -1, CODES), r"must lie in \[0, 255\]"),
        (np.full(CODES.shape, 1 << 16), r"must lie in \[0, 255\]"),
        (np.full(CODES.shape, (1 << 64) - 1, np.uint64), r"must lie in \[0, 255\]"),
    ],
)
def test_images_that_do_not_fit_are_refused(run, codes, message):
    with pytest.raises(GraphError, match=message):
        run(codes)


@pytest.mark.parametrize(
    "layout",
    [
        np.asfortranarray,
        lambda x: np.repeat(x, 2, axis=2)[:, :, ::2],
        lambda x: np.ascontiguousarray(x[:, ::-1])[:, ::-1],
        lambda x: x.astype(np.uint8),
        lambda x: np.ascontiguousarray(x.astype(np.uint8).transpose(1, 2, 0)).transpose(2, 0, 1),
        lambda x: np.ascontiguousarray(x.transpose(1, 2, 0)).transpose(2, 0, 1),
        lambda x: x.astype(">i4"),
        lambda x: np.frombuffer(x.astype(np.int16).tobytes(), np.int16).reshape(x.shape),
    ],
    ids="fortran strided negative_stride uint8 channels_last wide_channels_last big_endian read_only".split(),
)
def test_any_layout_and_integer_type_is_taken(layout):
    for one, other in zip(run_engine(layout(CODES)), run_outputs(GRAPH, CODES), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("path", engine_paths())
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 16, 19])
@pytest.mark.parametrize("fmt", [FixedPoint(8, 0, signed=False), FixedPoint(8, 0), FixedPoint(5, 0), FixedPoint(12, 0)])
def test_images_with_channels_last_are_read_as_they_lie(fmt, channels, path):
    graph = single_upsample(Shape(channels, 5, 7), fmt)
    kind = (np.int8 if fmt.signed else np.uint8) if fmt.bits <= 8 else np.int16
    codes = np.random.default_rng(1).integers(fmt.lo, fmt.hi + 1, (5, 7, channels)).astype(kind).transpose(2, 0, 1)
    np.testing.assert_array_equal(Engine(graph, path=path).run(codes)[0], codes.repeat(2, 1).repeat(2, 2))


def single_upsample(image, fmt):
    up = N.Upsample(name="up", inputs=(INPUT,), stride=2)
    tensors = {INPUT: TensorInfo(image, fmt), "up": TensorInfo(Shape(image.c, 2 * image.h, 2 * image.w), fmt)}
    return IntGraph("up", NumericContract(), (up,), tensors, (Output("up"),))


def test_the_best_path_is_the_default():
    assert "scalar" in engine_paths()
    assert Engine(GRAPH).path == engine_paths()[0]
    for path in engine_paths():
        assert Engine(GRAPH, path=path).path == path


@pytest.mark.parametrize("path", ["", "sse9", "AVX2"])
def test_unknown_paths_are_refused_with_the_known_ones(path):
    with pytest.raises(GraphError, match=r"available: .*scalar"):
        Engine(GRAPH, path=path)


@pytest.mark.parametrize("threads", [-1, MAX_THREADS + 1, 100_000])
def test_unreasonable_thread_counts_are_refused(threads):
    with pytest.raises(GraphError, match="threads must be in"):
        Engine(GRAPH, threads=threads)


def test_thread_counts():
    assert Engine(GRAPH, threads=3).threads == 3
    assert Engine(GRAPH, threads=0).threads >= 1


def test_python_threads_may_share_an_engine():
    engine = Engine(GRAPH, threads=2)
    images = [random_input(GRAPH, seed) for seed in range(4)]
    expected = [run_outputs(GRAPH, image) for image in images]
    wrong = []

    def work(i):
        for _ in range(25):
            found = engine.run(images[i])
            wrong.extend(i for one, other in zip(found, expected[i], strict=True) if not np.array_equal(one, other))

    workers = [threading.Thread(target=work, args=(i,)) for i in range(len(images))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_compute_leaves_the_codes_to_read():
    engine, codes = Engine(GRAPH), CODES
    engine.compute(codes)
    for output, expected in zip(GRAPH.outputs, engine.run(codes), strict=True):
        np.testing.assert_array_equal(engine.read(output.tensor), expected)


def test_a_batch_is_its_images():
    engine, images = Engine(GRAPH, threads=2), np.stack([CODES, CODES[:, ::-1], CODES[..., ::-1]])
    for i, image in enumerate(images):
        for batch, expected in zip(engine.run_batch(images), run_outputs(GRAPH, image), strict=True):
            np.testing.assert_array_equal(batch[i], expected)
    assert [len(batch) for batch in engine.run_batch(images[:0])] == [0] * len(GRAPH.outputs)


@pytest.mark.parametrize("images", [CODES, CODES[None, :, :-1], CODES[None, None]])
def test_batches_that_do_not_fit_are_refused(images):
    with pytest.raises(GraphError, match="shape"):
        Engine(GRAPH).run_batch(images)


@pytest.mark.parametrize("name", ["nothing", GRAPH.nodes[0].name])
def test_what_is_not_kept_cannot_be_read(name):
    engine = Engine(GRAPH)
    engine.compute(CODES)
    with pytest.raises(GraphError, match="keep_all=True"):
        engine.read(name)
