# SPDX-License-Identifier: Apache-2.0
"""What every verb promises: help with an example, JSON that parses, exit codes."""

import json
import subprocess
import sys

import pytest
from support.cli_runs import run, run_process
from support.data import REPOSITORY
from support.networks import build

from yolo_hw import __version__
from yolo_hw.cli.main import EXIT_BAD_INPUT, EXIT_DIFFERENCE, VERBS


@pytest.fixture(scope="module")
def bundle(files, tmp_path_factory):
    """A compiled bundle and the JSON that compiling it printed."""
    out = tmp_path_factory.mktemp("bundles") / "bundle"
    result = run("compile", *files.arguments(calib=files.images, out=out, skip="csim"), "--json")
    assert result.exit_code == 0, result.stderr
    return out, json.loads(result.stdout)


@pytest.mark.parametrize("verb", VERBS)
def test_help_has_an_example_of_the_verb(verb):
    result = run(verb, "--help")
    assert result.exit_code == 0
    assert f"Example: yolo-hw {verb}" in " ".join(result.stdout.split())


def test_help_lists_every_verb_and_the_exit_codes():
    result = run("--help")
    assert result.exit_code == 0
    for verb, text in VERBS.items():
        assert f"  {verb} " in result.stdout
        assert text in result.stdout
    assert "Exit codes: 0" in result.stdout


def test_version():
    assert run("--version").stdout == f"yolo-hw, version {__version__}\n"


def test_help_needs_no_torch():
    code = (
        "import sys; from yolo_hw.cli.main import main\n"
        "try: main(['--help'])\nexcept SystemExit as e: assert not e.code\n"
        "assert 'torch' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_info_json(files):
    document = json.loads(run("info", *files.arguments(), "--json").stdout)
    network = build(files.cfg.read_text())
    assert document["params"] == network.num_params == sum(layer["params"] for layer in document["layers"])
    assert document["flops"] == 2 * document["macs"] == sum(layer["flops"] for layer in document["layers"])
    assert [layer["shape"] for layer in document["layers"]] == [list(layer.shape) for layer in network.layers]
    assert document["heads"][0]["stride"] == [4, 4]
    assert document["weights"] == {"version": [0, 2], "seen": 0}


def test_info_table_names_every_layer(files):
    result = run("info", *files.arguments())
    assert result.exit_code == 0
    for layer in build(files.cfg.read_text()).layers:
        assert layer.name in result.stdout


def test_warnings_of_a_lenient_cfg_go_to_stderr(files, tmp_path):
    (tmp_path / "x.cfg").write_text(files.cfg.read_text().replace("batch=64", "batch=64\nwarmup_magic=1"))
    assert run("info", "--cfg", tmp_path / "x.cfg").exit_code == EXIT_BAD_INPUT
    result = run("info", "--cfg", tmp_path / "x.cfg", "--lenient", "--json")
    assert result.exit_code == 0
    assert "warning: x.cfg:3 [net]: unknown key 'warmup_magic' skipped" in result.stderr
    json.loads(result.stdout)


def test_compile_warns_too_and_takes_any_file_name(files, tmp_path):
    cfg = tmp_path / "my net.cfg"
    cfg.write_text(files.cfg.read_text().replace("[net]", "[net]\nflavour=1"))
    arguments = files.arguments(cfg=cfg, calib=files.images, out=tmp_path / "out", skip="csim")
    result = run("compile", *arguments, "--lenient")
    assert result.exit_code == 0, result.output
    assert "warning: " in result.stderr
    assert "'flavour' skipped" in result.stderr
    assert json.loads((tmp_path / "out" / "network.json").read_text())["graph"]["name"] == "my_net"


def test_compile_json(bundle):
    out, document = bundle
    assert document["out"] == str(out)
    assert document["verify"]["passed"]
    assert document["calibration_images"] == 2
    assert document["skipped_images"] == 0
    statuses = {check["name"]: check["status"] for check in document["verify"]["checks"]}
    assert statuses.pop("csim") == "skipped"
    assert set(statuses.values()) == {"passed"}


def test_verify_json_and_exit_code(bundle):
    out, _ = bundle
    result = run("verify", out, "--skip", "csim", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["passed"] is True


def test_verify_of_a_tampered_bundle_has_exit_code_1(bundle, tmp_path):
    import shutil

    out, _ = bundle
    copy = tmp_path / "bundle"
    shutil.copytree(out, copy)
    data = bytearray((copy / "ddr/params.bin").read_bytes())
    data[0] ^= 1
    (copy / "ddr/params.bin").write_bytes(data)
    result = run("verify", copy, "--skip", "csim", "--json")
    assert result.exit_code == EXIT_DIFFERENCE == 1
    document = json.loads(result.stdout)
    assert document["passed"] is False
    failed = [check for check in document["checks"] if check["status"] == "failed"]
    assert any("ddr/params.bin" in check["detail"] for check in failed)
    process = run_process("verify", copy, "--skip", "csim")
    assert process.returncode == 1
    assert "NOT VALID" in process.stdout
    assert "Traceback" not in process.stderr


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.write_text("x"), lambda p: p.mkdir()])
@pytest.mark.parametrize("verb", ["verify", "inspect"])
def test_what_is_no_bundle_has_exit_code_2(tmp_path, verb, make):
    make(tmp_path / "bundle")
    result = run(verb, tmp_path / "bundle")
    assert result.exit_code == EXIT_BAD_INPUT
    assert result.stderr.startswith("error: ")
    assert str(tmp_path / "bundle") in result.stderr


