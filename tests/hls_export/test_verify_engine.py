# SPDX-License-Identifier: Apache-2.0
"""The engine's check reports a code that the engine gets wrong, whatever the index of golden digests says."""

from pathlib import Path

import numpy as np
import pytest
from support.bundle import edit_json, failures, forge_manifest

from hls_export.verify import open_bundle
from hls_export.verify.golden import all_engine_paths, check_engine
from yolo_hw.errors import BundleError
from yolo_hw.intgraph.engine import Engine


@pytest.fixture
def wrong_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the engine add 256, which a byte hides, to one code of conv_2."""
    real = Engine.run_all

    def run_all(engine: Engine, codes: np.ndarray) -> dict[str, np.ndarray]:
        found = dict(real(engine, codes))
        found["conv_2"] = found["conv_2"].astype(np.int64)
        found["conv_2"][3, 5, 7] += 256
        return found

    monkeypatch.setattr(Engine, "run_all", run_all)


@pytest.mark.usefixtures("wrong_engine")
@pytest.mark.parametrize("path", all_engine_paths())
def test_a_wrong_code_of_the_engine_is_reported_with_its_place(pristine: Path, path: str):
    with pytest.raises(BundleError) as caught:
        check_engine(open_bundle(pristine), path)
    assert f"engine ({path}): case image0: layer conv_2 channel 3 row 5 column 7: expected " in str(caught.value)
    assert "(accumulator " in str(caught.value)
    assert str(caught.value).endswith("; 1 codes of the layer differ")


def test_a_wrong_digest_is_not_blamed_on_the_engine(bundle: Path):
    edit_json(bundle / "network.json", lambda d: d["golden"]["cases"][0]["tensors"][3].update(sha256="0" * 64))
    forge_manifest(bundle)
    assert failures(bundle) == {
        "golden": "golden/image0/conv_2.out.bin: the sha256 in network.json is not that of the recomputed values"
    }
