# SPDX-License-Identifier: Apache-2.0
"""``yolo-hw train`` as a user runs it: a folder of results; killed and resumed, it ends with the same bits."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from support import cli_runs
from support.tiny_training import TINY_CFG

from yolo_hw.cli.main import EXIT_BAD_INPUT
from yolo_hw.data.synthetic.dataset import write_dataset
from yolo_hw.data.synthetic.layout import SceneConfig
from yolo_hw.train import load_checkpoint

SMALL = SceneConfig(min_side_px=64, max_side_px=96, max_objects=3, min_part_px=12.0)
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """A cfg with the generated set's classes, 24 training and 8 validation images."""
    folder = tmp_path_factory.mktemp("material")
    write_dataset(folder / "train", 24, 5, SMALL)
    write_dataset(folder / "val", 8, 6, SMALL)
    (folder / "net.cfg").write_text(TINY_CFG.replace("filters=7", "filters=11").replace("classes=2", "classes=6"))
    return folder


def arguments(material, *more):
    data = ["--cfg", material / "net.cfg", "--data", material / "train", "--val", material / "val"]
    options = "--epochs 4 --batch 4 --warmup-epochs 1 --save-steps 2 --threads 1 --val-period 2".split()
    return list(map(str, [*data, *options, *more]))


def command(material, *more):
    return [sys.executable, "-m", "yolo_hw", "train", *arguments(material, *more)]


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def run(words):
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def refusal(*words):
    """Run what ends at once, in this process; return its one message."""
    done = cli_runs.run("train", *words)
    assert done.exit_code == EXIT_BAD_INPUT, done.output
    assert "Traceback" not in done.output
    return " ".join(done.stderr.split())


@pytest.fixture(scope="module")
def whole(material, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    run(command(material, "--out", folder))
    return folder


def table(folder):
    with (folder / "results.csv").open(encoding="utf-8") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def test_folder_is_complete(whole):
    names = {path.name for path in whole.iterdir() if not path.name.startswith("events")}
    assert names == {
        *"args.toml best.cfg best.names best.pt best.weights last.pt report.md results.csv".split(),
        *"results.png confusion_matrix.png".split(),
        *(f"{curve}_curve.png" for curve in ("PR", "P", "R", "F1")),
        *"train_batch0.jpg train_batch1.jpg train_batch2.jpg val_labels.jpg val_detections.jpg".split(),
    }
    assert [row["epoch"] for row in table(whole)] == ["1", "2", "3", "4"]
    assert "| all |" in (whole / "report.md").read_text()


def test_killed_and_resumed_run_ends_with_the_same_bits(material, whole, tmp_path):
    folder = tmp_path / "run"
    process = subprocess.Popen(
        command(material, "--out", folder), env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 200
    while not (folder / "last.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    killed_at = load_checkpoint(folder / "last.pt").step
    assert 0 < killed_at < 24
    run([sys.executable, "-m", "yolo_hw", "train", "--resume", str(folder)])
    assert (folder / "best.weights").read_bytes() == (whole / "best.weights").read_bytes()
    assert table(folder) == table(whole)
    last, expected = load_checkpoint(folder / "last.pt"), load_checkpoint(whole / "last.pt")
    for name, value in expected.model.items():
        np.testing.assert_array_equal(value.numpy(), last.model[name].numpy())


def test_trained_weights_start_another_run(material, whole, tmp_path):
    more = ["--weights", whole / "best.weights", "--freeze", "blocks.conv_0", "--loss", "box_loss=giou", "--json"]
    done = run(command(material, "--out", tmp_path / "next", *more))
    assert 0 <= json.loads(done.stdout)["ap50"] <= 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--cfg", "absent.cfg"], "absent.cfg"),
        (["--accumulate", "3"], "multiple of processes x accumulate"),
        (["--precision", "fp16"], "precision must be fp32 or bf16"),
        (["--freeze", "conv_0"], "nearest name is"),
        (["--imgsz", "big"], "--imgsz must be"),
        (["--names", "absent.names"], "absent.names"),
        (["--device", "banana"], "device must be"),
        (["--loss", "nope=1"], "no option 'nope'"),
        (["--loss", "box_weight=five"], "box_weight must be a finite number"),
        (["--milestones", "a,b"], "--milestones must be numbers"),
    ],
)
def test_bad_input_is_one_error(material, tmp_path, words, message):
    assert message in refusal(*arguments(material, "--out", tmp_path / "run", *words))


def test_failed_start_does_not_take_the_folder(material, tmp_path):
    refusal(*arguments(material, "--out", tmp_path / "run", "--freeze", "conv_0"))
    assert not (tmp_path / "run" / "args.toml").exists()


def test_run_killed_before_its_first_save_starts_anew(material, whole, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "args.toml").write_bytes((whole / "args.toml").read_bytes())
    done = run([sys.executable, "-m", "yolo_hw", "train", "--resume", str(folder)])
    assert "the run starts anew" in " ".join(done.stderr.split())
    assert (folder / "best.weights").read_bytes() == (whole / "best.weights").read_bytes()


def test_two_processes_share_a_run(material, tmp_path):
    words = command(material, "--out", tmp_path / "run", "--epochs", "1", "--sync-batch-norm", "--json")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = run([*launcher, *words[1:]])
    assert 0 <= json.loads(done.stdout)["ap50"] <= 1
    assert (tmp_path / "run" / "report.md").exists()


def test_folder_that_holds_a_run_is_not_overwritten(material, whole):
    before = (whole / "last.pt").read_bytes()
    assert "holds a run already" in refusal(*arguments(material, "--out", whole))
    assert (whole / "last.pt").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "message"), [(["--epochs", "9"], "leave --epochs out"), ([], "there is no args.toml")]
)
def test_only_a_run_is_resumed_with_its_own_options(whole, tmp_path, words, message):
    folder = whole if words else tmp_path
    assert message in refusal("--resume", folder, *words)


def test_damaged_options_are_named(whole, tmp_path):
    (tmp_path / "args.toml").write_text((whole / "args.toml").read_text().replace("epochs = 4", 'epochs = "many"'))
    assert "not the options of a run" in refusal("--resume", tmp_path)
