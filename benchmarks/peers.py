# SPDX-License-Identifier: Apache-2.0
"""Other libraries behind one face: a model and an image in, a function without arguments out.

Every function raises `PeerMissingError` where its library is not installed (``pip install '.[bench]'``) or cannot run
the model. Runtimes get the settings that make them fastest for one image at a time on a fixed number of threads, and
stop spinning between calls, so that they do not steal the processor from the candidate that follows.
"""

from __future__ import annotations

import importlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from benchmarks.measure import Function, PeerMissingError

Array = npt.NDArray[Any]

os.environ.setdefault("NM_DISABLE_ANALYTICS", "1")  # DeepSparse would call home


def library(name: str) -> Any:  # noqa: ANN401 - a module
    """Import an optional library."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise PeerMissingError(f"{name.partition('.')[0]}: {error}") from None


def compile_brevitas() -> None:
    """Let Brevitas compile its quantisers, in this process and those it starts; must come before its import."""
    os.environ.setdefault("BREVITAS_JIT", "1")


def onnxruntime_function(model: Callable[[], Any], image: Array) -> Callable[[int], Function]:
    """Run an ONNX model by onnxruntime; returns its outputs as arrays."""

    def prepare(threads: int) -> Function:
        runtime = library("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.log_severity_level = 3
        session = runtime.InferenceSession(model().SerializeToString(), options, providers=["CPUExecutionProvider"])
        inputs = {session.get_inputs()[0].name: image}
        return lambda: session.run(None, inputs)

    return prepare


def openvino_function(model: Callable[[], Any], image: Array, precision: str = "f32") -> Callable[[int], Function]:
    """Run an ONNX model by OpenVINO; `precision` is that of what is not quantised. Returns the request's outputs."""

    def prepare(threads: int) -> Function:
        openvino = library("openvino")
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "ENABLE_CPU_PINNING": True,
            "INFERENCE_PRECISION_HINT": precision,
        }
        core = openvino.Core()
        network = core.read_model(model().SerializeToString(), b"")
        request = core.compile_model(network, "CPU", settings).create_infer_request()
        count = len(network.outputs)

        def run() -> list[Array]:
            request.infer([image], share_inputs=True, share_outputs=True)
            return [request.get_output_tensor(i).data for i in range(count)]

        return run

    return prepare


def deepsparse_function(model: Callable[[], Any], image: Array) -> Callable[[int], Function]:
    """Run an ONNX model by DeepSparse."""

    def prepare(threads: int) -> Function:
        deepsparse = library("deepsparse")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            path.write_bytes(model().SerializeToString())
            try:
                engine = deepsparse.Engine(model=str(path), batch_size=1, num_cores=threads)
            except RuntimeError as error:
                raise PeerMissingError(f"deepsparse: {error}") from None
        inputs = [np.ascontiguousarray(image)]
        return lambda: engine.run(inputs, val_inp=False)

    return prepare


def torch_function(make: Callable[[], nn.Module], image: Array, form: str) -> Callable[[int], Function]:
    """Run a torch module in evaluation mode.

    Args:
        make: Returns the module, for this call alone.
        image: [1, C, H, W] float32.
        form: ``eager``, ``channels_last``, or ``compiled``: inductor with frozen weights.
    """

    def prepare(threads: int) -> Function:
        assert torch.get_num_threads() == threads
        module, x = make().eval().requires_grad_(False), torch.from_numpy(image)
        if form == "channels_last":
            module, x = module.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
        run = compiled(module, x, freeze=True) if form == "compiled" else module
        return torch.inference_mode()(lambda: run(x))

    return prepare


def compiled(function: Callable[..., Any], *arguments: Tensor, freeze: bool = False) -> Callable[..., Any]:
    """Compile for the shapes of `arguments` by inductor.

    Args:
        function: A function or module.
        arguments: One call's arguments.
        freeze: Treat weights as constants, for inference.
    """
    from torch._inductor import config  # noqa: PLC0415 - loads the compiler, which most candidates do not need

    torch._dynamo.reset()
    with config.patch(freezing=freeze), torch.inference_mode(freeze):
        found = torch.compile(function, dynamic=False, fullgraph=True)
        found(*arguments)
    return found
