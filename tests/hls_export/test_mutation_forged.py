# SPDX-License-Identifier: Apache-2.0
"""Faults behind consistent digests, descriptors and texts: only the check of the meaning can find them."""

import dataclasses
import functools
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from support.bundle import edit_arrays, edit_json, failures, forge_manifest, regenerate_texts, rewrite, write_bundle
from support.cfg_graph import cfg_graph, feature_cfg

from hls_export.bundle.descriptor import RECORD_BYTES, Descriptor, field_offset
from yolo_hw.fixedpoint import Overflow, Rounding
from yolo_hw.intgraph import IntGraph, NumericContract

WORDS = [
    (field.name, field_offset(field.name) + 4 * i)
    for field in dataclasses.fields(Descriptor)
    for i in range(4 if isinstance(field.default, tuple) else 1)
]


def block_of(bundle: Path, node: str) -> dict:
    program = json.loads((bundle / "network.json").read_text())["program"]
    return next(command["params"] for command in program if command["node"] == node)


def add(image: bytearray, at: int, value: int) -> None:
    """Add to a little-endian 32-bit word."""
    word = int.from_bytes(image[at : at + 4], "little") + value
    image[at : at + 4] = (word % 2**32).to_bytes(4, "little")


def swap_lanes(image: bytearray, block: dict) -> None:
    """Exchange the first two differing neighbours of the first weight tile."""
    at = next(i for i in range(block["offset"], block["offset"] + 256) if image[i] != image[i + 1])
    image[at], image[at + 1] = image[at + 1], image[at]


# conv_2 has 8 x 8 x 1 x 1 weights in one 16 x 16 tile: rows of 16 bytes, of which 8 rows of 8 bytes are used.
IMAGE_FAULTS = {
    "swapped lanes": (swap_lanes, r"conv_2: weight \(\d+, \d+, 0, 0\) must be -?\d+ as in params\.npz, got -?\d+"),
    "weight": (lambda i, b: add(i, b["offset"], 1), r"conv_2: weight \(0, 0, 0, 0\) must be"),
    "padding lane": (lambda i, b: add(i, b["offset"] + 8, 1), "conv_2: weight tile 0 has non-zero padding"),
    "padding row": (lambda i, b: add(i, b["offset"] + 8 * 16, 1), "conv_2: weight tile 0 has non-zero padding"),
    "first input tile": (lambda i, b: add(i, b["tile_table"], 1), "conv_2: .*tile"),
    "tile count": (lambda i, b: add(i, b["tile_table"] + 4, 1 << 20), "conv_2: tile table entry 0 is invalid"),
    "tile address": (lambda i, b: add(i, b["tile_table"] + 8, 1 << 30), "conv_2: bytes .* lie outside of its param"),
    "bias": (lambda i, b: add(i, b["channel_table"] + 8 * 3, -1), r"conv_2: bias \(3,\) must be"),
    "shift off by one": (
        lambda i, b: add(i, b["channel_table"] + 8 * 5 + 4, 1),
        r"conv_2: output shift \(5,\) must be",
    ),
    "channel padding": (
        lambda i, b: add(i, b["channel_table"] + 8 * 8, 1),
        "conv_2: the channel table's padding is not",
    ),
}


@pytest.mark.parametrize("kind", IMAGE_FAULTS)
def test_a_fault_in_the_parameter_image_is_found(bundle: Path, kind: str):
    change, message = IMAGE_FAULTS[kind]
    block = block_of(bundle, "conv_2")
    rewrite(bundle, change_image=lambda image: change(image, block))
    found = failures(bundle)
    assert set(found) == {"params", "plan"}  # digests, CRC, descriptors and texts agree with the fault
    assert re.search(message, found["params"]), found["params"]


def test_a_fault_in_an_activation_table_is_found(bundle: Path):
    block = block_of(bundle, "conv_1")
    rewrite(bundle, change_image=lambda image: add(image, block["table"] + 2 * 200, 1))
    found = failures(bundle)
    assert found["params"] == "ddr/params.bin: conv_1: the activation table differs from params.npz"


