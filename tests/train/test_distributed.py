# SPDX-License-Identifier: Apache-2.0
"""Several processes train as one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support import qat_ranks
from support.train_ranks import train

from yolo_hw.train import TrainError, join_world, load_checkpoint
from yolo_hw.train.distributed import World

TESTS = Path(__file__).parents[1]


def run(folder, *options, module="support.train_ranks"):
    """Train in two processes; return what process 0 wrote."""
    folder.mkdir()
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*launcher, "-m", module, str(folder), *map(str, options)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(folder / "result.pt", weights_only=True)


@pytest.mark.parametrize(("accumulate", "norms"), [(1, "norms"), (2, "plain")])
def test_two_processes_train_as_one(tmp_path, accumulate, norms):
    """Batch norms over all processes; micro-batches have statistics of their own, so those are without."""
    (tmp_path / "alone").mkdir()
    train(tmp_path / "alone", 1, norms == "norms")
    alone = torch.load(tmp_path / "alone" / "result.pt", weights_only=True)
    both = run(tmp_path / "both", accumulate, norms)
    assert both["ranks"] == [0, 1]
    last = load_checkpoint(tmp_path / "both" / "last.pt")
    assert last.step == 4
    assert len(last.random_states) == 2
    for name, value in alone["model"].items():
        torch.testing.assert_close(value, both["model"][name], rtol=0, atol=1e-12, msg=name)
    for rank in (0, 1):
        threads = json.loads((tmp_path / "both" / f"threads_{rank}.json").read_text())
        assert threads["inside"]
        assert threads["after"] == [], "a thread that outlives the group aborts the process now and then"


def test_two_processes_go_on_when_steps_are_frozen(tmp_path):
    """Parameters that leave the loss halfway are no error, and the result is that of one process."""
    (tmp_path / "alone").mkdir()
    qat_ranks.train(tmp_path / "alone")
    alone = torch.load(tmp_path / "alone" / "result.pt", weights_only=True)
    both = run(tmp_path / "both", module="support.qat_ranks")
    assert all(value for name, value in both.items() if name.endswith("frozen"))
    for name, value in alone.items():
        torch.testing.assert_close(value, both[name], rtol=0, atol=1e-5, msg=name)


def test_one_process_is_a_world_of_its_own():
    world = World()
    assert world.leads
    assert world.gather("x") == ["x"]
    assert world.from_leader(3) == 3
    assert world.sum(torch.ones(2)).tolist() == [1, 1]
    assert world.device("cpu") == torch.device("cpu")


def test_gpu_of_a_process_is_that_of_its_local_rank():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    assert World(3, 4, 1).device("cuda") == torch.device("cuda", 1)
    with pytest.raises(TrainError, match="each takes its own"):
        World(3, 4, 1).device("cuda:0")


def test_incomplete_variables_of_torchrun_are_refused(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(TrainError, match="must be numbers"), join_world("cpu"):
        pass