def test_inspect_json(bundle):
    out, compiled = bundle
    document = json.loads(run("inspect", out, "--json").stdout)
    assert sum(layer["macs"] for layer in document["layers"]) == compiled["macs"]
    assert all(0 <= layer["utilisation"] <= 1 for layer in document["layers"])
    for options in ([], ["--memory"]):
        result = run("inspect", out, *options)
        assert result.exit_code == 0
        assert "conv_0" in result.stdout


def test_compiling_again_replaces_the_bundle_with_the_same_bytes(files, bundle, tmp_path):
    first, _ = bundle
    out = tmp_path / "out"
    for _ in range(2):
        arguments = files.arguments(calib=files.images, out=out, skip="csim")
        assert run("compile", *arguments).exit_code == 0
    names = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(out) for path in out.rglob("*") if path.is_file())
    assert all((first / name).read_bytes() == (out / name).read_bytes() for name in names)
    assert list(tmp_path.iterdir()) == [out]


def test_skipped_checks_are_counted(bundle):
    out, _ = bundle
    result = run("verify", out, "--skip", "csim", "--skip", "engine-scalar")
    assert result.exit_code == 0
    assert "checks passed, 2 skipped" in result.stdout
    assert "every check passed" not in result.stdout


def test_inspect_memory_json_has_every_tensor(bundle):
    out, _ = bundle
    tensors = json.loads(run("inspect", out, "--memory", "--json").stdout)["tensors"]
    stated = json.loads((out / "ddr" / "memmap.json").read_text())["tensors"]
    assert {t["tensor"]: (t["offset"], t["bytes"]) for t in tensors} == {
        t["name"]: (t["offset"], t["bytes"]) for t in stated
    }


def test_compile_searches_and_goes_on(files, tmp_path):
    arguments = files.arguments(calib=files.images, out=tmp_path / "out", skip="csim", search=1e-6)
    arguments += ["--search-log", str(tmp_path / "log.json")]
    result = run("compile", *arguments, "--json")
    assert result.exit_code == 0, result.stderr
    (trial,) = json.loads(result.stdout)["search"]
    assert trial["setting"] == "as given"
    assert trial["best"] is True
    rows = json.loads((tmp_path / "log.json").read_text())["rows"]
    assert [row["score"] for row in rows] == [trial["head_db"]]
    result = run("compile", *arguments)
    assert result.exit_code == 0, result.stderr
    assert "as given" in result.stdout
    assert json.loads((tmp_path / "log.json").read_text())["rows"] == rows


def test_a_search_log_needs_a_search(files, tmp_path):
    arguments = files.arguments(calib=files.images, out=tmp_path / "out")
    result = run("compile", *arguments, "--search-log", tmp_path / "log.json")
    assert result.exit_code == EXIT_BAD_INPUT
    assert "--search-log has no effect without --search" in result.stderr


@pytest.mark.parametrize(
    "options",
    [["--adaround", "5", "--w-bits", "4", "--equalise", "1"],
     ["--equalise-by", "weights", "--absorb-biases", "--observer", "kl"],
     ["--bias-correction-by", "batch_norm"]],
)  # fmt: skip
def test_compile_takes_the_options_of_quantisation(files, tmp_path, options):
    out = tmp_path / "out"
    result = run("compile", *files.arguments(calib=files.images, out=out, skip="csim"), *options, "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["verify"]["passed"]
