# SPDX-License-Identifier: Apache-2.0
"""Running an integer graph with the compiled engine (csrc/engine). Needs no torch."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from yolo_hw.errors import GraphError
from yolo_hw.fixedpoint import IntArray
from yolo_hw.geometry import Window
from yolo_hw.intgraph import nodes as N
from yolo_hw.intgraph.bounds import accumulator_bound
from yolo_hw.intgraph.execute import check_input
from yolo_hw.intgraph.graph import INPUT, IntGraph
from yolo_hw.intgraph.kernels import reorg_sources
from yolo_hw.intgraph.nodes import Node

try:
    from yolo_hw import _engine
except ImportError as error:  # pragma: no cover - depends on the installation
    raise ImportError(
        "the compiled engine of yolo_hw is missing: install the package with 'pip install .', or in a source tree with "
        "'pip install -e .'"
    ) from error

CodeArray = npt.NDArray[np.int16]

MAX_THREADS = 256


def engine_paths() -> list[str]:
    """Return the instruction sets this machine and build can run, best first; all give equal codes."""
    return list(_engine.paths())


class Engine:
    """A graph compiled for the engine. Threads may share one; their runs follow one after the other.

    Attributes:
        graph: The graph.
        path: The instruction set in use.
        threads: Number of threads, the caller's included.
    """

    def __init__(self, graph: IntGraph, *, path: str = "auto", threads: int = 0, keep_all: bool = False) -> None:
        """Pack the weights and plan the memory; a run allocates nothing but its results.

        Args:
            graph: A graph that passes `check_graph`.
            path: ``auto``, or one of `engine_paths`.
            threads: At most `MAX_THREADS`; 0 means one per processor.
            keep_all: Keep the codes of every node for `run_all`; by default maps share memory.

        Raises:
            GraphError: The path is unknown or cannot run here, or the number of threads is out of range.
        """
        if not 0 <= threads <= MAX_THREADS:
            raise GraphError(f"threads must be in [0, {MAX_THREADS}], got {threads}")
        info = graph.tensors[INPUT]
        try:
            self._engine = _engine.Engine(path, threads, tuple(graph.input_shape), (info.fmt.bits, info.fmt.signed))
        except ValueError as error:
            raise GraphError(f"{error}; available: {', '.join(engine_paths())}") from None
        self.graph = graph
        self._lock = threading.Lock()
        self._index = {INPUT: 0}
        for node in graph.nodes:
            self._index[node.name] = _ADD[type(node)](self, node)
        self._keep_all = keep_all
        self._engine.build(list(self._index.values()) if keep_all else [self._index[o.tensor] for o in graph.outputs])

    @property
    def path(self) -> str:
        """The instruction set in use."""
        return str(self._engine.path)

    @property
    def memory(self) -> dict[str, int]:
        """Bytes of the packed ``weights``, of the ``arena`` that all tensors share, and of ``scratch``."""
        return dict(self._engine.memory())

    @property
    def threads(self) -> int:
        """Number of threads, the caller's included."""
        return int(self._engine.threads)

    def run(self, codes: npt.NDArray[np.integer[Any]]) -> list[CodeArray]:
        """Run one image.

        Args:
            codes: [C, H, W] input codes. Pictures that lie in memory as [H, W, C], transposed, are read as they lie.

        Returns:
            Codes [K, h, w] int16 of every output, in the order of `graph.outputs`.

        Raises:
            GraphError: The input has another shape, type or range.
        """
        return self._run(codes, [output.tensor for output in self.graph.outputs])

    def run_batch(self, images: npt.NDArray[np.integer[Any]]) -> list[CodeArray]:
        """Run images one after the other.

        Args:
            images: [N, C, H, W] input codes.

        Returns:
            Codes [N, K, h, w] int16 of every output, in the order of `graph.outputs`.

        Raises:
            GraphError: An image has another shape, type or range.
        """
        if images.ndim != 1 + len(self.graph.input_shape):
            raise GraphError(f"{self.graph.name}: a batch must have shape [N, C, H, W], got {images.shape}")
        shapes = [(len(images), *self.graph.tensors[output.tensor].shape) for output in self.graph.outputs]
        batches = [np.empty(shape, np.int16) for shape in shapes]
        for i, image in enumerate(images):
            for batch, codes in zip(batches, self.run(image), strict=True):
                batch[i] = codes
        return batches

    def compute(self, codes: npt.NDArray[np.integer[Any]]) -> None:
        """Run one image and leave the codes in the engine, where `read` finds them until the next run.

        Args:
            codes: [C, H, W] input codes.

        Raises:
            GraphError: The input has another shape, type or range.
        """
        check_input(self.graph, codes)
        with self._lock:
            self._compute(codes)

    def read(self, name: str) -> CodeArray:
        """Return the codes [K, h, w] int16 that the last run gave an output, or with `keep_all` any node."""
        try:
            return self._engine.read(self._index[name])
        except (KeyError, ValueError):
            raise GraphError(f"the engine keeps no tensor {name!r}; Engine(graph, keep_all=True) keeps all") from None

    def run_all(self, codes: npt.NDArray[np.integer[Any]]) -> dict[str, CodeArray]:
        """Run one image and return the codes of every node by name; the engine must have been made with `keep_all`."""
        if not self._keep_all:
            raise GraphError("the codes of all nodes are kept by Engine(graph, keep_all=True) only")
        names = [node.name for node in self.graph.nodes]
        return dict(zip(names, self._run(codes, names), strict=True))

    def seconds(self) -> dict[str, float]:
        """Return the seconds that the last run spent on every node.

        A concat without copies takes none, nor does a convolution that is computed with the pool or the addition behind
        it: the time is theirs.
        """
        found = self._engine.seconds()
        return {node.name: found[self._index[node.name]] for node in self.graph.nodes}

    def _run(self, codes: npt.NDArray[np.integer[Any]], wanted: list[str]) -> list[CodeArray]:
        check_input(self.graph, codes)
        with self._lock:
            self._compute(codes)
            return [self._engine.read(self._index[name]) for name in wanted]

    def _compute(self, codes: npt.NDArray[np.integer[Any]]) -> None:
        kind = codes.dtype if codes.itemsize == 1 else np.dtype(np.int16)
        rows = codes.transpose(1, 2, 0)
        channels_last = rows.flags.c_contiguous and not codes.flags.c_contiguous
        self._engine.run(np.ascontiguousarray(rows if channels_last else codes, kind), channels_last)

    def _inputs(self, node: Node) -> list[int]:
        return [self._index[name] for name in node.inputs]

    def _format(self, node: Node) -> tuple[int, bool]:
        fmt = self.graph.output_of(node).fmt
        return fmt.bits, fmt.signed

    def _requant(self, node: Node) -> _engine.Requantiser:
        inputs, out = self.graph.inputs_of(node), self.graph.output_of(node)
        requant, bound = node.requant(inputs, out), accumulator_bound(node, inputs)
        assert requant is not None
        assert bound is not None
        contract = self.graph.contract
        shift = np.broadcast_to(requant.shift, (out.shape.c,)).astype(np.int32)
        table = np.zeros(0, np.int16) if requant.table is None else requant.table.astype(np.int16)
        params = [requant.mul_pos, requant.mul_neg, requant.shift_neg]
        params += [requant.code.lo, requant.code.hi, requant.code.bits, requant.clamp_lo, requant.clamp_hi]
        return _engine.Requantiser(
            shift,
            params,
            contract.rounding.number,
            contract.overflow.number,
            table,
            bound.bits,
        )

    def _conv2d(self, node: N.Conv2d) -> int:
        return int(
            self._engine.conv(
                self._inputs(node)[0],
                self.graph.output_of(node).shape,
                self._format(node),
                node.weight.astype(np.int16),
                node.bias.astype(np.int32),
                _window(node.window),
                node.groups,
                self._requant(node),
            )
        )

    def _add(self, node: N.Add) -> int:
        shifts = node.alignment(self.graph.inputs_of(node))
        return int(self._engine.add(self._inputs(node), shifts, self._format(node), self._requant(node)))

    def _mul(self, node: N.Mul) -> int:
        source, factors = self._inputs(node)
        return int(self._engine.mul(source, factors, self._format(node), self._requant(node)))

    def _avgpool(self, node: N.AvgPool) -> int:
        return int(self._engine.avgpool(self._inputs(node)[0], self._format(node), self._requant(node)))

    def _maxpool(self, node: N.MaxPool) -> int:
        shape = self.graph.output_of(node).shape
        return int(self._engine.maxpool(self._inputs(node)[0], shape, _window(node.window)))

    def _concat(self, node: N.Concat) -> int:
        return int(self._engine.concat(self._inputs(node)))

    def _slice(self, node: N.Slice) -> int:
        return int(self._engine.slice(self._inputs(node)[0], node.start, node.stop))

    def _upsample(self, node: N.Upsample) -> int:
        return int(self._engine.upsample(self._inputs(node)[0], node.stride))

    def _reorg(self, node: N.Reorg) -> int:
        sources: IntArray = reorg_sources(node, self.graph.inputs_of(node)[0].shape)
        shape = self.graph.output_of(node).shape
        return int(self._engine.permute(self._inputs(node)[0], shape, sources.astype(np.int32)))


_ADD: dict[type[Node], Callable[[Engine, Any], int]] = {
    N.Conv2d: Engine._conv2d,
    N.Add: Engine._add,
    N.Mul: Engine._mul,
    N.AvgPool: Engine._avgpool,
    N.MaxPool: Engine._maxpool,
    N.Concat: Engine._concat,
    N.Slice: Engine._slice,
    N.Upsample: Engine._upsample,
    N.Reorg: Engine._reorg,
}


def _window(window: Window) -> list[int]:
    return [*window.size, *window.stride, *window.pad, *window.dilation]
