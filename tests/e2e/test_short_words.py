# SPDX-License-Identifier: Apache-2.0
"""Words of 2 and 3 bits all the way: calibrated and trained, packed, with golden vectors, and every check passed."""

import numpy as np
import pytest
from PIL import Image
from support.bundle import write_bundle
from support.cli_runs import write_network
from support.networks import tiny_detector
from support.qat import trained_qat
from support.random_net import make_images, make_net

from hls_export.pack import BlockReader, ConvLayout
from hls_export.verify import BEFORE, CHECKS, Status, open_bundle, verify_bundle
from hls_export.verify.golden import case_input
from yolo_hw.intgraph import execute
from yolo_hw.pipeline import CompileConfig, compile_network
from yolo_hw.quant import QuantConfig
from yolo_hw.quant.qat import QatConfig, lower_model

WORDS = [(2, 2), (3, 3), (2, 8), (8, 2), (3, 16)]
"""Bits of weights and of maps."""


def check_bundle(folder, report, w_bits, a_bits):
    """Check that all but the simulation by a compiler have passed, on codes of these word lengths."""
    assert {result.name: result.status for result in report.results if result.name != "csim"} == dict.fromkeys(
        [name for name in (*BEFORE, *CHECKS) if name != "csim"], Status.PASSED
    ), report.to_json()
    bundle = open_bundle(folder)
    graph = bundle.plan.graph
    image = bundle.read("ddr/params.bin")
    for command, block in zip(bundle.plan.program, bundle.blocks, strict=True):
        node = graph.node(command.node)
        if node.op == "conv2d":
            weights = BlockReader(image, block, node, ConvLayout(command, len(node.bias), bundle.plan.config)).weights()
            np.testing.assert_array_equal(weights, node.weight)
            assert node.w_bits == w_bits
            assert -(1 << (w_bits - 1)) <= weights.min() < weights.max() < 1 << (w_bits - 1)
    used = set()
    for case in bundle.document["golden"]["cases"]:
        for name, result in execute(graph, case_input(bundle, case["case"])):
            fmt = graph.tensors[name].fmt
            stored = np.frombuffer(bundle.read(f"golden/{case['case']}/{name}.out.bin"), fmt.storage_dtype)
            np.testing.assert_array_equal(stored.reshape(result.codes.shape), result.codes)
            assert fmt.bits == a_bits
            used |= set(stored.tolist())
    assert len(used) > min(a_bits, 3)


@pytest.mark.parametrize(("w_bits", "a_bits"), WORDS)
def test_calibrated(w_bits, a_bits, tmp_path):
    cfg, weights = write_network(tmp_path, tiny_detector())
    pixels = make_images(make_net(tiny_detector()), 1)[0]
    Image.fromarray(pixels).save(tmp_path / "image.png")
    config = CompileConfig(
        cfg=cfg, weights=weights, calib=tmp_path / "image.png", out=tmp_path / "bundle", skip=("csim",),
        quant=QuantConfig(w_bits=w_bits, a_bits=a_bits),
    )  # fmt: skip
    state = compile_network(config)
    assert state.simulated_codes == 4 * sum(state.graph.output_of(node).shape.numel for node in state.graph.nodes)
    check_bundle(tmp_path / "bundle", state.report, w_bits, a_bits)


@pytest.mark.parametrize(("w_bits", "a_bits"), WORDS)
def test_trained(w_bits, a_bits, tmp_path):
    qat = trained_qat(make_net(tiny_detector()), QuantConfig(w_bits=w_bits, a_bits=a_bits), QatConfig())
    write_bundle(lower_model(qat), tmp_path / "bundle")
    check_bundle(tmp_path / "bundle", verify_bundle(tmp_path / "bundle", skip=("csim",)), w_bits, a_bits)
