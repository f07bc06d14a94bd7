# SPDX-License-Identifier: Apache-2.0
"""``yolo-hw prune``: what it prints and writes, what it refuses; training with what pruning needs."""

import json

import numpy as np
import pytest
import torch
from support.cli_runs import run
from support.data import data_path, real_network
from support.one_thread import one_thread  # noqa: F401 - a fixture

from yolo_hw import assets
from yolo_hw.cli.prune_options import EAGLEEYE, METHOD_NAMES
from yolo_hw.cli.train_extras import make_extras, parse_sparsity
from yolo_hw.errors import PruneError
from yolo_hw.nn import load_darknet
from yolo_hw.prune.darknet_surgery import darknet_groups
from yolo_hw.prune.gamma_sparsity import Decay, Penalty
from yolo_hw.prune.layer_shapes import layer_shapes
from yolo_hw.prune.mask_file import load_masks, save_masks
from yolo_hw.prune.masks import mask_report
from yolo_hw.train.errors import TrainError
from yolo_hw.train.run import train_detector
from yolo_hw.train.run_options import DetectorRun

PARTS = ["--cfg", assets.PARTS_CFG, "--weights", assets.PARTS_WEIGHTS]
RESULTS = ["channels.png", "costs.png", "parts.cfg", "parts.weights", "prune.json", "report.md"]
CHANNELS = ["--ratio", 0.5, "--runs", 0]


def prune(*options, network=PARTS):
    return run("prune", *network, *options)


def prune_well(*options, network=PARTS):
    result = prune(*options, network=network)
    assert result.exit_code == 0, result.stderr
    return result


def test_the_results_load_and_are_regular(tmp_path):
    out = tmp_path / "out"
    printed = prune_well(*CHANNELS, "--tile", "16x8", "--narrow", "keep", "--out", out).stdout
    assert sorted(path.name for path in out.iterdir()) == RESULTS
    small, whole = load_darknet(out / "parts.cfg", out / "parts.weights"), load_darknet(*PARTS[1::2])
    record = json.loads((out / "prune.json").read_text("utf-8"))
    found = [sum(p.numel() for p in model.parameters()) for model in (whole, small)]
    assert [record["costs"]["params"][side] for side in ("before", "after")] == found
    assert found[1] < 0.6 * found[0]
    irregular = {(s.name, s.out_channels % 16) for s in layer_shapes(small) if s.out_channels % 16}
    assert irregular == {("conv_32", 1), ("conv_41", 1)}
    assert all(s.in_channels % 8 == 0 for s in layer_shapes(small)[1:])
    assert all(words in printed for words in ("detection head yolo_33", "input of the network", "tile 16x8"))
    assert "tile 16x8" in (out / "report.md").read_text("utf-8")


def test_a_second_run_gives_the_same_bytes_and_replaces_the_first(tmp_path):
    contents = []
    for ratio in (0.5, 0.3, 0.5):
        prune_well("--ratio", ratio, "--runs", 0, "--out", tmp_path / "out")
        contents.append([path.read_bytes() for path in sorted((tmp_path / "out").iterdir())])
    assert contents[0] == contents[2] != contents[1]


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    out = tmp_path / "out"
    prune_well(*CHANNELS, "--out", out)
    (out / "thesis.txt").write_text("years of work")
    result = prune(*CHANNELS, "--out", out)
    assert result.exit_code == 2
    assert "the folder holds thesis.txt" in result.stderr
    assert (out / "thesis.txt").read_text() == "years of work"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_a_dry_run_shows_the_groups_and_writes_nothing(tmp_path):
    shown = prune_well(*CHANNELS, "--dry-run", "--out", tmp_path / "out").stdout
    assert list(tmp_path.iterdir()) == []
    for group in darknet_groups(load_darknet(assets.PARTS_CFG)):
        assert f" {group} " in shown
    assert "rounded up from" in shown