def test_a_fault_in_alignment_bytes_is_found(bundle: Path):
    block = block_of(bundle, "conv_2")
    at = block["tile_table"] + 16  # one entry of 16 bytes, then zeros up to the next 64
    rewrite(bundle, change_image=lambda image: add(image, at, 1))
    assert failures(bundle) == {"plan": f"ddr/params.bin: byte {at} is not what params.npz packs to"}


def test_a_wrong_block_checksum_is_found(bundle: Path):
    edit_json(bundle / "network.json", lambda d: d["program"][0]["params"].update(crc32=0))
    regenerate_texts(bundle)
    assert failures(bundle)["params"] == "ddr/params.bin: conv_0: the block's CRC-32 is not the stated one"


@pytest.mark.parametrize(("name", "at"), WORDS, ids=[f"{name}-{at}" for name, at in WORDS])
def test_every_descriptor_word_is_compared(bundle: Path, name: str, at: int):
    path = bundle / "ddr/descriptors.bin"
    record = 3  # shortcut_3
    data = bytearray(path.read_bytes())
    add(data, RECORD_BYTES * record + at, 1)
    path.write_bytes(data)
    regenerate_texts(bundle)
    found = failures(bundle)
    assert set(found) == {"descriptors"}
    if name == "magic":
        assert found["descriptors"] == "ddr/descriptors.bin: record 3 must start with 0x31574859, got 0x3157485a"
    else:
        assert found["descriptors"].startswith(f"ddr/descriptors.bin: record 3 (shortcut_3): field {name} (expected ")


def test_overlapping_buffers_are_found(bundle: Path):
    """conv_0 is read again by shortcut_3; conv_2, written between, is moved onto it."""

    def overlap(document: dict) -> None:
        places = {tensor["name"]: tensor for tensor in document["tensors"]}
        places["conv_2"]["offset"] = places["conv_0"]["offset"]

    rewrite(bundle, overlap)
    found = failures(bundle)
    assert set(found) == {"memory", "plan"}
    assert found["memory"].startswith("memory map: record 3 reads conv_0 at byte ")
    assert found["memory"].endswith("but conv_2 has written there last")
    assert found["plan"].startswith("plan: tensor conv_2: offset must be ")


MAP_FAULTS = {
    "misaligned": ("offset", lambda v: v + 4, "must start at a multiple of 16, got"),
    "too short": ("bytes", lambda v: v - 16, "conv_2 needs 4096 bytes, the map gives it 4080"),
    "outside": ("offset", lambda v: 1 << 24, "the activation memory has"),
    "wide elements": ("element_bytes", lambda v: 2, "conv_2 needs"),
}


@pytest.mark.parametrize("kind", MAP_FAULTS)
def test_a_fault_in_the_memory_map_is_found(bundle: Path, kind: str):
    key, change, message = MAP_FAULTS[kind]

    def fault(document: dict) -> None:
        place = next(tensor for tensor in document["tensors"] if tensor["name"] == "conv_2")
        place[key] = change(place[key])

    rewrite(bundle, fault)
    found = failures(bundle)
    assert set(found) == {"memory", "plan"}
    assert "conv_2" in found["memory"]
    assert message in found["memory"]


@pytest.mark.parametrize("key", ["first_record", "last_record"])
def test_a_wrong_lifetime_is_found(bundle: Path, key: str):
    edit_json(bundle / "network.json", lambda d: d["tensors"][2].update({key: d["tensors"][2][key] + 1}))
    regenerate_texts(bundle)
    found = failures(bundle)
    assert set(found) == {"plan"}
    assert f"tensor conv_1: {key} must be" in found["plan"]


@pytest.mark.parametrize("key", ["tile_h", "tile_w"])
def test_a_wrong_tile_is_found(bundle: Path, key: str):
    rewrite(bundle, lambda d: d["program"][0].update({key: d["program"][0][key] + 1}))
    found = failures(bundle)
    assert set(found) == {"plan"}
    assert "record 0 (conv_0): tile must be" in found["plan"]


@pytest.mark.parametrize("key", ["lo", "hi", "bits", "channel"])
def test_a_wrong_proof_is_found(bundle: Path, key: str):
    edit_json(bundle / "network.json", lambda d: d["proofs"][2].update({key: d["proofs"][2][key] + 1}))
    forge_manifest(bundle)
    found = failures(bundle)
    assert found["proofs"].startswith("proofs: conv_2: recomputed ")
    assert set(found) == {"proofs", "texts"}


