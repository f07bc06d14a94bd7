# SPDX-License-Identifier: Apache-2.0
"""Array files: reproducible bytes, and one clear error for whatever is wrong with a file."""

import io
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yolo_hw.errors import GraphError
from yolo_hw.intgraph.arrays import pack_arrays, read_arrays, write_arrays

ARRAYS = {
    "conv_0.weight": np.arange(-12, 12, dtype=np.int16).reshape(2, 3, 2, 2),
    "conv_0.bias": np.array([2**31 - 1, -(2**31)], np.int32),
    "a.table": np.arange(16, dtype=np.uint8),
    "scalar": np.array(7, np.int64),
    "empty": np.zeros((0, 3), np.int8),
}


def packed(arrays=None):
    buffer = io.BytesIO()
    pack_arrays(buffer, ARRAYS if arrays is None else arrays)
    return buffer.getvalue()


def npy(header, payload=b"", version=b"\x01\x00"):
    """Return an .npy file with any header text."""
    text = header.encode() + b"\n"
    return b"\x93NUMPY" + version + len(text).to_bytes(2, "little") + text + payload


def archive_of(data, name="x.npy", compression=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr(name, data)
    return buffer.getvalue()


def read(tmp_path, data):
    path = tmp_path / "arrays.npz"
    path.write_bytes(data)
    return read_arrays(path)


def test_a_round_trip_keeps_everything(tmp_path):
    write_arrays(tmp_path / "a.npz", ARRAYS)
    found = read_arrays(tmp_path / "a.npz")
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found[name], array)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as other:
        np.testing.assert_array_equal(other["conv_0.weight"], ARRAYS["conv_0.weight"])


def test_equal_arrays_give_equal_bytes():
    shuffled = dict(reversed(ARRAYS.items()))
    shuffled["conv_0.bias"] = ARRAYS["conv_0.bias"].astype(">i4")
    shuffled["conv_0.weight"] = np.asfortranarray(ARRAYS["conv_0.weight"])
    assert packed() == packed(shuffled)


HEADER = "{'descr': '%s', 'fortran_order': %s, 'shape': %s, }"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (npy(HEADER % ("<i2", False, "(1000000000000,)"), bytes(8)), "needs 2000000000000 bytes, found 8"),
        (npy(HEADER % ("<i2", False, "(4611686018427387904, 8)"), bytes(8)), "needs"),
        (npy(HEADER % ("|i1", False, "(-2, -4)"), bytes(8)), "shape"),
        (npy(HEADER % ("<i2", False, "(3,)"), bytes(8)), "needs 6 bytes, found 8"),
        (npy(HEADER % ("<i2", False, "(5,)"), bytes(8)), "needs 10 bytes, found 8"),
        (npy(HEADER % ("<f4", False, "(2,)"), bytes(8)), "integer array, got float32"),
        (npy(HEADER % ("|b1", False, "(8,)"), bytes(8)), "integer array, got bool"),
        (npy(HEADER % ("|O", False, "(1,)"), b"\x80\x04N."), "integer array, got object"),
        (npy(HEADER % ("<i2", True, "(2, 2)"), bytes(8)), "row-major"),
        (npy(HEADER % ("<i2", False, "(4,)"), bytes(8), b"\x02\x00"), "not an npy array"),
        (npy("{'descr': '<i2'}", bytes(8)), "not an npy array"),
        (npy("{'descr': '<i2', 'fortran_order': False, 'shape': (4", bytes(8)), "not an npy array"),
        (npy("__import__('os').abort()", bytes(8)), "not an npy array"),
        (npy(HEADER % ("<i2,<i2", False, "(2,)"), bytes(8)), "array"),
        (b"\x93NUMPY", "not an npy array"),
        (b"", "not an npy array"),
        (b"garbage, not numpy", "not an npy array"),
    ],
)
def test_members_that_are_no_integer_arrays_are_named(tmp_path, data, message):
    with pytest.raises(GraphError, match=f"x.npy: .*{message}"):
        read(tmp_path, archive_of(data))


def test_pickles_are_never_loaded(tmp_path):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.array([print], object), allow_pickle=True)
    with pytest.raises(GraphError, match="integer array, got object"):
        read(tmp_path, archive_of(buffer.getvalue()))


def test_archives_that_hold_something_else_are_refused(tmp_path):
    good = npy(HEADER % ("|i1", False, "(8,)"), bytes(8))
    for data, message in (
        (archive_of(good, "x.txt"), "every member must be an .npy array, got x.txt"),
        (archive_of(good, compression=zipfile.ZIP_DEFLATED), "must be stored uncompressed"),
        (b"", "not an npz file"),
        (b"PK\x03\x04 and so on", "not an npz file"),
    ):
        with pytest.raises(GraphError, match=message):
            read(tmp_path, data)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_may_occur_once(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for value in (b"\x00", b"\x01"):
            archive.writestr("x.npy", npy(HEADER % ("|i1", False, "(1,)"), value))
    with pytest.raises(GraphError, match="one occurs twice"):
        read(tmp_path, buffer.getvalue())


def test_missing_files_are_named(tmp_path):
    with pytest.raises(GraphError, match=r"none.npz: cannot read"):
        read_arrays(tmp_path / "none.npz")
    with pytest.raises(GraphError, match="cannot read"):
        read_arrays(tmp_path)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@given(st.integers(0, len(packed())))
def test_truncated_files_are_refused(scratch, length):
    if length == len(packed()):
        assert read(scratch, packed()).keys() == ARRAYS.keys()
    else:
        with pytest.raises(GraphError, match=r"arrays.npz"):
            read(scratch, packed()[:length])


HEADER_PIECES = [
    "{",
    "}",
    "(",
    ")",
    "'descr': ",
    "'<i2'",
    "'fortran_order': ",
    "False",
    "'shape': ",
    "8L",
    ",",
    "-1",
    '"',
]
HEADER_PIECES += ["\n  ", "\\", "#", "0x", "True", "b''", "[", "]", "é", "\t", "'|i1', ", "(8,)"]


@settings(max_examples=400)
@given(st.lists(st.sampled_from(HEADER_PIECES), max_size=14).map("".join))
def test_any_header_text_gives_an_error_or_an_array(scratch, header):
    text = header if len(header) % 2 else f"{{'descr': '|i1', 'fortran_order': False, 'shape': (8,), {header}"
    try:
        found = read(scratch, archive_of(npy(text, bytes(8))))
    except GraphError:
        return
    assert found["x"].dtype.kind == "i"


@settings(max_examples=500)
@given(st.lists(st.tuples(st.integers(0, len(packed()) - 1), st.integers(1, 255)), min_size=1, max_size=4))
def test_damaged_bytes_give_an_error_or_the_same_arrays(scratch, flips):
    """The zip checksum covers the arrays, so damage is either found or lies where it does not matter."""
    data = bytearray(packed())
    for place, flip in flips:
        data[place] ^= flip
    try:
        found = read(scratch, bytes(data))
    except GraphError:
        return
    for name, array in found.items():
        if name in ARRAYS:
            np.testing.assert_array_equal(array, ARRAYS[name])