def test_groups_are_shown_without_weights():
    result = run("prune", "--cfg", assets.PARTS_CFG, "--groups")
    groups = darknet_groups(load_darknet(assets.PARTS_CFG))
    assert result.stdout == groups.details() + "\n"
    document = json.loads(run("prune", "--cfg", assets.PARTS_CFG, "--groups", "--json").stdout)
    assert {name: entry["units"] for name, entry in document.items()} == {n: g.size for n, g in groups.items()}


def test_a_plan_is_carried_out_as_it_was_and_as_it_is_edited(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    prune_well(*CHANNELS, "--dead-bias", "carry", "--out", first)
    plan = first / "prune.json"
    prune_well("--plan", plan, "--runs", 0, "--out", second)
    for name in RESULTS:
        assert (first / name).read_bytes() == (second / name).read_bytes()
    document = json.loads(plan.read_text("utf-8"))
    group = next(entry for entry in document["groups"] if entry["name"] == "conv_12")
    group["kept"] = [1, 5, 9]
    (tmp_path / "edited.json").write_text(json.dumps(document))
    layers = json.loads(prune_well("--plan", tmp_path / "edited.json", "--dry-run", "--json").stdout)["layers"]
    assert layers["conv_12"] == [64, 3]


@pytest.mark.parametrize("kind", ["params", "macs", "bytes", "channels", "cycles"])
def test_budgets_are_met(kind):
    options = ["--budget", f"{kind}=0.6x", "--multiple-of", 4, "--tile", "8x8", "--dry-run", "--json"]
    document = json.loads(prune_well(*options).stdout)
    if kind == "channels":
        before, after = map(sum, zip(*document["layers"].values(), strict=True))
    else:
        figure = document["figures"]["bytes_int8" if kind == "bytes" else kind]
        before, after = figure["before"], figure["after"]
    assert 0.4 * before < after <= 0.6 * before


@pytest.mark.parametrize("method", [m for m in METHOD_NAMES if m != EAGLEEYE and not m.startswith("layer")])
def test_every_method_has_a_name_here(method, tmp_path):
    ratio = [] if method == "n-m" else ["--ratio", 0.4]
    extra = ["--exclude", "type:depthwise", "--pattern", "block(1x4)"] if method == "blocks" else []
    document = json.loads(prune_well("--method", method, *ratio, *extra, "--dry-run", "--json").stdout)
    if "masked" in document:
        assert 0.2 < document["masked"] / document["weights"] < 0.6
    else:
        assert document["figures"]["params"]["after"] < document["figures"]["params"]["before"]


def test_removed_blocks_are_recorded_and_read_back(tmp_path):
    cfg, weights = real_network("yolo-fastest-1.1")
    network, plan = ["--cfg", cfg, "--weights", weights], tmp_path / "out" / "prune.json"
    prune_well("--method", "layer", "--blocks", 1, "--runs", 0, "--out", tmp_path / "out", network=network)
    document = json.loads(plan.read_text("utf-8"))
    (block,) = document["removed_blocks"]
    assert block["layers"] == ["conv_25", "conv_26", "conv_27", "identity_28", "shortcut_29"]
    assert "- shortcut_29: conv_25, conv_26" in (tmp_path / "out" / "report.md").read_text("utf-8")
    prune_well("--plan", plan, "--dry-run", network=network)
    block["shortcut"] = "shortcut_34"
    (tmp_path / "edited.json").write_text(json.dumps(document), "utf-8")
    result = prune("--plan", tmp_path / "edited.json", "--dry-run", network=network)
    assert result.exit_code == 2
    assert "the blocks of shortcut_34 are to be removed, of this model those of shortcut_29 would be" in result.stderr


def test_metric_and_both_times_are_measured_with_data(labelled):
    options = ["--data", labelled, "--names", assets.PARTS_NAMES, "--max-images", 2, "--runs", 2, "--json"]
    figures = json.loads(prune_well("--ratio", 0.2, *options, "--out", labelled.parent / "out").stdout)["figures"]
    assert figures["ap50"]["before"] > 0.3
    assert 0 <= figures["ap50"]["after"] <= figures["ap50"]["before"]
    for key in ("seconds_float", "seconds_engine"):
        assert figures[key]["absent"] is None
        assert min(figures[key]["before"], figures[key]["after"]) > 0
    record = json.loads((labelled.parent / "out" / "prune.json").read_text())
    assert "seconds_float" not in record["costs"]
    assert record["costs"]["ap50"]["after"] == figures["ap50"]["after"]


@pytest.mark.parametrize("importance", ["activation", "taylor", "taylor-gate"])
def test_criteria_that_look_at_images(labelled, importance):
    options = ["--ratio", 0.4, "--dry-run", "--json", "--max-images", 2, "--importance", importance]
    images = (
        ["--images", labelled] if importance == "activation" else ["--data", labelled, "--names", assets.PARTS_NAMES]
    )
    layers = json.loads(prune_well(*options, *images).stdout)["layers"]
    assert sum(after for _, after in layers.values()) < 0.9 * sum(before for before, _ in layers.values())


@pytest.mark.parametrize("dead_bias", ["zero", "transfer", "carry"])
def test_verify_compares_masked_and_compact(files, dead_bias):
    options = ["--verify", "--dead-bias", dead_bias, "--dry-run", "--json", "--images", files.images]
    document = json.loads(prune_well("--ratio", 0.5, *options).stdout)
    largest = [max(d["interior"], d["border"]) / d["size"] for d in document["differences"]]
    assert [d["output"] for d in document["differences"]] == ["yolo_33", "yolo_42"]
    if dead_bias == "transfer":
        assert document["inexact_at_borders"]
        assert 1e-6 < max(largest) < 1
    else:
        assert not document["inexact_at_borders"]
        assert max(largest) < 1e-12


def test_verify_fails_where_models_differ_that_must_not(monkeypatch):
    monkeypatch.setattr("yolo_hw.prune.compare.EXACT", 0.0)
    assert prune("--ratio", 0.5, "--dead-bias", "carry", "--verify", "--dry-run").exit_code == 1


REFUSED = {
    "--ratio 1.0": "ratio must be at least 0 and below 1 (1 would leave nothing), got 1.0",
    "--ratio 0.5 --budget macs=0.5x": "either ratio or budget must be given, got both",
    "--ratio 0.5 --exclude conv_99": "no layer has such a name; did you mean 'conv_9'?",
    "--ratio 0.5 --include conv_32": "conv_32 cannot be pruned: detection head yolo_33",
    "": "method 'regular' needs a ratio or a budget, got neither",
    "--ratio 0.5 --multiple-of 128": "16 channels are fewer than the multiple 128",
    "--budget mac=0.5x": "kind must be one of channels, params, macs, bytes, cycles, got 'mac'; did you mean 'macs'?",
    "--budget macs": "--budget must be KIND=VALUE or KIND=SHAREx",
    "--budget macs=0.001x": "the least these groups can reach is",
    "--budget cycles=0.5x": "needs the accelerator's tile: give --tile TMxTN",
    "--ratio 0.5 --tile 5x5": "TM must be a multiple of 4",
    "--ratio 0.5 --pattern 2:4": "--pattern has no effect on --method regular",
    "--ratio 0.5 --importance taylor": "needs labelled images for gradients: give --data",
    "--ratio 0.5 --importance activation": "needs images: give --images or --data",
    "--method weights": "--method weights needs a --ratio",
    "--method weights --ratio 0.5 --candidates 3": "--candidates has no effect on --method weights",
    "--method weights --ratio 0.5 --policy union": "--policy has no effect on --method weights",
    "--method weights --ratio 0.5 --scope isomorphic": "isomorphic",
    "--method n-m --ratio 0.5": "--ratio has no effect on --method n-m",
    "--method n-m --pattern 4": "pattern must be",
    "--method blocks --ratio 0.5": "for example --exclude type:depthwise",
    "--plan missing.json": "missing.json: cannot read",
    "--ratio 0.5 --images nowhere": "nowhere",
}


@pytest.mark.parametrize("options", REFUSED)
def test_bad_requests_are_one_line_and_leave_nothing(options, tmp_path):
    result = prune(*options.split(), "--out", tmp_path / "new" / "out")
    assert result.exit_code == 2
    assert REFUSED[options] in result.stderr
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_masks_are_found_applied_and_kept_by_training(tmp_path, labelled):
    out = tmp_path / "out"
    prune_well("--method", "weights", "--ratio", 0.6, "--exclude", "conv_0", "--out", out)
    masks = load_masks(out / "masks.npz")
    pruned = load_darknet(out / "parts.cfg", out / "parts.weights")
    report = mask_report(pruned, masks)
    assert report.is_consistent
    assert report.total.masked == round(0.6 * report.total.total)
    assert "blocks.conv_0.conv.weight" not in masks
    options = {"cfg": out / "parts.cfg", "weights": out / "parts.weights", "data": labelled, "imgsz": 32, "epochs": 1}
    options |= {"warmup-epochs": 0, "batch": 4, "workers": 0, "out": tmp_path / "run", "names": assets.PARTS_NAMES}
    words = [str(part) for key, value in options.items() for part in (f"--{key}", value)]
    result = run("train", *words, "--masks", out / "masks.npz", "--sparsity", "1e-3:linear")
    assert result.exit_code == 0, result.stderr
    trained = load_darknet(tmp_path / "run" / "best.cfg", tmp_path / "run" / "best.weights")
    assert mask_report(trained, masks).is_consistent
    key = "blocks.conv_12.conv.weight"
    assert not torch.equal(trained.state_dict()[key], pruned.state_dict()[key])
    assert len(json.loads((tmp_path / "run" / "gammas.json").read_text("utf-8"))["epochs"]) == 1
    assert (tmp_path / "run" / "gammas.png").stat().st_size > 10_000
    arguments = (tmp_path / "run" / "args.toml").read_text("utf-8")
    assert 'sparsity = "1e-3:linear"' in arguments
    assert "gamma" in (tmp_path / "run" / "results.csv").read_text().splitlines()[0]


def test_mask_files_give_back_masks_and_refuse_others(tmp_path):
    masks = {"a.weight": torch.rand(3, 5, 3, 3) < 0.5, "b.bias": torch.tensor([True, False])}
    for name in ("one.npz", "two.npz"):
        save_masks(tmp_path / name, masks)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    found = load_masks(tmp_path / "one.npz")
    assert list(found) == list(masks)
    assert all(torch.equal(found[name], masks[name]) for name in masks)
    np.savez(tmp_path / "floats.npz", a=np.zeros(3))
    (tmp_path / "text.npz").write_text("no archive")
    with (tmp_path / "array.npz").open("wb") as file:
        np.save(file, np.zeros(3, bool))
    (damaged := bytearray((tmp_path / "one.npz").read_bytes()))[60:90] = bytes(30)
    (tmp_path / "damaged.npz").write_bytes(damaged)
    messages = {"array": "a file of masks", "damaged": "a file of masks"}
    messages |= {
        "floats": "'a' must be a mask of booleans, got float64",
        "text": "a file of masks",
        "no": "cannot read",
    }
    for name, message in messages.items():
        with pytest.raises(PruneError, match=message):
            load_masks(tmp_path / f"{name}.npz")


def test_sparsity_reaches_the_batch_norms_that_the_method_judges_by(tmp_path):
    model = load_darknet(*PARTS[1::2])
    extra, history = make_extras(model, {"sparsity": "2e-4:cosine"}, tmp_path)
    every = {f"blocks.{layer.name}.bn" for layer in model.network.layers if getattr(layer, "batch_normalize", False)}
    assert set(history.callback.names) == set(extra.callback.names) == every
    assert extra.regulariser is extra.callback
    assert (extra.callback.strength, extra.callback.schedule.decay) == (2e-4, Decay.COSINE)
    normal, _ = make_extras(model, {"sparsity": "0.06:fixed-norm:warmup=0.1:method=normal"}, tmp_path)
    alone = {f"blocks.{name}.bn" for name, group in darknet_groups(model).items() if len(group.members) == 1}
    assert set(normal.callback.names) == alone & every
    assert set(normal.callback.names) < every
    assert (normal.callback.penalty, normal.callback.schedule.warmup) == (Penalty.L1_OF_FIXED_NORM, 0.1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("much", "must start with a strength"),
        ("1e-4:cosin", "got 'cosin'; did you mean 'cosine'?"),
        ("1e-4:warmup=long", "warmup must be a share of the run"),
        ("1e-4:warmup=1", "warmup must be in"),
        ("1e-4:method=norml", "got 'norml'; did you mean 'normal'?"),
        ("1e-4:method=fpgm", "does not judge by batch-norm scales"),
        ("0", "finite and above 0, got 0"),
        ("inf", "finite and above 0, got inf"),
    ],
)
def test_sparsity_that_means_nothing_is_refused(text, message, tmp_path):
    with pytest.raises(PruneError, match=message.replace("?", r"\?")):
        parse_sparsity(text)
    options = ["--cfg", assets.PARTS_CFG, "--data", tmp_path, "--sparsity", text, "--out", tmp_path / "run"]
    assert run("train", *options).exit_code == 2
    assert not (tmp_path / "run").exists()


