"""Arguments that no caller should give and some caller does: made from good ones, by a seeded generator."""

from dataclasses import is_dataclass
from typing import Any

import numpy as np
import torch

HUGE, TINY = 1e300, 1e-300
WRONG = (None, "", "text", b"bytes", object(), {}, {"a": 1}, set(), (), [], [[]], [[1], [1, 2]], [None], Ellipsis, len,
         1j, True, float("nan"), float("inf"), -float("inf"), -1, 0, 0.5, 10**30, -10**30, 1e-200, 1e200, 2**31, "68",
         np.float32(3), np.int8(-3), np.datetime64("2026-01-01"), np.array("a"), np.array([]), np.zeros((0, 2)),
         np.zeros((3, 0, 2)), np.array(None), torch.tensor(float("nan")), torch.zeros(0), torch.nn.Linear(1, 1))
KINDS = ("float16", "float32", "float64", "longdouble", ">f8", ">f4", "int8", "uint8", ">i2", "int64", "uint64", "bool",
         "complex128", "object", "str")
TENSORS = ("float16", "bfloat16", "float32", "float64", "int8", "uint8", "int64", "bool", "complex64")


NUMBERS = (lambda v: v * -1, lambda v: v * HUGE, lambda v: v * TINY, float, np.float32, np.int64, str, lambda v: [v],
           torch.tensor, lambda v: v + 0.5, lambda v: np.nan, lambda v: np.inf)


class OneOf(tuple):
    """Good values of an argument and odd ones, of which one is taken at random and spoiled now and then."""


def spoiled(rng, good):
    """A relative of a good argument, or something wholly else."""
    if isinstance(good, OneOf):
        one = good[rng.integers(len(good))]
        return spoiled(rng, one) if rng.random() < 0.3 else one
    if rng.random() < 0.75 and isinstance(good, (list, tuple, dict)) and good:
        return _part_spoiled(rng, good)
    if rng.random() < 0.25 or isinstance(good, bool) or not isinstance(good, (np.ndarray, torch.Tensor, float, int)):
        return WRONG[rng.integers(len(WRONG))]
    if isinstance(good, (float, int)):
        change = NUMBERS[rng.integers(len(NUMBERS))]
        try:
            return change(good)
        except (OverflowError, ValueError):                                # no such number in that type
            return np.nan
    array = np.array(good.detach() if isinstance(good, torch.Tensor) else good)
    for _ in range(rng.integers(1, 3)):
        try:
            array = CHANGES[rng.integers(len(CHANGES))](rng, array)
        except (ValueError, TypeError, OverflowError, IndexError):         # NumPy itself does not make it
            pass
    return array


def _part_spoiled(rng, good):
    """A list or dict of which one part is spoiled, missing or there twice."""
    if isinstance(good, dict):
        keys = list(good)
        key, way = keys[rng.integers(len(keys))], rng.integers(4)
        rest = {k: v for k, v in good.items() if k != key}
        return rest if way == 0 else rest | {"other": good[key]} if way == 1 else good | {key: spoiled(rng, good[key])}
    at, way, parts = rng.integers(len(good)), rng.integers(6), list(good)
    if way == 0:
        del parts[at]
    elif way == 1:
        parts.append(parts[at])
    else:
        parts[at] = spoiled(rng, parts[at])
    return type(good)(parts)


def spoiled_json(rng, value):
    """What was read from JSON, with another value somewhere in it."""
    if isinstance(value, (dict, list)) and value and rng.random() < 0.8:
        changed = _part_spoiled(rng, value) if rng.random() < 0.3 else value.copy()
        keys = list(changed) if isinstance(changed, dict) else range(len(changed))
        if len(keys):
            key = keys[rng.integers(len(keys))]
            changed[key] = spoiled_json(rng, changed[key])
        return changed
    return NO_RECORD[rng.integers(len(NO_RECORD))]


NO_RECORD = (None, True, 0, -1, 1.5, 10**30, 1e308, float("nan"), float("inf"), "", "text", "x" * 5000, [], {}, [[]],
             [None], {"a": {}}, [1, 2], [[[[1]]]], "1e400", -(10**400))


def _at_random(value):
    def change(rng, array):
        if array.size and array.dtype.kind in "fc":
            array = array.copy()
            array.flat[rng.integers(array.size)] = value
        return array
    return change


def _cast(rng, array):
    with np.errstate(all="ignore"):
        return array.astype(KINDS[rng.integers(len(KINDS))])


def _tensor(rng, array):
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub" or array.dtype.itemsize > 8:
        return array
    kind = getattr(torch, TENSORS[rng.integers(len(TENSORS))])
    tensor = torch.from_numpy(np.array(array, array.dtype.newbyteorder("="), order="C")).to(kind)
    if tensor.is_floating_point() and rng.random() < 0.5:
        tensor.requires_grad_()
    return tensor


def _array_only(change):
    return lambda rng, array: change(rng, array) if isinstance(array, np.ndarray) and array.size else array


CHANGES = tuple(_array_only(change) for change in (
    _cast, _cast, _tensor, _tensor, _at_random(np.nan), _at_random(np.inf), _at_random(HUGE), _at_random(1e7),
    lambda rng, a: a * 0 if a.dtype.kind in "fiubc" else a, lambda rng, a: a[::-1],
    lambda rng, a: np.asfortranarray(a), lambda rng, a: a[:0],
    lambda rng, a: a[:1], lambda rng, a: a[None], lambda rng, a: a[0], lambda rng, a: a.T, lambda rng, a: a[..., :1],
    lambda rng, a: np.concatenate([a, a], -1), lambda rng, a: np.repeat(a, 2, 0)[::2], lambda rng, a: a.ravel(),
    lambda rng, a: a.tolist(), lambda rng, a: np.broadcast_to(a[:1], a.shape), lambda rng, a: a.ravel()[0],
    lambda rng, a: np.ma.masked_array(a, np.zeros(a.shape, bool)),
))


def has_no_number(value: Any, most: float = 1.7e308) -> bool:
    """Whether NaN, infinity or what is above ``most`` is anywhere in an argument or a result."""
    if is_dataclass(value) and not isinstance(value, type):
        value = vars(value)
    if isinstance(value, (list, tuple)):
        return any(has_no_number(each, most) for each in value)
    if isinstance(value, dict):
        return any(has_no_number(each, most) for each in value.values())
    if isinstance(value, torch.Tensor):
        return not bool((value.detach().abs().double() <= most).all()) if value.is_floating_point() else False
    if isinstance(value, (np.ndarray, np.generic, float, complex)):
        array = np.asarray(value)
        return array.dtype.kind in "fc" and not bool((np.abs(array).astype(np.float64) <= most).all())
    return False


def damaged(rng, whole):
    """Bytes of a file that was cut, flipped, filled or swapped for another's."""
    data = bytearray(whole)
    way = rng.integers(5)
    if way == 0:
        return bytes(data[:rng.integers(len(data) + 1)])
    if way == 1:
        return rng.bytes(rng.integers(200))
    for _ in range(rng.integers(1, 9)):
        at = rng.integers(len(data))
        if way == 2:
            data[at] ^= 1 << rng.integers(8)
        elif way == 3:
            data[at] = (0, 255, 127, 128, 10, 32, 45, 91)[rng.integers(8)]
        else:
            data[at:at] = rng.bytes(rng.integers(1, 40))
    return bytes(data)
