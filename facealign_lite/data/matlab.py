"""MATLAB files of version 5 to 7, read with care: a damaged file is a ValueError and nothing worse.

SciPy's reader believes what a file says about itself, and a flipped bit in it can end the whole process. This one
reads what landmark sets need, plain numbers, text and cells of them, and checks every length before it follows it.
Layout: "MAT-File Format", The MathWorks; each element is a tag (type, bytes) and data, padded to 8 bytes.
"""

import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

LARGEST = 1 << 29         # bytes of a file or of a compressed variable; AFLW's index has 15 million
TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
TEXT = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16"}
MATRIX, COMPRESSED = 14, 15
CELL, CHAR, NUMBERS = 1, 4, range(6, 16)
DEEPEST = 4               # cells in cells

Value = NDArray | str | list


def read_mat(path: str | Path, wanted: set[str]) -> dict[str, Value]:
    """The variables called ``wanted``, as far as they are there.

    Returns:
        by name: numbers as arrays of MATLAB's shape, text as str, cells as lists in MATLAB's order (columns first).

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is not of version 5 to 7, is damaged, or a wanted variable is of another kind.
    """
    with open(path, "rb") as file:
        data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise ValueError(f"{path} must have at most {LARGEST} bytes")
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    if order is None or struct.unpack(order + "H", data[124:126])[0] != 0x0100:
        raise ValueError(f"{path} must be a MATLAB file of version 5 to 7")
    found: dict[str, Value] = {}
    try:
        for kind, body in _elements(data[128:], order):
            if kind == COMPRESSED:
                kind, body = next(_elements(_inflated(body), order), (0, b""))
            if kind == MATRIX and len(body):
                name, value = _matrix(body, order, wanted)
                if name in wanted:
                    found[name] = value
    except (ValueError, struct.error, zlib.error) as error:
        raise ValueError(f"{path} is a damaged MATLAB file: {error}") from None
    return found


def _inflated(body: bytes) -> bytes:
    stream = zlib.decompressobj()
    data = stream.decompress(body, LARGEST)
    if not stream.eof:
        raise ValueError(f"a variable is cut off, or has more than {LARGEST} bytes")
    return data


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """(type, bytes) one after the other."""
    at = 0
    while at < len(data):
        kind, size = struct.unpack_from(order + "II", data, at)
        if kind >> 16:                                     # a small one: size, type and up to 4 bytes in one tag
            kind, size, start, after = kind & 0xFFFF, kind >> 16, at + 4, at + 8
            if size > 4:
                raise ValueError(f"an element of {size} bytes in the place of 4")
        else:
            start = at + 8
            after = start + size + (0 if kind == COMPRESSED else -size % 8)
        if start + size > len(data):
            raise ValueError(f"an element of {size} bytes where {len(data) - start} are left")
        yield kind, data[start:start + size]
        at = after


def _matrix(body: bytes, order: str, wanted: set[str] | None, depth: int = 0) -> tuple[str, Value | None]:
    """Name and value of one variable; no value where the name is not wanted."""
    parts = _elements(body, order)
    flags, dimensions, name = (_part(parts) for _ in range(3))
    flags, shape = _numbers(flags, order), tuple(int(n) for n in _numbers(dimensions, order))
    name = name[1].decode("latin-1")
    if wanted is not None and name not in wanted:
        return name, None
    if len(flags) != 2 or flags.dtype.kind != "u" or not 2 <= len(shape) <= 8 or min(shape) < 0:
        raise ValueError(f"variable {name!r} has flags {flags.tolist()[:4]} and shape {shape[:9]}")
    kind, is_complex, count = int(flags[0]) & 0xFF, bool(int(flags[0]) & 0x800), math.prod(shape)
    if is_complex:
        raise ValueError(f"variable {name!r} is of complex numbers")
    if kind == CELL:
        if depth == DEEPEST:
            raise ValueError(f"variable {name!r} has cells in cells in cells")
        cells = [_cell(part, order, depth) for part in parts]
        if len(cells) != count:
            raise ValueError(f"variable {name!r} has {len(cells)} cells of {count}")
        return name, cells
    if kind == CHAR:
        type_, text = _part(parts)
        if type_ not in TEXT or len(shape) != 2 or shape[0] > 1:
            raise ValueError(f"variable {name!r} must be one line of text, got type {type_} and shape {shape}")
        code = TEXT[type_]
        return name, text.decode(code + ("-le" if order == "<" else "-be") if code == "utf-16" else code)
    if kind in NUMBERS:
        values = _numbers(_part(parts), order)
        if len(values) != count:
            raise ValueError(f"variable {name!r} has {len(values)} numbers of {count}")
        return name, values.reshape(shape, order="F")
    raise ValueError(f"variable {name!r} is of a kind that is not read, {kind}")


def _cell(part: tuple[int, bytes], order: str, depth: int) -> Value:
    if part[0] != MATRIX:
        raise ValueError(f"a cell is of type {part[0]}")
    return _matrix(part[1], order, None, depth + 1)[1] if len(part[1]) else np.zeros((0, 0))


def _part(parts: Iterator[tuple[int, bytes]]) -> tuple[int, bytes]:
    part = next(parts, None)
    if part is None:
        raise ValueError("a variable ends too soon")
    return part


def _numbers(part: tuple[int, bytes], order: str) -> NDArray:
    kind, data = part
    if kind not in TYPES:
        raise ValueError(f"numbers of type {kind}")
    return np.frombuffer(data, np.dtype(TYPES[kind]).newbyteorder(order)).astype(TYPES[kind])