def test_a_run_with_extras_that_nobody_makes_is_refused(tmp_path):
    with pytest.raises(TrainError, match=r"the run has extras \(sparsity\), so make_extras must be given"):
        train_detector(DetectorRun(cfg=assets.PARTS_CFG, data=tmp_path, extras={"sparsity": "1"}), tmp_path / "run")


@pytest.fixture(scope="module")
def fastest(tmp_path_factory):
    """Yolo-Fastest, pruned: cfg and weights."""
    cfg, weights = real_network("yolo-fastest-1.1")
    out = tmp_path_factory.mktemp("fastest") / "out"
    options = ["--ratio", 0.4, "--multiple-of", 8, "--narrow", "keep", "--dead-bias", "carry", "--verify", "--runs", 2]
    options += ["--images", data_path("images"), "--max-images", 2, "--out", out]
    prune_well(*options, network=["--cfg", cfg, "--weights", weights])
    return out / cfg.name, out / weights.name


def test_a_real_network_becomes_regular(fastest):
    small, whole = load_darknet(*fastest), load_darknet(real_network("yolo-fastest-1.1")[0])
    counts = [sum(p.numel() for p in model.parameters()) for model in (small, whole)]
    assert counts[0] < 0.9 * counts[1]
    for old, new in zip(layer_shapes(whole), layer_shapes(small), strict=True):
        narrow_or_head = old.out_channels < 8 or old.out_channels == 255
        assert new.out_channels == old.out_channels if narrow_or_head else new.out_channels % 8 == 0


def test_opencv_loads_what_is_written_and_agrees(fastest):
    cv2 = pytest.importorskip("cv2")
    if not hasattr(cv2.dnn, "readNetFromDarknet"):
        pytest.skip("OpenCV reads darknet files up to version 4")
    model = load_darknet(*fastest, bn_eps=1e-6)
    x = np.random.default_rng(0).random((1, *model.network.input), np.float32)
    net = cv2.dnn.readNetFromDarknet(*map(str, fastest))
    net.setInput(x)
    with torch.inference_mode():
        ours = model(torch.from_numpy(x))
    found = net.forward([f"conv_{head.inputs[0]}" for head in model.network.heads])
    for theirs, expected in zip(found, ours, strict=True):
        assert np.abs(theirs - expected.numpy()).max() < 1e-4 * np.abs(expected.numpy()).max()
