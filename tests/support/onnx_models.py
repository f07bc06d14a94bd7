# SPDX-License-Identifier: Apache-2.0
"""ONNX files written node by node, and what onnxruntime makes of a file beside what its imported module does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

from yolo_hw.interop.onnx_import import OnnxImport, import_onnx

SHAPE = (1, 4, 6, 8)
TOLERANCE = 1e-4
"""Of the largest output: float32 sums in another order."""
IR_VERSION = 9


def node(op, inputs, output, domain="", **attributes):
    """Return a node called like its first output; None stands for no attribute."""
    outputs = [output] if isinstance(output, str) else list(output)
    given = {key: value for key, value in attributes.items() if value is not None}
    return helper.make_node(op, list(inputs), outputs, name=outputs[0], domain=domain, **given)


def write_model(path, nodes, constants=(), *, shape: Sequence = SHAPE, outputs=None, opset=17, **options) -> Path:
    """Write a model of nodes that read the image ``x``; its outputs are those of the last node."""
    dtype = options.pop("dtype", TensorProto.FLOAT)
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in dict(constants).items()]
    sinks = [helper.make_empty_tensor_value_info(name) for name in outputs or nodes[-1].output if name]
    for sink in sinks:
        sink.type.tensor_type.elem_type = dtype
        sink.type.tensor_type.shape.SetInParent()
    source = helper.make_tensor_value_info("x", dtype, shape)
    graph = helper.make_graph(list(nodes), options.pop("name", "graph"), [source], sinks, tensors)
    imports = [helper.make_opsetid(name, version) for name, version in options.pop("domains", {"": opset}).items()]
    model = helper.make_model(graph, opset_imports=imports, ir_version=IR_VERSION)
    if set(options.pop("infer", [True])) == {True}:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
        for sink, known in zip(model.graph.output, inferred.graph.output, strict=True):
            sink.CopyFrom(known)
    path = Path(path)
    onnx.save_model(model, str(path), **options)
    return path


def runtime(path, x):
    """Return onnxruntime's outputs."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})


def module_outputs(model, x):
    """Return a module's outputs as arrays."""
    with torch.no_grad():
        found = model(torch.from_numpy(x))
    return [y.numpy() for y in ([found] if isinstance(found, torch.Tensor) else found)]


def assert_close(wanted, found):
    """Compare lists of outputs."""
    assert len(wanted) == len(found)
    for a, b in zip(wanted, found, strict=True):
        assert a.shape == b.shape
        assert np.abs(a).max() > 1e-6, "the outputs are all zero and show nothing"
        assert np.abs(a - b).max() <= TOLERANCE * np.abs(a).max()


def assert_imports(path, *, input_size=None, low=-3.0, high=3.0) -> OnnxImport:
    """Check that the whole model, imported, computes what onnxruntime computes; for several images too if it may."""
    imported = import_onnx(path, input_size=input_size, keep_tail=True)
    generator = np.random.default_rng(0)
    x = generator.uniform(low, high, (imported.batch or 1, *imported.input_shape)).astype(np.float32)
    wanted = runtime(path, x)
    assert_close(wanted, module_outputs(imported.model, x))
    if imported.batch is None:
        more = np.concatenate([generator.uniform(low, high, x.shape).astype(np.float32), x])
        assert_close(wanted, [y[1:] for y in module_outputs(imported.model, more)])
    return imported
