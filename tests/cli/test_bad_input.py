# SPDX-License-Identifier: Apache-2.0
"""Bad input: one clear error line that names the place, exit code 2, nothing left behind."""

import os
import resource
import struct

import numpy as np
import pytest
from support.cli_runs import run, run_process, write_network
from support.networks import tiny_detector

from yolo_hw.cli.main import EXIT_BAD_INPUT

GIB = 1 << 30
NET = "[net]\nwidth=32\nheight=32\nchannels=3\n"


def replaced(old, new):
    def make(files, folder):
        path = folder / "bad.cfg"
        text = files.cfg.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))
        return {"cfg": path}

    return make


def written(option, name, content):
    def make(files, folder):
        path = folder / name
        path.write_bytes(content)
        return {option: path}

    return make


def cut(files, folder):
    path = folder / "bad.cfg"
    text = files.cfg.read_text()
    path.write_text(text[: text.rindex("classes")])
    return {"cfg": path}


def weights_of_another_net(files, folder):
    return {"weights": write_network(folder, tiny_detector(filters=12), "other")[1]}


def nan_weights(files, folder):
    data = bytearray(files.weights.read_bytes())
    struct.pack_into("<f", data, len(data) - 4, np.nan)
    (folder / "nan.weights").write_bytes(data)
    return {"weights": folder / "nan.weights"}


def cut_weights(files, folder):
    (folder / "cut.weights").write_bytes(files.weights.read_bytes()[:-6])
    return {"weights": folder / "cut.weights"}


def huge_weights(files, folder):
    path = folder / "huge.weights"
    path.write_bytes(files.weights.read_bytes())
    os.truncate(path, 10 * GIB)  # sparse
    return {"weights": path}


def folder_as(option):
    return lambda files, folder: {option: folder}


def nothing_at(option, name):
    return lambda files, folder: {option: folder / name}


# how to spoil the options -> what the message must contain
CASES = {
    "truncated cfg": (cut, "bad.cfg:"),
    "misspelt section": (replaced("[maxpool]", "[maxpol]"), "unknown section [maxpol]; did you mean 'maxpool'?"),
    "misspelt key": (replaced("filters", "filtres"), "unknown key 'filtres'; did you mean 'filters'?"),
    "negative filters": (replaced("filters=8", "filters=-8"), "[convolutional]: filters must be in [1, "),
    "cyclic route": (replaced("[maxpool]", "[route]\nlayers=2\n[maxpool]"), "refers to layer 2, but this is layer 2"),
    "forward route": (replaced("[maxpool]", "[route]\nlayers=9\n[maxpool]"), "must refer to a layer before it"),
    "empty cfg": (written("cfg", "bad.cfg", b""), "bad.cfg: the first section must be [net]"),
    "binary cfg": (written("cfg", "bad.cfg", bytes(range(128, 256))), "UTF-8"),
    "cfg is a folder": (folder_as("cfg"), "cannot read the cfg file: Is a directory"),
    "missing cfg": (nothing_at("cfg", "none.cfg"), "none.cfg: cannot read the cfg file: No such file"),
    "missing weights": (nothing_at("weights", "none.weights"), "none.weights: cannot read the weights file: No such"),
    "weights are a folder": (folder_as("weights"), "cannot read the weights file: Is a directory"),
    "weights of another net": (weights_of_another_net, "other.weights: "),
    "NaN weights": (nan_weights, "nan.weights: conv_4: weight must be finite, got 1 NaN"),
    "truncated weights": (cut_weights, "cut.weights: "),
    "10 GB of weights": (huge_weights, "huge.weights: the network net ends at byte"),
    "weights are an image": (written("weights", "x.weights", b"\x89PNG\r\n\x1a\n" + bytes(20)), "not a darknet"),
    "huge image": (replaced("height=32", "height=65536\nwidth=65536"), "[net]: a feature map must have at most"),
    "huge map": (written("cfg", "bad.cfg", f"{NET}[upsample]\nstride=64\n[upsample]\nstride=64\n".encode()), "at most"),
    "10 GB of parameters": (
        written("cfg", "bad.cfg", f"{NET}[conv]\nfilters=65536\nsize=65\npad=1\n".encode()), "parameters",
    ),
    "4 channels": (replaced("channels=3", "channels=4"), "needs"),
    "no head": (written("cfg", "bad.cfg", f"{NET}[maxpool]\nstride=2\n".encode()), ""),
}  # fmt: skip


def assert_one_error(exit_code, stderr, part):
    assert exit_code == EXIT_BAD_INPUT, stderr
    lines = [line for line in stderr.splitlines() if line.strip()]
    assert len(lines) == 1, stderr
    assert lines[0].startswith("error: ")
    assert part in lines[0]
    assert len(lines[0]) < 500
    assert "Traceback" not in stderr


@pytest.mark.parametrize("verb", ["compile", "detect"])
@pytest.mark.parametrize("case", CASES)
def test_one_error_and_nothing_left(files, tmp_path, verb, case):
    spoil, part = CASES[case]
    (tmp_path / "in").mkdir()
    (tmp_path / "work").mkdir()
    changes = spoil(files, tmp_path / "in")
    images = {"calib" if verb == "compile" else "source": files.images}
    result = run(verb, *files.arguments(**changes, **images, out=tmp_path / "work/a/out"))
    assert_one_error(result.exit_code, result.stderr, part)
    assert result.stdout == ""
    assert list((tmp_path / "work").iterdir()) == []


def limit_memory():
    resource.setrlimit(resource.RLIMIT_AS, (4 * GIB, 4 * GIB))


