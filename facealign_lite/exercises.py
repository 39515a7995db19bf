"""Says of an answer to one of the book's exercises whether it is right, or by how much it is off.

An exercise of a chapter is a cell with a function to be filled and a cell that calls ``check`` on what it returns. The
chapter runs from top to bottom with none of them filled; each check then says that its answer is still missing.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .arrays import plain

RIGHT, WRONG, MISSING = "Right", "Not right", "Not answered yet"


def verdict(answer: Callable[[], Any], wanted: ArrayLike | str, within: float = 0.0) -> str:
    """What ``check`` prints: RIGHT, WRONG or MISSING, and how far off.

    Args:
        answer: calls the reader's function, which returns a number, text, truth value or array. It may raise
            NotImplementedError, as the function to be filled does; every other error is the reader's own and goes
            through.
        wanted: what is right.
        within: by how much a number may be off.

    Raises:
        ValueError: if ``wanted`` is no text and holds no numbers, or ``within`` is negative.
    """
    if not within >= 0:
        raise ValueError(f"within must not be negative, got {within}")
    try:
        found = answer()
    except NotImplementedError:
        return f"{MISSING}: fill in the function above, run its cell, then this one."
    if found is None:
        return f"{WRONG}: the function returned nothing. Does it end with `return`?"
    if isinstance(wanted, str):
        return f"{RIGHT}." if isinstance(found, str) and found == wanted else f"{WRONG}: {found!r} came back."
    wanted = plain(wanted, "wanted")
    try:
        found = plain(found, "the answer")
    except ValueError:
        return f"{WRONG}: what came back is a {type(found).__name__}, wanted are numbers."
    if found.shape != wanted.shape:
        return f"{WRONG}: what came back has shape {found.shape}, wanted is {wanted.shape}."
    # where both are NaN nothing is off, where one is, everything
    found, wanted = found.astype(float), wanted.astype(float)
    same = (found == wanted) | (np.isnan(found) & np.isnan(wanted))
    with np.errstate(invalid="ignore", over="ignore"):
        off = np.where(same, 0.0, np.nan_to_num(np.abs(found - wanted), nan=np.inf, posinf=np.inf))
    if not (off > within).any():
        return f"{RIGHT}."
    worst = np.unravel_index(off.argmax(), off.shape)
    place = f" the largest difference is at {[int(i) for i in worst]}," if worst else ""
    return f"{WRONG}:{place} {found[worst]:.6g} came back, off by {off[worst]:.3g} where {within:g} is allowed."


def check(answer: Callable[[], Any], wanted: ArrayLike | str, within: float = 0.0) -> None:
    """Print whether ``answer()`` is ``wanted``; see ``verdict``."""
    print(verdict(answer, wanted, within))