@pytest.mark.parametrize("role", ["weight", "bias", "table"])
def test_a_changed_array_is_found(bundle: Path, role: str):
    def change(arrays: dict) -> None:
        arrays[f"conv_1.{role}"].flat[7] ^= 1

    edit_arrays(bundle / "params.npz", change)
    forge_manifest(bundle)
    found = failures(bundle)
    assert {"params", "plan", "texts"} <= set(found)
    assert "conv_1" in found["params"]


@functools.cache
def variants() -> dict[str, tuple[str, IntGraph]]:
    """Return networks that differ from the bundle's in one point, and the first layer that shows it."""
    base = cfg_graph(feature_cfg())

    def with_node(name: str, **fields: object) -> IntGraph:
        nodes = tuple(dataclasses.replace(n, **fields) if n.name == name else n for n in base.nodes)
        return dataclasses.replace(base, nodes=nodes)

    conv, leaky = base.node("conv_2"), base.node("conv_0").act
    weight = conv.weight.copy()
    weight[[0, 1]] = weight[[1, 0]]
    return {
        "rounding": ("conv_0", cfg_graph(feature_cfg(), rounding=Rounding.FLOOR)),
        "ties": ("conv_1", cfg_graph(feature_cfg(), rounding=Rounding.HALF_EVEN)),
        "overflow": ("conv_2", dataclasses.replace(base, contract=NumericContract(overflow=Overflow.WRAP))),
        "shift off by one": ("conv_2", with_node("conv_2", w_frac=conv.w_frac + (np.arange(8) == 5))),
        "exchanged channels": ("conv_2", with_node("conv_2", weight=weight)),
        "bias": ("conv_2", with_node("conv_2", bias=conv.bias + 64)),
        "slope": ("conv_0", with_node("conv_0", act=dataclasses.replace(leaky, slope_mul=26, slope_shift=8))),
        "order of a concat": ("route_9", with_node("route_9", inputs=tuple(reversed(base.node("route_9").inputs)))),
        "slice": ("route_4", with_node("route_4", start=0, stop=4)),
    }


@pytest.mark.parametrize("kind", variants())
def test_golden_vectors_of_another_arithmetic_are_found(pristine: Path, tmp_path: Path, kind: str):
    """A bundle that agrees with itself, but computes something else than its golden vectors say."""
    layer, graph = variants()[kind]
    folder = tmp_path / "variant"
    write_bundle(graph, folder)
    shutil.rmtree(folder / "golden")
    shutil.copytree(pristine / "golden", folder / "golden")
    golden = json.loads((pristine / "network.json").read_text())["golden"]
    edit_json(folder / "network.json", lambda d: d.update(golden=golden))
    forge_manifest(folder)
    found = failures(folder)
    assert set(found) == {"golden"}
    assert f"{layer}.out.bin: layer {layer} channel " in found["golden"] or f"{layer}.acc.bin" in found["golden"]


def test_forged_statistics_are_found(bundle: Path):
    edit_json(bundle / "network.json", lambda d: d["golden"]["cases"][1]["tensors"][3].update(ties=123456))
    forge_manifest(bundle)
    assert failures(bundle) == {"golden": "golden: case all_max: the statistics of conv_2 are not those of its codes"}


@pytest.mark.parametrize("case", ["image0", "all_min"])
def test_a_removed_golden_case_is_found(bundle: Path, case: str):
    shutil.rmtree(bundle / "golden" / case)
    edit_json(
        bundle / "network.json",
        lambda d: d["golden"].update(cases=[c for c in d["golden"]["cases"] if c["case"] != case]),
    )
    edit_json(
        bundle / "manifest.json",
        lambda d: d.update(files=[f for f in d["files"] if not f["path"].startswith(f"golden/{case}/")]),
    )
    regenerate_texts(bundle)
    assert set(failures(bundle)) == {"golden"}
    assert "there must be an image and each of all_max, all_min, checkerboard once" in failures(bundle)["golden"]