@pytest.mark.parametrize(
    ("verb", "text"),
    [
        ("compile", f"{NET}[conv]\nfilters=65536\nsize=3\n[conv]\nfilters=65536\nsize=3\n"),
        ("compile", "[net]\nwidth=65536\nheight=65536\nchannels=3\n[conv]\n"),
        ("info", f"{NET}[upsample]\nstride=64\n[upsample]\nstride=64\n"),
    ],
    ids=["parameters", "image", "map"],
)
def test_claims_of_ten_gigabytes_fail_before_allocation(files, tmp_path, verb, text):
    """In a process that may not have that much memory; random weights would be made for any cfg."""
    (tmp_path / "huge.cfg").write_text(text)
    options = ["--random-weights", "--calib", files.images, "--out", tmp_path / "out"] if verb == "compile" else []
    result = run_process(verb, "--cfg", tmp_path / "huge.cfg", *options, preexec_fn=limit_memory)
    assert_one_error(result.returncode, result.stderr, "huge.cfg:")
    assert [path.name for path in tmp_path.iterdir()] == ["huge.cfg"]


def test_a_network_that_does_not_fit_the_accelerator_leaves_nothing(files, tmp_path):
    """Found only after calibration: still no folder, not even the parents of the output."""
    arguments = files.arguments(calib=files.images, out=tmp_path / "a/b/out")
    result = run("compile", *arguments, "--max-taps", "1")
    assert_one_error(result.exit_code, result.stderr, "conv_0: the weight buffer holds 1 taps")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_other_files_is_never_replaced(files, tmp_path):
    out = tmp_path / "home"
    out.mkdir()
    (out / "thesis.txt").write_text("ten years of work")
    result = run("compile", *files.arguments(calib=files.images, out=out))
    assert_one_error(result.exit_code, result.stderr, str(out))
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    assert (out / "thesis.txt").read_text() == "ten years of work"


def test_out_may_not_be_a_file(files, tmp_path):
    (tmp_path / "out").write_text("mine")
    result = run("compile", *files.arguments(calib=files.images, out=tmp_path / "out"))
    assert_one_error(result.exit_code, result.stderr, str(tmp_path / "out"))
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize("verb", ["compile", "detect"])
def test_folders_without_a_readable_image(files, tmp_path, verb):
    (tmp_path / "images").mkdir()
    option = "calib" if verb == "compile" else "source"
    arguments = files.arguments(**{option: tmp_path / "images"}, out=tmp_path / "out")
    result = run(verb, *arguments)
    assert_one_error(result.exit_code, result.stderr, "no image (")
    (tmp_path / "images/bad.png").write_text("no image")
    result = run(verb, *arguments)
    assert result.exit_code == EXIT_BAD_INPUT
    assert result.stderr.splitlines()[-1].startswith("error: ")
    assert "can be read" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


@pytest.mark.parametrize(
    "options",
    [["--tile", "0x16"], ["--tile", "big"], ["--tile", "²x16"], ["--leaky", "x"], ["--leaky", "²/3"],
     ["--override", "conv_1"], ["--override", "nosuch*:w=4"], ["--override", "yolo*:a=4"], ["--percentile", "200"],
     ["--ifm-words", "0"], ["--acc-words", "-4"], ["--max-taps", "0"], ["--target", "nosuch"],
     ["--target", "nosuch.toml"], ["--target", "dpu-like", "--rounding", "floor"]],
)  # fmt: skip
def test_options_out_of_range(files, tmp_path, options):
    result = run("compile", *files.arguments(calib=files.images, out=tmp_path / "out"), *options)
    assert_one_error(result.exit_code, result.stderr, "")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_compiler_is_found_before_the_work(files, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    result = run("compile", *files.arguments(calib=files.images, out=tmp_path / "out"))
    assert_one_error(result.exit_code, result.stderr, "no-such-compiler")
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_cannot_be_written_is_found_before_the_work(files):
    result = run("compile", *files.arguments(calib=files.images, out="/proc/self/x/bundle"))
    assert_one_error(result.exit_code, result.stderr, "cannot write to /proc/")


@pytest.mark.parametrize("verb", ["detect", "eval"])
@pytest.mark.parametrize("options", [["--bits", "4"], ["--calib", "nowhere"], ["--observer", "max"]])
def test_options_without_effect_are_refused(files, tmp_path, verb, options):
    extra = ["--data", files.images] if verb == "eval" else ["--source", files.images, "--out", tmp_path / "out"]
    result = run(verb, *files.arguments(), *extra, *options)
    assert_one_error(result.exit_code, result.stderr, f"{options[0]} has no effect on the float model")
    assert list(tmp_path.iterdir()) == []


def test_the_current_folder_is_no_output(files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for out in (".", tmp_path, tmp_path.parent):
        result = run("compile", *files.arguments(calib=files.images, out=out))
        assert_one_error(result.exit_code, result.stderr, "a folder of its own")
    assert list(tmp_path.iterdir()) == []


def test_a_real_process_prints_no_traceback(files, tmp_path):
    result = run_process("detect", *files.arguments(weights=tmp_path, source=files.images, out=tmp_path / "out"))
    assert_one_error(result.returncode, result.stderr, "Is a directory")
    assert result.stdout == ""


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--cfg", "a.cfg"],
        ["--nonsense"],
        ["--bn-eps", "0"],
        ["--bn-eps", "-1"],
        ["--bits", "9"],
        ["--skip", "csimm"],
    ],
)
def test_wrong_usage_is_shown(arguments):
    result = run("compile", *arguments)
    assert result.exit_code == EXIT_BAD_INPUT
    assert "Usage:" in result.stderr
    assert "Error:" in result.stderr


def test_unknown_verb():
    result = run("compil")
    assert result.exit_code == EXIT_BAD_INPUT
    assert "compil" in result.stderr
