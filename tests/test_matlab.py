"""The reader of MATLAB files: what SciPy reads from whole files, a ValueError from every damaged one."""

import struct
import zlib

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from facealign_lite.data import matlab
from facealign_lite.data.matlab import read_mat

RNG = np.random.default_rng(0)
NUMBERS = {f"a{i}": RNG.uniform(0, 100, shape).astype(kind) for i, (shape, kind) in enumerate([
    ((3, 68), "f8"), ((2, 5), "f4"), ((4, 19), "u1"), ((1, 1), "i4"), ((2, 3, 4), "u2"), ((0, 0), "f8"), ((1, 7), "i8"),
    ((1, 4), "u1"), ((5, 1), "?")])}
NAMES = np.array([["a.jpg"], ["0/b c.jpg"], ["é.png"]], object)


def big_endian(name, values):
    """One variable of doubles as another kind of computer writes it."""
    name = name.encode()
    parts = [struct.pack(">IIII", 6, 8, 6, 0), struct.pack(">IIii", 5, 8, *values.shape),
             struct.pack(">II", 1, len(name)) + name + b"\0" * (-len(name) % 8),
             struct.pack(">II", 9, 8 * values.size) + values.astype(">f8").tobytes("F")]
    body = b"".join(parts)
    return b" " * 116 + b"\0" * 8 + b"\x01\0MI" + struct.pack(">II", 14, len(body)) + body


@pytest.mark.parametrize("compress", [False, True])
def test_the_same_as_scipy_reads(tmp_path, compress):
    savemat(tmp_path / "a.mat", NUMBERS | {"names": NAMES, "word": "text", "other": {"a": 1}}, do_compression=compress)
    seen = read_mat(tmp_path / "a.mat", {*NUMBERS, "names", "word", "absent"})
    wanted = loadmat(tmp_path / "a.mat")
    assert set(seen) == {*NUMBERS, "names", "word"}
    for name in NUMBERS:
        assert seen[name].shape == wanted[name].shape
        np.testing.assert_array_equal(seen[name], wanted[name])
    assert seen["names"] == [str(cell[0]) for cell in wanted["names"].ravel()] == list(NAMES.ravel())
    assert seen["word"] == "text"


def test_the_other_order_of_bytes(tmp_path):
    values = np.arange(6.0).reshape(2, 3)
    (tmp_path / "a.mat").write_bytes(big_endian("xy", values))
    np.testing.assert_array_equal(read_mat(tmp_path / "a.mat", {"xy"})["xy"], values)
    np.testing.assert_array_equal(loadmat(tmp_path / "a.mat")["xy"], values)


@pytest.mark.parametrize("compress", [False, True])
def test_a_damaged_file_is_read_or_refused(tmp_path, compress):
    """Cut, or a byte changed, at every third place; SciPy's reader can end the process on such files."""
    path, faces = tmp_path / "a.mat", RNG.uniform(0, 99, (2, 12))
    savemat(path, {"points": faces, "names": NAMES}, do_compression=compress)
    whole = path.read_bytes()
    refused = 0
    for i in range(0, len(whole), 3):
        for damaged in (whole[:i], *(whole[:i] + bytes([whole[i] ^ flip]) + whole[i + 1:] for flip in (1, 0x80, 0xFF))):
            path.write_bytes(damaged)
            try:
                seen = read_mat(path, {"points", "names"})
            except ValueError as error:
                assert "a.mat" in str(error)
                refused += 1
            else:
                assert seen.get("points", faces).size == 24 and len(seen.get("names", NAMES)) == 3
    assert refused > len(whole) / 3


def element(kind, body):
    return struct.pack("<II", kind, len(body)) + body + b"\0" * (-len(body) % 8)


def variable(kind, shape, *parts, flags=0):
    return element(14, element(6, struct.pack("<II", kind | flags, 0)) + element(5, np.array(shape, "<i4").tobytes())
                   + element(1, b"x") + b"".join(parts))


def nested(depth):
    inner = variable(6, (1, 1), element(9, bytes(8)))
    for _ in range(depth):
        inner = variable(1, (1, 1), inner)
    return inner


PACKED = zlib.compress(bytes(1 << 20))


@pytest.mark.parametrize("content", [
    variable(6, (1 << 30, 1 << 30), element(9, bytes(8))), variable(6, (-1, -1), element(9, bytes(8))),
    variable(6, (1,), element(9, bytes(8))), variable(6, (1, 1), element(99, bytes(8))),
    variable(6, (1, 1), element(9, bytes(7))), variable(6, (1, 1)), variable(5, (1, 1), element(9, bytes(8))),
    variable(1, (1 << 30, 1)), variable(1, (1, 1), element(9, bytes(8))), nested(50), nested(2000),
    variable(6, (1, 1), element(9, bytes(8)), element(9, bytes(8)), flags=0x800),
    variable(4, (2, 2), element(4, bytes(8))), variable(4, (1, 2), element(16, b"\xff\xfe")),
    struct.pack("<II", 15, len(PACKED)) + PACKED, struct.pack("<II", 15, 40) + PACKED[:40],
    b"\0\0\x09\0" * 2, b"\1\2\3",
], ids=range(18))
def test_a_file_that_says_more_than_it_holds_is_refused(tmp_path, content, monkeypatch):
    monkeypatch.setattr(matlab, "LARGEST", 1 << 19)
    (tmp_path / "a.mat").write_bytes(b" " * 116 + b"\0" * 8 + b"\0\x01IM" + content)
    with pytest.raises(ValueError, match="a.mat"):
        read_mat(tmp_path / "a.mat", {"x"})


@pytest.mark.parametrize("content", [b"", b"MATLAB?" * 40, b"\x89HDF\r\n\x1a\n" * 30,
                                     b" " * 124 + b"\0\x02IM"])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "a.mat").write_bytes(content)
    with pytest.raises(ValueError, match="version 5 to 7"):
        read_mat(tmp_path / "a.mat", {"x"})
