# SPDX-License-Identifier: Apache-2.0
"""A bundle of a small network with every structure, written once and copied for tests that change it."""

import shutil
from pathlib import Path

import pytest
from support.bundle import write_bundle
from support.cfg_graph import cfg_graph, feature_cfg


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pristine") / "bundle"
    write_bundle(cfg_graph(feature_cfg()), folder)
    return folder


@pytest.fixture
def bundle(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "bundle"))
