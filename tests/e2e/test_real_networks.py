# SPDX-License-Identifier: Apache-2.0
"""Five trained networks all the way: calibration on real images, export, and every check, the simulation included."""

import pytest
from support.data import REAL_NETWORKS, data_path, real_network

from hls_export.verify import BEFORE, CHECKS, Status
from yolo_hw.pipeline import CompileConfig, compile_network

CALIBRATION = "coco_calib_train48"


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL_NETWORKS)
def test_not_one_code_of_any_layer_differs(name, tmp_path):
    cfg, weights = real_network(name)
    config = CompileConfig(cfg=cfg, weights=weights, calib=data_path(CALIBRATION), out=tmp_path / "bundle")
    state = compile_network(config)
    assert len(state.images) == 48
    assert state.report is not None
    assert [result.name for result in state.report.results] == [*BEFORE, *CHECKS]
    assert {result.status for result in state.report.results} == {Status.PASSED}, state.report.to_json()
    codes = sum(state.graph.output_of(node).shape.numel for node in state.graph.nodes)
    assert state.simulated_codes == 4 * codes  # one image and three adversarial inputs
