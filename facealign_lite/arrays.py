"""Whatever holds numbers as an array: lists, arrays, and tensors on any device, of any type, with gradient or not."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST = 1e100      # squares and sums of what is smaller stay finite


def plain(values: Any, name: str) -> NDArray:
    """An array of bools, integers or floats.

    Tensors lose their gradient and come to the CPU; NumPy has no bfloat16, which becomes float32.

    Raises:
        ValueError: for what holds no plain numbers (text, objects, complex numbers, rows of several lengths).
    """
    if isinstance(values, np.ndarray) and values.dtype.kind in "fiub":
        return np.asarray(values)
    try:
        array = np.asarray(_without_tensors(values))
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise ValueError(f"{name} must be numbers, got {type(values).__name__} ({' '.join(str(error).split())[:200]})"
                         ) from None
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{name} must be plain numbers, got {array.dtype}")
    return array


def floats(values: Any, name: str) -> NDArray[np.float64]:
    """The same as float64; NaN and infinity pass. Raises like ``plain``."""
    array = plain(values, name)
    return array if array.dtype == np.float64 and array.dtype.isnative else array.astype(np.float64)


def finite(values: Any, name: str) -> NDArray[np.float64]:
    """The same, without NaN, infinity and what becomes infinite when it is squared.

    Raises:
        ValueError: like ``plain``, and for those.
    """
    array = floats(values, name)
    good = np.abs(array) <= LARGEST                        # also false for NaN
    if not good.all():
        bad = np.argwhere(~good)[0].tolist() if array.ndim else ""
        raise ValueError(f"{name} must be finite, got {array[~good].ravel()[0]} at {bad}")
    return array


def number(value: Any, name: str) -> float:
    """One number as a float; NaN and infinity pass. Raises ValueError for anything else."""
    if type(value) in (int, float) and abs(value) < 1e300:
        return float(value)
    array = floats(value, name)
    if array.shape != ():
        raise ValueError(f"{name} must be one number, got shape {array.shape}")
    return float(array)


def by_name(values: Any, name: str) -> Mapping:
    """What has its parts by name. Raises ValueError for everything else."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{name} must be given by name, as a dict, got {type(values).__name__}")
    return values


def _without_tensors(values: Any) -> Any:
    if hasattr(values, "detach"):                          # a tensor, told without importing torch
        values = values.detach().cpu()
        return values.float().numpy() if "bfloat16" in str(values.dtype) else values.numpy()
    if isinstance(values, (list, tuple)) and any(hasattr(each, "detach") or isinstance(each, (list, tuple))
                                                 for each in values):
        return [_without_tensors(each) for each in values]
    return values
